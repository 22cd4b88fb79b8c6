"""What flows in the mesh: from the series of proxies to numbers people read. Pure arithmetic on any MetricsSource."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from pilotfish.telemetry.query import MetricsSource, Sample, Where, quantiles

REQUESTS = "istio_requests_total"
DURATION = "istio_request_duration_milliseconds"
SENT, RECEIVED = "istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"
OPENED, CLOSED = "istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total"
QUANTILES = (0.5, 0.9, 0.99)

SOURCE = ("source_workload", "source_workload_namespace", "source_app", "source_version", "source_canonical_service")
DESTINATION = (
    "destination_workload",
    "destination_workload_namespace",
    "destination_app",
    "destination_version",
    "destination_canonical_service",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
)
EDGE = (*SOURCE, *DESTINATION)
"""What a line of the traffic graph is told from others by."""
_UNKNOWN = ("", "unknown")


class Traffic(msgspec.Struct):
    """Traffic of one kind: an edge of the graph, a workload, a service. Rates are per second."""

    labels: dict[str, str]
    requests: float = 0.0
    codes: dict[str, float] = {}
    """Requests by response code; gRPC's status as `grpc:N` where it is not 0."""
    flags: dict[str, float] = {}
    """Requests by Envoy's response flags, without those that have none."""
    errors: float = 0.0
    """Requests answered with 5xx or not at all (code 0), or with a gRPC status of failure."""
    sent: float = 0.0
    """TCP bytes from the destination to the source, as Istio counts them."""
    received: float = 0.0
    opened: float = 0.0
    p50: float | None = None
    """Milliseconds; None when nothing was counted or it was not asked for."""
    p90: float | None = None
    p99: float | None = None
    reporter: str = ""

    @property
    def success(self) -> float | None:
        """Share of requests without error, 0 to 1; None without requests."""
        return 1 - self.errors / self.requests if self.requests else None


@dataclass
class _Group:
    by: Sequence[str]
    found: dict[tuple[str, ...], Traffic] = field(default_factory=dict)

    def of(self, labels: Mapping[str, str]) -> Traffic:
        key = tuple(labels[name] for name in self.by)
        if key not in self.found:
            own = dict(zip(self.by, key, strict=True))
            self.found[key] = Traffic(own, reporter=own.pop("reporter", ""))
        return self.found[key]


async def traffic(
    source: MetricsSource,
    *,
    by: Sequence[str],
    where: Where | None = None,
    window: float = 60.0,
    at: float | None = None,
    latency: bool = True,
) -> list[Traffic]:
    """Traffic by labels, groups without any left out. Give a `reporter`, in `where` or in `by`: what both sides of a
    connection report is twice the truth. Raises SourceError."""
    group = _Group(by)
    detail = ("response_code", "grpc_response_status", "response_flags")

    async def rates(metric: str, *more: str) -> list[Sample]:
        return await source.rates(metric, by=[*by, *more], where=where, window=window, at=at)

    tasks = [rates(REQUESTS, *detail), rates(SENT), rates(RECEIVED), rates(OPENED)]
    requests, sent, received, opened = await asyncio.gather(*tasks)
    for labels, value in requests:
        if value:
            _count(group.of(labels), labels, value)
    for samples, name in ((sent, "sent"), (received, "received"), (opened, "opened")):
        for labels, value in samples:
            if value:
                setattr(group.of(labels), name, value)
    if latency and group.found:
        for labels, values in await quantiles(source, DURATION, QUANTILES, by=by, where=where, window=window, at=at):
            if tuple(labels[name] for name in by) in group.found:
                one = group.of(labels)
                one.p50, one.p90, one.p99 = (None if math.isnan(v) else v for v in values)
    return list(group.found.values())


def _count(one: Traffic, labels: Mapping[str, str], value: float) -> None:
    code, status, flags = (labels[name] for name in ("response_code", "grpc_response_status", "response_flags"))
    one.requests += value
    failed_call = status not in ("", "0")
    word = f"grpc:{status}" if failed_call else code
    one.codes[word] = one.codes.get(word, 0.0) + value
    if flags not in ("", "-"):
        one.flags[flags] = one.flags.get(flags, 0.0) + value
    if failed_call or code.startswith("5") or code in ("", "0"):
        one.errors += value


async def edges(
    source: MetricsSource,
    *,
    where: Where | None = None,
    window: float = 60.0,
    at: float | None = None,
    latency: bool = True,
) -> list[Traffic]:
    """The traffic graph: every edge once. The source's report is taken where there is one, since only it knows of what
    never arrived; the destination's for sources without a proxy."""
    found = await traffic(source, by=("reporter", *EDGE), where=where, window=window, at=at, latency=latency)
    return once(found)


def once(found: Iterable[Traffic]) -> list[Traffic]:
    """Without what the destination says about edges of which the source has spoken."""
    found = list(found)
    spoken = {_ends(one.labels) for one in found if one.reporter == "source"}
    return [one for one in found if one.reporter != "destination" or _ends(one.labels) not in spoken]


def _ends(labels: Mapping[str, str]) -> tuple[str, ...]:
    names = ("source_workload", "source_workload_namespace", "destination_workload", "destination_workload_namespace")
    ends = tuple(labels.get(name, "") for name in names)
    # Requests of strangers have no source to be told apart by, so nobody but the destination speaks for them.
    return ends if ends[0] not in _UNKNOWN else (*ends, "stranger")
