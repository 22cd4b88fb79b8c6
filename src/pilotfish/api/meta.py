"""What all kinds share: the base of every type, durations, selectors, references, and marks on fields.

Types hold what the user wrote. A field that may be absent has a default; where "absent" and "zero" mean different
things (protobuf wrappers, oneofs, messages) the default is None. Meaning is checked in `pilotfish.api.validation`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import cache, lru_cache
from typing import Annotated, Any, ClassVar, NamedTuple

import msgspec


def camel(name: str) -> str:
    """The JSON name of a field: `max_age` → `maxAge`, `consecutive_5xx_errors` → `consecutive5xxErrors`."""
    return re.sub(r"_([a-z0-9])", lambda m: m[1].upper(), name.rstrip("_"))


class Rule(NamedTuple):
    """A condition the API server checks in CEL, with the message a user sees when it does not hold."""

    rule: str
    message: str


class Api(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename=camel,
    omit_defaults=True,
    forbid_unknown_fields=True,
    gc=False,  # trees of values: there are no cycles to collect
):
    """Base of every message."""

    ONE_OF: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of fields, by JSON name, of which at most one may be set."""
    CEL: ClassVar[tuple[Rule, ...]] = ()
    """Conditions on the message that the CRD carries."""
    ALIASES: ClassVar[Mapping[str, str]] = {}
    """Other spellings of a field that the CRD keeps, to the field's JSON name."""


def field_value(message: Api, name: str) -> Any:
    """A field by its JSON name."""
    return getattr(message, _attribute(type(message), name))


@cache
def _attribute(cls: type[Api], name: str) -> str:
    return next(field.name for field in msgspec.structs.fields(cls) if field.encode_name == name)


# Marks on fields, used as Annotated[type, MARK].
REQUIRED = msgspec.Meta(extra={"required": True})
"""The CRD demands it. Types still have a default, so that what is stored without it can be read and reported."""
UNIMPLEMENTED = msgspec.Meta(extra={"unimplemented": True})
"""Accepted and stored, but this control plane does not act on it yet. See `pilotfish.api.unimplemented`."""
DEPRECATED = msgspec.Meta(extra={"deprecated": True})


def schema(**keywords: Any) -> msgspec.Meta:
    """Further keywords for the field's schema in the CRD, e.g. `schema(maxItems=16)`."""
    return msgspec.Meta(extra_json_schema=keywords)


def rule(cel: str, message: str) -> msgspec.Meta:
    """A CEL condition on the field's value."""
    return msgspec.Meta(extra_json_schema={"x-kubernetes-validations": [{"rule": cel, "message": message}]})


Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
UInt32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
UInt64 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
StringMap = Mapping[str, str]
FreeForm = Mapping[str, Any]
"""JSON of any shape (protobuf Struct)."""

_UNITS = {
    "h": 3_600_000_000_000,
    "m": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ns": 1,
}
_DURATION = re.compile(r"([0-9]*\.?[0-9]*)(ns|us|µs|μs|ms|s|m|h)")


class Duration(int):
    """Nanoseconds, read from and written as Go writes durations: `10s`, `1.5s`, `1h2m`, `500ms`."""

    __slots__ = ()

    @classmethod
    @lru_cache(maxsize=4096)
    def parse(cls, text: str) -> Duration:
        """Read Go's duration syntax. Raises ValueError with an example of what is right."""
        body = text[1:] if text[:1] in {"-", "+"} else text
        total, at = 0, 0
        for match in _DURATION.finditer(body):
            number = match[1]
            if match.start() != at or not number or number == ".":
                break
            whole, _, fraction = number.partition(".")
            unit = _UNITS[match[2]]
            total += int(whole or 0) * unit + int(fraction or 0) * unit // 10 ** len(fraction)
            at = match.end()
        if body == "0":
            return cls(0)
        if not body or at != len(body) or total >= 2**63:
            raise ValueError(
                f"{text!r} is not a duration; write a number and a unit, such as 10s, 1.5s, 500ms or 1h30m"
            )
        return cls(-total if text[0] == "-" else total)

    @property
    def seconds(self) -> float:
        return self / 1_000_000_000

    @property
    def parts(self) -> tuple[int, int]:
        """(seconds, nanos) as in google.protobuf.Duration; both have the sign of the whole."""
        seconds, nanos = divmod(abs(self), 1_000_000_000)
        return (-seconds, -nanos) if self < 0 else (seconds, nanos)

    def __str__(self) -> str:
        seconds, nanos = divmod(abs(self), 1_000_000_000)
        fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
        return f"{'-' if self < 0 else ''}{int(seconds)}{fraction}s"

    def __repr__(self) -> str:
        return f"Duration({str(self)!r})"


class Mode(StrEnum):
    """Which side of a connection: type.v1beta1 WorkloadMode."""

    UNDEFINED = "UNDEFINED"
    CLIENT = "CLIENT"
    SERVER = "SERVER"
    CLIENT_AND_SERVER = "CLIENT_AND_SERVER"


class PortSelector(Api, frozen=True):
    number: UInt32 = 0
    """A port number, 1 to 65535."""


class LabelSelectorRequirement(Api, frozen=True):
    key: str = ""
    """The label the requirement is about."""
    operator: str = ""
    """In, NotIn, Exists or DoesNotExist."""
    values: tuple[str, ...] = ()
    """Values for In and NotIn."""


class LabelSelector(Api, frozen=True):
    """Kubernetes' label selector. Empty selects everything."""

    match_labels: StringMap = {}
    """Labels that must all be there with these values."""
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()
    """Further requirements; all must hold."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        for key, value in self.match_labels.items():
            if labels.get(key) != value:
                return False
        for need in self.match_expressions:
            present = need.key in labels
            ok = {
                "In": present and labels.get(need.key) in need.values,
                "NotIn": not present or labels.get(need.key) not in need.values,
                "Exists": present,
                "DoesNotExist": not present,
            }.get(need.operator, False)
            if not ok:
                return False
        return True


_MATCH_LABELS = msgspec.Meta(
    extra_json_schema={
        "maxProperties": 4096,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "x-kubernetes-validations": [
                {"rule": "!self.contains('*')", "message": "wildcard not allowed in label value match"}
            ],
        },
        "x-kubernetes-validations": [
            {
                "rule": "self.all(key, !key.contains('*'))",
                "message": "wildcard not allowed in label key match",
            },
            {"rule": "self.all(key, key.size() != 0)", "message": "key must not be empty"},
        ],
    }
)


class PolicySelector(Api, frozen=True):
    """Which workloads a policy applies to: type.v1beta1 WorkloadSelector."""

    match_labels: Annotated[StringMap, _MATCH_LABELS] = {}
    """Labels a workload must all carry. Empty selects every workload in the policy's namespace."""


class PolicyTargetReference(Api, frozen=True):
    """The object a policy is attached to, instead of a label selector."""

    group: Annotated[
        str,
        schema(maxLength=253, pattern=r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"),
    ] = ""
    """API group of the target; empty for core kinds."""
    kind: Annotated[
        str, REQUIRED, schema(minLength=1, maxLength=63, pattern="^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$")
    ] = ""
    """Kind of the target, such as Gateway or Service."""
    name: Annotated[str, REQUIRED, schema(minLength=1, maxLength=253)] = ""
    """Name of the target."""
    namespace: Annotated[str, rule("self.size() == 0", "cross namespace referencing is not currently supported")] = ""
    """Must be empty: a target is in the policy's own namespace."""


class Source(NamedTuple):
    """Where an object was read from, when it came from a file. Lines count from 1."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file
