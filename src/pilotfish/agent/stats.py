"""Envoy's page of metrics, made Istio's: names without prefix, and every standard label with its value.

The other half of `pilotfish.envoy.metrics`, which says what Envoy is asked for and why. Done once a scrape, not once a
request. Envoy's own metrics pass through as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pilotfish.agent.options import Options

UNKNOWN, LATEST, DROP = "unknown", "latest", "~"
_LINE = re.compile(r"^envoy_istio_(\w+?)(_bucket|_sum|_count)?\{(.*)\} (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)",?')
SPECIAL = {
    "block_all": "BlackHoleCluster",
    "BlackHoleCluster": "BlackHoleCluster",
    "allow_any": "PassthroughCluster",
    "PassthroughCluster": "PassthroughCluster",
    "InboundPassthroughCluster": "InboundPassthroughCluster",
}
"""Routes and clusters that stand for no service."""

SOURCE = (
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
)
DESTINATION = (
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_cluster",
)
_RAW = ("peer", "principal", "service", "messages")
MESSAGES = {"request_messages_total": 0, "response_messages_total": 1}
"""Metrics that count streams by their messages, and which of the two numbers is theirs."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Who a side of a connection is. Unknown parts are empty."""

    name: str = ""
    namespace: str = ""
    canonical_name: str = ""
    canonical_revision: str = ""
    cluster: str = ""
    app: str = ""
    version: str = ""
    principal: str = ""

    @classmethod
    def of_peer(cls, description: str, principal: str) -> Workload:
        """From the description in a certificate (`~` between the parts) or of an endpoint (`;`)."""
        # A certificate without an identity of the mesh is somebody's outside, whatever it says.
        known = "~;" if _PRINCIPAL.fullmatch(principal) else ";"
        separator = next((one for one in known if one in description), "")
        parts = description.split(separator) if separator else []
        name, namespace, canonical, revision, cluster, app, version = [*parts, *[""] * 7][:7]
        if not namespace and (match := _PRINCIPAL.fullmatch(principal)):
            namespace = match[1]
        return cls(name, namespace, canonical, revision, cluster, app, version, principal)

    def labels(self, side: str, *, own: bool) -> dict[str, str]:
        """The standard labels of `source` or `destination`. Our own app and version stay empty when we have none."""
        nothing = "" if own else UNKNOWN
        return {
            f"{side}_workload": self.name or UNKNOWN,
            f"{side}_workload_namespace": self.namespace or UNKNOWN,
            f"{side}_canonical_service": self.canonical_name or UNKNOWN,
            f"{side}_canonical_revision": self.canonical_revision or LATEST,
            f"{side}_principal": self.principal or UNKNOWN,
            f"{side}_app": self.app or nothing,
            f"{side}_version": self.version or nothing,
            f"{side}_cluster": self.cluster or UNKNOWN,
        }


_PRINCIPAL = re.compile(r"spiffe://[^/]+/ns/([^/]+)/sa/[^/]+")


def own_workload(options: Options) -> Workload:
    """This proxy's workload, by its labels and what injection said."""
    labels = options.labels
    name = str(options.metadata.get("WORKLOAD_NAME") or options.pod)

    def first(*keys: str) -> str:
        return next((labels[key] for key in keys if labels.get(key)), "")

    return Workload(
        name=name,
        namespace=options.namespace,
        canonical_name=first("service.istio.io/canonical-name", "app.kubernetes.io/name", "app") or name,
        canonical_revision=first("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"),
        cluster=str(options.metadata.get("CLUSTER_ID") or ""),
        app=labels.get("app", ""),
        version=labels.get("version", ""),
        principal=f"spiffe://{options.trust_domain}/ns/{options.namespace}/sa/{options.service_account}",
    )


def standard_labels(raw: Mapping[str, str], own: Workload, *, tcp: bool) -> dict[str, str]:
    """The labels of one series from what Envoy wrote. Order and rules are Istio's."""
    inbound = raw.get("reporter") == "destination"
    principal = raw.get("principal", "")
    peer = Workload.of_peer(raw.get("peer", ""), principal)
    # Both sides have a principal on the same connections: those with mutual TLS.
    here = own if principal else Workload(**{**_fields(own), "principal": ""})
    source, destination = (peer, here) if inbound else (here, peer)
    grpc = raw.get("grpc_response_status", "")
    protocol = "tcp" if tcp else "grpc" if grpc else "http"
    policy = ("mutual_tls" if principal else "none") if inbound else UNKNOWN
    both = source.labels("source", own=not inbound) | destination.labels("destination", own=inbound)
    both |= _service(raw, own, destination, inbound)
    found = {"reporter": raw.get("reporter", UNKNOWN)}
    found |= {name: both[name] for name in (*SOURCE, *DESTINATION)}
    found["request_protocol"] = protocol
    if not tcp:
        found["response_code"] = raw.get("response_code") or "0"
        found["grpc_response_status"] = grpc
    found["response_flags"] = raw.get("response_flags") or "-"
    found["connection_security_policy"] = policy
    # What users changed comes last and wins; their own tags are added.
    for name, value in raw.items():
        if value == DROP:
            found.pop(name, None)
        elif name not in _RAW and name not in ("response_code", "response_flags", "grpc_response_status", "reporter"):
            found[name] = value or UNKNOWN
    return found


def _fields(one: Workload) -> dict[str, str]:
    return {name: getattr(one, name) for name in Workload.__slots__}


def _service(raw: Mapping[str, str], own: Workload, destination: Workload, inbound: bool) -> dict[str, str]:
    """The three labels of the destination's service."""
    host, _, rest = raw.get("service", "").partition("~")
    name, _, namespace = rest.partition("~")
    if not rest:
        # No service: a name of its own for what passes through or is stopped, nothing for the rest.
        name, host = SPECIAL.get(host, ""), ""
        namespace = destination.namespace
    if inbound:
        host, name = host or own.canonical_name, name or own.canonical_name
        namespace = own.namespace
    return {
        "destination_service": host or UNKNOWN,
        "destination_service_name": name or host.partition(".")[0] or UNKNOWN,
        "destination_service_namespace": namespace or UNKNOWN,
    }


def rewrite(page: str, own: Workload) -> str:
    """The whole page. Series of one family that become equal are summed, since Prometheus takes each only once."""
    lines: list[str] = []
    families: dict[str, str] = {}
    series: dict[str, dict[str, float]] = {}
    # All lines of a histogram, and those of other families, have the same tags.
    known: dict[tuple[str, bool], tuple[str, Mapping[str, str]]] = {}
    for line in page.splitlines():
        if line.startswith("# TYPE envoy_istio_"):
            _, _, name, kind = line.split(" ", 3)
            families[name.removeprefix("envoy_")] = kind
            continue
        match = _LINE.match(line) if line.startswith("envoy_istio_") else None
        if match is None:
            lines.append(line)
            continue
        metric, suffix, tags, value = match.groups()
        tcp, bound = metric.startswith("tcp_"), ""
        if suffix == "_bucket":
            tags, _, bound = tags.rpartition('le="')
        if (found := known.get((tags, tcp))) is None:
            raw = dict(_LABEL.findall(tags))
            labels = standard_labels(raw, own, tcp=tcp)
            found = known[tags, tcp] = ",".join(f'{name}="{text}"' for name, text in labels.items()), raw
        text = f'{found[0]},le="{bound}' if bound else found[0]
        family = series.setdefault(f"istio_{metric}", {})
        key = f"istio_{metric}{suffix or ''}{{{text}}}"
        family[key] = family.get(key, 0.0) + float(value) * _messages(metric, found[1])
    for name, values in series.items():
        lines.append(f"# TYPE {name} {families.get(name, 'untyped')}")
        lines += [f"{key} {_number(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _messages(metric: str, raw: Mapping[str, str]) -> int:
    """How often a stream counts: once, or as many times as it had messages."""
    which = MESSAGES.get(metric)
    if which is None:
        return 1
    found = raw.get("messages", "").partition(",")[2 * which]
    return int(found) if found.isdecimal() else 0


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
