"""An echo that reports what it received, over HTTP/1.1."""

from __future__ import annotations

import os
import sys

from pilotfish.local.images.programs.http1 import Request, Response, json_response, serve


async def answer(request: Request) -> Response:
    """What was received, as JSON."""
    return json_response({"method": request.method, "path": request.path, "headers": dict(request.headers)})


def main() -> None:
    """Serve on the port of the first argument or `PORT`, 8080 by default."""
    serve(answer, int(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PORT", "8080")), "pilotfish-echo")
