"""A web server with one static page, or the files of a directory when one is mounted."""

from __future__ import annotations

import mimetypes
import os
import sys
from pathlib import Path

from pilotfish.local.images.programs.http1 import Request, Response, serve, text

_ROOT = Path("/usr/share/nginx/html")
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Welcome to nginx!</title></head>
<body>
<h1>Welcome to nginx!</h1>
<p>This page is Pilotfish's stand-in for the image of that name. The pod is reached.</p>
</body>
</html>
"""


def _file(path: str) -> Path | None:
    """The file that a path means, None when there is none below the root."""
    file = Path(os.path.normpath(_ROOT / path.lstrip("/")))
    if file.is_dir():
        file /= "index.html"
    return file if file.is_relative_to(_ROOT) and file.is_file() else None


async def answer(request: Request) -> Response:
    """A file below /usr/share/nginx/html where there is one, else the page at `/`."""
    if request.method not in {"GET", "HEAD"}:
        return text("Method Not Allowed\n", 405, [("Allow", "GET, HEAD")])
    if file := _file(request.path):
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return Response(200, file.read_bytes(), kind)
    if request.path in {"/", "/index.html"}:
        return Response(200, _PAGE.encode(), "text/html; charset=utf-8")
    return text("Not Found\n", 404)


def main() -> None:
    """Serve on the port of the first argument, 80 by default."""
    serve(answer, int(sys.argv[1] if len(sys.argv) > 1 else "80"), "nginx")
