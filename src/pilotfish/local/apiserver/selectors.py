"""Label and field selectors: the text of a query compiled to a test."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pilotfish.local.apiserver.errors import ApiError, bad_request

LabelTest = Callable[[Mapping[str, str]], bool]

_TOKEN = re.compile(r"\s*(!=|==|=|!|\(|\)|,|<|>|[^\s!=(),<>]+)")
_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

NAME_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)


def qualified_name_errors(name: str) -> list[str]:
    """What is wrong with a label key, an annotation key or a finalizer; empty when nothing is."""
    prefix, slash, part = name.rpartition("/")
    if "/" in prefix:
        return [
            "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
            "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
            "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' "
            "(e.g. 'example.com/MyName')"
        ]
    errors = []
    if slash:
        if not prefix:
            errors.append("prefix part must be non-empty")
        else:
            if len(prefix) > 253:
                errors.append("prefix part must be no more than 253 bytes")
            if not _SUBDOMAIN.fullmatch(prefix):
                errors.append("prefix part " + SUBDOMAIN_RULE)
    if not part:
        errors.append("name part must be non-empty")
    elif len(part) > 63:
        errors.append("name part must be no more than 63 bytes")
    if not _NAME.fullmatch(part):
        errors.append(NAME_RULE)
    return errors


def label_value_errors(value: str) -> list[str]:
    errors = []
    if len(value) > 63:
        errors.append("must be no more than 63 bytes")
    if value and not _NAME.fullmatch(value):
        errors.append(VALUE_RULE)
    return errors


def _unparsable(text: str, why: str) -> ApiError:
    return bad_request(f'unable to parse requirement: {why} in selector "{text}"')


class _Parser:
    """The label selector grammar of k8s.io/apimachinery/pkg/labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[str] = []
        position, end = 0, len(text.rstrip())
        while position < end:
            match = _TOKEN.match(text, position)
            if not match:
                raise _unparsable(text, f"unexpected character {text[position]!r}")
            self.tokens.append(match[1])
            position = match.end()
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def parse(self) -> list[LabelTest]:
        tests: list[LabelTest] = []
        while self.peek():
            tests.append(self._requirement())
            if not self.peek():
                break
            if self.take() != ",":
                raise _unparsable(self.text, f"found '{self.tokens[self.at - 1]}', expected: ',' or 'end of string'")
            if not self.peek():
                raise _unparsable(self.text, "found '', expected: identifier after ','")
        return tests

    def _requirement(self) -> LabelTest:
        negated = self.peek() == "!"
        if negated:
            self.take()
        key = self.take()
        for error in qualified_name_errors(key):
            raise _unparsable(self.text, f'<nil>: Invalid value: "{key}": {error}')
        operator = self.peek()
        if operator in ("", ","):
            return (lambda labels: key not in labels) if negated else (lambda labels: key in labels)
        if negated:
            raise _unparsable(self.text, f"found '{operator}', expected: ',' or 'end of string'")
        self.take()
        if operator in ("=", "=="):
            value = self._value()
            return lambda labels: labels.get(key) == value
        if operator == "!=":
            value = self._value()
            return lambda labels: labels.get(key) != value
        if operator == "in":
            chosen = self._values()
            return lambda labels: labels.get(key) in chosen if key in labels else False
        if operator == "notin":
            chosen = self._values()
            return lambda labels: labels.get(key) not in chosen if key in labels else True
        if operator in ("<", ">"):
            return _compare(key, operator, self._value(), self.text)
        raise _unparsable(self.text, f"found '{operator}', expected: in, notin, =, ==, !=, gt, lt")

    def _value(self) -> str:
        if self.peek() in ("", ","):
            return ""
        value = self.take()
        for error in label_value_errors(value):
            raise _unparsable(self.text, f'values[0]: Invalid value: "{value}": {error}')
        return value

    def _values(self) -> frozenset[str]:
        if self.take() != "(":
            raise _unparsable(self.text, "found '', expected: '('")
        values = []
        expect_value = True
        while (word := self.take()) != ")":
            if not word:
                raise _unparsable(self.text, "found '', expected: ',' or ')'")
            if word == ",":
                if expect_value:
                    values.append("")
                expect_value = True
                continue
            for error in label_value_errors(word):
                raise _unparsable(self.text, f'values: Invalid value: "{word}": {error}')
            values.append(word)
            expect_value = False
        if expect_value:
            values.append("")
        return frozenset(values)


def _compare(key: str, operator: str, value: str, text: str) -> LabelTest:
    try:
        limit = int(value)
    except ValueError:
        raise _unparsable(text, f"for 'Gt', 'Lt' operators, the value must be an integer: {value!r}") from None

    def test(labels: Mapping[str, str]) -> bool:
        try:
            number = int(labels[key])
        except (KeyError, ValueError):
            return False
        return number > limit if operator == ">" else number < limit

    return test


def label_selector(text: str) -> LabelTest | None:
    """Compile `app=x,tier in (a,b),!old`; None when it selects everything. Raises 400."""
    tests = _Parser(text).parse()
    if not tests:
        return None
    if len(tests) == 1:
        return tests[0]
    return lambda labels: all(test(labels) for test in tests)


def match_labels(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector object (matchLabels, matchExpressions) selects these labels; None or {} select all."""
    if not selector:
        return True
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for expression in selector.get("matchExpressions") or []:
        key, values = expression.get("key", ""), expression.get("values") or []
        match expression.get("operator"):
            case "In":
                fine = key in labels and labels[key] in values
            case "NotIn":
                fine = labels.get(key) not in values
            case "Exists":
                fine = key in labels
            case "DoesNotExist":
                fine = key not in labels
            case _:
                fine = False
        if not fine:
            return False
    return True


def selector_text(selector: Mapping[str, Any] | None) -> str:
    """A LabelSelector object as the text of a query, keys in order."""
    out = [f"{key}={value}" for key, value in sorted((selector or {}).get("matchLabels", {}).items())]
    for expression in (selector or {}).get("matchExpressions") or []:
        key, values = expression.get("key", ""), ",".join(sorted(expression.get("values") or []))
        match expression.get("operator"):
            case "In":
                out.append(f"{key} in ({values})")
            case "NotIn":
                out.append(f"{key} notin ({values})")
            case "Exists":
                out.append(key)
            case "DoesNotExist":
                out.append(f"!{key}")
    return ",".join(out)


FieldTerm = tuple[str, bool, str]
"""A term of a field selector: field, whether equal (else not equal), value."""


def field_selector(text: str, known: Sequence[str], *, namespaced: bool = True) -> list[FieldTerm]:
    """Compile `metadata.name=x,status.phase!=Running`. Raises 400 for a field that the kind cannot select by.

    A kind with fields of its own (`known`) that has no namespace cannot be selected by namespace either.
    """
    common = ("metadata.name", "metadata.namespace") if namespaced or not known else ("metadata.name",)
    terms: list[FieldTerm] = []
    for term in _split(text):
        match = re.match(r"([^=!]*)(!=|==|=)(.*)", term, re.DOTALL)
        if not match:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        name = match[1].strip()
        if name not in common and name not in known:
            if known:
                raise bad_request(f"field label not supported: {name}")
            listed = ", ".join(f'"{one}"' for one in common)
            raise bad_request(f'"{name}" is not a known field selector: only {listed}')
        terms.append((name, match[2] != "!=", re.sub(r"\\([\\,=])", r"\1", match[3])))
    return terms


def _split(text: str) -> list[str]:
    return [term for term in re.split(r"(?<!\\),", text) if term.strip()]


def match_fields(terms: Sequence[FieldTerm], values: Mapping[str, str]) -> bool:
    return all((values.get(name, "") == value) is equal for name, equal, value in terms)
