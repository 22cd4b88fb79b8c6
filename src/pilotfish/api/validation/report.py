"""What a validation found, and the checks that several kinds share."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

import re2

from pilotfish.api.errors import FieldError
from pilotfish.api.meta import Duration, PolicySelector, PolicyTargetReference, PortSelector

MILLISECOND = 1_000_000
_LABEL = re.compile(r"[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?", re.ASCII)
_WILDCARD_LABEL = re.compile(r"\*|(\*-?)?[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?", re.ASCII)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?", re.ASCII)
_LABEL_KEY = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", re.ASCII)
_UNIX = "unix://"

TOKEN = re.compile(r"[-!#$%&'*+,.^_`|~A-Za-z0-9]+", re.ASCII)
"""Names of headers, as HTTP has them, and the comma, which Istio takes, too."""
PLAIN_HEADER = re.compile(r"[-_A-Za-z0-9]+", re.ASCII)
PROBE_HEADER = re.compile(r"[-A-Za-z0-9]+", re.ASCII)
"""Names of headers of a probe, as Kubernetes has them."""

HTTP_PROTOCOLS = frozenset({"HTTP", "HTTP2", "HTTP_PROXY", "GRPC", "GRPC-WEB", "GRPC-WEB-TEXT"})
TLS_PROTOCOLS = frozenset({"HTTPS", "TLS"})
PROTOCOLS = HTTP_PROTOCOLS | TLS_PROTOCOLS | {"TCP", "UDP", "MONGO", "MYSQL", "REDIS", "HBONE", "DOUBLE-HBONE"}
"""Protocols of ports, in upper case."""


class Report:
    """Collects errors and warnings. Checks add to it and return whether all was well."""

    def __init__(self) -> None:
        self.errors: list[FieldError] = []
        self.warnings: list[str] = []

    def error(self, path: str, message: str) -> bool:
        self.errors.append(FieldError(path, message))
        return False

    def warn(self, path: str, message: str) -> None:
        self.warnings.append(f"{path}: {message}" if path else message)

    def soften(self, found: Report, why: str) -> None:
        """What another report found, as warnings."""
        for path, message in found.errors:
            self.warn(path, f"{why}: {message}")
        self.warnings += found.warnings

    # --- numbers ---

    def port(self, path: str, number: int) -> bool:
        return 1 <= number <= 65535 or self.error(path, f"port number {number} must be in the range 1 to 65535")

    def port_selector(self, path: str, selector: PortSelector | None) -> bool:
        return selector is None or self.port(f"{path}.number", selector.number)

    def percent(self, path: str, value: float | None) -> bool:
        if value is None or 0 <= value <= 100:
            return True
        return self.error(path, f"percentage {value:g} is not in the range 0 to 100")

    def fraction(self, path: str, value: float | None) -> bool:
        """A percentage of which Envoy counts a millionth."""
        if value is not None and 0 < value < 0.0001:
            return self.error(path, f"percentage {value:g} is less than 0.0001, the smallest there is")
        return self.percent(path, value)

    def not_negative(self, path: str, value: int) -> bool:
        return value >= 0 or self.error(path, f"must not be negative, but is {value}")

    def duration(self, path: str, value: Duration | None, zero: bool = False) -> bool:
        """At least 1ms (or 0s where `zero`), and whole milliseconds, as Envoy and Istio take them."""
        if value is None or (zero and abs(value) < MILLISECOND):
            return True
        if value < MILLISECOND:
            return self.error(path, f"duration {value} must be at least 1ms")
        if value % MILLISECOND:
            return self.error(path, f"duration {value} is finer than a millisecond, which is not supported")
        return True

    # --- names ---

    def domain(self, path: str, name: str, wildcard: bool = True) -> bool:
        """A DNS name. With `wildcard`, its first label may be `*` or begin with it."""
        problem = domain_problem(name, wildcard)
        return problem is None or self.error(path, problem)

    def domain_or_ip(self, path: str, name: str, wildcard: bool = True) -> bool:
        return is_ip(name) or self.domain(path, name, wildcard)

    def dns_label(self, path: str, name: str, what: str) -> bool:
        return is_dns_label(name) or self.error(
            path, f"{what} {name!r} must be a DNS label: letters, digits and `-`, at most 63, no `-` at the ends"
        )

    def header_name(self, path: str, name: str, allowed: re.Pattern[str] = TOKEN) -> bool:
        if not name:
            return self.error(path, "header name must not be empty")
        return allowed.fullmatch(name) is not None or self.error(
            path, f"header name {name!r} has a character that is not possible here"
        )

    def regex(self, path: str, expression: str) -> bool:
        problem = regex_problem(expression)
        return problem is None or self.error(path, problem)

    def ip_or_cidr(self, path: str, value: str) -> bool:
        return is_cidr(value) or self.error(path, f"{value!r} is neither an IP address nor a CIDR block")

    def unix_socket(self, path: str, value: str) -> bool:
        """`unix:///path` or `unix://@abstract`."""
        name = value.removeprefix(_UNIX)
        if not name or (name[0] not in "/@"):
            return self.error(
                path, f"{value!r} must name an absolute path (unix:///path) or an abstract socket (unix://@name)"
            )
        return not name.endswith("/") or self.error(path, f"{value!r} names a directory, not a socket")

    # --- labels, selectors, visibility ---

    def labels(self, path: str, labels: Mapping[str, str]) -> None:
        for key, value in labels.items():
            where = f"{path}[{key}]"
            prefix, slash, name = key.rpartition("/")
            good = len(name) <= 63 and _LABEL_KEY.fullmatch(name) is not None
            if slash:
                good = good and len(prefix) <= 253 and all(map(_LABEL.fullmatch, prefix.split(".")))
            if not good:
                self.error(
                    where, f"label key {key!r} is not valid; it is [prefix/]name of letters, digits, `-`, `_`, `.`"
                )
            if _LABEL_VALUE.fullmatch(value) is None:
                self.error(where, f"label value {value!r} is not valid; it has letters, digits, `-`, `_` and `.`")
            elif len(value) > 63:
                self.warn(where, f"label value {value!r} fits nothing: labels have at most 63 characters")

    def selector_labels(self, path: str, labels: Mapping[str, str]) -> None:
        """The labels of a selector that is there."""
        if not labels:
            self.warn(path, "a selector without labels selects every workload of its scope")
        for key, value in labels.items():
            if not key:
                self.error(path, "the key of a label must not be empty")
            if "*" in key or "*" in value:
                self.error(f"{path}[{key}]", "wildcard is not supported in selector")

    def policy_selector(self, path: str, selector: PolicySelector | None) -> None:
        if selector is not None:
            self.selector_labels(f"{path}.matchLabels", selector.match_labels)

    def target_refs(
        self,
        selector: PolicySelector | None,
        target_ref: PolicyTargetReference | None,
        target_refs: Sequence[PolicyTargetReference],
    ) -> None:
        """A policy's selector or the objects it is attached to, under `spec`."""
        self.policy_selector("spec.selector", selector)
        if sum((selector is not None, target_ref is not None, bool(target_refs))) > 1:
            self.error("spec", "only one of selector, targetRef and targetRefs can be set")
        if target_ref is not None:
            self._target("spec.targetRef", target_ref)
        for index, reference in enumerate(target_refs):
            self._target(f"spec.targetRefs[{index}]", reference)

    def _target(self, path: str, target: PolicyTargetReference) -> None:
        if not target.name:
            self.error(f"{path}.name", "name is required")
        if target.namespace:
            self.error(f"{path}.namespace", "cross namespace referencing is not supported; leave it out")
        if (target.group, target.kind) not in _TARGETS and not (target.group == "core" and target.kind == "Service"):
            known = ", ".join(f"{group or 'core'}/{kind}" for group, kind in sorted(_TARGETS))
            self.error(
                f"{path}.kind", f"{target.group or 'core'}/{target.kind} is no supported target; it is one of {known}"
            )

    def export_to(self, values: Sequence[str], namespace: str, none_allowed: bool = False) -> None:
        """Visibility under `spec.exportTo`."""
        path = "spec.exportTo"
        seen: set[str] = set()
        for index, value in enumerate(values):
            where = f"{path}[{index}]"
            if value == "~" and not none_allowed:
                self.error(where, "`~` (visible to nobody) is not supported here")
            elif value not in {"*", ".", "~"}:
                self.dns_label(where, value, "namespace")
            meant = namespace if value == "." and namespace else value
            if meant in seen:
                self.error(where, f"duplicate entry {value!r}")
            seen.add(meant)
        for alone in ("*", "~"):
            if alone in seen and len(values) > 1:
                self.error(path, f"`{alone}` cannot stand beside other entries")


_TARGETS = {
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
    ("", "Service"),
    ("networking.istio.io", "ServiceEntry"),
}


def is_dns_label(name: str) -> bool:
    return len(name) <= 63 and _LABEL.fullmatch(name) is not None


def is_ip(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return "%" not in value


def is_cidr(value: str) -> bool:
    """An IP address, or one with a prefix length (bits after it may be set, as Go reads it)."""
    if "/" not in value:
        return is_ip(value)
    address, _, length = value.partition("/")
    if not is_ip(address) or not length.isascii() or not length.isdigit():
        return False
    return int(length) <= (128 if ":" in address else 32)


def is_unix(value: str) -> bool:
    return value.startswith(_UNIX)


@lru_cache(maxsize=8192)
def domain_problem(name: str, wildcard: bool) -> str | None:
    """Why `name` is no DNS name, or None."""
    if not name:
        return "domain name must not be empty"
    if len(name) > 255:
        return f"domain name {name[:40]!r}… is longer than 255 characters"
    if name == "*":
        return None if wildcard else "domain name must not be `*`"
    labels = name.split(".")
    rooted = labels[-1] == "" and len(labels) > 1
    if rooted:
        labels.pop()
    for index, label in enumerate(labels):
        pattern = _WILDCARD_LABEL if wildcard and index == 0 else _LABEL
        if len(label) > 63 or pattern.fullmatch(label) is None:
            where = " (a wildcard may only be the first label)" if "*" in label and wildcard else ""
            return f"domain name {name!r} is not valid: label {label!r} is not a DNS label{where}"
    if labels[-1].isdigit() and not rooted and (len(labels) > 1 or not wildcard):
        return f"domain name {name!r} is not valid: the top level domain {labels[-1]!r} cannot be all digits"
    return None


def hosts_overlap(one: str, other: str) -> bool:
    """Whether some host name fits both, as Istio compares names with wildcards."""
    if one.startswith("*") and other.startswith("*"):
        return one[1:].endswith(other[1:]) or other[1:].endswith(one[1:])
    if one.startswith("*"):
        return other.endswith(one[1:])
    if other.startswith("*"):
        return one.endswith(other[1:])
    return one == other


def host_within(narrow: str, wide: str) -> bool:
    """Whether every name that fits `narrow` fits `wide`."""
    if not wide.startswith("*"):
        return narrow == wide
    return narrow.removeprefix("*").endswith(wide[1:]) and (not narrow.startswith("*") or len(narrow) >= len(wide))


_RE2 = re2.Options()
_RE2.log_errors = False


@lru_cache(maxsize=4096)
def regex_problem(expression: str) -> str | None:
    """Why Envoy (RE2) would refuse the expression, or None."""
    if not expression:
        return "regex must not be empty"
    if len(expression) > 1024:
        return f"regex is {len(expression)} characters long; at most 1024 are allowed"
    try:
        re2.compile(expression, _RE2)
    except re2.error as error:
        detail = error.args[0] if error.args else error
        text = detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)
        return f"regex {expression!r} is not valid RE2 syntax: {text}"
    return None


def duplicates(values: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Index and value of every value that came before."""
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value in seen:
            yield index, value
        seen.add(value)
