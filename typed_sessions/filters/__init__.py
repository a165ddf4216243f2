"""Sessions in front of a handler: one module per kind of server, and arguments of handlers.

http_server  a `SessionHandler` for `http.server`
wsgi         a middleware for any WSGI server, and for Flask
asgi         a middleware for any ASGI server, for http and WebSockets, and for Starlette and FastAPI
bottle       a plugin for Bottle
decorators   the session, or one value of it, as an argument of any handler of the first three
fastapi      the same as parameters in FastAPI
starlette    the same as parameters of endpoints in Starlette
"""
