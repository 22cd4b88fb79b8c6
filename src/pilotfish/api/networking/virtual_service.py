"""VirtualService: how requests for a host are routed."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pilotfish.api.meta import DEPRECATED, REQUIRED, Api, Duration, Int32, PortSelector, StringMap, UInt32, schema


class StringMatch(Api, frozen=True):
    """How a string is matched, case-sensitive. Set with no form, or with an empty value: the string must be present."""

    ONE_OF = (("exact", "prefix", "regex"),)

    exact: str | None = None
    """The whole value."""
    prefix: str | None = None
    """How the value begins."""
    regex: str | None = None
    """RE2 expression the whole value matches."""


class Percent(Api, frozen=True):
    value: float = 0.0
    """0 to 100; fractions are allowed."""


class Destination(Api, frozen=True):
    """A service, or a subset of it."""

    host: Annotated[str, REQUIRED] = ""
    """The service's name. A name without a dot is completed with the namespace of the object."""
    subset: str = ""
    """Name of a subset in the service's DestinationRule."""
    port: PortSelector | None = None
    """Port of the service; may be left out when it has one port only."""


class HeaderOperations(Api, frozen=True):
    set: StringMap = {}
    """Headers to overwrite."""
    add: StringMap = {}
    """Headers to append to."""
    remove: tuple[str, ...] = ()
    """Headers to take away."""


class Headers(Api, frozen=True):
    request: HeaderOperations | None = None
    """Changes before a request goes to the destination."""
    response: HeaderOperations | None = None
    """Changes before a response goes to the caller."""


class HTTPMatchRequest(Api, frozen=True):
    """Conditions on a request; all must hold."""

    name: str = ""
    """Name of the match, added to the route's name."""
    uri: StringMatch | None = None
    """Path of the request, without the query."""
    scheme: StringMatch | None = None
    """URI scheme."""
    method: StringMatch | None = None
    """HTTP method."""
    authority: StringMatch | None = None
    """Host header."""
    headers: Mapping[str, StringMatch] = {}
    """Headers by lower-case name; an empty match means the header is present."""
    port: UInt32 = 0
    """Port the request was addressed to."""
    source_labels: StringMap = {}
    """Labels of the calling workload. Has no effect on gateways."""
    gateways: tuple[str, ...] = ()
    """Gateways (or `mesh`) the match applies to, instead of the object's."""
    query_params: Mapping[str, StringMatch] = {}
    """Query parameters by name."""
    ignore_uri_case: bool = False
    """Compare `uri` exact and prefix without case."""
    without_headers: Mapping[str, StringMatch] = {}
    """Headers that must not match."""
    source_namespace: str = ""
    """Namespace of the calling workload."""
    stat_prefix: str = ""
    """Name for statistics of this route."""


class HTTPRouteDestination(Api, frozen=True):
    destination: Annotated[Destination, REQUIRED] = Destination()
    """Where requests go."""
    weight: Int32 = 0
    """Share of the requests relative to the other destinations. A sole destination gets all."""
    headers: Headers | None = None
    """Header changes for this destination only."""


class RouteDestination(Api, frozen=True):
    destination: Annotated[Destination, REQUIRED] = Destination()
    """Where connections go."""
    weight: Int32 = 0
    """Share of the connections relative to the other destinations."""


class RedirectPortSelection(StrEnum):
    FROM_PROTOCOL_DEFAULT = "FROM_PROTOCOL_DEFAULT"
    FROM_REQUEST_PORT = "FROM_REQUEST_PORT"


class HTTPRedirect(Api, frozen=True):
    ONE_OF = (("port", "derivePort"),)

    uri: str = ""
    """New path; `%PREFIX()%…` replaces only the matched prefix."""
    authority: str = ""
    """New host."""
    port: UInt32 | None = None
    """New port."""
    derive_port: RedirectPortSelection | None = None
    """Where the new port comes from."""
    scheme: str = ""
    """New scheme, http or https."""
    redirect_code: UInt32 = 0
    """HTTP status; default 301."""
    prefix_rewrite: str = ""
    """Replaces the matched prefix of the path."""


class HTTPBody(Api, frozen=True):
    ONE_OF = (("string", "bytes"),)

    string: str | None = None
    """Body as text."""
    bytes: Annotated[str | None, schema(format="byte")] = None
    """Body in base64."""


class HTTPDirectResponse(Api, frozen=True):
    status: Annotated[UInt32, REQUIRED] = 0
    """HTTP status of the response."""
    body: HTTPBody | None = None
    """Body of the response, up to 1 MB."""


class Delegate(Api, frozen=True):
    name: str = ""
    """Name of the VirtualService the routes come from."""
    namespace: str = ""
    """Its namespace; default the object's own."""


class RegexRewrite(Api, frozen=True):
    match: str = ""
    """RE2 expression; every match in the path is replaced."""
    rewrite: str = ""
    """Replacement; `\\1` stands for the first group."""


class HTTPRewrite(Api, frozen=True):
    uri: str = ""
    """Replaces the path, or the matched prefix of it."""
    authority: str = ""
    """Replaces the Host header."""
    uri_regex_rewrite: RegexRewrite | None = None
    """Replaces parts of the path by an expression."""


class HTTPRetry(Api, frozen=True):
    attempts: Int32 = 0
    """How many times a failed request is tried again; 0 switches retries off."""
    per_try_timeout: Duration | None = None
    """Time for each try; default the request's timeout."""
    retry_on: str = ""
    """Conditions, separated by commas: Envoy's names or status codes."""
    retry_remote_localities: bool | None = None
    """Try endpoints of other localities as well."""
    retry_ignore_previous_hosts: bool | None = None
    """Prefer endpoints that have not been tried; default true."""
    backoff: Duration | None = None
    """Base of the waiting time between tries; default 25ms."""


class UnmatchedPreflights(StrEnum):
    UNSPECIFIED = "UNSPECIFIED"
    FORWARD = "FORWARD"
    IGNORE = "IGNORE"


class CorsPolicy(Api, frozen=True):
    allow_origin: Annotated[tuple[str, ...], DEPRECATED] = ()
    """Origins allowed, exact. Use allowOrigins."""
    allow_origins: tuple[StringMatch, ...] = ()
    """Origins allowed."""
    allow_methods: tuple[str, ...] = ()
    """Methods for Access-Control-Allow-Methods."""
    allow_headers: tuple[str, ...] = ()
    """Headers for Access-Control-Allow-Headers."""
    expose_headers: tuple[str, ...] = ()
    """Headers for Access-Control-Expose-Headers."""
    max_age: Duration | None = None
    """How long a preflight answer may be cached, in whole seconds."""
    allow_credentials: bool | None = None
    """Whether the browser may send credentials."""
    unmatched_preflights: UnmatchedPreflights = UnmatchedPreflights.UNSPECIFIED
    """Whether preflights of other origins go to the destination."""


class Delay(Api, frozen=True):
    ONE_OF = (("fixedDelay", "exponentialDelay"),)

    percent: Annotated[Int32, DEPRECATED] = 0
    """Share of requests, whole percent. Use percentage."""
    fixed_delay: Duration | None = None
    """How long to wait before the request goes on."""
    exponential_delay: Duration | None = None
    """Not supported."""
    percentage: Percent | None = None
    """Share of requests that are delayed."""


class Abort(Api, frozen=True):
    ONE_OF = (("httpStatus", "grpcStatus", "http2Error"),)

    http_status: Int32 | None = None
    """HTTP status to answer with."""
    grpc_status: str | None = None
    """gRPC status to answer with, such as UNAVAILABLE."""
    http2_error: str | None = None
    """Not supported."""
    percentage: Percent | None = None
    """Share of requests that are aborted."""


class HTTPFaultInjection(Api, frozen=True):
    delay: Delay | None = None
    """Wait before the request goes on."""
    abort: Abort | None = None
    """Answer with an error instead."""


class HTTPMirrorPolicy(Api, frozen=True):
    destination: Annotated[Destination, REQUIRED] = Destination()
    """Where copies go."""
    percentage: Percent | None = None
    """Share of requests copied; default all."""


class HTTPRoute(Api, frozen=True):
    """Conditions on a request and what is done with it. The first route that matches is taken."""

    ALIASES = {"mirror_percent": "mirrorPercent"}

    name: str = ""
    """Name of the route, in logs and statistics."""
    match: tuple[HTTPMatchRequest, ...] = ()
    """Matches if any of these does; empty matches every request."""
    route: tuple[HTTPRouteDestination, ...] = ()
    """Destinations and their shares."""
    redirect: HTTPRedirect | None = None
    """Answer with a redirect."""
    direct_response: HTTPDirectResponse | None = None
    """Answer with a fixed response."""
    delegate: Delegate | None = None
    """Take the routes of another VirtualService."""
    rewrite: HTTPRewrite | None = None
    """Change path or host before forwarding."""
    timeout: Duration | None = None
    """Time for the whole request; default none."""
    retries: HTTPRetry | None = None
    """What is done when a request fails."""
    fault: HTTPFaultInjection | None = None
    """Faults to inject."""
    mirror: Destination | None = None
    """Where a copy of each request goes; its answer is dropped."""
    mirrors: tuple[HTTPMirrorPolicy, ...] = ()
    """Several mirrors. Not together with mirror."""
    mirror_percent: Annotated[UInt32 | None, DEPRECATED] = None
    """Share of requests mirrored, whole percent. Use mirrorPercentage."""
    mirror_percentage: Percent | None = None
    """Share of requests mirrored; default all."""
    cors_policy: CorsPolicy | None = None
    """Cross-origin rules."""
    headers: Headers | None = None
    """Header changes for all destinations."""


class TLSMatchAttributes(Api, frozen=True):
    """Conditions on a TLS connection that is not terminated; all must hold."""

    sni_hosts: Annotated[tuple[str, ...], REQUIRED] = ()
    """Server names; wildcards are allowed."""
    destination_subnets: tuple[str, ...] = ()
    """Addresses or CIDRs of the destination."""
    port: UInt32 = 0
    """Port connected to."""
    source_labels: StringMap = {}
    """Labels of the calling workload."""
    gateways: tuple[str, ...] = ()
    """Gateways (or `mesh`) the match applies to, instead of the object's."""
    source_namespace: str = ""
    """Namespace of the calling workload."""


class TLSRoute(Api, frozen=True):
    match: Annotated[tuple[TLSMatchAttributes, ...], REQUIRED] = ()
    """Matches if any of these does."""
    route: tuple[RouteDestination, ...] = ()
    """Destinations and their shares."""


class L4MatchAttributes(Api, frozen=True):
    """Conditions on a TCP connection; all must hold."""

    destination_subnets: tuple[str, ...] = ()
    """Addresses or CIDRs of the destination."""
    port: UInt32 = 0
    """Port connected to."""
    source_subnet: Annotated[str, DEPRECATED] = ""
    """Has no effect."""
    source_labels: StringMap = {}
    """Labels of the calling workload."""
    gateways: tuple[str, ...] = ()
    """Gateways (or `mesh`) the match applies to, instead of the object's."""
    source_namespace: str = ""
    """Namespace of the calling workload."""


class TCPRoute(Api, frozen=True):
    match: tuple[L4MatchAttributes, ...] = ()
    """Matches if any of these does; empty matches every connection."""
    route: tuple[RouteDestination, ...] = ()
    """Destinations and their shares."""


class VirtualService(Api, frozen=True):
    """Routes for one or more hosts, for callers in the mesh or behind gateways."""

    hosts: tuple[str, ...] = ()
    """Hosts the routes are for: services or DNS names, wildcard prefixes allowed. Empty: others delegate to it."""
    gateways: tuple[str, ...] = ()
    """Gateways the routes apply to, as [namespace/]name; `mesh` stands for all sidecars. Empty: mesh only."""
    http: tuple[HTTPRoute, ...] = ()
    """Routes for HTTP traffic, tried in order."""
    tls: tuple[TLSRoute, ...] = ()
    """Routes for TLS traffic that is passed through."""
    tcp: tuple[TCPRoute, ...] = ()
    """Routes for other TCP traffic."""
    export_to: tuple[str, ...] = ()
    """Namespaces that see it: names, `.` (its own), `*` (all). Empty: the mesh's default."""
