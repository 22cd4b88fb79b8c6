"""A collector of spans in memory: Zipkin's JSON and OTLP over HTTP are kept as they come, `GET /spans` gives them."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SPANS: list[dict[str, Any]] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # http.server's name
        body = self._body()
        if self.path == "/api/v2/spans":
            SPANS.extend(json.loads(body))
        else:
            SPANS.append(
                {
                    "otlp": True,
                    "path": self.path,
                    "service": service_name(body),
                    "type": self.headers.get("Content-Type"),
                    "size": len(body),
                }
            )
        self._answer(b"", 202)

    def do_GET(self) -> None:  # http.server's name
        self._answer(json.dumps(SPANS).encode(), 200)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, body: bytes, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def service_name(body: bytes) -> str:
    """The value after `service.name` in an OTLP message: key, then a string inside an AnyValue."""
    at = body.find(b"service.name")
    value = body[at + len(b"service.name") :]
    return value[4 : 4 + value[3]].decode() if at >= 0 else ""


if __name__ == "__main__":
    ThreadingHTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
