"""The pod's annotations, read with their defaults and checked."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from typing import Any

from pilotfish.inject.errors import InjectionError

SIDECAR, TRAFFIC = "sidecar.istio.io/", "traffic.sidecar.istio.io/"


class Annotations:
    """Access by name; every method raises InjectionError naming the annotation whose value does not fit."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, name: str, default: Any = "") -> str:
        found = self._values.get(name)
        return str(default if default is not None else "") if found is None else found

    def has(self, name: str) -> bool:
        return name in self._values

    def boolean(self, name: str, default: bool) -> bool:
        text = self._values.get(name)
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

    def ports(self, name: str, default: Any = "") -> str:
        """A comma list of ports, or `*`."""
        text = self.text(name, default)
        for part in text.split(","):
            if part.strip() and part.strip() != "*" and not (part.strip().isdigit() and int(part) <= 65535):
                raise InjectionError(f"annotation {name}: {part.strip()!r} is not a port")
        return text

    def ranges(self, name: str, default: Any = "") -> str:
        """A comma list of CIDRs, or `*`."""
        text = self.text(name, default)
        for part in text.split(","):
            if part.strip() and part.strip() != "*":
                try:
                    ipaddress.ip_network(part.strip(), strict=False)
                except ValueError as error:
                    raise InjectionError(
                        f"annotation {name}: {part.strip()!r} is not an address range such as 10.0.0.0/8"
                    ) from error
        return text

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        text = self.text(name, default)
        if text not in allowed:
            raise InjectionError(f"annotation {name}: {text!r} is not one of {', '.join(allowed)}")
        return text

    def named(self, name: str, fields: tuple[str, ...]) -> list[dict[str, Any]]:
        """Objects with names, written as JSON: a list of them, or an object with the name as key.

        Fields are found whatever the case of their letters, as Istio finds them (`readonly` is common).
        """
        text = self.text(name)
        if not text:
            return []
        try:
            found = json.loads(text)
        except ValueError as error:
            raise InjectionError(f"annotation {name}: not JSON: {error}") from error
        if isinstance(found, dict):
            found = [{"name": key, **value} if isinstance(value, dict) else value for key, value in found.items()]
        if not isinstance(found, list) or not all(isinstance(one, dict) and one.get("name") for one in found):
            raise InjectionError(f"annotation {name}: a JSON list of objects with names, or an object, is expected")
        spelled = {field.lower(): field for field in fields}
        return [{spelled.get(key.lower(), key): value for key, value in one.items()} for one in found]
