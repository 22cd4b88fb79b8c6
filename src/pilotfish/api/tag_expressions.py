"""Expressions of tag overrides: the CEL that a proxy can evaluate for a metric's tag, and how it writes it.

A tag is evaluated on every request, so there is no CEL at run time: an expression becomes an Envoy format, or nothing.
"""

from __future__ import annotations

import re

RESERVED = frozenset({"peer", "principal", "service", "messages", "connection"})
"""Tags by which proxy and agent tell each other the standard labels; users cannot have tags of these names."""

_ATTRIBUTES = {
    "request.host": "%REQ(:AUTHORITY)%",
    "request.method": "%REQ(:METHOD)%",
    "request.path": "%REQ(:PATH)%",
    "request.scheme": "%REQ(:SCHEME)%",
    "request.url_path": "%PATH(NQ)%",
    "request.protocol": "%PROTOCOL%",
    "request.useragent": "%REQ(USER-AGENT)%",
    "request.referer": "%REQ(REFERER)%",
    "request.id": "%REQ(X-REQUEST-ID)%",
    "response.code": "%RESPONSE_CODE%",
    "response.code_details": "%RESPONSE_CODE_DETAILS%",
    "response.grpc_status": "%GRPC_STATUS_NUMBER%",
    "source.address": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "destination.address": "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
    "destination.port": "%DOWNSTREAM_LOCAL_PORT%",
    "upstream.address": "%UPSTREAM_HOST%",
    "connection.requested_server_name": "%REQUESTED_SERVER_NAME%",
    "connection.tls_version": "%DOWNSTREAM_TLS_VERSION%",
    "connection.uri_san_peer_certificate": "%DOWNSTREAM_PEER_URI_SAN%",
    "xds.cluster_name": "%UPSTREAM_CLUSTER_RAW%",
    "xds.route_name": "%ROUTE_NAME%",
}
_HEADER = re.compile(r"""(request|response)\.headers\[\s*['"]([A-Za-z0-9_.:-]+)['"]\s*\]""")
_LITERAL = re.compile(r"""'([^'\\%]*)'|"([^"\\%]*)\"""")
_OPTIONAL = re.compile(r"""has\((?P<a>[\w.]+)\)\s*\?\s*(?P<b>[\w.]+)\s*:\s*(?:'[^']*'|"[^"]*")""")


def value_format(expression: str) -> str | None:
    """An attribute expression as an Envoy format; None for what is not in the supported set.

    Supported: quoted literals, the attributes of `_ATTRIBUTES`, headers of requests and responses, and
    `has(attribute) ? attribute : '…'`.
    """
    text = expression.strip()
    if literal := _LITERAL.fullmatch(text):
        return literal[1] if literal[1] is not None else literal[2]
    if header := _HEADER.fullmatch(text):
        return f"%{'REQ' if header[1] == 'request' else 'RESP'}({header[2]})%"
    if (optional := _OPTIONAL.fullmatch(text)) and optional["a"] == optional["b"]:
        text = optional["a"]
    return _ATTRIBUTES.get(text)
