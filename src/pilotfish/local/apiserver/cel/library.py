"""The functions Kubernetes adds to CEL: lists, regular expressions, sets, URLs, quantities, addresses, versions.

Each is declared twice: with opaque types for checking, and with what a value really is when rules run, where a
quantity is the map `{"quantity": "1.5"}`, since Python can hand no other kind of value to the library.
Not there: `indexOf` and `lastIndexOf` of lists (their names belong to strings in the library) and `format.named`.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from cel_expr_python import cel

from pilotfish.api.urls import scheme_of
from pilotfish.local.apiserver.quantity import QuantityError, parse
from pilotfish.local.apiserver.schema.validation import compile_pattern

Opaque = dict[str, str]

T = cel.Type
_STRINGS = T.List(T.STRING)
_INT64 = 1 << 63


@dataclass(frozen=True)
class Function:
    """One overload. `parameters` and `result` are CEL types, or the name of an opaque type such as `quantity`."""

    name: str
    parameters: tuple[Any, ...]
    result: Any
    run: Callable[..., Any]
    member: bool = True


_OPAQUE = {
    "quantity": T.AbstractType("kubernetes.Quantity"),
    "url": T.AbstractType("kubernetes.URL"),
    "ip": T.AbstractType("net.IP"),
    "cidr": T.AbstractType("net.CIDR"),
    "semver": T.AbstractType("kubernetes.Semver"),
}


def _wrap(kind: str, text: str) -> Opaque:
    return {kind: text}


def _works(function: Callable[[str], Any]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            function(text)
        except ValueError:
            return False
        return True

    return check


# ---------------------------------------------------------------------------------------------------------- quantities


def _quantity(text: str) -> Opaque:
    try:
        number = parse(text)
    except QuantityError as error:
        raise ValueError(str(error)) from None
    return _wrap("quantity", _plain(number))


def _plain(number: Decimal) -> str:
    return format(number.normalize(), "f")


def _amount(value: Any) -> Decimal:
    return Decimal(value["quantity"]) if isinstance(value, dict) else Decimal(value)


def _as_integer(value: Opaque) -> int:
    number = _amount(value)
    if number != int(number) or not -_INT64 <= number < _INT64:
        raise ValueError("cannot convert value to integer")
    return int(number)


def _is_integer(value: Opaque) -> bool:
    number = _amount(value)
    return number == int(number) and -_INT64 <= number < _INT64


# ------------------------------------------------------------------------------------------------------------ versions

_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][\w-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][\w-]*))*))?"
    r"(?:\+([\w.-]+))?",
    re.ASCII,
)


def _semver(text: str) -> Opaque:
    if not _SEMVER.fullmatch(text):
        raise ValueError(f"{text!r} is no semantic version")
    return _wrap("semver", text)


def _version_key(text: str) -> tuple[Any, ...]:
    match = _SEMVER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no semantic version")
    parts = (match[4] or "").split(".") if match[4] else []
    pre = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts)
    return (int(match[1]), int(match[2]), int(match[3]), not parts, pre)


def _part(index: int) -> Callable[[Opaque], int]:
    return lambda value: int(_version_key(value["semver"])[index])


def _compare(a: Any, b: Any) -> int:
    if isinstance(a, dict) and "semver" in a:
        left, right = _version_key(a["semver"]), _version_key(b["semver"])
        return (left > right) - (left < right)
    difference = _amount(a) - _amount(b)
    return (difference > 0) - (difference < 0)


# ----------------------------------------------------------------------------------------------------------- addresses


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if "%" in text or text.lower().startswith("::ffff:"):
        raise ValueError(f"IP address {text!r} has a zone or is an IPv4-mapped IPv6 address")
    return ipaddress.ip_address(text)


def _network(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    if "/" not in text:
        raise ValueError(f"network address {text!r} must contain a slash")
    return ipaddress.ip_interface(text)


def _ip(text: Any) -> Opaque:
    if isinstance(text, dict):
        return _wrap("ip", str(_network(text["cidr"]).ip))
    return _wrap("ip", str(_address(text)))


def _masked(value: Opaque) -> Opaque:
    return _wrap("cidr", str(_network(value["cidr"]).network))


def _contains_ip(value: Opaque, other: Any) -> bool:
    address = _address(other["ip"] if isinstance(other, dict) else other)
    return address in _network(value["cidr"]).network


def _contains_cidr(value: Opaque, other: Any) -> bool:
    inner = _network(other["cidr"] if isinstance(other, dict) else other).network
    outer = _network(value["cidr"]).network
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]  # versions are equal


def _of_address(test: Callable[[Any], bool]) -> Callable[[Opaque], bool]:
    return lambda value: bool(test(_address(value["ip"])))


# ---------------------------------------------------------------------------------------------------------------- URLs


def _url(text: str) -> Opaque:
    try:
        scheme_of(text)
    except ValueError as error:
        problem = f"parse {json.dumps(text)}: {error}"
        raise ValueError(f"URL parse error during conversion from string: {problem}") from None
    return _wrap("url", text)


def _of_url(part: Callable[[SplitResult], Any]) -> Callable[[Opaque], Any]:
    return lambda value: part(urlsplit(value["url"]))


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _port(parts: SplitResult) -> str:
    return found[1] if (found := re.search(r":(\d*)$", parts.netloc)) else ""


# ------------------------------------------------------------------------------------------------------ lists and sets


def _sum(items: list[Any]) -> Any:
    if items and isinstance(items[0], str):
        raise ValueError("cannot sum strings")
    return sum(items)


def _extreme(name: str, choose: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    def pick(items: list[Any]) -> Any:
        if not items:
            raise ValueError(f"{name} called on empty list")
        return choose(items)

    return pick


def _sorted(items: list[Any]) -> bool:
    return all(a <= b for a, b in itertools.pairwise(items))


def _within(a: list[Any], b: list[Any]) -> bool:
    return all(one in a for one in b)


# ------------------------------------------------------------------------------------------------- regular expressions


def _find(text: str, pattern: str) -> str:
    match = compile_pattern(pattern).search(text)
    return match[0] if match else ""


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    found = [match[0] for match in compile_pattern(pattern).finditer(text)]
    return found if limit < 0 else found[:limit]


_FUNCTIONS = (
    Function("quantity", (T.STRING,), "quantity", _quantity, member=False),
    Function("isQuantity", (T.STRING,), T.BOOL, _works(_quantity), member=False),
    Function("asInteger", ("quantity",), T.INT, _as_integer),
    Function("isInteger", ("quantity",), T.BOOL, _is_integer),
    Function("asApproximateFloat", ("quantity",), T.DOUBLE, lambda value: float(_amount(value))),
    Function("sign", ("quantity",), T.INT, lambda value: int(_amount(value).compare(Decimal(0)))),
    Function(
        "add", ("quantity", "quantity"), "quantity", lambda a, b: _wrap("quantity", _plain(_amount(a) + _amount(b)))
    ),
    Function("add", ("quantity", T.INT), "quantity", lambda a, b: _wrap("quantity", _plain(_amount(a) + b))),
    Function(
        "sub", ("quantity", "quantity"), "quantity", lambda a, b: _wrap("quantity", _plain(_amount(a) - _amount(b)))
    ),
    Function("sub", ("quantity", T.INT), "quantity", lambda a, b: _wrap("quantity", _plain(_amount(a) - b))),
    *(
        Function(name, (kind, kind), result, run)
        for kind in ("quantity", "semver")
        for name, result, run in (
            ("isGreaterThan", T.BOOL, lambda a, b: _compare(a, b) > 0),
            ("isLessThan", T.BOOL, lambda a, b: _compare(a, b) < 0),
            ("compareTo", T.INT, _compare),
        )
    ),
    Function("semver", (T.STRING,), "semver", _semver, member=False),
    Function("isSemver", (T.STRING,), T.BOOL, _works(_semver), member=False),
    Function("major", ("semver",), T.INT, _part(0)),
    Function("minor", ("semver",), T.INT, _part(1)),
    Function("patch", ("semver",), T.INT, _part(2)),
    Function("ip", (T.STRING,), "ip", _ip, member=False),
    Function("ip", ("cidr",), "ip", _ip),
    Function("isIP", (T.STRING,), T.BOOL, _works(_address), member=False),
    Function("ip.isCanonical", (T.STRING,), T.BOOL, lambda text: str(_address(text)) == text, member=False),
    Function("family", ("ip",), T.INT, lambda value: _address(value["ip"]).version),
    Function("isUnspecified", ("ip",), T.BOOL, _of_address(lambda a: a.is_unspecified)),
    Function("isLoopback", ("ip",), T.BOOL, _of_address(lambda a: a.is_loopback)),
    Function(
        "isLinkLocalMulticast",
        ("ip",),
        T.BOOL,
        _of_address(lambda a: a in ipaddress.ip_network("224.0.0.0/24" if a.version == 4 else "ff02::/16")),
    ),
    Function("isLinkLocalUnicast", ("ip",), T.BOOL, _of_address(lambda a: a.is_link_local)),
    Function(
        "isGlobalUnicast",
        ("ip",),
        T.BOOL,
        _of_address(
            lambda a: (
                not (a.is_unspecified or a.is_loopback or a.is_multicast or a.is_link_local)
                and str(a) != "255.255.255.255"
            )
        ),
    ),
    Function("cidr", (T.STRING,), "cidr", lambda text: _wrap("cidr", str(_network(text))), member=False),
    Function("isCIDR", (T.STRING,), T.BOOL, _works(_network), member=False),
    Function("containsIP", ("cidr", "ip"), T.BOOL, _contains_ip),
    Function("containsIP", ("cidr", T.STRING), T.BOOL, _contains_ip),
    Function("containsCIDR", ("cidr", "cidr"), T.BOOL, _contains_cidr),
    Function("containsCIDR", ("cidr", T.STRING), T.BOOL, _contains_cidr),
    Function("masked", ("cidr",), "cidr", _masked),
    Function("prefixLength", ("cidr",), T.INT, lambda value: _network(value["cidr"]).network.prefixlen),
    Function("url", (T.STRING,), "url", _url, member=False),
    Function("isURL", (T.STRING,), T.BOOL, _works(_url), member=False),
    Function("getScheme", ("url",), T.STRING, _of_url(lambda parts: parts.scheme)),
    Function("getHost", ("url",), T.STRING, _of_url(_host)),
    Function("getHostname", ("url",), T.STRING, _of_url(lambda parts: parts.hostname or "")),
    Function("getPort", ("url",), T.STRING, _of_url(_port)),
    Function("getEscapedPath", ("url",), T.STRING, _of_url(lambda parts: parts.path)),
    Function("getQuery", ("url",), T.Map(T.STRING, _STRINGS), _of_url(lambda parts: parse_qs(parts.query, True))),
    Function("isSorted", (T.LIST,), T.BOOL, _sorted),
    Function("sum", (T.LIST,), T.DYN, _sum),
    Function("min", (T.LIST,), T.DYN, _extreme("min", min)),
    Function("max", (T.LIST,), T.DYN, _extreme("max", max)),
    Function("find", (T.STRING, T.STRING), T.STRING, _find),
    Function("findAll", (T.STRING, T.STRING), _STRINGS, _find_all),
    Function("findAll", (T.STRING, T.STRING, T.INT), _STRINGS, _find_all),
    Function("sets.contains", (T.LIST, T.LIST), T.BOOL, _within, member=False),
    Function("sets.equivalent", (T.LIST, T.LIST), T.BOOL, lambda a, b: _within(a, b) and _within(b, a), member=False),
    Function("sets.intersects", (T.LIST, T.LIST), T.BOOL, lambda a, b: any(one in b for one in a), member=False),
)


def for_checking() -> list[Any]:
    """The declarations that tell a right call from a wrong one."""
    return _declare(lambda kind: _OPAQUE[kind] if isinstance(kind, str) else kind)


def for_running() -> list[Any]:
    """The declarations with which rules are evaluated."""
    return _declare(lambda kind: T.MAP if isinstance(kind, str) else kind, run=True)


def _declare(resolve: Callable[[Any], Any], *, run: bool = False) -> list[Any]:
    overloads: dict[str, dict[str, Any]] = {}
    for function in _FUNCTIONS:
        parameters = [resolve(kind) for kind in function.parameters]
        identity = f"{function.name}_{function.member}_" + "_".join(kind.name() for kind in parameters)
        identity = re.sub(r"\W+", "_", identity)
        same_name = overloads.setdefault(function.name, {})
        if identity not in same_name:
            same_name[identity] = cel.Overload(
                identity, resolve(function.result), parameters, function.member, function.run if run else None
            )
    return [cel.FunctionDecl(name, list(found.values())) for name, found in overloads.items()]
