"""An HTTP server on this machine, and what it answers."""

import socket
import struct
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """HTTP server on this machine that answers each request with the next of its answers."""

    def __init__(self):
        self.answers = []
        self.paths = []
        self.stopped = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.paths.append(self.path)
                answer = server.answers[min(len(server.paths), len(server.answers)) - 1]
                with suppress(OSError):
                    answer(self, server.stopped)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.http.server_address[1]}/cgi/brainweb1"

    def stop(self):
        self.stopped.set()
        self.http.shutdown()
        self.http.server_close()


def answer(body, status=200, length=None):
    def send(handler, stopped):
        handler.send_response(status)
        if length is not None:
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(body)

    return send


def reset(handler, stopped):
    # A zero linger time makes close() send a reset instead of an orderly end.
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def drip(handler, stopped):
    handler.send_response(200)
    handler.end_headers()
    while not stopped.wait(0.02):
        handler.wfile.write(b"\x1f")


def drip_headers(handler, stopped):
    while not stopped.wait(0.02):
        handler.wfile.write(b"H")
        handler.wfile.flush()


def flood(handler, stopped):
    handler.send_response(200)
    handler.end_headers()
    while not stopped.is_set():
        handler.wfile.write(bytes(2**16))


def silence(handler, stopped):
    stopped.wait(5)
