"""The headers that a service passes on to the services it calls, so that traces join and identities are kept."""

from __future__ import annotations

from pilotfish.local.images.programs.http1 import Headers, Request

_TRACING = (
    "x-request-id",
    "x-ot-span-context",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "traceparent",
    "tracestate",
    "baggage",
    "x-cloud-trace-context",
    "grpc-trace-bin",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "sw8",
)
_USER = ("end-user", "user-agent", "cookie", "authorization", "jwt")
_FORWARDED = frozenset(_TRACING + _USER)


def forwarded(request: Request) -> Headers:
    """The headers of a request that are to be sent on."""
    return [(name, value) for name, value in request.headers if name.lower() in _FORWARDED]
