"""Evaluating the rules of custom resources (`x-kubernetes-validations`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pilotfish.local.apiserver.cel import environment
from pilotfish.local.apiserver.cel.environment import CelError
from pilotfish.local.apiserver.cel.values import convert
from pilotfish.local.apiserver.errors import FieldError, Reason
from pilotfish.local.apiserver.schema.node import ABSENT, Schema
from pilotfish.local.apiserver.schema.validation import has_rules, old_items, same

OpenApi = Mapping[str, Any]
USES_OLD = re.compile(r"\boldSelf\b")
_STEP = re.compile(r"\.(?P<name>[A-Za-z_][\w-]*)|\['(?P<quoted>(?:[^'\\]|\\.)+)'\]")


def with_optional_old(expression: str, *, present: bool) -> str:
    """With `optionalOldSelf` the rule sees an optional; values from Python cannot be one."""
    old = "optional.of(old_self)" if present else "optional.none()"
    return f"cel.bind(oldSelf, {old}, ({expression}))"


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
    uses_old, optional = bool(USES_OLD.search(text)), bool(rule.get("optionalOldSelf"))
    without_old = None
    program_text = text
    if uses_old and optional:
        env = environment.running(binding=True)
        program_text = with_optional_old(text, present=True)
        without_old = environment.compile_in(env, with_optional_old(text, present=False))
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
