"""CEL environments: typed ones in which rules are checked, and the one in which they run."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext import ext_optional, ext_strings

from pilotfish.local.apiserver.cel import library

T = cel.Type
_VARIABLES = ("self", "oldSelf", "object", "oldObject", "request", "old_self")


class CelError(ValueError):
    """An expression does not compile, or its evaluation failed."""


def _extensions(*, binding: bool) -> list[Any]:
    """`binding` adds `cel.bind`; each of these libraries takes megabytes."""
    extensions = [ext_strings.ExtStrings(), ext_optional.ExtOptional()]
    if binding:
        from cel_expr_python.ext import ext_bindings  # noqa: PLC0415 - few rules need it

        extensions.append(ext_bindings.ExtBindings())
    return extensions


@functools.cache
def _checking(*, binding: bool) -> tuple[list[Any], list[Any]]:
    return library.for_checking(), _extensions(binding=binding)


def typed(variables: Mapping[str, Any], pool: Any = None, *, binding: bool = False) -> Any:
    """An environment in which expressions over these variables are checked."""
    functions, extensions = _checking(binding=binding)
    return cel.NewEnv(descriptor_pool=pool, variables=variables, functions=functions, extensions=extensions)


@functools.cache
def running(*, binding: bool = False) -> Any:
    """The environment of evaluation: every variable may be anything."""
    return cel.NewEnv(
        variables=dict.fromkeys(_VARIABLES, T.DYN),
        functions=library.for_running(),
        extensions=_extensions(binding=binding),
    )


def compile_in(env: Any, expression: str) -> Any:
    """Compile. CelError says where and why not."""
    try:
        return env.compile(expression)
    except RuntimeError as error:
        text = str(error).removeprefix("INVALID_ARGUMENT: ").removesuffix(" [INVALID_ARGUMENT]")
        raise CelError(text) from None


def evaluate(program: Any, variables: Mapping[str, Any]) -> Any:
    """The value of a compiled expression. CelError when evaluation fails."""
    value = program.eval(data=variables)
    if value.type() == T.ERROR:
        text = str(value.plain_value())
        raise CelError(_reworded(text.partition(": ")[2] or text))
    return value.plain_value()


def _reworded(text: str) -> str:
    """The commonest failure in the words that Kubernetes users know."""
    if text.startswith("Key not found in map : "):
        return "no such key: " + text.removeprefix("Key not found in map : ").strip('"')
    return text
