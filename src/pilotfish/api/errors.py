"""What is wrong with an object, and where."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class FieldError(NamedTuple):
    path: str
    """Where, e.g. `spec.http[0].route[1].weight`; keys of maps stand in brackets too: `spec.selector[app]`."""
    message: str
    """What is wrong and what would be right, without the path."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class DecodeError(Exception):
    """An object that cannot be read: it is of no kind we know, or its fields have the wrong types."""

    def __init__(self, errors: Iterable[FieldError], subject: str = "") -> None:
        self.errors = tuple(errors)
        self.subject = subject
        text = "; ".join(map(str, self.errors))
        super().__init__(f"{subject}: {text}" if subject else text)
