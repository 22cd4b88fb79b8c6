"""What the agent is told: the environment that injection writes, and the pod's labels and annotations as files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilotfish import ISTIO_VERSION, __version__

META, META_JSON = "ISTIO_META_", "ISTIO_METAJSON_"
PROXY_ID = 1337
"""User, group and socket mark by which the proxy's own traffic is told from the application's."""

PROXY_DEFAULTS: Mapping[str, Any] = {
    "configPath": "/etc/istio/proxy",
    "binaryPath": "",
    "serviceCluster": "istio-proxy",
    "drainDuration": "45s",
    "terminationDrainDuration": "5s",
    "proxyAdminPort": 15000,
    "statusPort": 15020,
    "controlPlaneAuthPolicy": "MUTUAL_TLS",
}


class AgentError(Exception):
    """The agent cannot do its work; the message says what is wrong and where to look."""


@dataclass(frozen=True)
class Options:
    """Read once at the start."""

    kind: str
    """`sidecar` or `router`."""
    pod: str
    namespace: str
    ip: str
    service_account: str
    domain: str
    trust_domain: str
    proxy: Mapping[str, Any]
    """The effective ProxyConfig (mesh type) as JSON."""
    metadata: Mapping[str, Any]
    """Node metadata that comes from the environment."""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    ca_address: str = ""
    root_cert: Path = Path("/var/run/secrets/istio/root-cert.pem")
    token: Path = Path("/var/run/secrets/tokens/istio-token")
    sds_socket: Path = Path("/var/run/secrets/workload-spiffe-uds/socket")
    log_level: str = "warning"
    component_log_level: str = "misc:error"
    concurrency: int = 0
    """Worker threads of Envoy; 0 means one per core."""
    cert_ttl_seconds: int = 86400
    probers: Mapping[str, Any] = field(default_factory=dict)
    scrape: Mapping[str, Any] = field(default_factory=dict)
    exit_on_zero_connections: bool = False
    minimum_drain_seconds: float = 5.0
    dns_capture: bool = False
    status_port: int = 15020
    ready_port: int = 15021
    prometheus_port: int = 15090

    @property
    def discovery_address(self) -> str:
        return str(self.proxy.get("discoveryAddress") or f"istiod.{self.metadata['ISTIOD_NAMESPACE']}.svc:15012")

    @property
    def config_path(self) -> Path:
        return Path(self.proxy["configPath"])

    @property
    def node_id(self) -> str:
        return f"{self.kind}~{self.ip}~{self.pod}.{self.namespace}~{self.domain}"

    @property
    def drain_seconds(self) -> float:
        """How long to wait between the signal and the end of Envoy."""
        return seconds(str(self.proxy["terminationDrainDuration"]), "terminationDrainDuration")

    @property
    def node_metadata(self) -> dict[str, Any]:
        found = dict(self.metadata)
        found.pop("ISTIOD_NAMESPACE", None)
        return found | {
            "NAME": self.pod,
            "NAMESPACE": self.namespace,
            "SERVICE_ACCOUNT": self.service_account,
            "INSTANCE_IPS": self.ip,
            "LABELS": dict(self.labels),
            "ANNOTATIONS": dict(self.annotations),
            "ISTIO_VERSION": ISTIO_VERSION,
            "PILOTFISH_VERSION": __version__,
            "PROXY_CONFIG": dict(self.proxy),
            "ENVOY_STATUS_PORT": self.ready_port,
            "ENVOY_PROMETHEUS_PORT": self.prometheus_port,
            "PILOT_SAN": [self.discovery_address.rpartition(":")[0]],
        }


def seconds(text: str, setting: str) -> float:
    """A duration such as `5s`, `1m30s`, `500ms`. Raises AgentError."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    total, rest = 0.0, text.strip()
    while rest:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(digits) :]
        unit = next((one for one in units if rest.startswith(one)), "")
        if not digits or not unit:
            raise AgentError(f"{setting}: {text!r} is not a duration such as 5s or 1m30s")
        total += float(digits) * units[unit]
        rest = rest[len(unit) :]
    return total


def _count(text: str, setting: str) -> int:
    if not text.isdigit():
        raise AgentError(f"{setting}: {text!r} is not a whole number")
    return int(text)


def _json(env: Mapping[str, str], name: str) -> dict[str, Any]:
    text = env.get(name, "")
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise AgentError(f"environment variable {name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise AgentError(f"environment variable {name} must be a JSON object")
    return found


def _metadata(env: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in sorted(env.items()):
        if name.startswith(META_JSON):
            found |= _json(env, name)
        elif name.startswith(META):
            found[name.removeprefix(META)] = value
    return found


def downward(path: Path) -> dict[str, str]:
    """A downward API file of labels or annotations: lines `key="value"`, values quoted as in Go."""
    if not path.is_file():
        return {}
    found = {}
    for line in path.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals:
            try:
                found[key] = str(json.loads(value))
            except ValueError:
                found[key] = value.strip('"')
    return found


_HIDDEN_ANNOTATIONS = ("kubectl.kubernetes.io/last-applied-configuration", "kubernetes.io/config")


def read(
    kind: str, domain: str = "", environment: Mapping[str, str] | None = None, podinfo: Path = Path("/etc/istio/pod")
) -> Options:
    """From the environment. Raises AgentError naming the variable that is missing or malformed."""
    env = os.environ if environment is None else environment
    missing = [name for name in ("POD_NAME", "POD_NAMESPACE", "INSTANCE_IP") if not env.get(name)]
    if missing:
        raise AgentError(
            f"environment variable {missing[0]} is not set; the container must be made by sidecar injection "
            "or set it itself"
        )
    proxy = {**PROXY_DEFAULTS, **_json(env, "PROXY_CONFIG")}
    metadata = _metadata(env)
    namespace = env["POD_NAMESPACE"]
    metadata["ISTIOD_NAMESPACE"] = env.get("ISTIOD_NAMESPACE", "istio-system")
    annotations = {k: v for k, v in downward(podinfo / "annotations").items() if k not in _HIDDEN_ANNOTATIONS}
    # As in Istio: the setting, else the container's CPU limit, else a worker for every core (0).
    workers = proxy.get("concurrency")
    workers = env.get("ISTIO_CPU_LIMIT") or 0 if workers is None else workers
    return Options(
        kind=kind,
        pod=env["POD_NAME"],
        namespace=namespace,
        ip=env["INSTANCE_IP"],
        service_account=env.get("SERVICE_ACCOUNT", "default"),
        domain=domain or f"{namespace}.svc.cluster.local",
        trust_domain=env.get("TRUST_DOMAIN", "cluster.local"),
        proxy=proxy,
        metadata=metadata,
        labels=downward(podinfo / "labels"),
        annotations=annotations,
        ca_address=env.get("CA_ADDR", ""),
        root_cert=Path(env.get("PILOTFISH_ROOT_CERT", "/var/run/secrets/istio/root-cert.pem")),
        token=Path(env.get("PILOTFISH_TOKEN", "/var/run/secrets/tokens/istio-token")),
        sds_socket=Path(env.get("PILOTFISH_SDS_SOCKET", "/var/run/secrets/workload-spiffe-uds/socket")),
        concurrency=_count(str(workers), "ISTIO_CPU_LIMIT or ProxyConfig's concurrency"),
        cert_ttl_seconds=int(seconds(env.get("SECRET_TTL", "24h"), "SECRET_TTL")),
        probers=_json(env, "ISTIO_KUBE_APP_PROBERS"),
        scrape=_json(env, "ISTIO_PROMETHEUS_ANNOTATIONS") if kind == "sidecar" else {},
        exit_on_zero_connections=str(
            metadata.get("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", env.get("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "false"))
        ).lower()
        == "true",
        minimum_drain_seconds=seconds(env.get("MINIMUM_DRAIN_DURATION", "5s"), "MINIMUM_DRAIN_DURATION"),
        dns_capture=str(metadata.get("DNS_CAPTURE", "")).lower() == "true",
        status_port=int(proxy.get("statusPort") or 15020),
    )
