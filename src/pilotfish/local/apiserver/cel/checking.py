"""Checking the rules of a CustomResourceDefinition (`x-kubernetes-validations`) when it is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cel_expr_python import cel

from pilotfish.local.apiserver.cel import cost, environment
from pilotfish.local.apiserver.cel.environment import CelError
from pilotfish.local.apiserver.cel.rules import USES_OLD, with_optional_old
from pilotfish.local.apiserver.cel.types import Types
from pilotfish.local.apiserver.errors import FieldError

T = cel.Type
OpenApi = Mapping[str, Any]
_TOTAL = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema"


def rule_errors(path: str, schema: OpenApi, wrong: Sequence[str] = ()) -> list[FieldError]:
    """The rules of a structural schema, found at `path`, that do not compile or cost too much.

    Rules at or above a `wrong` path are not looked at: their types are not known.
    """
    types = Types(schema)
    total = cost.Total()
    errors = list(_rule_errors(path, schema, types, cost.Place.root(schema), total, within="", wrong=wrong))
    if total.exceeded:
        why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
        errors += [FieldError.forbidden(expensive, why) for expensive in total.expensive]
        errors.append(FieldError.forbidden(path, cost.message(_TOTAL, total.cost, cost.TOTAL)))
    return errors


def _rule_errors(
    path: str,
    schema: OpenApi,
    types: Types,
    place: cost.Place,
    total: cost.Total,
    within: str,
    wrong: Sequence[str],
) -> Iterator[FieldError]:
    """`within` is the path of the list or map whose items have no past, or empty."""
    if not any(one.startswith(path) for one in wrong):
        for i, rule in enumerate(schema.get("x-kubernetes-validations") or ()):
            yield from _one_rule(f"{path}.x-kubernetes-validations[{i}]", rule, schema, types, place, total, within)
    below = within or (path if schema.get("x-kubernetes-map-type") == "atomic" else "")
    for key, child in (schema.get("properties") or {}).items():
        yield from _rule_errors(f"{path}.properties[{key}]", child, types, place.field(child), total, below, wrong)
    if isinstance(schema.get("items"), Mapping):
        correlated = schema.get("x-kubernetes-list-type") == "map"
        below = within if within or correlated else path
        yield from _rule_errors(
            f"{path}.items", schema["items"], types, place.many(schema, schema["items"]), total, below, wrong
        )
    entries = schema.get("additionalProperties")
    if isinstance(entries, Mapping):
        yield from _rule_errors(
            f"{path}.additionalProperties", entries, types, place.many(schema, entries), total, within, wrong
        )


def _one_rule(
    path: str, rule: OpenApi, schema: OpenApi, types: Types, place: cost.Place, total: cost.Total, within: str
) -> Iterator[FieldError]:
    variable = types.variable(schema)
    expression = rule["rule"].strip()
    uses_old = False
    try:
        checked, uses_old = _check(expression, variable, types, optional=bool(rule.get("optionalOldSelf")))
        if checked.return_type() != T.BOOL:
            raise CelError("must evaluate to a bool")
    except CelError as error:
        yield FieldError.invalid(f"{path}.rule", dict(rule), f"compilation failed: {error}")
        checked = None
    if uses_old and within:
        yield FieldError.invalid(
            f"{path}.rule",
            expression,
            f"oldSelf cannot be used on the uncorrelatable portion of the schema within {within}",
        )
    if checked is not None and rule.get("optionalOldSelf") is not None and not uses_old:
        yield FieldError.invalid(
            f"{path}.optionalOldSelf",
            value=rule["optionalOldSelf"],
            detail="may not be set if oldSelf is not used in rule",
        )
    if checked is not None:
        yield from _expensive(f"{path}.rule", checked, place, total)
    text = (rule.get("messageExpression") or "").strip()
    if text:
        try:
            message, _ = _check(text, variable, types, optional=bool(rule.get("optionalOldSelf")))
            if message.return_type() != T.STRING:
                raise CelError("must evaluate to a string")
        except CelError as error:
            yield FieldError.invalid(f"{path}.messageExpression", dict(rule), f"compilation failed: {error}")


def _expensive(path: str, checked: Any, place: cost.Place, total: cost.Total) -> Iterator[FieldError]:
    estimate = cost.estimate(checked.serialize(), place)
    if estimate > cost.RULE * cost.DOUBT:
        yield FieldError.forbidden(path, cost.message("estimated rule cost", estimate, cost.RULE))
    total.add(path, estimate)


def _check(expression: str, variable: Any, types: Types, *, optional: bool) -> tuple[Any, bool]:
    """The checked expression, and whether it looks at oldSelf."""
    if not USES_OLD.search(expression):
        env = environment.typed({"self": variable}, types.pool)
        return environment.compile_in(env, expression), False
    if optional:
        env = environment.typed({"self": variable, "old_self": variable}, types.pool, binding=True)
        return environment.compile_in(env, with_optional_old(expression, present=True)), True
    env = environment.typed({"self": variable, "oldSelf": variable}, types.pool)
    checked = environment.compile_in(env, expression)
    try:  # the word may stand in a text only
        environment.compile_in(environment.typed({"self": variable}, types.pool), expression)
    except CelError:
        return checked, True
    return checked, False
