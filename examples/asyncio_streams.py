"""A web server made of asyncio streams and the filter: all that a server of your own has to do for its sessions.

    python examples/asyncio_streams.py --port 8000

A connection is kept open for many requests, and is closed when its session ends, on whatever connection that was asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from contextlib import closing, suppress
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qsl

from typed_sessions import COMMIT_FAILURES, AsyncSessionManager, Client, CommitFailure, Headers, Key, Rejected, Request, Session, redirect

visits = Key("visits", int)
user = Key("user", str)

sessions = AsyncSessionManager()
start = sessions.filter()  # its options are checked here, once


class Answer(NamedTuple):
    status: int
    headers: Headers
    body: str = ""


def page(method: str, path: str, form: dict[str, str], session: Session) -> Answer:
    """The program itself. It does not wait: the session's data came when it was opened, and goes when it is finished."""
    match method, path:
        case "GET", "/":
            return Answer(200, (), f"visit {session.update(visits, lambda n: n + 1, default=0)}\n")
        case "GET", "/private":
            session.require(lambda s: user in s)  # raises Rejected, 403
            return Answer(200, (), f"hello {session[user]}\n")
        case "POST", "/sign-in":
            session.renew()
            session[user] = form.get("name", "nobody")
            return Answer(*redirect("/private"))
        case "POST", "/sign-out":
            session.end()
            return Answer(*redirect("/"))
        case _:
            return Answer(404, (), "not found\n")


def refused(problem: Rejected | CommitFailure, headers: Headers = ()) -> Answer:
    """The error's status and headers. Its text is for whoever runs the server: it may say where the store is."""
    print(problem, flush=True)
    return Answer(problem.status, [*problem.headers, *headers], f"{HTTPStatus(problem.status).phrase}\n")


async def respond(method: str, request: Request, form: dict[str, str]) -> Answer:
    """Open the session, make the page, commit what changed; only then is there an answer."""
    try:
        session, finish = await start(request)
    except (Rejected, *COMMIT_FAILURES) as problem:
        return refused(problem)
    try:
        answer = page(method, request.path, form, session)
        return answer._replace(headers=[*answer.headers, *await finish()])
    except (Rejected, *COMMIT_FAILURES) as problem:  # by the page, or because the commit has failed
        return refused(problem, finish.discard())
    except Exception:
        logging.exception("%s %s", method, request.path)
        return Answer(500, finish.discard(), "something went wrong\n")  # nothing of it is committed


async def read_request(reader: asyncio.StreamReader, peer: str, client: Client) -> tuple[str, Request, dict[str, str]] | None:
    """The next request: its method, what the filter wants of it, and its form. None when the connection ends or talks no HTTP/1.1."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        method, path, _ = first.split(" ")
        pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        body = await reader.readexactly(int(dict(pairs).get("content-length", 0)))
        return method, Request(headers=pairs, peer=peer, path=path, client=client), dict(parse_qsl(body.decode()))
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
        return None


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection. `connect` makes it a client, which says how to close it; that it is gone is known when the block is left."""
    peer: str = writer.get_extra_info("peername")[0]
    over = suppress(ConnectionError, asyncio.CancelledError)  # the other end has gone, or the program is stopped
    with closing(writer), over, sessions.connect(peer, writer.close) as client:
        # `closing` becomes true when a request on this connection ends its session: the answer still goes out, then it is over.
        while not client.closing and (received := await read_request(reader, peer, client)) is not None:
            answer = await respond(*received)
            body = answer.body.encode()
            writer.write(f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n".encode())
            for name, value in [*answer.headers, ("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]:
                writer.write(f"{name}: {value}\r\n".encode("latin-1"))
            writer.write(b"\r\n" + body)
            await writer.drain()


async def main(port: int) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: loop.call_soon_threadsafe(stop.set))
    async with sessions:  # at its end, the clients that carry a session are closed
        server = await asyncio.start_server(serve, "127.0.0.1", port)
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
        await stop.wait()
        server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="0 is any that is free")
    asyncio.run(main(parser.parse_args().port))
