"""What the control plane logs: levels by scope, by Istio's names, from the command line or while it runs."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import NamedTuple

NONE = logging.CRITICAL + 10
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "none": NONE,
}


class Scope(NamedTuple):
    logger: str
    description: str


SCOPES = {
    "default": Scope("", "everything that has no level of its own"),
    "ads": Scope("pilotfish.xds", "connected proxies"),
    "ca": Scope("pilotfish.ca", "the certificate authority"),
    "config": Scope("pilotfish.daemon.feed", "objects taken in"),
    "kube": Scope("pilotfish.kube", "the client of the Kubernetes API"),
    "refusals": Scope("pilotfish.daemon.refusals", "configuration that proxies refused"),
    "webhooks": Scope("pilotfish.daemon.webhooks", "injection and validation"),
}


def level(scope: str) -> str:
    """The level in force. Raises KeyError for an unknown scope."""
    number = logging.getLogger(SCOPES[scope].logger).getEffectiveLevel()
    return next((name for name, one in LEVELS.items() if one >= number), "none")


def set_level(scope: str, name: str) -> None:
    """Raises KeyError for an unknown scope or level."""
    logging.getLogger(SCOPES[scope].logger).setLevel(LEVELS[name])


def configure(levels: str, *, as_json: bool) -> None:
    """Log to standard output. `levels` is Istio's `default:info,ads:debug`; a bare level is the default's.

    Scopes that do not exist here are passed over: charts are written for Istio's. `all` is `default`.
    """
    handler = logging.StreamHandler(sys.stdout)
    plain = logging.Formatter("%(asctime)s.%(msecs)03dZ\t%(levelname)s\t%(name)s\t%(message)s", "%Y-%m-%dT%H:%M:%S")
    plain.converter = time.gmtime
    handler.setFormatter(_JsonLines() if as_json else plain)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for part in levels.split(","):
        scope, _, name = part.strip().rpartition(":")
        scope = "default" if scope in ("", "all") else scope
        if scope in SCOPES and name in LEVELS:
            set_level(scope, name)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "level": record.levelname.lower(),
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "scope": record.name,
            "msg": record.getMessage(),
        }
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return json.dumps(line)
