"""A Jupyter server, and a client that has one of its kernels count, over HTTP and a websocket as a browser does."""

import json
import subprocess
import sys
import time
import urllib.request
import uuid

import websocket

SERVER = "127.0.0.1:8888"
OPTIONS = [
    "--allow-root",
    "--no-browser",
    "--port=8888",
    "--IdentityProvider.token=",
    "--ServerApp.disable_check_xsrf=True",
]


def begun():
    request = urllib.request.Request(f"http://{SERVER}/api/kernels", b"{}", {"Content-Type": "application/json"})
    while True:
        try:
            return json.load(urllib.request.urlopen(request, timeout=60))["id"]
        except OSError:
            time.sleep(0.5)


def asked(kernel, code):
    """Run code in the kernel and return what it prints."""
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": "execute_request",
        "username": "",
        "session": "s",
        "version": "5.3",
    }
    content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    kernel.send(json.dumps(message))
    text = ""
    while True:
        said = json.loads(kernel.recv())
        if said["parent_header"].get("msg_id") != header["msg_id"]:
            continue
        if said["msg_type"] == "stream":
            text += said["content"]["text"]
        if said["msg_type"] == "status" and said["content"]["execution_state"] == "idle":
            return text


with open("/log", "ab") as log:
    subprocess.Popen([sys.executable, "-m", "jupyter_server", *OPTIONS], stdout=log, stderr=log)
kernel = websocket.create_connection(f"ws://{SERVER}/api/kernels/{begun()}/channels", timeout=120)
asked(kernel, "n = 0")
with open("/out", "a", buffering=1) as out:
    while True:
        out.write(asked(kernel, "n += 1; print(n)"))
        time.sleep(0.1)
