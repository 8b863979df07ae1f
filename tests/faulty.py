"""A proxy before an S3 server that fails now and then: 500, 503, or a connection that is dropped."""

import http.client
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("500", "503", "dropped before", "dropped after")
"""Of the two that drop a connection, one does so before the request reaches the server, the other after it has acted."""


@dataclass
class Proxy:
    """Where the proxy listens, and what it has done."""

    endpoint: str
    counts: Counter[str] = field(default_factory=Counter)


@contextmanager
def faulty(endpoint: str, *, share: float = 0.05, seed: int = 0) -> Iterator[Proxy]:
    """Run a proxy that fails this share of the requests, each fault as often as the others."""
    upstream, draw, lock = urlsplit(endpoint).netloc, random.Random(seed), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            with lock:
                fault = draw.choice(FAULTS) if draw.random() < share else ""
                proxy.counts[fault or "passed"] += 1
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if fault in ("500", "503"):
                self.send_response(int(fault))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault == "dropped before":
                self.close_connection = True
                return
            connection = http.client.HTTPConnection(upstream)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if fault == "dropped after":
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            # The answer to HEAD tells the length of a body that it does not have.
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = Proxy(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
