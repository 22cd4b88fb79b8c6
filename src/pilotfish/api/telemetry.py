"""telemetry.istio.io: traces, metrics and access logs."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pilotfish.api.meta import (
    DEPRECATED,
    REQUIRED,
    Api,
    Duration,
    PolicySelector,
    PolicyTargetReference,
    Rule,
    schema,
)
from pilotfish.api.security import ONE_TARGET, TargetRefs

_TEXT = schema(minLength=1)

EXPIRES = "pilotfish.io/expires"
"""Annotation of any object: the time (RFC 3339, UTC) from which the control plane takes it for deleted."""
TRACE_REQUESTS = "telemetry.pilotfish.io/trace-requests"
"""Annotation of a Telemetry that `pilotfish trace-request` made: the header, as `name` or `name=value`. Such an object
is added to the Telemetry that holds for a workload and says nothing else."""


class WorkloadMode(StrEnum):
    CLIENT_AND_SERVER = "CLIENT_AND_SERVER"
    CLIENT = "CLIENT"
    SERVER = "SERVER"


class ModeSelector(Api, frozen=True):
    mode: WorkloadMode = WorkloadMode.CLIENT_AND_SERVER
    """The side of the connection: SERVER is inbound, CLIENT is outbound and gateways."""


class ProviderRef(Api, frozen=True):
    name: Annotated[str, REQUIRED, _TEXT] = ""
    """Name of a provider in the mesh's configuration."""


class Literal(Api, frozen=True):
    value: Annotated[str, REQUIRED, _TEXT] = ""
    """The value."""


class Environment(Api, frozen=True):
    name: Annotated[str, REQUIRED, _TEXT] = ""
    """Variable of the proxy's environment."""
    default_value: str = ""
    """Value when there is none."""


class RequestHeader(Api, frozen=True):
    name: Annotated[str, REQUIRED, _TEXT] = ""
    """Header of the request."""
    default_value: str = ""
    """Value when there is none."""


class Formatter(Api, frozen=True):
    value: Annotated[str, REQUIRED, _TEXT] = ""
    """Envoy format string, such as %REQ(x-tenant)%."""


class CustomTag(Api, frozen=True):
    ONE_OF = (("literal", "environment", "header", "formatter"),)

    literal: Literal | None = None
    """A fixed value."""
    environment: Environment | None = None
    """From the proxy's environment."""
    header: RequestHeader | None = None
    """From a header of the request."""
    formatter: Formatter | None = None
    """From an Envoy format string."""


class Tracing(Api, frozen=True):
    match: ModeSelector | None = None
    """Which side of connections."""
    providers: tuple[ProviderRef, ...] = ()
    """Where spans go; one only."""
    random_sampling_percentage: Annotated[float | None, schema(minimum=0, maximum=100)] = None
    """Share of requests that are traced, when the caller has not decided; default 1."""
    disable_span_reporting: bool | None = None
    """True: headers are passed on but no spans are sent."""
    custom_tags: Mapping[str, CustomTag] = {}
    """Tags for spans, by name."""
    use_request_id_for_trace_sampling: bool | None = None
    """Whether the decision is packed into the request ID; default true."""
    enable_istio_tags: bool | None = None
    """Whether spans carry the mesh's own tags; default true."""
    disable_context_propagation: bool | None = None
    """True: trace headers are not passed on."""


class Metric(StrEnum):
    ALL_METRICS = "ALL_METRICS"
    REQUEST_COUNT = "REQUEST_COUNT"
    REQUEST_DURATION = "REQUEST_DURATION"
    REQUEST_SIZE = "REQUEST_SIZE"
    RESPONSE_SIZE = "RESPONSE_SIZE"
    TCP_OPENED_CONNECTIONS = "TCP_OPENED_CONNECTIONS"
    TCP_CLOSED_CONNECTIONS = "TCP_CLOSED_CONNECTIONS"
    TCP_SENT_BYTES = "TCP_SENT_BYTES"
    TCP_RECEIVED_BYTES = "TCP_RECEIVED_BYTES"
    GRPC_REQUEST_MESSAGES = "GRPC_REQUEST_MESSAGES"
    GRPC_RESPONSE_MESSAGES = "GRPC_RESPONSE_MESSAGES"


class MetricSelector(Api, frozen=True):
    ONE_OF = (("metric", "customMetric"),)

    metric: Metric | None = None
    """A standard metric; default all."""
    custom_metric: Annotated[str | None, _TEXT] = None
    """A metric by its name."""
    mode: WorkloadMode = WorkloadMode.CLIENT_AND_SERVER
    """Which side of connections."""


class TagOperation(StrEnum):
    UPSERT = "UPSERT"
    REMOVE = "REMOVE"


class TagOverride(Api, frozen=True):
    CEL = (
        Rule(
            "(has(self.operation) && self.operation == 'UPSERT') ? (has(self.value) && self.value != '') : true",
            "value must be set when operation is UPSERT",
        ),
        Rule(
            "(has(self.operation) && self.operation == 'REMOVE') ? !has(self.value) : true",
            "value must not be set when operation is REMOVE",
        ),
    )

    operation: TagOperation = TagOperation.UPSERT
    """Set the tag or take it away."""
    value: str = ""
    """CEL expression for the tag's value, with operation UPSERT."""


class MetricsOverrides(Api, frozen=True):
    match: MetricSelector | None = None
    """Which metrics; default all."""
    disabled: bool | None = None
    """True switches them off."""
    tag_overrides: Mapping[str, TagOverride] = {}
    """Changes to tags, by name."""


class Metrics(Api, frozen=True):
    providers: tuple[ProviderRef, ...] = ()
    """Whose metrics these settings are for."""
    overrides: tuple[MetricsOverrides, ...] = ()
    """Changes, in order; the last one that matches counts."""
    reporting_interval: Duration | None = None
    """Time between reports of TCP metrics; default 5s."""


class Filter(Api, frozen=True):
    expression: str = ""
    """CEL expression; what does not satisfy it is not logged."""


class AccessLogging(Api, frozen=True):
    match: ModeSelector | None = None
    """Which side of connections."""
    providers: tuple[ProviderRef, ...] = ()
    """Where logs go."""
    disabled: bool | None = None
    """True switches logging off for these providers."""
    filter: Filter | None = None
    """What is logged."""


class Telemetry(Api, frozen=True):
    """What is traced, measured and logged for a workload."""

    CEL = (ONE_TARGET,)

    selector: PolicySelector | None = None
    """Workloads it applies to; default all of the namespace, or of the mesh in the root namespace."""
    target_ref: Annotated[PolicyTargetReference | None, DEPRECATED] = None
    """Object it is attached to. Use targetRefs."""
    target_refs: TargetRefs = ()
    """Objects it is attached to, instead of a selector."""
    tracing: tuple[Tracing, ...] = ()
    """Traces."""
    metrics: tuple[Metrics, ...] = ()
    """Metrics."""
    access_logging: tuple[AccessLogging, ...] = ()
    """Access logs."""
