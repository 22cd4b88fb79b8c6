"""What texts, numbers and selectors may look like, each rule written once.

The small functions take a value and return what is wrong with it, as sentences; `check` and the functions below it turn
that into field errors. Which rules apply to which field follows Kubernetes 1.36.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.meta import LABEL_1035_RULE, LABEL_RULE
from pilotfish.local.apiserver.selectors import SUBDOMAIN_RULE, label_value_errors, qualified_name_errors

Errors = list[FieldError]
Rule = Callable[[str], list[str]]

MAX_INT32 = (1 << 31) - 1
NOT_NEGATIVE = "must be greater than or equal to 0"
POSITIVE = "must be greater than zero"
IMMUTABLE = "field is immutable"

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_LABEL = re.compile(_LABEL)
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_LABEL_UNDERSCORE = r"[a-z0-9_]([-_a-z0-9]*[a-z0-9_])?"
_SUBDOMAIN_UNDERSCORE = re.compile(rf"{_LABEL_UNDERSCORE}(\.{_LABEL_UNDERSCORE})*")
_WILDCARD = re.compile(rf"\*\.{_LABEL}(\.{_LABEL})*")
_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_ENV_NAME = re.compile(r"[ -<>-~]+")
_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
_HEADER = re.compile(r"[-A-Za-z0-9]+")
_PERCENT = re.compile(r"[0-9]+%")


def _longer(value: str, limit: int) -> list[str]:
    return [f"must be no more than {limit} bytes"] if len(value) > limit else []


@functools.lru_cache(4096)
def _dns_label(value: str) -> tuple[str, ...]:
    said = _longer(value, 63)
    if not _DNS_LABEL.fullmatch(value):
        said.append(LABEL_RULE)
    return tuple(said)


def dns_label(value: str) -> list[str]:
    return list(_dns_label(value))


def dns_1035_label(value: str) -> list[str]:
    said = _longer(value, 63)
    if not _DNS_1035.fullmatch(value):
        said.append(LABEL_1035_RULE)
    return said


@functools.lru_cache(4096)
def _dns_subdomain(value: str) -> tuple[str, ...]:
    said = _longer(value, 253)
    if not _SUBDOMAIN.fullmatch(value):
        said.append(SUBDOMAIN_RULE)
    return tuple(said)


def dns_subdomain(value: str) -> list[str]:
    return list(_dns_subdomain(value))


def dns_subdomain_with_underscore(value: str) -> list[str]:
    said = _longer(value, 253)
    if not _SUBDOMAIN_UNDERSCORE.fullmatch(value):
        said.append("must be labels joined by '.', each lower case letters, digits, '-' and '_'")
    return said


def wildcard_subdomain(value: str) -> list[str]:
    said = _longer(value, 253)
    if not _WILDCARD.fullmatch(value):
        said.append("must start with '*.' and go on with a DNS name (e.g. '*.example.com')")
    return said


@functools.lru_cache(8192)
def _qualified_name(value: str) -> tuple[str, ...]:
    return tuple(qualified_name_errors(value))


def qualified_name(value: str) -> list[str]:
    return list(_qualified_name(value))


@functools.lru_cache(8192)
def _label_value(value: str) -> tuple[str, ...]:
    return tuple(label_value_errors(value))


def label_value(value: str) -> list[str]:
    return list(_label_value(value))


def path_segment(value: str) -> list[str]:
    if value in (".", ".."):
        return [f"may not be '{value}'"]
    return [f"may not contain '{char}'" for char in "/%" if char in value]


def port_number(value: int) -> list[str]:
    return [] if 1 <= value <= 65535 else ["must be between 1 and 65535, inclusive"]


def port_name(value: str) -> list[str]:
    said = _longer(value, 15)
    if not re.fullmatch(r"[-a-z0-9]+", value):
        said.append("must contain only letters (a-z), digits and '-'")
    if not re.search(r"[a-z]", value):
        said.append("must contain at least one letter (a-z)")
    if "--" in value:
        said.append("must not contain '--'")
    if value.startswith("-") or value.endswith("-"):
        said.append("must not begin or end with '-'")
    return said


def http_header_name(value: str) -> list[str]:
    return [] if _HEADER.fullmatch(value) else ["must be letters, digits and '-' (e.g. 'X-Header-Name')"]


def env_var_name(value: str) -> list[str]:
    if not _ENV_NAME.fullmatch(value):
        return ["must be printable ASCII characters other than '='"]
    return []


def config_key(value: str) -> list[str]:
    """The keys of ConfigMaps and Secrets become file names."""
    said = _longer(value, 253)
    if not _KEY.fullmatch(value):
        said.append("must be letters, digits, '-', '_' and '.' (e.g. 'key.name')")
    if value in (".", ".."):
        said.append(f"must not be '{value}'")
    elif value.startswith(".."):
        said.append("must not start with '..'")
    return said


def numeric_id(value: int) -> list[str]:
    """User and group ids."""
    return [] if 0 <= value <= MAX_INT32 else [f"must be between 0 and {MAX_INT32}, inclusive"]


def generated(rule: Rule, prefix: str) -> list[str]:
    """Whether names that start with `prefix` can pass `rule`: a '-' at its end will not be the end."""
    if len(prefix) > 1 and prefix.endswith("-"):
        prefix = prefix[:-2] + "a"
    return rule(prefix)


# ------------------------------------------------------------------------------------------------ field errors


def check(path: str, value: Any, rule: Callable[[Any], list[str]]) -> Errors:
    """Everything `rule` has against a value, one error each."""
    return [FieldError.invalid(path, value, text) for text in rule(value)]


def required(path: str, value: Any, rule: Rule | None = None) -> Errors:
    """A text that must not be empty, and must pass `rule`."""
    if not value:
        return [FieldError.required(path)]
    return check(path, value, rule) if rule else []


def one_of(path: str, value: Any, allowed: Iterable[str], *, missing: bool = True) -> Errors:
    """A text of a closed set. Empty is 'required' where `missing`, else 'not supported' as any other."""
    choices = sorted(allowed)
    if value in choices:
        return []
    if not value and missing:
        return [FieldError.required(path)]
    return [FieldError.not_supported(path, value, choices)]


def not_negative(path: str, value: int | None) -> Errors:
    return [FieldError.invalid(path, value, NOT_NEGATIVE)] if value is not None and value < 0 else []


def positive(path: str, value: int | None) -> Errors:
    return [FieldError.invalid(path, value, POSITIVE)] if value is not None and value <= 0 else []


def immutable(path: str, new: Any, old: Any) -> Errors:
    return [] if same(new, old) else [FieldError.invalid(path, new, IMMUTABLE)]


def same(left: Any, right: Any) -> bool:
    """Equality that sees no difference between what is empty and what is absent."""
    if not left and not right and isinstance(left or right, (dict, list, type(None))):
        return True
    if isinstance(left, dict) and isinstance(right, dict):
        return all(same(left.get(key), right.get(key)) for key in left.keys() | right.keys())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def labels(path: str, value: Mapping[str, str] | None) -> Errors:
    errors: Errors = []
    for key, text in (value or {}).items():
        errors += check(path, key, qualified_name)
        errors += check(path, text, label_value)
    return errors


ANNOTATIONS_LIMIT = 256 * 1024


def annotation_map(path: str, value: Mapping[str, str] | None) -> Errors:
    errors: Errors = []
    size = 0
    for key, text in (value or {}).items():
        errors += [FieldError.invalid(path, key, said) for said in qualified_name(key.lower())]
        size += len(key.encode()) + len(text.encode())
    if size > ANNOTATIONS_LIMIT:
        errors.append(FieldError.too_long(path, ANNOTATIONS_LIMIT))
    return errors


def conditions(path: str, found: Iterable[Mapping[str, Any]] | None) -> Errors:
    """Conditions of the common form: type, status, since when, and a reason."""
    errors: Errors = []
    seen: set[str] = set()
    for i, condition in enumerate(found or ()):
        where, kind, reason = f"{path}[{i}]", condition.get("type", ""), condition.get("reason", "")
        if kind in seen:
            errors.append(FieldError.duplicate(f"{where}.type", kind))
        seen.add(kind)
        errors += check(f"{where}.type", kind, qualified_name)
        if condition.get("status") not in ("True", "False", "Unknown"):
            allowed = ["False", "True", "Unknown"]
            errors.append(FieldError.not_supported(f"{where}.status", condition.get("status", ""), allowed))
        if (condition.get("observedGeneration") or 0) < 0:
            errors.append(
                FieldError.invalid(f"{where}.observedGeneration", condition["observedGeneration"], NOT_NEGATIVE)
            )
        errors += required(f"{where}.lastTransitionTime", condition.get("lastTransitionTime"))
        errors += required(f"{where}.reason", reason, _condition_reason)
        for field, text, limit in (("reason", reason, 1024), ("message", condition.get("message", ""), 32768)):
            if len(text) > limit:
                errors.append(FieldError.too_long(f"{where}.{field}", limit))
    return errors


def _condition_reason(reason: str) -> list[str]:
    if _REASON.fullmatch(reason):
        return []
    return ["must be letters, digits, '_', ',' and ':', begin with a letter and end with a letter, a digit or '_'"]


def label_selector(path: str, selector: Mapping[str, Any] | None) -> Errors:
    if not selector:
        return []
    errors = labels(f"{path}.matchLabels", selector.get("matchLabels"))
    for i, requirement in enumerate(selector.get("matchExpressions") or []):
        where = f"{path}.matchExpressions[{i}]"
        values = requirement.get("values") or []
        match requirement.get("operator", ""):
            case "In" | "NotIn":
                if not values:
                    errors.append(FieldError.required(f"{where}.values", "In and NotIn need at least one value"))
            case "Exists" | "DoesNotExist":
                if values:
                    errors.append(FieldError.forbidden(f"{where}.values", "Exists and DoesNotExist take no values"))
            case other:
                errors.append(FieldError.invalid(f"{where}.operator", other, "not a valid selector operator"))
        errors += check(f"{where}.key", requirement.get("key", ""), qualified_name)
        for j, value in enumerate(values):
            errors += check(f"{where}.values[{j}]", value, label_value)
    return errors


def is_empty(selector: Mapping[str, Any] | None) -> bool:
    return not selector or not (selector.get("matchLabels") or selector.get("matchExpressions"))


def selector_is_sound(selector: Mapping[str, Any] | None) -> bool:
    """Whether a label selector can be evaluated at all."""
    return not label_selector("", selector)


def selects(selector: Mapping[str, Any], having: Mapping[str, str]) -> bool:
    """Whether a sound label selector selects an object with these labels."""
    if any(having.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for requirement in selector.get("matchExpressions") or []:
        key, values = requirement["key"], requirement.get("values") or []
        match requirement["operator"]:
            case "In":
                fits = having.get(key) in values
            case "NotIn":
                fits = having.get(key) not in values
            case "Exists":
                fits = key in having
            case _:
                fits = key not in having
        if not fits:
            return False
    return True


def port_number_or_name(path: str, value: Any) -> Errors:
    return check(path, value, port_name if isinstance(value, str) else port_number)


def percent_or_number(path: str, value: Any) -> Errors:
    """An int-or-string that is a count or a percentage, and not negative."""
    if isinstance(value, str):
        if _PERCENT.fullmatch(value):
            return []
        return [FieldError.invalid(path, value, "must be a number, or a percentage such as '25%'")]
    return not_negative(path, value)


def percent(value: Any) -> int | None:
    """The number of a percentage; None when the value is not one."""
    return int(value[:-1]) if isinstance(value, str) and _PERCENT.fullmatch(value) else None


def at_most_all(path: str, value: Any) -> Errors:
    amount = percent(value)
    return (
        [FieldError.invalid(path, value, "must not be greater than 100%")]
        if amount is not None and amount > 100
        else []
    )


# ------------------------------------------------------------------------------------------------ addresses

_LEADING_ZERO = re.compile(r"(^|[.:/])0[0-9]")


def _strip_zeros(text: str) -> str:
    return ".".join(part.lstrip("0") or "0" if part.isdigit() else part for part in text.split("."))


def parse_ip(value: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address, also with the leading zeros that were allowed once."""
    if "%" in value:
        return None
    try:
        return ipaddress.ip_address(_strip_zeros(value) if ":" not in value else value)
    except ValueError:
        return None


def ip(path: str, value: str) -> Errors:
    address = parse_ip(value)
    if address is None:
        return [FieldError.invalid(path, value, "must be a valid IP address (e.g. 10.9.8.7 or 2001:db8::ffff)")]
    if ":" not in value and _LEADING_ZERO.search(value):
        return [FieldError.invalid(path, value, "must not have leading 0s")]
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return [FieldError.invalid(path, value, "must not be an IPv4-mapped IPv6 address")]
    return []


def canonical_ip(path: str, value: str) -> Errors:
    errors = ip(path, value)
    if not errors and value != str(parse_ip(value)):
        return [FieldError.invalid(path, value, f"must be in canonical form ({str(parse_ip(value))!r})")]
    return errors


def endpoint_ip(path: str, value: str) -> Errors:
    """An address that traffic can be sent to."""
    address = parse_ip(value)
    if address is None:
        return [FieldError.invalid(path, value, "must be a valid IP address")]
    errors: Errors = []
    if address.is_unspecified:
        errors.append(FieldError.invalid(path, value, "may not be the unspecified address"))
    if address.is_loopback:
        errors.append(FieldError.invalid(path, value, "may not be a loopback address (127.0.0.0/8, ::1/128)"))
    if address.is_link_local:
        errors.append(FieldError.invalid(path, value, "may not be a link-local address (169.254.0.0/16, fe80::/10)"))
    if address.is_multicast and str(address).startswith(("224.0.0.", "ff02:")):
        errors.append(
            FieldError.invalid(path, value, "may not be a link-local multicast address (224.0.0.0/24, ff02::/10)")
        )
    return errors


def parse_cidr(value: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    address, slash, length = value.partition("/")
    if not slash or not length.isdigit() or parse_ip(address) is None:
        return None
    try:
        return ipaddress.ip_network(f"{parse_ip(address)}/{int(length)}", strict=False)
    except ValueError:
        return None


def cidr(path: str, value: str) -> Errors:
    network = parse_cidr(value)
    if network is None:
        return [FieldError.invalid(path, value, "must be a valid CIDR value (e.g. 10.9.8.0/24 or 2001:db8::/64)")]
    address, _, length = value.partition("/")
    if (":" not in address and _LEADING_ZERO.search(address)) or (len(length) > 1 and length.startswith("0")):
        return [FieldError.invalid(path, value, "must not have leading 0s in the address or the prefix length")]
    found = parse_ip(address)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        return [FieldError.invalid(path, value, "must not have an IPv4-mapped IPv6 address")]
    if found != network.network_address:
        return [FieldError.invalid(path, value, "must not have bits set beyond the prefix length")]
    return []


# ------------------------------------------------------------------------------------------------ paths


def no_steps_back(path: str, value: str) -> Errors:
    return [FieldError.invalid(path, value, "must not contain '..'")] if ".." in value.split("/") else []


def relative_path(path: str, value: str) -> Errors:
    errors = [FieldError.invalid(path, value, "must be a relative path")] if value.startswith("/") else []
    return errors + no_steps_back(path, value)


def file_path(path: str, value: str) -> Errors:
    """A relative path whose first part does not start with '..', which volumes keep for themselves."""
    errors = relative_path(path, value)
    if value.startswith("..") and not value.startswith("../"):
        errors.append(FieldError.invalid(path, value, "must not start with '..'"))
    return errors


def file_mode(path: str, value: int | None) -> Errors:
    if value is not None and not 0 <= value <= 0o777:
        return [FieldError.invalid(path, value, "must be a number between 0 and 0777 (octal), both inclusive")]
    return []


# ------------------------------------------------------------------------------------------------ names with a domain

_HTTP_PATH = re.compile(r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+")


def domain_path(path: str, value: str) -> Errors:
    """A path under a domain, such as `example.com/controller`."""
    if not value:
        return [FieldError.required(path)]
    domain, _, rest = value.partition("/")
    if not domain or not rest:
        return [FieldError.invalid(path, value, "must be a path under a domain (such as 'example.com/foo')")]
    errors = check(path, domain, dns_subdomain)
    if not _HTTP_PATH.fullmatch(rest):
        errors.append(FieldError.invalid(path, rest, "must be characters that a URL's path may have"))
    return errors


def qualified_domain(path: str, value: str, parts: int) -> Errors:
    """A DNS name of at least so many parts."""
    if not value:
        return [FieldError.required(path)]
    if wrong := dns_subdomain(value):
        return [FieldError.invalid(path, value, ", ".join(wrong))]
    if len(value.split(".")) < parts:
        return [FieldError.invalid(path, value, f"must be a domain of at least {parts} parts separated by dots")]
    return []
