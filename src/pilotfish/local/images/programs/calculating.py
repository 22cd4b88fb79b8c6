"""The calculating service: `/calculating/{a}/{b}` answers the sum; with `IS_POISON=true` it always fails."""

from __future__ import annotations

import os

from pilotfish.local.images.programs import spring
from pilotfish.local.images.programs.http1 import Request, Response, json_response


async def answer(request: Request) -> Response:
    """The sum, as a number."""
    match spring.operands(request, "calculating"):
        case Response() as refusal:
            return refusal
        case (a, b):
            if os.environ.get("IS_POISON", "").lower() == "true":
                return spring.error(500, request.path)
            return json_response(a + b)


def main() -> None:
    """Serve."""
    spring.serve(answer, "calculating")
