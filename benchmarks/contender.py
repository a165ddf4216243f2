"""typed_sessions as a contender in a benchmark that measures session libraries side by side (its `benchlib` is on the path then).

One class per store and face. The figures that count are ratios to other contenders of the same run.
"""

from __future__ import annotations

import os
import time

from benchlib.core import Contender, raw_asgi, raw_wsgi

from typed_sessions import AsyncSessionManager, Key, MemoryStore, SessionManager, SQLiteStore
from typed_sessions.changes import Changes, Idle, Write
from typed_sessions.core import SWEEP_STEP
from typed_sessions.filters import asgi, wsgi
from typed_sessions.lifecycle import issue, new_record
from typed_sessions.options import SessionOptions
from typed_sessions.stores.redis import AsyncRedisStore, RedisStore

NAMES = ("user_id", "name", "theme", "csrf", "cart", "user", "a", "b")
KEYS = {name: Key(name, str) for name in NAMES}
USER_NUMBER = Key("user_number", int)
TIMEOUT = 1_209_600
CAPACITY = 2_000_000


class AsyncOps:
    async def read(self, scope, name):
        return (await asgi.open_session(scope)).get(KEYS[name])

    async def write(self, scope, name, value):
        (await asgi.open_session(scope))[KEYS[name]] = value

    async def clear(self, scope):
        (await asgi.open_session(scope)).end()

    async def dump(self, scope):
        session = await asgi.open_session(scope)
        return {name: session[key] for name, key in KEYS.items() if key in session}


class SyncOps:
    def read(self, environ, name):
        return wsgi.open_session(environ).get(KEYS[name])

    def write(self, environ, name, value):
        wsgi.open_session(environ)[KEYS[name]] = value

    def clear(self, environ):
        wsgi.open_session(environ).end()

    def dump(self, environ):
        session = wsgi.open_session(environ)
        return {name: session[key] for name, key in KEYS.items() if key in session}


def fill(store, n, start, *, expired=0, now=None):
    """`n` sessions with two keys, as a request would have made them; the first `expired` of them are over at once."""
    now = time.time() if now is None else now
    options = SessionOptions(timeout=TIMEOUT)
    idle = Idle(TIMEOUT, 60)
    over = Idle(1, 0)
    encode_number, encode_text = USER_NUMBER.codec.encode, KEYS["csrf"].codec.encode
    for i in range(start, start + n):
        changes = Changes({"user_id": Write(encode_number(10_000_000 + i)), "csrf": Write(encode_text(f"{i:032x}"))})
        session_id = issue(os.urandom)
        dead = i - start < expired
        store.create(new_record(session_id, "127.0.0.1", changes, options, over if dead else idle, now), now)


def stall_when_expiring(n):
    """The longest single step of a sweep when 1 % of `n` sessions are over at one instant, in milliseconds."""
    store = MemoryStore(max_sessions=CAPACITY)
    now = time.time()
    dead = n // 100
    fill(store, n, 0, expired=dead, now=now)
    stall = total = 0.0
    ended, more = 0, True
    while more:
        begin = time.perf_counter()
        records, more = store.sweep(now + 60, SWEEP_STEP, 60, 0)
        took = time.perf_counter() - begin
        stall, total, ended = max(stall, took), total + took, ended + len(records)
    assert (ended, len(store)) == (dead, n - dead)
    return {"how": f"timer wheel, {SWEEP_STEP} a step", "stall_ms": stall * 1e3, "total_ms": total * 1e3}


class _Memory(Contender):
    backend = "memory"

    def mem_fill(self, n, start=0):
        fill(self.store, n, start)

    def gc_probe(self, n):
        return stall_when_expiring(n)


class MemoryASGI(_Memory):
    name, limit, server = "typed-sessions-memory-asgi", "limit-memory-asgi", True
    ops = AsyncOps()

    def setup(self, ctx):
        self.store = MemoryStore(max_sessions=CAPACITY)
        self.manager = AsyncSessionManager(self.store, timeout=TIMEOUT)
        self.app = self.wrap(raw_asgi(self.ops))

    def wrap(self, app):
        return asgi.SessionMiddleware(app, self.manager)


class MemoryWSGI(_Memory):
    name, limit, protocol, bare = "typed-sessions-memory-wsgi", "limit-memory-wsgi", "wsgi", "bare-wsgi"

    def setup(self, ctx):
        self.store = MemoryStore(max_sessions=CAPACITY)
        self.manager = SessionManager(self.store, timeout=TIMEOUT)
        self.app = wsgi.SessionMiddleware(raw_wsgi(SyncOps()), self.manager)


class SqliteWSGI(Contender):
    name, backend, limit = "typed-sessions-sqlite-wsgi", "sqlite", "limit-sqlite-wsgi"
    protocol, bare = "wsgi", "bare-wsgi"
    note = "read and write in one transaction, WAL; ends and renewals synced"

    def setup(self, ctx):
        self.store = SQLiteStore(os.path.join(ctx.tmp, f"{self.name}.db"))
        self.manager = SessionManager(self.store, timeout=TIMEOUT)
        self.app = wsgi.SessionMiddleware(raw_wsgi(SyncOps()), self.manager)

    def teardown(self):
        self.manager.close()


class RedisASGI(Contender):
    name, backend, limit, server = "typed-sessions-redis-asgi", "redis", "limit-redis-guarded-asgi", True
    note = "every verb one script; opening writes the use, so a write is two trips"
    ops = AsyncOps()

    def setup(self, ctx):
        self.ctx = ctx
        self.manager = AsyncSessionManager(AsyncRedisStore(ctx.redis_url), timeout=TIMEOUT)
        self.app = self.wrap(raw_asgi(self.ops))

    def wrap(self, app):
        return asgi.SessionMiddleware(app, self.manager)

    def teardown(self):
        self.ctx.loop.run_until_complete(self.manager.aclose())


class RedisWSGI(Contender):
    name, backend, limit = "typed-sessions-redis-wsgi", "redis", "limit-redis-wsgi"
    protocol, bare = "wsgi", "bare-wsgi"
    note = RedisASGI.note

    def setup(self, ctx):
        self.manager = SessionManager(RedisStore(ctx.redis_url), timeout=TIMEOUT)
        self.app = wsgi.SessionMiddleware(raw_wsgi(SyncOps()), self.manager)

    def teardown(self):
        self.manager.close()


CONTENDERS = [MemoryASGI, MemoryWSGI, SqliteWSGI, RedisASGI, RedisWSGI]
