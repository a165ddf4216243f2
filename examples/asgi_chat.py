"""ASGI: a chat over WebSockets. Open it in two tabs and sign out in one: the other tab's WebSocket is closed too.

    pip install uvicorn websockets
    python examples/asgi_chat.py --port 8000

`application` runs under any ASGI server: `uvicorn --app-dir examples asgi_chat:application`.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from contextlib import suppress
from urllib.parse import parse_qsl

from typed_sessions import AsyncSessionManager, Headers, Key, redirect
from typed_sessions.filters.asgi import Receive, Scope, Send, SessionMiddleware, open_session

user = Key("user", str)

sessions = AsyncSessionManager(timeout=3600)
room: set[Send] = set()

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Chat</title>
<form method="post" action="/sign-in"><input name="name" aria-label="Name" required> <button>Sign in</button></form>
<form method="post" action="/sign-out"><button>Sign out</button></form>
<form id="say"><input id="text" aria-label="Message" autofocus> <button>Say</button></form>
<pre id="said"></pre>
<script>
const said = document.getElementById("said"), text = document.getElementById("text")
const chat = new WebSocket(location.origin.replace("http", "ws") + "/chat")
chat.onmessage = event => said.append(event.data + "\\n")
chat.onclose = event => said.append(event.code == 1008 ? "You have signed out.\\n" : "You are not in the chat.\\n")
document.getElementById("say").onsubmit = event => { event.preventDefault(); chat.send(text.value); text.value = "" }
</script>
</html>"""


async def say(text: str) -> None:
    """Send to everybody at once; somebody whose connection has just broken holds up nobody."""
    await asyncio.gather(*(send({"type": "websocket.send", "text": text}) for send in room), return_exceptions=True)


async def chat(scope: Scope, receive: Receive, send: Send) -> None:
    session = await open_session(scope)  # refused if another site's page made the browser connect
    session.require(lambda s: user in s)  # raises Rejected, which answers the handshake with 403
    name = session[user]
    await receive()
    await send({"type": "websocket.accept"})
    room.add(send)
    try:
        await say(f"{name} has come in")
        # When the session ends, by whatever request, the filter closes the WebSocket (1008), and this receives the disconnect.
        while (message := await receive())["type"] == "websocket.receive":
            await say(f"{name}: {message.get('text') or '...'}")
    finally:
        room.discard(send)
        await say(f"{name} has left")


async def read_form(receive: Receive) -> dict[str, str]:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return dict(parse_qsl(body.decode()))


async def http(scope: Scope, receive: Receive, send: Send) -> None:
    status, body = 200, b""
    headers: Headers = ()
    match scope["method"], scope["path"]:
        case "GET", "/":
            body = PAGE.encode()  # nobody has looked at the session: it costs nothing
        case "POST", "/sign-in":
            session = await open_session(scope)
            session.renew()
            session[user] = (await read_form(receive)).get("name", "nobody")
            status, headers = redirect("/")
        case "POST", "/sign-out":
            (await open_session(scope)).end()
            status, headers = redirect("/")
        case _:
            status, body = 404, b"not found\n"
    pairs = [*headers, ("content-type", "text/html; charset=utf-8"), ("content-length", str(len(body)))]
    await send({"type": "http.response.start", "status": status, "headers": [(n.lower().encode(), v.encode()) for n, v in pairs]})
    await send({"type": "http.response.body", "body": body})


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        for step in ("startup", "shutdown"):  # at the shutdown the filter closes the manager
            await receive()
            await send({"type": f"lifespan.{step}.complete"})
    else:
        await (chat if scope["type"] == "websocket" else http)(scope, receive, send)


application = SessionMiddleware(app, sessions)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="0 is any that is free")
    arguments = parser.parse_args()
    try:
        import uvicorn
    except ImportError:
        sys.exit("this example needs a server: pip install uvicorn websockets")
    with suppress(KeyboardInterrupt), socket.create_server(("127.0.0.1", arguments.port)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)
        uvicorn.Server(uvicorn.Config(application, log_level="warning")).run([listener])
