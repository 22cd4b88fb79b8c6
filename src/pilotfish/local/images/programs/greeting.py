"""The greeting service: `/greeting/{a}/{b}` asks calc-service for the sum and passes it on."""

from __future__ import annotations

import os

from pilotfish.local.images.programs import spring
from pilotfish.local.images.programs.forward import forwarded
from pilotfish.local.images.programs.http1 import ProtocolError, Request, Response, fetch, log

_TIMEOUT = 30.0


async def answer(request: Request) -> Response:
    """The sum as calc-service says it, or an error when it cannot be had."""
    match spring.operands(request, "greeting"):
        case Response() as refusal:
            return refusal
        case (a, b):
            host = os.environ.get("CALC_SERVICE_HOSTNAME", "calc-service")
            try:
                sum_ = await fetch(
                    host, spring.PORT, f"/calculating/{a}/{b}", headers=forwarded(request), timeout=_TIMEOUT
                )
            except (OSError, ProtocolError) as failure:
                log(f"{host} cannot be asked: {type(failure).__name__}: {failure}")
                return spring.error(500, request.path)
            if sum_.status != 200:
                log(f"{host} answered {sum_.status}: {sum_.body[:200].decode('utf-8', 'replace')}")
                return spring.error(500, request.path)
            return Response(200, sum_.body, "application/json")


def main() -> None:
    """Serve."""
    spring.serve(answer, "greeting")
