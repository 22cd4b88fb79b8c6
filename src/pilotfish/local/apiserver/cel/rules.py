"""`x-kubernetes-validations`: checked when a CustomResourceDefinition is written, evaluated when a resource is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cel_expr_python import cel

from pilotfish.local.apiserver.cel import cost, environment
from pilotfish.local.apiserver.cel.environment import CelError
from pilotfish.local.apiserver.cel.types import Types
from pilotfish.local.apiserver.cel.values import convert
from pilotfish.local.apiserver.errors import FieldError, Reason
from pilotfish.local.apiserver.schema.node import ABSENT, Schema
from pilotfish.local.apiserver.schema.validation import has_rules, old_items, same

T = cel.Type
OpenApi = Mapping[str, Any]
_TOTAL = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema"
_OLD = re.compile(r"\boldSelf\b")
_STEP = re.compile(r"\.(?P<name>[A-Za-z_][\w-]*)|\['(?P<quoted>(?:[^'\\]|\\.)+)'\]")


# ------------------------------------------------------------------------------------------------------------ checking


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
    if not _OLD.search(expression):
        env = environment.typed({"self": variable}, types.pool)
        return environment.compile_in(env, expression), False
    if optional:
        env = environment.typed({"self": variable, "old_self": variable}, types.pool)
        return environment.compile_in(env, _optional(expression, present=True)), True
    env = environment.typed({"self": variable, "oldSelf": variable}, types.pool)
    checked = environment.compile_in(env, expression)
    try:  # the word may stand in a text only
        environment.compile_in(environment.typed({"self": variable}, types.pool), expression)
    except CelError:
        return checked, True
    return checked, False


def _optional(expression: str, *, present: bool) -> str:
    """With `optionalOldSelf` the rule sees an optional; values from Python cannot be one."""
    old = "optional.of(old_self)" if present else "optional.none()"
    return f"cel.bind(oldSelf, {old}, ({expression}))"


# ---------------------------------------------------------------------------------------------------------- evaluation


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled rule of a node."""

    text: str
    program: Any
    without_old: Any
    """The program for a value that has no past (rules with `optionalOldSelf`)."""
    message: str
    message_program: Any
    reason: str
    field_path: str
    uses_old: bool
    optional: bool


def _rules(s: Schema) -> tuple[Rule, ...]:
    if s.programs is None:
        s.programs = tuple(_compiled(rule) for rule in s.validations)
    programs: tuple[Rule, ...] = s.programs
    return programs


def _compiled(rule: OpenApi) -> Rule:
    env = environment.running()
    text, expression = rule["rule"].strip(), (rule.get("messageExpression") or "").strip()
    uses_old, optional = bool(_OLD.search(text)), bool(rule.get("optionalOldSelf"))
    without_old = None
    program_text = text
    if uses_old and optional:
        program_text = _optional(text, present=True)
        without_old = environment.compile_in(env, _optional(text, present=False))
    return Rule(
        text,
        environment.compile_in(env, program_text),
        without_old,
        (rule.get("message") or "").strip(),
        environment.compile_in(env, expression) if expression and not optional else None,
        rule.get("reason") or "FieldValueInvalid",
        rule.get("fieldPath") or "",
        uses_old,
        optional,
    )


def check_rules(s: Schema, value: Any, old: Any, path: str) -> list[FieldError]:
    """The errors of the rules at and below a valid value. `old` is its former state, ABSENT when it has none."""
    return list(_check_rules(s, value, old, path))


def _check_rules(s: Schema, value: Any, old: Any, path: str) -> Iterator[FieldError]:
    if value is None or not has_rules(s):
        return
    if s.validations:
        yield from _here(s, value, old, path)
    if type(value) is dict:
        before = old if type(old) is dict else {}
        for key, item in value.items():
            child = s.properties.get(key)
            at = (f"{path}.{key}" if path else key) if child is not None else f"{path}[{key}]"
            child = child or s.additional
            if child is not None and child.structural:
                yield from _check_rules(child, item, before.get(key, ABSENT), at)
    elif type(value) is list and s.items is not None:
        counterpart = old_items(s, old)
        for i, item in enumerate(value):
            yield from _check_rules(s.items, item, counterpart(item), f"{path}[{i}]")


def _here(s: Schema, value: Any, old: Any, path: str) -> Iterator[FieldError]:
    variables = {"self": convert(s, value)}
    known = old is not ABSENT and old is not None
    if known:
        variables["oldSelf"] = variables["old_self"] = convert(s, old)
    unchanged = known and same(value, old)
    for rule in _rules(s):
        program = rule.program
        if rule.uses_old and not known:
            if rule.without_old is None:
                continue
            program = rule.without_old
        elif unchanged and not rule.uses_old:
            continue
        failure = _failure(rule, program, variables)
        if failure:
            yield _error(rule, s, _at(path, rule.field_path, s), failure)


def _failure(rule: Rule, program: Any, variables: Mapping[str, Any]) -> str:
    """Why the rule does not hold; empty when it does."""
    try:
        if environment.evaluate(program, variables) is True:
            return ""
    except CelError as error:
        return f"{error} evaluating rule: {rule.message or rule.text}"
    if rule.message_program is not None:
        try:
            text = environment.evaluate(rule.message_program, variables)
        except CelError:
            text = ""
        if isinstance(text, str) and text.strip() and "\n" not in text.strip():
            return text.strip()
    return rule.message or f"failed rule: {rule.text}"


def _error(rule: Rule, s: Schema, path: str, detail: str) -> FieldError:
    shown = s.type or "object"
    if rule.reason == "FieldValueRequired":
        return FieldError.required(path, detail)
    if rule.reason == "FieldValueForbidden":
        return FieldError.forbidden(path, detail)
    if rule.reason == "FieldValueDuplicate":
        return FieldError(Reason.DUPLICATE, path, f'Duplicate value: "{shown}": {detail}')
    return FieldError.invalid(path, shown, detail)


def _at(path: str, field_path: str, s: Schema) -> str:
    """The path a rule's error belongs to: that of the value, or of the field the rule names."""
    node: Schema | None = s
    for match in _STEP.finditer(field_path):
        name = match["name"] or match["quoted"].replace("\\'", "'").replace("\\\\", "\\")
        in_map = node is not None and name not in node.properties and node.additional is not None
        path = f"{path}[{name}]" if in_map else f"{path}.{name}" if path else name
        node = node.child(name) if node is not None else None
    return path or "<nil>"
