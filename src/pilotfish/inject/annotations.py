"""The pod's annotations, read with their defaults and checked."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pilotfish.inject.errors import InjectionError

T = TypeVar("T")

SIDECAR, TRAFFIC = "sidecar.istio.io/", "traffic.sidecar.istio.io/"


REROUTE = "istio.io/reroute-virtual-interfaces"
_INTERFACE = re.compile(r"[a-zA-Z][a-zA-Z0-9_.-]{0,14}")
_QUANTITY = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")


def _is_range(text: str) -> bool:
    try:
        ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        return False
    return "/" in text


class Annotations:
    """Access by name; every method raises InjectionError naming the annotation whose value does not fit."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values

    def check(self) -> None:
        """What no template may have looked at. Raises InjectionError."""
        for name in ("excludeOutboundPorts", "excludeInboundPorts"):
            self.ports(TRAFFIC + name, every=False)
        for name in ("includeInboundPorts", "includeOutboundPorts"):
            self.ports(TRAFFIC + name)
        self.ranges(f"{TRAFFIC}includeOutboundIPRanges")
        self.ranges(f"{TRAFFIC}excludeOutboundIPRanges", every=False)
        self.choice(f"{SIDECAR}interceptionMode", "NONE", ("REDIRECT", "TPROXY", "NONE"))
        for name in ("proxyCPU", "proxyMemory", "proxyCPULimit", "proxyMemoryLimit"):
            if self.has(SIDECAR + name):
                self.quantity(SIDECAR + name)
        self.boolean("prometheus.istio.io/merge-metrics", default=False)
        for name in (f"{TRAFFIC}excludeInterfaces", f"{TRAFFIC}kubevirtInterfaces", REROUTE):
            if self.text(name):
                self._interfaces(name)
        for name in ("initialDelaySeconds", "periodSeconds", "failureThreshold"):
            self.number(f"readiness.status.sidecar.istio.io/{name}", 0)

    def _interfaces(self, name: str) -> None:
        for part in self.text(name).split(","):
            if not _INTERFACE.fullmatch(part.strip()):
                raise InjectionError(f"annotation {name}: {part.strip()!r} is not the name of a network interface")

    def text(self, name: str, default: Any = "") -> str:
        found = self.values.get(name)
        return str(default if default is not None else "") if found is None else found

    def has(self, name: str) -> bool:
        return name in self.values

    def boolean(self, name: str, default: bool) -> bool:
        text = self.values.get(name)
        if text is None:
            return default
        if text.lower() in ("true", "1", "t"):
            return True
        if text.lower() in ("false", "0", "f"):
            return False
        raise InjectionError(f"annotation {name}: {text!r} is neither true nor false")

    def number(self, name: str, default: int) -> int:
        text = self.text(name, default)
        if not text.isdigit():
            raise InjectionError(f"annotation {name}: {text!r} is not a number")
        return int(text)

    def quantity(self, name: str) -> str:
        """An amount of a resource, such as 100m or 1Gi."""
        text = self.text(name)
        if not _QUANTITY.fullmatch(text):
            raise InjectionError(f"annotation {name}: {text!r} is not an amount such as 100m or 128Mi")
        return text

    def ports(self, name: str, default: Any = "", *, every: bool = True) -> str:
        """A comma list of ports, or (with `every`) `*`."""
        text = self.text(name, default)
        for part in () if every and text == "*" else text.split(","):
            if text and not (part.strip().isdigit() and int(part) <= 65535):
                raise InjectionError(f"annotation {name}: {part.strip()!r} is not a port")
        return text

    def ranges(self, name: str, default: Any = "", *, every: bool = True) -> str:
        """A comma list of CIDRs, or (with `every`) `*`."""
        text = self.text(name, default)
        for part in () if every and text == "*" else text.split(","):
            if text and not _is_range(part):
                raise InjectionError(f"annotation {name}: {part.strip()!r} is not an address range such as 10.0.0.0/8")
        return text

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        text = self.text(name, default)
        if text not in allowed:
            raise InjectionError(f"annotation {name}: {text!r} is not one of {', '.join(allowed)}")
        return text

    def json(self, name: str, kind: type[T]) -> T:
        """A JSON value of a kind."""
        try:
            found = json.loads(self.text(name))
        except ValueError as error:
            raise InjectionError(f"annotation {name}: not JSON: {error}") from error
        if not isinstance(found, kind):
            raise InjectionError(f"annotation {name}: a JSON {'object' if kind is dict else 'list'} is expected")
        return found

    def named(self, name: str, fields: tuple[str, ...]) -> list[dict[str, Any]]:
        """Objects with names, written as JSON: a list of them, or an object with the name as key.

        Fields are found whatever the case of their letters, as Istio finds them (`readonly` is common).
        """
        if not self.text(name):
            return []
        found: Any = self.json(name, object)
        if isinstance(found, dict):
            found = [{"name": key, **value} if isinstance(value, dict) else value for key, value in found.items()]
        if not isinstance(found, list) or not all(isinstance(one, dict) and one.get("name") for one in found):
            raise InjectionError(f"annotation {name}: a JSON list of objects with names, or an object, is expected")
        spelled = {field.lower(): field for field in fields}
        return [{spelled.get(key.lower(), key): value for key, value in one.items()} for one in found]
