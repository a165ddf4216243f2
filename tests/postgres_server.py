"""A PostgreSQL server of the tests' own, on a free port of this machine and in a folder of its own, which can be made to fail."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from tests.certificates import Authority
from tests.redis_server import PATIENCE, free_port
from typed_sessions.stores.postgres import PostgresStore

SPEED = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")
"""Settings of a server whose machine is never going to lose power."""


class PostgresServer:
    """`program` is the path of `postgres`; `initdb` lies beside it, or where its distribution keeps it."""

    schema = "typed_sessions"

    def __init__(self, program: str, *settings: str) -> None:
        self._program = _real(program)
        self._settings = settings or SPEED
        self._folder = tempfile.mkdtemp(prefix="postgres-")
        # The server refuses to run as root: then it runs as whoever owns nothing else here.
        self._user = pwd.getpwnam("postgres" if _exists("postgres") else "nobody") if os.getuid() == 0 else None
        if self._user is not None:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        self._data = os.path.join(self._folder, "data")
        initdb = os.path.join(os.path.dirname(self._program), "initdb")
        self._run([initdb, "-D", self._data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"]).wait(PATIENCE * 3)
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self.start()
        store = PostgresStore(self.url)
        store.create_schema()
        store.close()
        self._admin: psycopg.Connection[Any] | None = None

    @property
    def user(self) -> dict[str, Any]:
        """As whom the server runs, for `Popen`: not as root."""
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    def _run(self, command: list[str]) -> subprocess.Popen[Any]:
        silent = subprocess.DEVNULL
        process: subprocess.Popen[Any] = subprocess.Popen(command, cwd=self._folder, stdout=silent, stderr=silent, **self.user)
        return process

    def start(self) -> None:
        """Start it, again on the same port and in the same folder, and wait until it answers."""
        place = ("-D", self._data, "-k", self._folder, "-c", f"port={self.port}", "-c", "listen_addresses=127.0.0.1")
        settings = [word for setting in self._settings for word in ("-c", setting)]
        command = [self._program, *place, *settings]
        self._process = self._run(command)
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                self.client().close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < give_up, "postgres does not answer"
                time.sleep(0.02)
                if self._process.poll() is not None:  # after a kill: while those that the last one started are still there, none starts
                    self._process = self._run(command)

    def client(self, **options: Any) -> psycopg.Connection[Any]:
        """A connection of the tests' own, to look behind the store's back."""
        return psycopg.connect(self.url, autocommit=True, **options)

    def execute(self, sql: str) -> list[Any]:
        """One statement, behind the store's back, and its rows."""
        if self._admin is None or self._admin.closed:
            self._admin = self.client()
        cursor = self._admin.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []

    def empty(self) -> None:
        """Delete every session."""
        self.execute(f"DELETE FROM {self.schema}.session")

    def until_waiting(self, how_many: int) -> None:
        """Wait until so many connections wait for what another has locked."""
        give_up = time.monotonic() + PATIENCE
        while len(self.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")) < how_many:
            assert time.monotonic() < give_up, "nobody waits for a lock"

    def processes(self) -> list[int]:
        """The server, and every process that it has started."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text(encoding="utf-8").split()
        return [self._process.pid, *map(int, children)]

    def speak_tls(self) -> Authority:
        """Take TLS too, from now on; gives the authority that has signed the server's certificate."""
        authority = Authority(Path(self._folder), "ours")
        its = authority.issue("server")
        if self._user is not None:
            os.chown(its.key, self._user.pw_uid, self._user.pw_gid)
        for name, value in (("ssl_cert_file", its.certificate), ("ssl_key_file", its.key), ("ssl", "on")):
            self.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.execute("SELECT pg_reload_conf()")
        return authority

    def room(self, prlimit: str, size: int | None) -> None:
        """Let none of its files grow beyond this many bytes: the system refuses it as on a full disk. None: there is room again."""
        limit = "unlimited" if size is None else size
        for process in self.processes():
            # As the same user, who may do that; root may not in every container.
            failed = subprocess.call([prlimit, f"--fsize={limit}:", "--pid", str(process)], **self.user)
            assert not failed or process not in self.processes()

    def freeze(self) -> None:
        self._tell(signal.SIGSTOP)

    def thaw(self) -> None:
        self._tell(signal.SIGCONT)

    def kill(self) -> None:
        """As the system does that has no memory left: at once, and nobody is told."""
        if self._admin is not None:
            self._admin.close()
        self._tell(signal.SIGKILL)
        self._process.wait(PATIENCE)

    def _tell(self, what: signal.Signals) -> None:
        for process in self.processes():
            with suppress(ProcessLookupError):  # a worker may have ended since
                os.kill(process, what)

    def shut_down(self, how: signal.Signals) -> None:
        """As an administrator does: SIGINT is fast, SIGQUIT immediate."""
        if self._admin is not None:
            self._admin.close()
        self._process.send_signal(how)
        self._process.wait(PATIENCE)

    def restart(self) -> None:
        self.kill()
        self.start()

    def stop(self) -> None:
        if self._admin is not None:
            self._admin.close()
        if self._process.poll() is None:
            self.thaw()
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(PATIENCE)
        shutil.rmtree(self._folder, ignore_errors=True)


def _real(program: str) -> str:
    """The program itself, where what is on PATH is a script or a link that leads to it."""
    real = os.path.realpath(program)
    if os.path.exists(os.path.join(os.path.dirname(real), "initdb")):
        return real
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3].partition(".")[0]))
    return str(found[-1]) if found else real


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
