"""What the Bookinfo services share: addresses of the others, and the command line."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

PORT = 9080


@dataclass(frozen=True)
class Address:
    """Where another service is."""

    host: str
    port: int

    @classmethod
    def of(cls, service: str) -> Address:
        """From `<SERVICE>_HOSTNAME`, `<SERVICE>_SERVICE_PORT` and `SERVICES_DOMAIN`, as the originals do."""
        name = service.upper()
        host = os.environ.get(f"{name}_HOSTNAME", service)
        domain = os.environ.get("SERVICES_DOMAIN", "")
        return cls(f"{host}.{domain}" if domain else host, int(os.environ.get(f"{name}_SERVICE_PORT", PORT)))


def port() -> int:
    """The port to serve: the first argument, 9080 by default."""
    return int(sys.argv[1]) if len(sys.argv) > 1 else PORT


def product_id(text: str) -> int | None:
    """A product id from a path, None when it is not a number."""
    return int(text) if text.isdecimal() else None
