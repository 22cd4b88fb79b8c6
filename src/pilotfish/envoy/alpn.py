"""ALPN towards mesh servers on ports whose protocol is not declared.

A server tells mesh HTTP from other bytes by the ALPN the client offers (see `tls.HTTP_ALPN`). Where a cluster's
protocol is known, its TLS context says it. A cluster whose protocol is sniffed carries TCP as well, so HTTP requests to
it override the offer, by the protocol they came in with: an HTTP/1 codec must not be offered h2. Stock Envoy's
`set_filter_state` does it: off by default, on for the routes to such clusters.
"""

from __future__ import annotations

from pilotfish.envoy.proto import Fields, extension, pack

NAME = "istio.alpn"
_CONFIG = "envoy.extensions.filters.http.set_filter_state.v3.Config"
_OFFER = "%CEL(request.protocol == 'HTTP/2' ? 'istio-h2,istio,h2' : 'istio-http/1.1,istio,http/1.1')%"
_OVERRIDE: Fields = {
    "on_request_headers": [
        {
            "object_key": "envoy.network.application_protocols",
            "format_string": {"text_format_source": {"inline_string": _OFFER}},
            "shared_with_upstream": "ONCE",
        }
    ]
}

FILTER: Fields = {**extension(NAME, _CONFIG, _OVERRIDE), "disabled": True}
"""The HTTP filter, disabled until a route says otherwise."""

BY_DOWNSTREAM_PROTOCOL: dict[str, Fields] = {NAME: pack(_CONFIG, _OVERRIDE)}
"""`typed_per_filter_config` of a route to a sniffed cluster."""
