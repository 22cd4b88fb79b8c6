"""Settings of the control plane: istiod's flags and environment, by the same names and with the same defaults."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

from pilotfish.api.meta import Duration
from pilotfish.mesh.allocation import RANGES


class OptionError(Exception):
    """A setting cannot be used; the message names it, the value and what is expected."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. An empty host means all interfaces, as in Go's `:8080`."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, setting: str) -> Address:
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            raise OptionError(f"{setting}: {text!r} is not an address; write [host]:port, for example :15014")
        return cls(host.strip("[]"), int(port))


@dataclass(frozen=True)
class Options:
    """What `pilotfishd discovery` was told."""

    namespace: str = "istio-system"
    pod_name: str = "istiod"
    revision: str = ""
    cluster_id: str = "Kubernetes"
    domain: str = "cluster.local"
    kubeconfig: Path | None = None
    mesh_config: Path = Path("/etc/istio/config/mesh")
    http: Address = Address("", 8080)
    https: Address = Address("", 15017)
    grpc: Address = Address("", 15010)
    secure_grpc: Address = Address("", 15012)
    monitoring: Address = Address("", 15014)
    controlz: Address | None = None
    """Log levels for `istioctl admin log`, on the loopback; None: not served."""
    shutdown: timedelta = timedelta(seconds=10)
    cacerts: Path = Path("/etc/cacerts")
    cacerts_check: timedelta = timedelta(seconds=20)
    """How often the plugged-in files are looked at."""
    token_audiences: tuple[str, ...] = ("istio-ca",)
    default_workload_ttl: timedelta = timedelta(hours=24)
    custom_hosts: tuple[str, ...] = ()
    address_ranges: tuple[str, ...] = RANGES
    """Where ServiceEntries without addresses get theirs from; empty: they get none."""
    registration_grace: timedelta = timedelta(seconds=10)
    """How long a machine that registered itself may be gone before it is forgotten."""
    debug_on_http: bool = True
    """Off, debug pages are had over xDS only."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def service(self) -> str:
        """Name of our Service: `istiod`, or `istiod-<revision>`."""
        return "istiod" + (f"-{self.revision}" if self.revision not in ("", "default") else "")

    @property
    def serving_names(self) -> list[str]:
        """DNS names that the serving certificate carries."""
        names = dict.fromkeys(["istiod", self.service, "istiod-remote", "istio-pilot"])
        return [*(f"{name}.{self.namespace}.svc" for name in names), *self.custom_hosts]


def read_environment(environment: Mapping[str, str] | None = None) -> dict[str, object]:
    """The settings that istiod takes from its environment, as keyword arguments for Options. Raises OptionError."""
    env = os.environ if environment is None else environment
    found: dict[str, object] = {"environment": dict(env)}

    def take(name: str, variable: str, convert: object = str) -> None:
        if value := env.get(variable, ""):
            found[name] = convert(value) if callable(convert) else value

    def span(variable: str) -> Callable[[str], timedelta]:
        return lambda value: duration(value, variable)

    take("namespace", "POD_NAMESPACE")
    take("pod_name", "POD_NAME")
    take("revision", "REVISION")
    take("cluster_id", "CLUSTER_ID")
    take("token_audiences", "TOKEN_AUDIENCES", _words)
    found["address_ranges"] = _ranges(env)
    take("custom_hosts", "ISTIOD_CUSTOM_HOST", _words)
    take("default_workload_ttl", "DEFAULT_WORKLOAD_CERT_TTL", span("DEFAULT_WORKLOAD_CERT_TTL"))
    take("registration_grace", "PILOT_WORKLOAD_ENTRY_GRACE_PERIOD", span("PILOT_WORKLOAD_ENTRY_GRACE_PERIOD"))
    take("debug_on_http", "ENABLE_DEBUG_ON_HTTP", lambda value: value.lower() != "false")
    take("cacerts", "ROOT_CA_DIR", Path)
    take("cacerts_check", "ROOT_CA_CHECK_INTERVAL", span("ROOT_CA_CHECK_INTERVAL"))
    return found


def _ranges(env: Mapping[str, str]) -> tuple[str, ...]:
    if env.get("PILOT_ENABLE_IP_AUTOALLOCATE", "").lower() in ("false", "0"):
        return ()
    found = []
    names = ("PILOT_IP_AUTOALLOCATE_IPV4_PREFIX", "PILOT_IP_AUTOALLOCATE_IPV6_PREFIX")
    for name, usual in zip(names, RANGES, strict=True):
        text = env.get(name) or usual
        try:
            found.append(str(ip_network(text)))
        except ValueError as error:
            raise OptionError(f"{name}: {text!r} is not a range of addresses such as {usual}: {error}") from error
    return tuple(found)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def duration(text: str, setting: str) -> timedelta:
    """Go's duration format: `30s`, `1h30m`, `500ms`. Raises OptionError."""
    try:
        found = Duration.parse(text)
    except ValueError as error:
        raise OptionError(f"{setting}: {error}") from error
    if found < 0:
        raise OptionError(f"{setting}: {text!r} is negative")
    return timedelta(microseconds=found / 1000)
