"""Access logs: which loggers a proxy's listeners, HTTP connection managers and TCP proxies carry."""

from __future__ import annotations

import json
from typing import Any

from pilotfish.api.mesh import AccessLogEncoding, ExtensionProvider, FileAccessLog
from pilotfish.api.telemetry import AccessLogging
from pilotfish.engine import Db, query
from pilotfish.envoy.proto import Fields, extension
from pilotfish.envoy.values import struct
from pilotfish.mesh import telemetry
from pilotfish.mesh.config import mesh, provider
from pilotfish.mesh.proxies import View

TEXT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    '%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" '
    "%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "
    '"%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" '
    "%UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% "
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)
JSON = {
    "start_time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "route_name": "%ROUTE_NAME%",
}

_FILE = "envoy.extensions.access_loggers.file.v3.FileAccessLog"


@query
def http_loggers(db: Db, view: View, inbound: bool) -> tuple[Fields, ...]:
    """The loggers of HTTP connection managers: besides the usual ones those for chosen requests."""
    usual = loggers(db, view, inbound)
    if any("filter" not in one for one in usual):
        return usual  # every request is logged anyhow
    chosen = telemetry.traced_requests(db, view.namespace, view.labels)
    return (*usual, *({**_file(db, FileAccessLog(path="/dev/stdout")), "filter": one.filter} for one in chosen))


@query
def tcp_loggers(db: Db, view: View, inbound: bool) -> tuple[Fields, ...]:
    """The loggers of TCP proxies: one line at the end of a connection. Metrics are told of other moments too."""
    end: Fields = {"log_type_filter": {"types": ["TcpConnectionEnd"]}}

    def at_end(logger: Fields) -> Fields:
        filters = [end, logger["filter"]] if "filter" in logger else []
        return {**logger, "filter": {"and_filter": {"filters": filters}} if filters else end}

    return tuple(at_end(logger) for logger in loggers(db, view, inbound))


@query
def loggers(db: Db, view: View, inbound: bool) -> tuple[Fields, ...]:
    """The usual loggers, those of HTTP connection managers."""
    config = mesh(db)
    entries = telemetry.access_logging(db, view.namespace, view.labels)
    if not entries and config.access_log_file:
        return (_file(db, FileAccessLog(path=config.access_log_file)),)
    chosen: dict[str, AccessLogging] = {}
    defaults = config.default_providers.access_logging
    for entry in entries or ((AccessLogging(),) if defaults else ()):
        mode = entry.match.mode.value if entry.match is not None else "CLIENT_AND_SERVER"
        if mode not in ("CLIENT_AND_SERVER", "SERVER" if inbound else "CLIENT"):
            continue
        for name in [p.name for p in entry.providers] or defaults or ["envoy"]:
            chosen[name] = entry
    result = []
    for name, entry in chosen.items():
        found = provider(db, name)
        if entry.disabled is not True and found is not None and (logger := _logger(db, found, entry)) is not None:
            result.append(logger)
    return tuple(result)


@query
def listener_loggers(db: Db, view: View, inbound: bool) -> tuple[Fields, ...]:
    """The loggers of a listener: only connections that found no filter chain."""
    if mesh(db).disable_envoy_listener_log:
        return ()
    no_route = {"response_flag_filter": {"flags": ["NR"]}}
    return tuple({**logger, "filter": no_route} for logger in loggers(db, view, inbound))


def _logger(db: Db, found: ExtensionProvider, entry: AccessLogging) -> Fields | None:
    if found.envoy_file_access_log is not None:
        logger: Fields | None = _file(db, found.envoy_file_access_log)
    else:
        logger = _grpc(db, found)
    if logger is None:
        return None
    if entry.filter is not None and entry.filter.expression:
        logger["filter"] = {
            "extension_filter": extension(
                "envoy.access_loggers.extension_filters.cel",
                "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                {"expression": entry.filter.expression},
            )
        }
    return logger


def _file(db: Db, settings: FileAccessLog) -> Fields:
    config = mesh(db)
    text: str | None = None
    labels: Any = None
    if settings.log_format is not None:
        text, labels = settings.log_format.text, settings.log_format.labels
    if not text and not labels:
        if config.access_log_encoding is AccessLogEncoding.JSON:
            labels = _json_format(config.access_log_format) or JSON
        else:
            text = config.access_log_format or TEXT
    body: Fields = (
        {"json_format": struct(labels)} if labels else {"text_format_source": {"inline_string": _ended(text)}}
    )
    if settings.omit_empty_values:
        body["omit_empty_values"] = True
    return extension("envoy.access_loggers.file", _FILE, {"path": settings.path or "/dev/stdout", "log_format": body})


def _ended(text: str | None) -> str:
    return text if text and text.endswith("\n") else f"{text or TEXT}\n"


def _json_format(text: str) -> Any:
    try:
        found = json.loads(text) if text else None
    except ValueError:
        return None  # a format that is no JSON: Istio falls back to its own too
    return found if isinstance(found, dict) else None


def _grpc(db: Db, found: ExtensionProvider) -> Fields | None:
    """Access logs sent to a service; HTTP and TCP forms share their settings."""
    settings = found.envoy_http_als or found.envoy_tcp_als
    if settings is not None:
        cluster = telemetry.provider_cluster(db, settings.service, settings.port)
        if cluster is None:
            return None
        tcp = found.envoy_tcp_als is not None
        common = {
            "log_name": settings.log_name or ("listener_envoy_accesslog" if tcp else "http_envoy_accesslog"),
            "grpc_service": {"envoy_grpc": {"cluster_name": cluster}},
            "transport_api_version": "V3",
            "filter_state_objects_to_log": list(settings.filter_state_objects_to_log),
        }
        kind = "tcp" if tcp else "http"
        message = f"envoy.extensions.access_loggers.grpc.v3.{kind.capitalize()}GrpcAccessLogConfig"
        fields: Fields = {"common_config": common}
        if found.envoy_http_als is not None:
            http = found.envoy_http_als
            fields |= {
                "additional_request_headers_to_log": list(http.additional_request_headers_to_log),
                "additional_response_headers_to_log": list(http.additional_response_headers_to_log),
                "additional_response_trailers_to_log": list(http.additional_response_trailers_to_log),
            }
        return extension(f"envoy.access_loggers.{kind}_grpc", message, fields)
    otel = found.envoy_otel_als
    cluster = telemetry.provider_cluster(db, otel.service, otel.port) if otel is not None else None
    if otel is None or cluster is None:
        return None
    text = otel.log_format.text if otel.log_format is not None and otel.log_format.text else TEXT
    labels: Any = otel.log_format.labels if otel.log_format is not None else None
    fields = {
        "log_name": otel.log_name or "otel_envoy_accesslog",
        "grpc_service": {"envoy_grpc": {"cluster_name": cluster}},
        "body": {"string_value": text},
    }
    if labels:
        fields["attributes"] = {
            "values": [{"key": k, "value": {"string_value": str(v)}} for k, v in sorted(labels.items())]
        }
    return extension(
        "envoy.access_loggers.open_telemetry",
        "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
        fields,
    )
