"""Gateway: what a gateway's proxy listens on."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pilotfish.api.meta import DEPRECATED, REQUIRED, Api, Rule, StringMap, UInt32, schema


class ServerTLSMode(StrEnum):
    PASSTHROUGH = "PASSTHROUGH"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    AUTO_PASSTHROUGH = "AUTO_PASSTHROUGH"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"
    OPTIONAL_MUTUAL = "OPTIONAL_MUTUAL"


class TLSProtocol(StrEnum):
    TLS_AUTO = "TLS_AUTO"
    TLSV1_0 = "TLSV1_0"
    TLSV1_1 = "TLSV1_1"
    TLSV1_2 = "TLSV1_2"
    TLSV1_3 = "TLSV1_3"


class TLSCertificate(Api, frozen=True):
    server_certificate: str = ""
    """File with the certificate chain."""
    private_key: str = ""
    """File with the private key."""
    ca_certificates: str = ""
    """File with CA certificates for client certificates."""


class ServerTLSSettings(Api, frozen=True):
    CEL = (
        Rule(
            "(has(self.tlsCertificates) ? 1 : 0) + (has(self.credentialNames) ? 1 : 0) <= 1",
            "only one of credentialNames or tlsCertificates can be set",
        ),
        Rule(
            "(has(self.credentialName) ? 1 : 0) + (has(self.credentialNames) ? 1 : 0) <= 1",
            "only one of credentialName or credentialNames can be set",
        ),
    )

    https_redirect: bool = False
    """Answer plaintext requests with a 301 to https. Only on HTTP ports."""
    mode: ServerTLSMode = ServerTLSMode.PASSTHROUGH
    """How TLS is handled on the port."""
    server_certificate: str = ""
    """File with the server's certificate chain."""
    private_key: str = ""
    """File with the server's private key."""
    ca_certificates: str = ""
    """File with the CA certificates that client certificates are checked against."""
    ca_crl: str = ""
    """File with the revocation list for client certificates."""
    credential_name: str = ""
    """Secret, in the gateway's namespace, with key and certificate (and CA)."""
    credential_names: Annotated[tuple[str, ...], schema(minItems=1, maxItems=2)] = ()
    """As credentialName, for an RSA and an ECDSA certificate at once."""
    ca_cert_credential_name: str = ""
    """Secret or ConfigMap that holds the CA certificates, when not the one with the key."""
    tls_certificates: Annotated[tuple[TLSCertificate, ...], schema(minItems=1, maxItems=2)] = ()
    """Files of an RSA and an ECDSA certificate."""
    subject_alt_names: tuple[str, ...] = ()
    """Names of which a client certificate must carry one."""
    verify_certificate_spki: tuple[str, ...] = ()
    """Base64 SHA-256 hashes of public keys of accepted client certificates."""
    verify_certificate_hash: tuple[str, ...] = ()
    """Hex SHA-256 hashes of accepted client certificates."""
    min_protocol_version: TLSProtocol = TLSProtocol.TLS_AUTO
    """Lowest TLS version; default TLSV1_2."""
    max_protocol_version: TLSProtocol = TLSProtocol.TLS_AUTO
    """Highest TLS version."""
    cipher_suites: tuple[str, ...] = ()
    """Cipher suites for TLS up to 1.2; empty: the default list."""
    insecure_skip_verify: bool | None = None
    """Accept client certificates without checking them against a CA."""


class Port(Api, frozen=True):
    number: Annotated[UInt32, REQUIRED] = 0
    """Port of the gateway's Service."""
    protocol: Annotated[str, REQUIRED] = ""
    """HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP or TLS."""
    name: Annotated[str, REQUIRED] = ""
    """Name of the port, unique within the object."""
    target_port: Annotated[UInt32, DEPRECATED] = 0
    """Has no effect."""


class Server(Api, frozen=True):
    """One port of the gateway and the hosts served on it."""

    port: Annotated[Port, REQUIRED] = Port()
    """Port to listen on."""
    bind: str = ""
    """Address or unix:///path to listen on; default all addresses."""
    hosts: Annotated[tuple[str, ...], REQUIRED] = ()
    """Hosts served, as [namespace/]dnsName; the namespace limits whose VirtualServices may attach."""
    tls: ServerTLSSettings | None = None
    """TLS of the port; needed for HTTPS and TLS."""
    default_endpoint: str = ""
    """Has no effect."""
    name: str = ""
    """Name of the server, used in statistics."""


class Gateway(Api, frozen=True):
    """Ports and hosts of the gateway workloads it selects. Routes come from VirtualServices bound to it."""

    servers: tuple[Server, ...] = ()
    """What is listened on."""
    selector: StringMap = {}
    """Labels of the gateway pods, in any namespace."""
