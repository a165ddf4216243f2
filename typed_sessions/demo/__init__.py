"""The demo: a real server and a page that shows what typed sessions do. Run it with `python -m typed_sessions demo`.

    data         what the page keeps in a session: the keys and their types
    connections  which TCP connections are open, and how a live stream is woken
    handler      the requests
    pages        the page, out of `static/`
    server       binding, the snapshot, starting and stopping

What it does with sessions takes the public names of the package only: all of it can be written in an application.
"""
