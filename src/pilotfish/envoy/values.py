"""Small pieces of Envoy configuration that every feature uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from google.protobuf.message import Message

from pilotfish.envoy.proto import Fields, extension, message

DAY = 86_400


def number(value: float) -> Fields:
    """A wrapped number or boolean (UInt32Value, BoolValue, DoubleValue, …)."""
    return {"value": value}


TRUE, FALSE = {"value": True}, {"value": False}


def duration(nanoseconds: int) -> Fields:
    seconds, nanos = divmod(nanoseconds, 1_000_000_000)
    return {"seconds": seconds, "nanos": nanos}


def seconds(value: float) -> Fields:
    return duration(round(value * 1_000_000_000))


def percent(value: float) -> Fields:
    """A FractionalPercent, exact to a millionth."""
    return {"numerator": round(value * 10_000), "denominator": "MILLION"}


def runtime_percent(value: float) -> Fields:
    return {"default_value": percent(value)}


def address(ip: str, port: int) -> Fields:
    """A socket address, or a Unix socket for `unix://path`."""
    if ip.startswith("unix://"):
        return {"pipe": {"path": ip.removeprefix("unix://")}}
    return {"socket_address": {"address": ip, "port_value": port}}


def cidr(text: str) -> Fields:
    """A CidrRange from an address or a range."""
    ip, _, length = text.partition("/")
    return {"address_prefix": ip, "prefix_len": number(int(length) if length else 128 if ":" in ip else 32)}


def struct(values: Mapping[str, Any]) -> Message:
    """A google.protobuf.Struct. A message, for a dictionary would mean one thing in a field and another in a map."""
    if all(type(v) is str for v in values.values()):  # the usual case, and much faster
        return message("google.protobuf.Struct")(fields={k: {"string_value": v} for k, v in values.items()})
    made: Any = message("google.protobuf.Struct")()
    made.update(values)
    return cast("Message", made)


def metadata(**filters: Mapping[str, Any]) -> Fields:
    """Metadata under `filter_metadata`."""
    return {"filter_metadata": {name: struct(values) for name, values in filters.items()}}


def config_path(
    kind: str, namespace: str, name: str, group: str = "networking.istio.io", version: str = "v1alpha3"
) -> str:
    """How Istio names the object a piece of configuration comes from; istioctl and Kiali read it."""
    dashed = "".join(f"-{c.lower()}" if c.isupper() else c for c in kind).lstrip("-")
    return f"/apis/{group}/{version}/namespaces/{namespace}/{dashed}/{name}"


def header(name: str, value: str, *, append: bool = False) -> Fields:
    action = "APPEND_IF_EXISTS_OR_ADD" if append else "OVERWRITE_IF_EXISTS_OR_ADD"
    return {"header": {"key": name, "value": value}, "append_action": action}


def regex(pattern: str) -> Fields:
    """An RE2 matcher for the whole value."""
    return {"regex": pattern}


def exact(value: str) -> Fields:
    return {"exact": value}


def prefix(value: str) -> Fields:
    return {"prefix": value}


ADS = {"ads": {}, "resource_api_version": "V3"}
ADS_AT_ONCE = {**ADS, "initial_fetch_timeout": duration(0)}
"""From the management server, waiting for it as long as it takes."""

UNLIMITED = 4_294_967_295

ORIGINAL_DST_FILTER = extension(
    "envoy.filters.listener.original_dst", "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
)
