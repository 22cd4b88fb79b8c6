"""The helloworld sample: `/hello` says version and instance."""

from __future__ import annotations

import os

from pilotfish.local.images.programs.http1 import Request, Response, serve, text


async def answer(request: Request) -> Response:
    """`/hello` and `/health`."""
    match request.path:
        case "/hello":
            version, pod = os.environ.get("SERVICE_VERSION", "unknown"), os.environ.get("HOSTNAME", "")
            return text(f"Hello version: {version}, instance: {pod}\n")
        case "/health":
            return text("Helloworld is healthy")
    return text("Not Found\n", 404)


def main() -> None:
    """Serve on port 5000."""
    serve(answer, int(os.environ.get("PORT", "5000")), "helloworld")
