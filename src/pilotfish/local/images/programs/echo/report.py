"""What the echo answers: a report of the request, changed by its query parameters."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

from pilotfish.local.images.programs.http1 import Headers, Request, Response, json_response, text

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}
MAX_BYTES = 64 * 1024 * 1024


def identity() -> dict[str, str]:
    """Who answers: pod, namespace and version."""
    namespace = os.environ.get("POD_NAMESPACE", "")
    if not namespace and _NAMESPACE_FILE.exists():
        namespace = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    pod = os.environ.get("POD_NAME") or os.environ.get("HOSTNAME", "")
    return {"pod": pod, "namespace": namespace, "version": os.environ.get("SERVICE_VERSION", "")}


def joined(headers: Headers) -> dict[str, str]:
    """Headers as a mapping; the values of one that came several times are joined by a comma."""
    result: dict[str, str] = {}
    for name, value in headers:
        result[name] = f"{result[name]}, {value}" if name in result else value
    return result


def report(request: Request) -> dict[str, Any]:
    """The request as it arrived."""
    return {
        "protocol": request.version,
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "host": request.header("host"),
        "headers": joined(request.headers),
        "peer": request.peer,
        "bodyBytes": len(request.body),
        **identity(),
    }


def seconds(duration: str) -> float:
    """A duration such as `250ms`, `1.5s` or `2` (seconds). Raises ValueError."""
    for unit, factor in _UNITS.items():
        if duration.endswith(unit):
            return float(duration[: -len(unit)]) * factor
    return float(duration)


def pick_status(choices: str) -> int:
    """A status from `503`, or by weight from `200:90,503:10`. Raises ValueError."""
    weighted = [choice.partition(":") for choice in choices.split(",")]
    codes = [int(code) for code, _, _ in weighted]
    if not all(200 <= code <= 599 for code in codes):
        raise ValueError("a status is a number from 200 to 599")
    return random.choices(codes, [float(weight or 1) for _, _, weight in weighted])[0]  # noqa: S311  # no secret


async def answer(request: Request) -> Response:
    """The report, obeying `?status=503`, `?delay=1s`, `?bytes=N` and `?headers=name:value` (each several times)."""
    try:
        delay = seconds(request.parameter("delay", "0"))
        status = pick_status(request.parameter("status", "200"))
        size = int(request.parameter("bytes", "0"))
        if not 0 <= size <= MAX_BYTES:
            raise ValueError(f"bytes is at most {MAX_BYTES}")
        pairs = [item.partition(":") for item in request.query.get("headers", [])]
    except (ValueError, IndexError) as error:
        return text(f"a bad query parameter: {error}\n", 400)
    headers = [(name.strip(), value.strip()) for name, _, value in pairs if "\n" not in name + value]
    if delay > 0:
        await asyncio.sleep(delay)
    if size:
        return Response(status, b"x" * size, "application/octet-stream", headers)
    return json_response(report(request), status, headers)
