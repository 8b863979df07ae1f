"""A proxy before an S3 server that fails now and then: 500, 503, or a connection that is dropped.

It runs in a process of its own, because some calls of Delta Lake hold Python's lock while they wait for an answer.
"""

import http.client
import json
import random
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

FAULTS = ("500", "503", "dropped before", "dropped after")
"""Of the two that drop a connection, one does so before the server has the request, the other after it has acted."""
_COUNTS = "/-/counts"


@dataclass(frozen=True)
class Proxy:
    """Where the proxy listens."""

    endpoint: str

    def counts(self) -> dict[str, int]:
        """Return how many requests passed, and how many met each fault."""
        with urllib.request.urlopen(self.endpoint + _COUNTS) as answer:
            return json.load(answer)


@contextmanager
def faulty(endpoint: str, *, share: float = 0.05, seed: int = 0) -> Iterator[Proxy]:
    """Run a proxy that fails this share of the requests, each fault as often as the others."""
    command = [sys.executable, __file__, endpoint, str(share), str(seed)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as process:
        try:
            assert process.stdout
            yield Proxy(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()


def _serve(endpoint: str, share: float, seed: int) -> None:
    upstream, draw, lock = urlsplit(endpoint).netloc, random.Random(seed), threading.Lock()
    counts: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == _COUNTS:
                self.answer(200, [], json.dumps(counts).encode())
                return
            with lock:
                fault = draw.choice(FAULTS) if draw.random() < share else ""
                counts[fault or "passed"] += 1
            if fault.isdigit():
                self.answer(int(fault), [], b"")
                return
            if fault != "dropped before":
                connection = http.client.HTTPConnection(upstream)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
            if fault:
                self.close_connection = True
            else:
                self.answer(answer.status, answer.getheaders(), content)

        def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in (
                    "content-length",
                    "transfer-encoding",
                    "connection",
                    "date",
                    "server",
                ):
                    self.send_header(name, value)
            # The answer to HEAD tells the length of a body that it does not have.
            lengths = [value for name, value in headers if name.lower() == "content-length"]
            length = lengths[0] if self.command == "HEAD" and lengths else str(len(content))
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _serve(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
