"""Match conditions of webhooks: CEL over the object, the old object and the request."""

from __future__ import annotations

import functools
import re
from typing import Any

from cel_expr_python import cel

from pilotfish.local.apiserver.cel import environment
from pilotfish.local.apiserver.cel.environment import CelError
from pilotfish.local.apiserver.resource import Object

_VARIABLES = ("object", "oldObject", "request")


class Condition:
    """A compiled condition."""

    __slots__ = ("_program", "expression")

    def __init__(self, expression: str) -> None:
        self.expression = expression
        checked = environment.compile_in(_checking(), expression)
        if checked.return_type() not in (cel.Type.BOOL, cel.Type.DYN):
            raise CelError("must evaluate to bool")
        self._program = environment.compile_in(environment.running(), expression)

    def matches(self, request: Object, obj: Object | None, old: Object | None) -> bool:
        """Whether a request meets the condition; `request` is that of the AdmissionReview. CelError when it fails."""
        variables = {"object": obj, "oldObject": old, "request": request}
        value = environment.evaluate(self._program, variables)
        if not isinstance(value, bool):
            raise CelError(f"expression {self.expression!r} resulted in no bool")
        return value


@functools.cache
def _checking() -> Any:
    return environment.typed(dict.fromkeys(_VARIABLES, cel.Type.DYN))


@functools.lru_cache(256)
def compile_condition(expression: str) -> Condition:
    """CelError, with what a user needs to know, when the expression does not compile or is no condition."""
    if not expression.strip():
        raise CelError("expression is not specified")
    if re.search(r"\bauthorizer\b", expression):
        raise CelError("the variable `authorizer` is not supported by this API server")
    return Condition(expression)
