"""A TCP server that numbers its answers: every connection gets the next number, across restores."""

import socket
import sys

listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("0.0.0.0", int(sys.argv[1])))
listener.listen()
answered = 0
while True:
    connection, _ = listener.accept()
    try:
        answered += 1
        connection.sendall(f"{answered}\n".encode())
        while connection.recv(100):
            pass
    except OSError as gone:
        print(f"connection {answered} ended: {gone}", flush=True)
    finally:
        connection.close()
