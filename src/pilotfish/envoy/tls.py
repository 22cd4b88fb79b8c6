"""TLS contexts: mesh mTLS in both directions, TLS a DestinationRule asks for, TLS a Gateway ends."""

from __future__ import annotations

from collections.abc import Iterable

from pilotfish.api.mesh import TLSConfig
from pilotfish.api.networking.destination_rule import ClientTLSMode, ClientTLSSettings
from pilotfish.api.networking.gateway import ServerTLSMode, ServerTLSSettings
from pilotfish.envoy.proto import Fields, extension
from pilotfish.envoy.values import ADS_AT_ONCE, TRUE, duration, exact, prefix

UPSTREAM = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
DOWNSTREAM = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"

HTTP_ALPN = ("istio-http/1.1", "istio", "http/1.1")
HTTP2_ALPN = ("istio-h2", "istio", "h2")
TCP_ALPN = ("istio",)
"""What a mesh client offers, so that the server's filter chains tell mesh HTTP from other bytes. What is negotiated in
the end (http/1.1, h2 or nothing) agrees with the codec."""

MESH_HTTP = ("istio-http/1.0", "istio-http/1.1", "istio-h2")
MESH_TCP = ("istio-peer-exchange", "istio")
MESH_ANY = ("istio", "istio-peer-exchange", *MESH_HTTP)
"""What a server matches."""

MESH_CIPHERS = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
)

_AGENT = {
    "api_config_source": {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
    },
    "resource_api_version": "V3",
    "initial_fetch_timeout": duration(0),
}
"""The agent's socket: keys never come from the control plane."""


def _secret(name: str) -> Fields:
    return {"name": name, "sds_config": _AGENT}


def _ads_secret(name: str) -> Fields:
    return {"name": name, "sds_config": ADS_AT_ONCE}


def sds_secret(name: str) -> Fields:
    """A reference to a secret: credentials come from the control plane, files and the workload's own from the agent."""
    return _ads_secret(name) if "://" in name else _secret(name)


def _parameters(
    low: str = "TLSv1_2", high: str = "", ciphers: Iterable[str] = (), curves: Iterable[str] = ()
) -> Fields:
    fields: Fields = {"tls_minimum_protocol_version": low}
    if high:
        fields["tls_maximum_protocol_version"] = high
    if ciphers := list(ciphers):
        fields["cipher_suites"] = ciphers
    if curves := list(curves):
        fields["ecdh_curves"] = curves
    return fields


def mesh_server(trust_domains: Iterable[str], config: TLSConfig, alpn: Iterable[str] = ("h2", "http/1.1")) -> Fields:
    """The transport socket of an inbound mTLS chain: a client certificate of the mesh's root is required."""
    low = "TLSv1_3" if config.min_protocol_version.value == "TLSV1_3" else "TLSv1_2"
    return extension(
        "envoy.transport_sockets.tls",
        DOWNSTREAM,
        {
            "common_tls_context": {
                "tls_params": _parameters(low, "TLSv1_3", config.cipher_suites or MESH_CIPHERS, config.ecdh_curves),
                "alpn_protocols": list(alpn),
                "tls_certificate_sds_secret_configs": [_secret("default")],
                "combined_validation_context": {
                    "default_validation_context": {
                        "match_typed_subject_alt_names": [
                            {"san_type": "URI", "matcher": prefix(f"spiffe://{domain}/")} for domain in trust_domains
                        ]
                    },
                    "validation_context_sds_secret_config": _secret("ROOTCA"),
                },
            },
            "require_client_certificate": TRUE,
        },
    )


def mesh_client(sni: str, sans: Iterable[str], alpn: Iterable[str], config: TLSConfig) -> Fields:
    """The transport socket of a mesh client (ISTIO_MUTUAL): own certificate, the mesh's root, the server's identity."""
    validation: Fields = {}
    if names := list(sans):
        validation["match_typed_subject_alt_names"] = [{"san_type": "URI", "matcher": exact(name)} for name in names]
    low = "TLSv1_3" if config.min_protocol_version.value == "TLSV1_3" else "TLSv1_2"
    return extension(
        "envoy.transport_sockets.tls",
        UPSTREAM,
        {
            "common_tls_context": {
                "tls_params": _parameters(low, "TLSv1_3"),
                "alpn_protocols": list(alpn),
                "tls_certificate_sds_secret_configs": [_secret("default")],
                "combined_validation_context": {
                    "default_validation_context": validation,
                    "validation_context_sds_secret_config": _secret("ROOTCA"),
                },
            },
            "sni": sni,
        },
    )


def client(
    settings: ClientTLSSettings,
    defaults: TLSConfig,
    *,
    http2: bool,
    gateway: bool,
    credentials: bool,
    sans: tuple[str, ...],
) -> Fields | None:
    """The transport socket for SIMPLE or MUTUAL. None where a credential may not be used (a sidecar without selector).

    `credentials`: whether `credentialName` is allowed for this client; `sans`: names to accept where the rule has none.
    """
    common: Fields = {
        "tls_params": _parameters("TLSv1_2", "TLSv1_3", defaults.cipher_suites, defaults.ecdh_curves),
    }
    if http2:
        common["alpn_protocols"] = ["h2"]
    names = settings.subject_alt_names or sans
    validation: Fields = {}
    if names:
        validation["match_typed_subject_alt_names"] = [
            {"san_type": kind, "matcher": exact(name)} for name in names for kind in _san_types(name)
        ]
    if settings.ca_crl:
        validation["crl"] = {"filename": settings.ca_crl}
    mutual = settings.mode is ClientTLSMode.MUTUAL
    root: Fields | None = None
    if settings.credential_name:
        own = settings.credential_name.startswith("configmap://")
        if not (gateway or credentials or own):
            return None
        name = (
            settings.credential_name
            if "://" in settings.credential_name
            else f"kubernetes://{settings.credential_name}"
        )
        if mutual:
            common["tls_certificate_sds_secret_configs"] = [_ads_secret(name)]
        root = _ads_secret(name if own else f"{name}-cacert")
    else:
        if mutual:
            common["tls_certificate_sds_secret_configs"] = [
                sds_secret(f"file-cert:{settings.client_certificate}~{settings.private_key}")
            ]
        path = settings.ca_certificates or "system"
        root = sds_secret(path if "://" in path else f"file-root:{path}")
    if not settings.insecure_skip_verify:
        common["combined_validation_context"] = {
            "default_validation_context": validation,
            "validation_context_sds_secret_config": root,
        }
    fields: Fields = {"common_tls_context": common}
    if settings.sni:
        fields["sni"] = settings.sni
    return extension("envoy.transport_sockets.tls", UPSTREAM, fields)


def _san_types(name: str) -> tuple[str, ...]:
    return ("URI",) if "://" in name else ("DNS", "IP_ADDRESS") if name.replace(".", "").isdigit() else ("DNS",)


_VERSIONS = {"TLSV1_0": "TLSv1_0", "TLSV1_1": "TLSv1_1", "TLSV1_2": "TLSv1_2", "TLSV1_3": "TLSv1_3"}
_BORINGSSL_CIPHERS = frozenset(MESH_CIPHERS) | {
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES256-SHA",
}


def gateway_server(
    settings: ServerTLSSettings, trust_domains: Iterable[str], mesh: TLSConfig, *, alpn: Iterable[str]
) -> Fields:
    """The transport socket of a Gateway server that ends TLS."""
    if settings.mode is ServerTLSMode.ISTIO_MUTUAL:
        return mesh_server(trust_domains, mesh, alpn)
    ciphers = [c for c in dict.fromkeys(settings.cipher_suites) if c in _BORINGSSL_CIPHERS]
    common: Fields = {
        "tls_params": _parameters(
            _VERSIONS.get(settings.min_protocol_version.value, "TLSv1_2"),
            _VERSIONS.get(settings.max_protocol_version.value, ""),
            ciphers,
        ),
        "alpn_protocols": list(alpn),
    }
    names = settings.credential_names or ((settings.credential_name,) if settings.credential_name else ())
    if names:
        common["tls_certificate_sds_secret_configs"] = [_ads_secret(_credential(name)) for name in names]
        root = _credential(settings.ca_cert_credential_name) if settings.ca_cert_credential_name else ""
        root = root or f"{_credential(names[0])}-cacert"
    else:
        pairs = [(c.server_certificate, c.private_key) for c in settings.tls_certificates]
        pairs = pairs or [(settings.server_certificate, settings.private_key)]
        common["tls_certificate_sds_secret_configs"] = [sds_secret(f"file-cert:{c}~{k}") for c, k in pairs]
        files = [c.ca_certificates for c in settings.tls_certificates if c.ca_certificates]
        root = f"file-root:{settings.ca_certificates or (files[0] if files else '')}"
    asked = settings.mode in (ServerTLSMode.MUTUAL, ServerTLSMode.OPTIONAL_MUTUAL)
    validation: Fields = {}
    if settings.subject_alt_names:
        validation["match_typed_subject_alt_names"] = [
            {"san_type": kind, "matcher": exact(name)}
            for name in settings.subject_alt_names
            for kind in _san_types(name)
        ]
    if settings.verify_certificate_spki:
        validation["verify_certificate_spki"] = list(settings.verify_certificate_spki)
    if settings.verify_certificate_hash:
        validation["verify_certificate_hash"] = list(settings.verify_certificate_hash)
    if settings.ca_crl:
        validation["crl"] = {"filename": settings.ca_crl}
    if asked:
        common["combined_validation_context"] = {
            "default_validation_context": validation,
            "validation_context_sds_secret_config": sds_secret(root),
        }
    fields: Fields = {"common_tls_context": common}
    if settings.mode is ServerTLSMode.MUTUAL:
        fields["require_client_certificate"] = TRUE
    return extension("envoy.transport_sockets.tls", DOWNSTREAM, fields)


def _credential(name: str) -> str:
    return name if "://" in name else f"kubernetes://{name}"
