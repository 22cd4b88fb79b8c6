"""Go templates, as far as our charts use them: `pilotfish install` needs no Helm.

A test renders the charts with this and with Helm and compares. What is not here is refused when a template is read, so
that a chart cannot quietly mean something else: charts keep to these functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pilotfish.errors import UserError
from pilotfish.install.functions import FUNCTIONS, go_text, truth


class TemplateError(UserError):
    """A template that cannot be read or rendered; the message begins with its file and line."""


@dataclass(frozen=True)
class _Frame:
    """Where a rendering is: the data (dot), the variables, the named templates."""

    dot: Any
    variables: dict[str, Any]
    templates: Templates


_Evaluate = Callable[[_Frame], Any]
_Body = Callable[[_Frame, list[str]], None]


class Templates:
    """Named templates: one for each file and one for each `define`."""

    def __init__(self) -> None:
        self.bodies: dict[str, _Body] = {}

    def add(self, name: str, text: str) -> None:
        """Read a file. Raises TemplateError where it uses what is not supported."""
        self.bodies[name] = _Parser(name, text, self).body(())

    def render(self, name: str, dot: Any) -> str:
        """Render a template with `dot` as its data. Raises TemplateError."""
        if name not in self.bodies:
            raise TemplateError(f"there is no template {name!r}")
        out: list[str] = []
        self.bodies[name](_Frame(dot, {"$": dot}, self), out)
        return "".join(out)


_ACTION = re.compile(r"\{\{(-\s)?\s*(/\*.*?\*/|(?:\"(?:[^\"\\]|\\.)*\"|[^\"])*?)\s*(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<number>-?\d+(?:\.\d+)?)|(?P<value>\$\w*(?:\.\w+)*|(?:\.\w+)+|\.)
    |(?P<word>\w+)|(?P<sign>[|()]))""",
    re.VERBOSE,
)
_CONSTANTS = {"true": True, "false": False, "nil": None}


class _Parser:
    """Reads one file into functions that write its output."""

    def __init__(self, name: str, text: str, templates: Templates) -> None:
        self.name = name
        self.templates = templates
        self.pieces = list(_split(text))
        self.at = 0

    def error(self, line: int, message: str) -> TemplateError:
        return TemplateError(f"{self.name}:{line}: {message}")

    def body(self, ends: Sequence[str]) -> _Body:
        """Everything up to an action that begins with one of `ends`; that is the next piece then."""
        steps: list[_Body] = []
        while self.at < len(self.pieces):
            content, line = self.pieces[self.at]
            word = content.split(None, 1)[0] if line and content else ""
            if word in ends:
                return _sequence(steps)
            self.at += 1
            if not line:
                steps.append(_text(content))
            elif not content.startswith("/*"):
                steps.append(self._action(word, content, line))
        if ends:
            raise self.error(len(self.pieces), f"{' or '.join(ends)} is missing at the end")
        return _sequence(steps)

    def _action(self, word: str, content: str, line: int) -> _Body:
        rest = content[len(word) :]
        if word in {"if", "with"}:
            subject = self._expression(rest, line)
            body = self.body(("else", "end"))
            return (_if if word == "if" else _with)(subject, body, self._otherwise())
        if word == "range":
            match = re.fullmatch(r"\s*(?:(\$\w+)(?:\s*,\s*(\$\w+))?\s*:=)?(.*)", rest, re.DOTALL)
            assert match is not None  # noqa: S101 - every part may be empty
            subject = self._expression(match[3], line)
            body = self.body(("else", "end"))
            return _range(subject, tuple(filter(None, match.groups()[:2])), body, self._otherwise())
        if word == "define":
            self.templates.bodies[json.loads(rest)] = self.body(("end",))
            self.at += 1
            return _sequence([])
        if word in {"end", "else", "block", "template", "break", "continue"}:
            raise self.error(line, f"`{word}` is not supported here")
        if (match := re.fullmatch(r"(\$\w+)\s*:=(.*)", content, re.DOTALL)) is not None:
            return _assign(match[1], self._expression(match[2], line))
        return _print(self._expression(content, line))

    def _otherwise(self) -> _Body:
        """What follows a body: `else if …`, `else` or `end`."""
        content, line = self.pieces[self.at]
        self.at += 1
        if content == "end":
            return _sequence([])
        if content.startswith("else if "):
            return self._action("if", content.removeprefix("else "), line)
        body = self.body(("end",))
        self.at += 1
        return body

    def _expression(self, text: str, line: int) -> _Evaluate:
        tokens: list[re.Match[str]] = []
        at, text = 0, text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self.error(line, f"cannot read {text[at:].strip()!r}")
            tokens.append(match)
            at = match.end()
        tokens.reverse()  # a stack
        expression = self._pipeline(tokens, line)
        if tokens:
            raise self.error(line, f"cannot read {text.strip()!r}")

        def evaluate(frame: _Frame) -> Any:
            try:
                return expression(frame)
            except TemplateError:
                raise
            except Exception as error:  # whatever a function says of its arguments gets a place
                raise self.error(line, f"{text.strip()}: {error}") from error

        return evaluate

    def _pipeline(self, tokens: list[re.Match[str]], line: int) -> _Evaluate:
        result = self._call(tokens, line, [])
        while tokens and tokens[-1]["sign"] == "|":
            tokens.pop()
            result = self._call(tokens, line, [result])
        return result

    def _call(self, tokens: list[re.Match[str]], line: int, last: list[_Evaluate]) -> _Evaluate:
        """A function with its arguments, or a sole operand. `last` is what a pipe hands on."""
        if not tokens:
            raise self.error(line, "the expression ends too early")
        name = tokens[-1]["word"] or (".Files.Get" if (tokens[-1]["value"] or "").endswith(".Files.Get") else "")
        if not name or name in _CONSTANTS:
            if last:
                raise self.error(line, "a pipe must lead to a function")
            return self._operand(tokens, line)
        token = tokens.pop()
        arguments: list[_Evaluate] = []
        while tokens and tokens[-1]["sign"] not in {"|", ")"}:
            arguments.append(self._operand(tokens, line))
        arguments += last
        if name in {"and", "or"}:
            return _short_circuit(arguments, until=name == "or")
        if name == "include":
            return _include(*arguments)
        if name == ".Files.Get":
            files = _value(token["value"].removesuffix(".Get"))
            return lambda frame: files(frame).get(arguments[0](frame), "")
        if name not in FUNCTIONS:
            raise self.error(line, f"there is no function {name!r}")
        function = FUNCTIONS[name]
        return lambda frame: function(*(argument(frame) for argument in arguments))

    def _operand(self, tokens: list[re.Match[str]], line: int) -> _Evaluate:
        token = tokens.pop()
        if token["sign"] == "(":
            inner = self._pipeline(tokens, line)
            if not tokens or tokens.pop()["sign"] != ")":
                raise self.error(line, "`)` is missing")
            return inner
        if token["value"]:
            return _value(token["value"])
        if token["word"] in FUNCTIONS:  # without arguments, such as `dict`
            function = FUNCTIONS[token["word"]]
            return lambda _frame: function()
        if token["string"]:
            constant: Any = json.loads(token["string"])
        elif token["number"]:
            constant = float(token["number"]) if "." in token["number"] else int(token["number"])
        elif token["word"] in _CONSTANTS:
            constant = _CONSTANTS[token["word"]]
        else:
            raise self.error(line, f"cannot read {token[0].strip()!r}")
        return lambda _frame: constant


def _split(text: str) -> Iterator[tuple[str, int]]:
    """Text (line 0) and actions in turn, white space trimmed as they ask."""
    at, trim = 0, False
    for match in _ACTION.finditer(text):
        before = text[at : match.start()]
        before = before.lstrip() if trim else before
        yield (before.rstrip() if match[1] else before), 0
        yield match[2], text.count("\n", 0, match.start()) + 1
        at, trim = match.end(), bool(match[3])
    yield (text[at:].lstrip() if trim else text[at:]), 0


def _value(path: str) -> _Evaluate:
    """`.a.b`, `$.a` or `$x.a`. Taking a field of nothing is an error, as in Helm; a missing field is nothing."""
    first, *names = path.split(".")

    def evaluate(frame: _Frame) -> Any:
        value = frame.variables[first] if first else frame.dot
        for name in filter(None, names):
            if value is None:
                raise ValueError(f"there is nothing to take .{name} of")
            value = value.get(name)
        return value

    return evaluate


def _short_circuit(arguments: Sequence[_Evaluate], until: bool) -> _Evaluate:
    def evaluate(frame: _Frame) -> Any:
        value = None
        for argument in arguments:
            value = argument(frame)
            if truth(value) is until:
                break
        return value

    return evaluate


def _include(name: _Evaluate, dot: _Evaluate) -> _Evaluate:
    return lambda frame: frame.templates.render(name(frame), dot(frame))


def _text(text: str) -> _Body:
    return lambda _frame, out: out.append(text)


def _print(expression: _Evaluate) -> _Body:
    return lambda frame, out: out.append(go_text(expression(frame)))


def _assign(name: str, expression: _Evaluate) -> _Body:
    def run(frame: _Frame, _out: list[str]) -> None:
        frame.variables[name] = expression(frame)

    return run


def _sequence(steps: Sequence[_Body]) -> _Body:
    def run(frame: _Frame, out: list[str]) -> None:
        inner = replace(frame, variables=dict(frame.variables))  # what is declared here ends here
        for step in steps:
            step(inner, out)

    return run


def _if(condition: _Evaluate, body: _Body, otherwise: _Body) -> _Body:
    def run(frame: _Frame, out: list[str]) -> None:
        (body if truth(condition(frame)) else otherwise)(frame, out)

    return run


def _with(subject: _Evaluate, body: _Body, otherwise: _Body) -> _Body:
    def run(frame: _Frame, out: list[str]) -> None:
        value = subject(frame)
        if truth(value):
            body(replace(frame, dot=value), out)
        else:
            otherwise(frame, out)

    return run


def _range(subject: _Evaluate, names: tuple[str, ...], body: _Body, otherwise: _Body) -> _Body:
    def run(frame: _Frame, out: list[str]) -> None:
        values = subject(frame)
        if not values:
            otherwise(frame, out)
            return
        pairs = sorted(values.items()) if isinstance(values, Mapping) else enumerate(values)
        for key, value in pairs:
            item = {names[0]: key, names[1]: value} if len(names) == 2 else dict.fromkeys(names, value)
            body(replace(frame, dot=value, variables={**frame.variables, **item}), out)

    return run
