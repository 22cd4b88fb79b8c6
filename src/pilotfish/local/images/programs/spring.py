"""What the calculating and greeting services share: two ports, and errors in Spring Boot's JSON shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import NoReturn

from pilotfish.local.images.programs.http1 import (
    Connection,
    Handler,
    Request,
    Response,
    json_response,
    listen,
    log,
    port_of,
    reason,
    run,
    text,
)

PORT = 8080
MANAGEMENT_PORT = 9404


def error(status: int, path: str) -> Response:
    """The document that Spring Boot makes of an error nobody handled."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json_response({"timestamp": now, "status": status, "error": reason(status), "path": path}, status)


def operands(request: Request, name: str) -> tuple[int, int] | Response:
    """The numbers of `/{name}/{a}/{b}`, or the error to answer."""
    match request.path.strip("/").split("/"):
        case [first, a, b] if first == name:
            try:
                return int(a), int(b)
            except ValueError:
                return error(400, request.path)
    return error(404, request.path)


async def _management(request: Request) -> Response:
    match request.path.rstrip("/"):
        case "/actuator/health":
            return json_response({"status": "UP", "groups": ["liveness", "readiness"]})
        case "/actuator/health/liveness" | "/actuator/health/readiness":
            return json_response({"status": "UP"})
        case "/actuator/prometheus":
            return text(f"{_requests.name} {_requests.value}\n")
    return error(404, request.path)


class _Counter:
    name = "http_server_requests_seconds_count"
    value = 0


_requests = _Counter()


def serve(handler: Callable[[Request], Awaitable[Response]], name: str) -> NoReturn:
    """Run the service on 8080 with its management port 9404."""

    async def counted(request: Request) -> Response:
        _requests.value += 1
        return await handler(request)

    async def start() -> None:
        application: Handler = counted
        for port, serving in ((PORT, application), (MANAGEMENT_PORT, _management)):
            server = await listen(port, Connection(serving))
            log(f"{name} listens on port {port_of(server)}")

    run(start)
