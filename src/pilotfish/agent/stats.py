"""Envoy's page of metrics, made Istio's: names without prefix, and every standard label with its value.

The other half of `pilotfish.envoy.metrics`, which says what Envoy is asked for and why. Done once a scrape, not once a
request. Envoy's own metrics pass through as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pilotfish import ISTIO_VERSION
from pilotfish.agent.options import Options

UNKNOWN, LATEST, DROP = "unknown", "latest", "~"
PREFIX = "envoy_istio_"
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
_RAW = ("peer", "principal", "service", "messages", "connection")
OPEN = {
    "istio_tcp_sent_bytes_open": "istio_tcp_sent_bytes_total",
    "istio_tcp_received_bytes_open": "istio_tcp_received_bytes_total",
}
"""Bytes of single connections that are open, and the metric in which they count."""
EXPIRED = "pilotfish_series_expired_total"
"""How many of Envoy's series were there at one scrape and not at the next."""
BUILD = ("# TYPE istio_build gauge", f'istio_build{{component="proxy",tag="{ISTIO_VERSION}"}} 1')
MESSAGES = {"istio_request_messages_total": 0, "istio_response_messages_total": 1}
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
    found, _, asked = raw.get("service", "").partition(" ")
    host, _, rest = found.partition("~")
    name, _, namespace = rest.partition("~")
    if not rest:
        # No service: a name of its own for what passes through or is stopped, for the rest what the client asked for.
        name, host = SPECIAL.get(found, asked), asked
        namespace = destination.namespace
    if inbound:
        host, name = host or own.canonical_name, name or own.canonical_name
        namespace = own.namespace
    return {
        "destination_service": host or UNKNOWN,
        "destination_service_name": name or host.partition(".")[0] or UNKNOWN,
        "destination_service_namespace": namespace or UNKNOWN,
    }


@dataclass(slots=True)
class _Page:
    """One of Envoy's pages, read. A line is split into head (`name{labels`) and tail (`} 5`, or `,le="10"} 5`): all
    lines of a histogram share the work on their head."""

    others: list[str] = field(default_factory=list)
    """Lines that are not about Istio's metrics."""
    kinds: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, dict[str, dict[str, list[str]]]] = field(default_factory=dict)
    """By metric and Istio's head: Envoy's heads with their tails. When several of Envoy's become one of Istio's, they
    are added up: Prometheus takes each line only once."""
    factors: dict[str, int] = field(default_factory=dict)
    """Of Envoy's heads: what one counts, where that is not one."""
    open: dict[str, float] = field(default_factory=dict)
    """By Istio's head: bytes of connections that are open."""
    seen: set[int] = field(default_factory=set)
    """Envoy's counters and histograms."""


@dataclass(slots=True, frozen=True)
class _Sum:
    """A line that several of Envoy's add up to, as it was at the last scrape."""

    parts: Mapping[str, float] = field(default_factory=dict)
    gone: float = 0.0
    """What those had counted that Envoy has forgotten since."""
    shown: float = 0.0

    @property
    def counted(self) -> float:
        return sum(self.parts.values())


class Pages:
    """Envoy's pages made Istio's, one after the other.

    Envoy forgets what nobody used for a while. When one of several counters that add up to a line is forgotten, the sum
    must not fall: Prometheus would take that for a restart, and count all of it once more. So what it had counted is
    kept as long as the line is there. A line that goes as a whole is gone, and begins at nothing when it returns.
    """

    def __init__(self, own: Workload) -> None:
        self._own = own
        self._sums: dict[str, dict[str, _Sum]] = {}
        """By head and tail; only those that need their past."""
        self._seen: set[int] = set()
        self._expired = 0

    def rewrite(self, page: str, *, whole: bool = True) -> bytes:
        """The whole page. To be called in the order in which Envoy made them; a page that is not `whole`, because only
        a part was asked for, tells nothing about what is gone."""
        found = _read(page, self._own)
        if whole:
            self._expired += len(self._seen - found.seen)
            self._seen = found.seen
        kept = {}
        own = (f"# TYPE {EXPIRED} counter", f"{EXPIRED} {self._expired}", *BUILD)
        blocks = [_block([*found.others, *own])]
        for name, heads in found.metrics.items():
            lines = [f"# TYPE {name} {found.kinds.get(name, 'counter')}"]
            for head, members in heads.items():
                if len(members) == 1 and head not in self._sums and head not in found.open:
                    [(raw, tails)] = members.items()
                    if raw not in found.factors:
                        lines += [head + tail for tail in tails]
                        continue
                sums = self._add_up(head, members, found, whole=whole)
                lines += [f"{head}{tail} {_number(one.shown)}" for tail, one in sums.items()]
                past = {t: o for t, o in sums.items() if head in found.open or len(o.parts) > 1 or o.shown != o.counted}
                if past:
                    kept[head] = past
            blocks.append(_block(lines))  # bytes are much smaller than lines
        if whole:
            self._sums = kept
        return b"".join(blocks)

    def _add_up(self, head: str, members: Mapping[str, list[str]], found: _Page, *, whole: bool) -> dict[str, _Sum]:
        """The lines of one head, by tail."""
        parts: dict[str, dict[str, float]] = {"}": {}} if head in found.open else {}
        for raw, tails in members.items():
            for line in tails:
                tail, _, value = line.rpartition(" ")
                parts.setdefault(tail, {})[raw] = float(value) * found.factors.get(raw, 1)
        past, result = self._sums.get(head, {}), {}
        for tail, its in parts.items():
            before = past.get(tail, _Sum())
            gone = before.gone
            if whole:
                gone += sum(value for raw, value in before.parts.items() if its.get(raw, -1.0) < value)
            # A connection that ends between the reading of counters and of gauges is in neither: hence the maximum.
            total = max(gone + sum(its.values()) + found.open.get(head, 0.0), before.shown)
            result[tail] = _Sum(its, gone, total)
        return result


def _block(lines: list[str]) -> bytes:
    lines.append("")
    return "\n".join(lines).encode()


def _read(page: str, own: Workload) -> _Page:
    found = _Page()
    labels: dict[tuple[str, bool], tuple[str, Mapping[str, str]]] = {}
    last, tails = "", []
    for line in page.splitlines():
        if not line.startswith(PREFIX):
            if line.startswith(f"# TYPE {PREFIX}"):
                _, _, name, kind = line.split(" ", 3)
                found.kinds[name.removeprefix("envoy_")] = kind
            else:
                found.others.append(line)
            continue
        brace = line.index("{")
        end = line.rindex(',le="') if line.startswith("_bucket", brace - 7) else line.rindex("}")
        if (raw := line[:end]) != last:
            last, tails = raw, _tails(found, labels, raw, brace, own)
        tails.append(line[end:])
    for name, heads in found.metrics.items():
        if name in OPEN:
            for head, members in heads.items():
                found.open[head.replace(name, OPEN[name], 1)] = sum(
                    float(tail.rpartition(" ")[2]) for tails in members.values() for tail in tails
                )
    for name in OPEN:
        found.metrics.pop(name, None)
    for head in found.open:
        found.metrics.setdefault(head.partition("{")[0], {}).setdefault(head, {})
    return found


def _tails(
    found: _Page, known: dict[tuple[str, bool], tuple[str, Mapping[str, str]]], raw: str, brace: int, own: Workload
) -> list[str]:
    """Where the tails of one of Envoy's heads go."""
    name, tags = raw[len("envoy_") : brace], raw[brace + 1 :]
    metric = name
    for suffix in ("_bucket", "_sum", "_count"):
        metric = metric.removesuffix(suffix)
    tcp = metric.startswith("istio_tcp_")
    if (made := known.get((tags, tcp))) is None:
        its = dict(_LABEL.findall(tags))
        text = ",".join(f'{label}="{value}"' for label, value in standard_labels(its, own, tcp=tcp).items())
        made = known[tags, tcp] = text, its
    if metric == name or name.endswith("_count"):
        if metric not in OPEN:
            found.seen.add(hash(raw))
        if metric in MESSAGES:
            found.factors[raw] = _messages(metric, made[1])
    return found.metrics.setdefault(metric, {}).setdefault(f"{name}{{{made[0]}", {}).setdefault(raw, [])


def _messages(metric: str, raw: Mapping[str, str]) -> int:
    """As how many a stream counts: its messages in the direction of the metric."""
    found = raw.get("messages", "").partition(",")[2 * MESSAGES[metric]]
    return int(found) if found.isdecimal() else 0


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
