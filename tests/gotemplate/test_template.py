"""The part of Go's template language that our charts use."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotfish.gotemplate import FUNCTIONS, TemplateError, Templates, go_text, merge_overwrite

DOT: dict[str, Any] = {"Values": {"a": "x", "list": [1, 2], "map": {"k": "v", "b": "w"}, "no": False, "n": None}}


def _render(text: str, dot: Any = DOT) -> str:
    templates = Templates()
    templates.add("t", text)
    return templates.render("t", dot)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a{{ .Values.a }}b", "axb"),
        ("a \n {{- .Values.a -}} \n b", "axb"),
        ("{{ .Values.missing }}", "<no value>"),
        ("{{ if .Values.no }}1{{ else if .Values.a }}2{{ else }}3{{ end }}", "2"),
        ("{{ if .Values.no }}1{{ else }}3{{ end }}", "3"),
        ("{{ with .Values.map }}{{ .k }}{{ end }}{{ with .Values.n }}1{{ else }}{{ .Values.a }}{{ end }}", "vx"),
        ("{{ range .Values.list }}[{{ . }}]{{ end }}", "[1][2]"),
        ("{{ range $k, $v := .Values.map }}{{ $k }}={{ $v }};{{ end }}", "b=w;k=v;"),
        ("{{ range $v := .Values.n }}x{{ else }}none{{ end }}", "none"),
        ("{{ range .Values.list }}{{ $.Values.a }}{{ end }}", "xx"),
        ('{{ $y := "a" }}{{ if true }}{{ $y := "b" }}{{ $y }}{{ end }}{{ $y }}', "ba"),
        ('{{ define "f" }}<{{ . }}>{{ end }}{{ include "f" .Values.a | quote }}', '"<x>"'),
        ("{{/* a comment with }} in it */}}x", "x"),
        ('{{ default "d" .Values.n }}{{ .Values.a | default "d" }}', "dx"),
        ('{{ ternary "a" "b" (eq .Values.a "x") }}{{ and .Values.a .Values.no }}', "afalse"),
        ('{{ or (not .Values.a) (and (eq "x" .Values.a) (ne 1 2)) }}', "true"),
        ("{{ and .Values.n .Values.n.deeper }}", "<no value>"),
        ('{{ dict "a" (list 1 "b") "c" (dict) | toYaml | nindent 2 }}', "\n  a:\n  - 1\n  - b\n  c: {}"),
        ('{{ printf "%s-%d" "a" 5 }}{{ index .Values.list 1 }}', "a-52"),
        ('{{ "a{{b}}" }}', "a{{b}}"),
        ('{{ .Values.list | has 2 }}{{ hasKey .Values.map "k" }}', "truetrue"),
        ('{{ omit .Values.map "k" }}', "map[b:w]"),
        ('{{ "a\\n---\\nb" | splitList "\\n---\\n" }}', "[a b]"),
    ],
)
def test_rendering(text: str, expected: str) -> None:
    """What Go gives."""
    assert _render(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n{{ nope .Values }}", "t:2: there is no function 'nope'"),
        ("{{ if .Values }}", "end is missing"),
        ("{{ end }}", "`end` is not supported here"),
        ("{{ (.Values }}", "`)` is missing"),
        ("{{ .Values | }}", "too early"),
        ("{{ .Values.n.deeper }}", "nothing to take .deeper of"),
        ('{{ include "x" . }}', "no template 'x'"),
        ('\n\n{{ template "x" . }}', "t:3: there is no template 'x'"),
        ('{{ define "x" }}{{ template "x" . }}{{ end }}{{ template "x" . }}', "calls itself without end"),
        ("a\n{{ if .Values }}\nb\n", "t:2: else or end is missing"),
        ("{{ .Values", "t:1: the action is not closed"),
        ('{{ "a }}', "the action is not closed"),
        ("{{ }}", "the action is empty"),
        ("{{ break }}", "there is no range around it"),
        ("{{ $x }}", "there is no variable $x"),
        ("{{ $x = 1 }}", "there is no variable $x"),
        ("{{ eq .Values.a 1 }}", "a string cannot be compared with a number"),
        ("{{ index .Values.list 7 }}", "index 7 is out of range"),
        ('{{ fail "no way" }}', "no way"),
        ("{{ range .Values.a }}{{ end }}", "range needs a list or a map, not a string"),
        ("{{ .Values.a.b }}", "a string has no field b"),
        ('{{ if true }}{{ define "x" }}{{ end }}{{ end }}', "`define` is not supported here"),
        ("{{ else }}", "`else` is not supported here"),
        ("{{ range .Values.list }}{{ else if true }}{{ end }}", "cannot read 'else if true'"),
        ("{{ .Values.a ~ }}", "cannot read"),
        ("{{ 1 | .Values }}", "not a method"),
        ("{{ 1 | 2 }}", "must lead to a function"),
    ],
)
def test_errors_have_a_place(text: str, words: str) -> None:
    """The template and the line, and what is wrong."""
    with pytest.raises(TemplateError) as caught:
        _render(text)
    assert words in str(caught.value)


WORDS = [
    "{{",
    "{{-",
    "}}",
    "-}}",
    "if",
    "else",
    "end",
    "range",
    "with",
    "define",
    "block",
    "template",
    "break",
    "continue",
    "$x",
    ":=",
    "=",
    ",",
    "|",
    "(",
    ")",
    ".",
    ".Values",
    ".Values.a",
    ".Values.map.k",
    '"s"',
    "`r`",
    "1",
    "-2",
    "1.5",
    "true",
    "nil",
    "index",
    "printf",
    '"%s"',
    "eq",
    "and",
    "or",
    "not",
    "list",
    "dict",
    "len",
    "quote",
    "default",
    "include",
    "/*",
    "*/",
    "text",
]


@given(st.lists(st.sampled_from([*WORDS, "\n", " "]), max_size=30))
def test_whatever_is_written_it_comes_to_text_or_an_error(words: list[str]) -> None:
    """A template, however wrong, never ends otherwise."""
    with contextlib.suppress(TemplateError):
        assert isinstance(_render(" ".join(words)), str)


def test_deep_nesting_is_an_error() -> None:
    """Neither parentheses nor actions bring the interpreter to its end."""
    for text in ("{{ " + "(" * 5000 + " }}", "{{ if true }}" * 5000 + "{{ end }}" * 5000):
        with pytest.raises(TemplateError, match="nested too deeply"):
            _render(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1000000.0, "1e+06"),
        (12345678.0, "1.2345678e+07"),
        (999999.0, "999999"),
        (1000000, "1000000"),
        (1.5, "1.5"),
        (1.0, "1"),
        (0.00001, "1e-05"),
        (1234567.5, "1.2345675e+06"),
        (-3, "-3"),
        (True, "true"),
        ([1, "a"], "[1 a]"),
    ],
)
def test_numbers_print_as_in_go(value: Any, text: str) -> None:
    """Numbers from YAML are floating point there, and show it when they are large; those of the template are not."""
    assert go_text(value) == text


def test_merge_overwrites_with_what_is_empty() -> None:
    """Maps are merged; false, nothing and empty lists replace what was there."""
    target = {"a": 1, "b": {"c": 1, "d": 2}, "e": [1], "f": True, "g": {"h": 1}}
    merged = merge_overwrite(target, {"a": None, "b": {"c": 5}, "e": [], "f": False, "g": 3}, None)
    assert merged == {"a": None, "b": {"c": 5, "d": 2}, "e": [], "f": False, "g": 3}


def test_from_yaml() -> None:
    """Keys are text; what is no mapping says so."""
    assert FUNCTIONS["fromYaml"]("") == {}
    assert FUNCTIONS["fromYaml"]("8080: a\ny: b") == {"8080": "a", "true": "b"}
    assert "Error" in FUNCTIONS["fromYaml"]("- a")
    assert "Error" in FUNCTIONS["fromYaml"]("a: [")
