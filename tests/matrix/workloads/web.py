"""A WSGI application; each worker answers with its process and how often it was asked."""

import os

asked = 0


def application(environ, start_response):
    global asked
    asked += 1
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {asked}\n".encode()]


async def asgi(scope, receive, send):
    global asked
    if scope["type"] != "http":
        return
    asked += 1
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{os.getpid()} {asked}\n".encode()})
