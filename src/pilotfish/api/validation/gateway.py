"""Gateway, and server TLS settings, which Sidecar shares."""

from __future__ import annotations

import re

import msgspec

from pilotfish.api.config import Config
from pilotfish.api.networking.gateway import Gateway, Server, ServerTLSMode, ServerTLSSettings, TLSProtocol
from pilotfish.api.validation.report import (
    HTTP_PROTOCOLS,
    PROTOCOLS,
    TLS_PROTOCOLS,
    Report,
    duplicates,
    is_dns_label,
    is_ip,
    is_unix,
)

_CIPHERS = {
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
}
_VERSIONS = list(TLSProtocol)
_GATEWAY_PROTOCOLS = PROTOCOLS - {"UDP"} | {"HTTP3"}


def check(report: Report, config: Config[Gateway]) -> None:
    spec = config.spec
    if not spec.servers:
        report.error("spec.servers", "a gateway must have at least one server")
    report.labels("spec.selector", spec.selector)
    for index, server in enumerate(spec.servers):
        _check_server(report, f"spec.servers[{index}]", server)
    names = [server.port.name for server in spec.servers]
    for index, name in duplicates(names):
        if name:
            report.error(
                f"spec.servers[{index}].port.name", f"port names in servers must be unique: duplicate name {name!r}"
            )
    seen: set[tuple[int, str, str]] = set()
    for index, server in enumerate(spec.servers):
        if server.port.protocol.upper() in TLS_PROTOCOLS:
            for host in server.hosts:
                key = (server.port.number, server.bind, host.rpartition("/")[2].lower())
                if key in seen:
                    report.warn(f"spec.servers[{index}].hosts", f"{host} is served on the same port by another server")
                seen.add(key)


def _check_server(report: Report, path: str, server: Server) -> None:
    _check_port(report, path, server)
    if server.default_endpoint:
        report.warn(f"{path}.defaultEndpoint", "defaultEndpoint has no effect")
    if not server.hosts:
        report.error(f"{path}.hosts", "a server must have at least one host")
    for index, host in enumerate(server.hosts):
        check_namespaced_host(report, f"{path}.hosts[{index}]", host, namespace_required=False)
    _check_tls_use(report, f"{path}.tls", server.port.protocol.upper(), server.tls)


def _check_port(report: Report, path: str, server: Server) -> None:
    port = server.port
    if port.protocol.upper() not in _GATEWAY_PROTOCOLS:
        report.error(
            f"{path}.port.protocol",
            f"invalid protocol {port.protocol!r}; it is one of HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP, TLS",
        )
    if is_unix(server.bind):
        if port.number:
            report.error(f"{path}.port.number", "port number must be 0 for a unix domain socket")
        report.unix_socket(f"{path}.bind", server.bind)
    else:
        report.port(f"{path}.port.number", port.number)
        if server.bind and not is_ip(server.bind):
            report.error(f"{path}.bind", f"{server.bind!r} is neither an IP address nor a unix domain socket")
    if not port.name:
        report.error(f"{path}.port.name", "port name must be set")
    if port.target_port:
        report.error(f"{path}.port.targetPort", "targetPort has no effect on gateways; leave it out")


def _check_tls_use(report: Report, path: str, protocol: str, tls: ServerTLSSettings | None) -> None:
    if tls is None:
        if protocol in TLS_PROTOCOLS:
            report.error(path, f"a server must have tls settings for protocol {protocol}")
    elif protocol in TLS_PROTOCOLS:
        if tls.https_redirect:
            report.warn(f"{path}.httpsRedirect", "httpsRedirect has an effect on HTTP servers only")
        check_server_tls(report, path, tls)
    elif protocol not in HTTP_PROTOCOLS:
        report.error(path, "a server cannot have tls settings for protocols other than HTTPS and TLS")
    elif tls != ServerTLSSettings(https_redirect=tls.https_redirect):
        report.error(path, "plaintext HTTP can only have httpsRedirect; use protocol HTTPS to terminate TLS")


def check_namespaced_host(report: Report, path: str, host: str, namespace_required: bool) -> None:
    """`[namespace/]dnsName`, with `*`, `.` and (where it is required) `~` as namespaces."""
    namespace, slash, name = host.rpartition("/")
    if not slash:
        if namespace_required:
            report.error(path, f"{host!r} must be of the form namespace/dnsName")
        else:
            report.domain_or_ip(path, host)
        return
    plain = namespace
    if namespace_required and namespace.startswith("~") and len(namespace) > 1:
        plain = namespace[1:]  # an exclusion
    special = {"*", "."} | ({"~"} if namespace_required else set())
    if plain not in special and not is_dns_label(plain):
        report.error(path, f"namespace {namespace!r} must be a name, `*` or `.`")
    report.domain(path, name)


def check_server_tls(report: Report, path: str, tls: ServerTLSSettings) -> None:
    files = bool(tls.server_certificate or tls.private_key)
    credential = tls.credential_name or tls.credential_names
    if tls.mode is ServerTLSMode.ISTIO_MUTUAL:
        for name, given in (
            ("serverCertificate", tls.server_certificate),
            ("privateKey", tls.private_key),
            ("caCertificates", tls.ca_certificates),
            ("credentialName", tls.credential_name),
            ("credentialNames", tls.credential_names),
            ("tlsCertificates", tls.tls_certificates),
            ("caCertCredentialName", tls.ca_cert_credential_name),
        ):
            if given:
                report.error(f"{path}.{name}", "mode ISTIO_MUTUAL uses the mesh's own certificates; leave this out")
    elif tls.mode in {ServerTLSMode.PASSTHROUGH, ServerTLSMode.AUTO_PASSTHROUGH}:
        if files or credential or tls.ca_certificates or tls.tls_certificates:
            report.warn(path, f"mode {tls.mode} does not terminate TLS, so certificates are not used")
    else:
        _check_certificates(report, path, tls, files)
    _check_versions(report, path, tls)
    for index, cipher in enumerate(tls.cipher_suites):
        if cipher not in _CIPHERS:
            report.warn(f"{path}.cipherSuites[{index}]", f"ignoring cipher suite {cipher!r}, which is not known")
    for index, cipher in duplicates(tls.cipher_suites):
        report.warn(f"{path}.cipherSuites[{index}]", f"ignoring duplicate cipher suite {cipher!r}")
    for index, digest in enumerate(tls.verify_certificate_spki):
        if not re.fullmatch(r"[A-Za-z0-9+/]{43}=", digest):
            report.error(f"{path}.verifyCertificateSpki[{index}]", "must be the base64 of a SHA-256 hash")
    for index, digest in enumerate(tls.verify_certificate_hash):
        if not re.fullmatch(r"[0-9a-fA-F]{64}|([0-9a-fA-F]{2}:){31}[0-9a-fA-F]{2}", digest):
            report.error(f"{path}.verifyCertificateHash[{index}]", "must be a SHA-256 hash in hex, 64 digits")


def _check_certificates(report: Report, path: str, tls: ServerTLSSettings, files: bool) -> None:
    ways = {
        "credentialName": bool(tls.credential_name),
        "credentialNames": bool(tls.credential_names),
        "tlsCertificates": bool(tls.tls_certificates),
        "serverCertificate and privateKey": files,
    }
    given = [name for name, value in ways.items() if value]
    if len(given) > 1:
        report.error(path, f"only one of {' or '.join(given)} can be set")
    for name, values in (("credentialNames", tls.credential_names), ("tlsCertificates", tls.tls_certificates)):
        if len(values) > 2:
            report.error(f"{path}.{name}", "at most two certificates, one RSA and one ECDSA, are possible")
    for index, certificate in enumerate(tls.tls_certificates):
        if not certificate.server_certificate or not certificate.private_key:
            report.error(f"{path}.tlsCertificates[{index}]", "serverCertificate and privateKey are both required")
    by_secret = tls.credential_name or tls.credential_names
    if not by_secret and not tls.tls_certificates:
        if not tls.server_certificate:
            report.error(f"{path}.serverCertificate", f"mode {tls.mode} needs a credentialName or a server certificate")
        if not tls.private_key:
            report.error(f"{path}.privateKey", f"mode {tls.mode} needs a credentialName or a private key")
    mutual = tls.mode in {ServerTLSMode.MUTUAL, ServerTLSMode.OPTIONAL_MUTUAL}
    if mutual and not (by_secret or tls.ca_certificates or tls.ca_cert_credential_name or tls.insecure_skip_verify):
        report.error(f"{path}.caCertificates", f"mode {tls.mode} needs CA certificates for the clients")
    if tls.ca_crl:
        if by_secret:
            report.error(f"{path}.caCrl", "with credentialName the revocation list comes from the secret")
        elif not mutual:
            report.error(f"{path}.caCrl", f"mode {tls.mode} does not check client certificates")


def _check_versions(report: Report, path: str, tls: ServerTLSSettings) -> None:
    low, high = tls.min_protocol_version, tls.max_protocol_version
    if TLSProtocol.TLS_AUTO not in {low, high} and _VERSIONS.index(low) > _VERSIONS.index(high):
        report.error(f"{path}.minProtocolVersion", f"{low} is above maxProtocolVersion {high}")
    for name, version in (("minProtocolVersion", low), ("maxProtocolVersion", high)):
        if version in {TLSProtocol.TLSV1_0, TLSProtocol.TLSV1_1}:
            report.warn(f"{path}.{name}", f"{version} is insecure; TLS 1.2 is the default minimum")


def plain_tls(tls: ServerTLSSettings) -> ServerTLSSettings:
    """The settings without what a sidecar's listener may not have."""
    return msgspec.structs.replace(tls, https_redirect=False, credential_name="", subject_alt_names=())
