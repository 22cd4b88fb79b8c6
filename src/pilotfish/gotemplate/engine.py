"""Reads templates into functions, and runs them.

The language is that of Go's text/template: actions, pipelines, variables, named templates, trimming of white space.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pilotfish.errors import UserError
from pilotfish.gotemplate.functions import FUNCTIONS
from pilotfish.gotemplate.values import field, go_text, kind_of, truth

NOTHING = "<no value>"
"""What Go prints for a missing value. Helm takes it out of what a file comes to."""
MAX_DEPTH = 100
"""How many templates may be inside one another."""


class TemplateError(UserError):
    """A template that cannot be read or rendered; the message begins with its file and line."""


class _Scope:
    """Variables; what is declared in an inner scope ends with it, what is assigned stays."""

    __slots__ = ("parent", "values")

    def __init__(self, parent: _Scope | None, values: dict[str, Any]) -> None:
        self.parent = parent
        self.values = values

    def holder(self, name: str) -> dict[str, Any]:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values
            scope = scope.parent
        raise ValueError(f"there is no variable {name}")


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a rendering is: the data (dot), the variables, how deep."""

    dot: Any
    scope: _Scope
    depth: int

    def inner(self, dot: Any, **variables: Any) -> _Frame:
        return _Frame(dot, _Scope(self.scope, variables), self.depth)


_Evaluate = Callable[[_Frame], Any]
_Body = Callable[[_Frame, list[str]], None]


class Templates:
    """Named templates: one for each file and one for each `define`.

    `functions` are those beyond Go's and sprig's. A missing value is printed as NOTHING.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self.functions = {**FUNCTIONS, **(functions or {}), "include": self._include}
        self.bodies: dict[str, _Body] = {}
        self._depth = 0

    def add(self, name: str, text: str) -> None:
        """Read a file. Raises TemplateError where it is wrong or uses what is not here."""
        try:
            self.bodies[name] = _Parser(name, text, self).body(())
        except RecursionError:
            raise TemplateError(f"{name}: it is nested too deeply") from None

    def render(self, name: str, dot: Any) -> str:
        """Render a template with `dot` as its data. Raises TemplateError."""
        out: list[str] = []
        try:
            self.run(name, dot, out, 0)
        except RecursionError:
            raise TemplateError(f"template {name!r} is nested too deeply, or calls itself without end") from None
        return "".join(out)

    def run(self, name: str, dot: Any, out: list[str], depth: int) -> None:
        if name not in self.bodies:
            raise TemplateError(f"there is no template {name!r}")
        if depth > MAX_DEPTH:
            raise TemplateError(f"template {name!r} calls itself without end")
        outer, self._depth = self._depth, depth
        try:
            self.bodies[name](_Frame(dot, _Scope(None, {"$": dot}), depth), out)
        finally:
            self._depth = outer

    def _include(self, name: str, dot: Any = None) -> str:
        """Helm's: a template's text as a value."""
        out: list[str] = []
        self.run(name, dot, out, self._depth + 1)
        return "".join(out)


class _Leave(Exception):  # noqa: N818 - no error: the way out of a loop
    """`break` or `continue`."""

    def __init__(self, word: str) -> None:
        self.word = word


# ------------------------------------------------------------------------------ text and actions

_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"|`[^`]*`|\'(?:[^\'\\\n]|\\.)+\'')
_COMMENT = re.compile(r"\s*/\*.*?\*/\s*", re.DOTALL)


def _split(name: str, text: str) -> Iterator[tuple[str, int]]:
    """Text (line 0) and actions (with their line) in turn, white space trimmed as they ask. Comments are left out."""
    at, trim = 0, False
    while (start := text.find("{{", at)) >= 0:
        line = text.count("\n", 0, start) + 1
        before = text[at:start].lstrip() if trim else text[at:start]
        begin = start + 2
        left = text[begin : begin + 1] == "-" and text[begin + 1 : begin + 2].isspace()
        end = _end(text, begin + left)
        if end < 0:
            raise TemplateError(f"{name}:{line}: the action is not closed: `}}}}` is missing")
        content = text[begin + left : end]
        trim = len(content) > 1 and content[-1] == "-" and content[-2].isspace()
        content = (content[:-1] if trim else content).strip()
        yield (before.rstrip() if left else before), 0
        if not content.startswith("/*"):
            yield content, line
        at = end + 2
    yield (text[at:].lstrip() if trim else text[at:]), 0


def _end(text: str, at: int) -> int:
    """Where the action that begins at `at` is closed, -1 when it is not. Quoted text and comments may hold `}}`."""
    if comment := _COMMENT.match(text, at):
        return text.find("}}", comment.end())
    while at < len(text):
        if text.startswith("}}", at):
            return at
        quoted = _QUOTED.match(text, at) if text[at] in "\"`'" else None
        if text[at] in "\"`'" and quoted is None:
            return -1
        at = quoted.end() if quoted else at + 1
    return -1


_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)|(?P<char>'(?:[^'\\\n]|\\.)+')
    |(?P<number>[-+]?(?:0[xX][0-9a-fA-F_]+|0[oO]?[0-7_]+|0[bB][01_]+|(?:\d[\d_]*)?\.?\d[\d_]*(?:[eE][-+]?\d+)?)(?![\w.]))
    |(?P<variable>\$\w*)|(?P<field>\.\w+)|(?P<dot>\.)|(?P<word>\w+)|(?P<sign>:=|[|(),=])""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    spaced: bool
    """Whether white space stands before it: `.a .b` are two values, `.a.b` is one."""


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(text):
        space = re.match(r"\s*", text[at:])
        gap = space.end() if space else 0
        at += gap
        if at >= len(text):
            break
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise ValueError(f"cannot read {text[at:].strip()!r}")
        found.append(_Token(match.lastgroup, match[0], bool(gap) or not found))
        at = match.end()
    return found


_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)


def _unquote(text: str) -> str:
    if text.startswith("`"):
        return text[1:-1]

    def character(match: re.Match[str]) -> str:
        for group, base in ((1, 16), (2, 16), (3, 16), (4, 8)):
            if match[group]:
                return chr(int(match[group], base))
        return _SIMPLE.get(match[5], match[5])

    return _ESCAPE.sub(character, text[1:-1])


_CONSTANTS = {"true": True, "false": False, "nil": None}


# ------------------------------------------------------------------------------ the parser


class _Parser:
    """Reads one file into functions that write its output."""

    def __init__(self, name: str, text: str, templates: Templates) -> None:
        self.name = name
        self.templates = templates
        self.pieces = list(_split(name, text))
        self.at = 0
        self.loops = 0
        self.inside = 0

    def error(self, line: int, message: str) -> TemplateError:
        return TemplateError(f"{self.name}:{line}: {message}")

    def body(self, ends: Sequence[str], opened: int = 0) -> _Body:
        """Everything up to an action that begins with one of `ends`; that is the next piece then."""
        self.inside += bool(ends)
        steps: list[_Body] = []
        while self.at < len(self.pieces):
            content, line = self.pieces[self.at]
            word = re.match(r"\w*", content)[0] if line else ""  # type: ignore[index]  # it matches everywhere
            if line and word in ends:
                self.inside -= 1
                return _sequence(steps)
            self.at += 1
            if not line:
                if content:
                    steps.append(_text(content))
            elif content:
                steps.append(self._action(word, content, line))
            else:
                raise self.error(line, "the action is empty")
        if ends:
            raise self.error(opened, f"{' or '.join(ends)} is missing at the end")
        return _sequence(steps)

    def _action(self, word: str, content: str, line: int) -> _Body:
        rest = content[len(word) :]
        if word in {"if", "with"}:
            names, subject = self._pipeline(rest, line)
            body = self.body(("else", "end"), line)
            return _choice(names, subject, body, self._otherwise(word), dot=word == "with")
        if word == "range":
            names, subject = self._pipeline(rest, line, most=2)
            self.loops += 1
            body = self.body(("else", "end"), line)
            self.loops -= 1
            pairs = self._guard(lambda frame: _pairs(subject(frame)), rest, line)
            return _range(names, pairs, body, self._otherwise(word))
        if word in {"define", "block"}:
            if word == "define" and self.inside:
                raise self.error(line, "`define` is not supported here: it stands outside of other actions")
            return self._define(word, rest, line)
        if word == "template":
            name, expression = self._named(rest, line)
            return self._call(name, expression, line)
        if word in {"break", "continue"} and not rest.strip():
            if not self.loops:
                raise self.error(line, f"`{word}` is not supported here: there is no range around it")
            return _leave(word)
        if word in {"end", "else"}:
            raise self.error(line, f"`{word}` is not supported here")
        names, expression = self._pipeline(content, line)
        if names:
            return _evaluate_only(expression)
        return lambda frame, out: out.append(go_text(expression(frame), NOTHING))

    def _define(self, word: str, rest: str, line: int) -> _Body:
        name, expression = self._named(rest, line)
        loops, self.loops = self.loops, 0
        self.templates.bodies[name] = self.body(("end",), line)
        self.loops = loops
        self.at += 1
        return self._call(name, expression, line) if word == "block" else _sequence([])

    def _named(self, rest: str, line: int) -> tuple[str, _Evaluate]:
        """`"name" pipeline`, the latter may be missing."""
        rest = rest.strip()
        match = _QUOTED.match(rest)
        if match is None or rest[0] == "'":
            raise self.error(line, "the name of a template in quotes is expected")
        after = rest[match.end() :]
        return _unquote(match[0]), self._pipeline(after, line)[1] if after.strip() else lambda _frame: None

    def _call(self, name: str, expression: _Evaluate, line: int) -> _Body:
        def run(frame: _Frame, out: list[str]) -> None:
            dot = expression(frame)
            if name not in self.templates.bodies:
                raise self.error(line, f"there is no template {name!r}")
            self.templates.run(name, dot, out, frame.depth + 1)

        return run

    def _otherwise(self, opener: str) -> _Body:
        """What follows a body: `else if …`, `else with …`, `else` or `end`."""
        content, line = self.pieces[self.at]
        self.at += 1
        if content == "end":
            return _sequence([])
        rest = content.removeprefix("else").strip()
        if rest:
            word = rest.split(None, 1)[0]
            if word not in {"if", "with"} or opener == "range":
                raise self.error(line, f"cannot read {content!r}")
            return self._action(word, rest, line)
        body = self.body(("end",), line)
        self.at += 1
        return body

    # -------------------------------------------------------------------------- expressions

    def _pipeline(self, text: str, line: int, most: int = 1) -> tuple[tuple[str, ...], _Evaluate]:
        """The variables a pipeline declares (none when it assigns), and its value, which sets them."""
        try:
            tokens = _tokens(text)
        except ValueError as error:
            raise self.error(line, str(error)) from error
        names: list[str] = []
        sign = ""
        at = 0
        while at + 1 < len(tokens) and tokens[at].kind == "variable" and tokens[at + 1].text in {",", ":=", "="}:
            names.append(tokens[at].text)
            sign = tokens[at + 1].text
            at += 2
            if sign != ",":
                break
        if sign == "," or len(names) > most:
            raise self.error(line, f"cannot read {text.strip()!r}: too many variables")
        reader = _Expression(self, tokens[at:], line)
        value = self._guard(reader.pipeline(), text, line)
        if reader.tokens:
            raise self.error(line, f"cannot read {reader.tokens[-1].text!r} in {text.strip()!r}")
        if not names or most > 1:
            if sign == "=":
                raise self.error(line, "`range` declares its variables: write `:=`")
            return tuple(names), value
        return (names[0],), self._guard(_set(names[0], value, declare=sign == ":="), text, line)

    def _guard(self, expression: _Evaluate, text: str, line: int) -> _Evaluate:
        """Gives whatever goes wrong in an expression its place."""

        def evaluate(frame: _Frame) -> Any:
            try:
                return expression(frame)
            except (TemplateError, RecursionError, _Leave):
                raise
            except Exception as error:  # whatever a function says of its arguments gets a place
                raise self.error(line, f"{' '.join(text.split())}: {error}") from error

        return evaluate


class _Expression:
    """Reads one pipeline. `tokens` is a stack, its last item is the next token."""

    def __init__(self, parser: _Parser, tokens: list[_Token], line: int) -> None:
        self.parser = parser
        self.tokens = tokens[::-1]
        self.line = line

    def error(self, message: str) -> TemplateError:
        return self.parser.error(self.line, message)

    def pipeline(self) -> _Evaluate:
        result = self._command([])
        while self.tokens and self.tokens[-1].text == "|":
            self.tokens.pop()
            result = self._command([result])
        return result

    def _command(self, last: list[_Evaluate]) -> _Evaluate:
        """A function or method with its arguments, or a sole operand. `last` is what a pipe hands on."""
        if not self.tokens:
            raise self.error("the expression ends too early")
        token = self.tokens[-1]
        if token.kind == "word" and token.text not in _CONSTANTS:
            self.tokens.pop()
            return self._function(token.text, [*self._arguments(), *last])
        operand = self._operand()
        arguments = [*self._arguments(), *last]
        if not arguments:
            return operand.value
        if token.kind in {"string", "char", "number", "dot"} or operand.method is None:
            raise self.error("a pipe must lead to a function" if last else f"{token.text} takes no arguments")
        method = operand.method
        return lambda frame: method(frame)(*(argument(frame) for argument in arguments))

    def _arguments(self) -> list[_Evaluate]:
        found: list[_Evaluate] = []
        while self.tokens and self.tokens[-1].text not in {"|", ")"}:
            found.append(self._operand().value)
        return found

    def _function(self, name: str, arguments: list[_Evaluate]) -> _Evaluate:
        if name in {"and", "or"}:
            return _short_circuit(arguments, until=name == "or")
        function = self.parser.templates.functions.get(name)
        if function is None:
            raise self.error(f"there is no function {name!r}")
        return lambda frame: function(*(argument(frame) for argument in arguments))

    def _operand(self) -> _Operand:
        token = self.tokens.pop()
        names: list[str] = []
        if token.kind == "field":
            names.append(token.text[1:])
            base: _Evaluate = _dot
        elif token.kind == "dot":
            base = _dot
        elif token.kind == "variable":
            base = _variable(token.text)
        elif token.text == "(":
            base = self.pipeline()
            if not self.tokens or self.tokens.pop().text != ")":
                raise self.error("`)` is missing")
        elif token.kind == "word" and token.text not in _CONSTANTS:
            base = self._function(token.text, [])
        else:
            base = _constant(self._constant(token))
        while self.tokens and self.tokens[-1].kind == "field" and not self.tokens[-1].spaced:
            names.append(self.tokens.pop().text[1:])
        return _Operand(base, tuple(names))

    def _constant(self, token: _Token) -> Any:
        if token.kind == "string":
            return _unquote(token.text)
        if token.kind == "char":
            return ord(_unquote(token.text))
        if token.text in _CONSTANTS:
            return _CONSTANTS[token.text]
        if token.kind != "number":
            raise self.error(f"cannot read {token.text!r}")
        text = token.text.replace("_", "")
        try:
            return int(text, 8) if re.fullmatch(r"[-+]?0[0-7]+", text) else int(text, 0)
        except ValueError:
            return float(text)


class _Operand:
    """A value with the fields taken of it; the last one may be a method."""

    __slots__ = ("method", "value")

    def __init__(self, base: _Evaluate, names: tuple[str, ...]) -> None:
        self.method: _Evaluate | None = None
        self.value = base
        if not names:
            return

        def last(frame: _Frame) -> Any:
            found = base(frame)
            if found is None:  # a field of nothing at the start of a chain is nothing, as in Go
                return None
            for name in names:
                if callable(found):
                    found = found()
                found = field(found, name)
            return found

        def method(frame: _Frame) -> Any:
            found = last(frame)
            if not callable(found):
                raise ValueError(f".{names[-1]} is a {kind_of(found)}, not a method: it takes no arguments")
            return found

        def value(frame: _Frame) -> Any:
            found = last(frame)
            return found() if callable(found) else found

        self.method, self.value = method, value


# ------------------------------------------------------------------------------ running


def _dot(frame: _Frame) -> Any:
    return frame.dot


def _constant(value: Any) -> _Evaluate:
    return lambda _frame: value


def _variable(name: str) -> _Evaluate:
    return lambda frame: frame.scope.holder(name)[name]


def _set(name: str, value: _Evaluate, *, declare: bool) -> _Evaluate:
    def run(frame: _Frame) -> Any:
        found = value(frame)
        (frame.scope.values if declare else frame.scope.holder(name))[name] = found
        return found

    return run


def _short_circuit(arguments: Sequence[_Evaluate], until: bool) -> _Evaluate:
    def evaluate(frame: _Frame) -> Any:
        value = None
        for argument in arguments:
            value = argument(frame)
            if truth(value) is until:
                break
        return value

    return evaluate


def _text(text: str) -> _Body:
    return lambda _frame, out: out.append(text)


def _evaluate_only(expression: _Evaluate) -> _Body:
    def run(frame: _Frame, _out: list[str]) -> None:
        expression(frame)

    return run


def _leave(word: str) -> _Body:
    def run(_frame: _Frame, _out: list[str]) -> None:
        raise _Leave(word)

    return run


def _sequence(steps: Sequence[_Body]) -> _Body:
    def run(frame: _Frame, out: list[str]) -> None:
        for step in steps:
            step(frame, out)

    return run


def _choice(names: tuple[str, ...], subject: _Evaluate, body: _Body, otherwise: _Body, *, dot: bool) -> _Body:
    """`if` and (with `dot`) `with`. A variable declared in the condition lives until the end of the action."""
    del names  # set by the subject, in the inner scope

    def run(frame: _Frame, out: list[str]) -> None:
        inner = frame.inner(frame.dot)
        value = subject(inner)
        if truth(value):
            body(inner.inner(value) if dot else inner.inner(frame.dot), out)
        else:
            otherwise(inner.inner(frame.dot), out)

    return run


def _range(names: tuple[str, ...], subject: _Evaluate, body: _Body, otherwise: _Body) -> _Body:
    def run(frame: _Frame, out: list[str]) -> None:
        pairs = subject(frame)
        if not pairs:
            otherwise(frame.inner(frame.dot), out)
        for key, value in pairs:
            item = {names[0]: key, names[1]: value} if len(names) == 2 else dict.fromkeys(names, value)
            try:
                body(_Frame(value, _Scope(frame.scope, item), frame.depth), out)
            except _Leave as leave:
                if leave.word == "break":
                    break

    return run


def _pairs(values: Any) -> list[tuple[Any, Any]]:
    if isinstance(values, Mapping):
        return sorted(values.items())
    if isinstance(values, int) and not isinstance(values, bool):
        return [(at, at) for at in range(values)]
    if isinstance(values, (list, tuple)):
        return list(enumerate(values))
    if values is None:
        return []
    raise ValueError(f"range needs a list or a map, not a {kind_of(values)}")
