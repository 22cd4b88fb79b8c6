"""WorkloadGroup: the template for workloads that register themselves."""

from __future__ import annotations

from typing import Annotated

from pilotfish.api.meta import REQUIRED, UNIMPLEMENTED, Api, Int32, StringMap, UInt32, rule, schema
from pilotfish.api.networking.workload_entry import WorkloadTemplate

_PORT = rule("0 < self && self <= 65535", "port must be between 1-65535")
_COUNT = schema(minimum=0)


class HTTPHeader(Api, frozen=True):
    name: Annotated[str, schema(pattern="^[-_A-Za-z0-9]+$")] = ""
    """Name of the header."""
    value: str = ""
    """Its value."""


class HTTPHealthCheck(Api, frozen=True):
    path: str = ""
    """Path that is asked for."""
    port: Annotated[UInt32, REQUIRED, _PORT] = 0
    """Port that is asked."""
    host: str = ""
    """Host to connect to; default the workload itself."""
    scheme: Annotated[str, rule("self in ['', 'HTTP', 'HTTPS']", "scheme must be one of [HTTP, HTTPS]")] = ""
    """HTTP or HTTPS."""
    http_headers: tuple[HTTPHeader, ...] = ()
    """Headers to send."""


class TCPHealthCheck(Api, frozen=True):
    host: str = ""
    """Host to connect to; default the workload itself."""
    port: Annotated[UInt32, REQUIRED, _PORT] = 0
    """Port to connect to."""


class ExecHealthCheck(Api, frozen=True):
    command: Annotated[tuple[str, ...], REQUIRED, schema(items={"type": "string", "minLength": 1})] = ()
    """Program and arguments; exit status 0 means healthy."""


class GrpcHealthCheck(Api, frozen=True):
    port: Annotated[UInt32, _PORT] = 0
    """Port of the gRPC health service."""
    service: str = ""
    """Service name asked about."""


class ReadinessProbe(Api, frozen=True):
    ONE_OF = (("httpGet", "tcpSocket", "exec", "grpc"),)

    initial_delay_seconds: Annotated[Int32, _COUNT] = 0
    """Time before the first check."""
    timeout_seconds: Annotated[Int32, _COUNT] = 0
    """Time for a check; default 1."""
    period_seconds: Annotated[Int32, _COUNT] = 0
    """Time between checks; default 10."""
    success_threshold: Annotated[Int32, _COUNT, UNIMPLEMENTED] = 0
    """Successes in a row to become healthy; default 1."""
    failure_threshold: Annotated[Int32, _COUNT] = 0
    """Failures in a row to become unhealthy; default 3."""
    http_get: HTTPHealthCheck | None = None
    """Check by an HTTP request."""
    tcp_socket: TCPHealthCheck | None = None
    """Check by connecting."""
    exec: ExecHealthCheck | None = None
    """Check by running a program."""
    grpc: GrpcHealthCheck | None = None
    """Check by gRPC health."""


class TemplateMeta(Api, frozen=True):
    labels: Annotated[StringMap, schema(maxProperties=256)] = {}
    """Labels of the WorkloadEntries."""
    annotations: Annotated[StringMap, schema(maxProperties=256)] = {}
    """Annotations of the WorkloadEntries."""


class WorkloadGroup(Api, frozen=True):
    """Describes a kind of workload outside Kubernetes; each instance becomes a WorkloadEntry when it connects."""

    metadata: TemplateMeta | None = None
    """Labels and annotations for the WorkloadEntries."""
    template: Annotated[WorkloadTemplate | None, REQUIRED] = None
    """What the WorkloadEntries have in common; without an address."""
    probe: Annotated[ReadinessProbe | None, UNIMPLEMENTED] = None
    """How an instance's health is checked."""
