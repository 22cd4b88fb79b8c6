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


def check(report: Report, config: Config[Gateway]) -> None:
    spec = config.spec
    if not spec.servers:
        report.error("spec.servers", "a gateway must have at least one server")
    for index, server in enumerate(spec.servers):
        _check_server(report, f"spec.servers[{index}]", server)
    if config.name and not is_dns_label(config.name):
        report.error("metadata.name", f"name {config.name!r} must be a DNS label: letters, digits and `-`, no dots")
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
    if port.protocol.upper() == "UDP":
        report.warn(f"{path}.port.protocol", "gateways do not serve UDP")
    elif port.protocol.upper() not in PROTOCOLS:
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
    elif not _passes(tls) or tls.ca_certificates or tls.private_key or tls.server_certificate:
        report.error(path, "plaintext HTTP can only have httpsRedirect; use protocol HTTPS to terminate TLS")
    else:
        check_server_tls(report, path, tls)


def _passes(tls: ServerTLSSettings) -> bool:
    return tls.mode in {ServerTLSMode.PASSTHROUGH, ServerTLSMode.AUTO_PASSTHROUGH}


def check_namespaced_host(report: Report, path: str, host: str, namespace_required: bool) -> None:
    """`[namespace/]dnsName`, with `*`, `.` and (where it is required) `~` as namespaces."""
    namespace, slash, name = host.partition("/")
    if not slash:
        if namespace_required:
            report.error(path, f"{host!r} must be of the form namespace/dnsName")
        else:
            _check_name(report, path, host, address=True)
        return
    plain = namespace
    if namespace_required and namespace.startswith("~") and len(namespace) > 1:
        plain = namespace[1:]  # an exclusion
    special = {"*", "."} | ({"~"} if namespace_required else set())
    if plain not in special and not is_dns_label(plain):
        report.error(path, f"namespace {namespace!r} must be a name, `*` or `.`")
    _check_name(report, path, name, address=not namespace_required)


def _check_name(report: Report, path: str, name: str, *, address: bool) -> None:
    """A full name, one that begins with `*.`, `*`, or (with `address`) an IP address."""
    if not (address and is_ip(name)):
        report.domain(path, name)
    if name != "*" and "." not in name:
        report.error(path, f"{name!r} is a short name; write it in full")
    if "*" in name and name != "*" and not name.startswith("*."):
        report.error(path, f"{name!r}: a wildcard must be the whole first label, as in *.example.com")


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
        ):
            if given:
                report.error(f"{path}.{name}", "mode ISTIO_MUTUAL uses the mesh's own certificates; leave this out")
    if _passes(tls) and any((files, credential, tls.ca_certificates, tls.tls_certificates, tls.ca_crl)):
        report.warn(path, f"mode {tls.mode} does not terminate TLS, so certificates are not used")
    _check_certificates(report, path, tls)
    _check_versions(report, path, tls)
    for index, cipher in enumerate(tls.cipher_suites):
        if cipher not in _CIPHERS:
            report.warn(f"{path}.cipherSuites[{index}]", f"ignoring cipher suite {cipher!r}, which is not known")
    for index, cipher in duplicates(tls.cipher_suites):
        report.warn(f"{path}.cipherSuites[{index}]", f"ignoring duplicate cipher suite {cipher!r}")
    for index, digest in enumerate(tls.verify_certificate_spki):
        if not re.fullmatch(r"[A-Za-z0-9+/]{43}=", digest):
            report.warn(f"{path}.verifyCertificateSpki[{index}]", "no base64 of a SHA-256 hash, so it fits nothing")
    for index, digest in enumerate(tls.verify_certificate_hash):
        if not re.fullmatch(r"[0-9a-fA-F]{64}|([0-9a-fA-F]{2}:){31}[0-9a-fA-F]{2}", digest):
            report.warn(f"{path}.verifyCertificateHash[{index}]", "no SHA-256 hash in hex, so it fits nothing")


_SERVES = {ServerTLSMode.SIMPLE, ServerTLSMode.MUTUAL, ServerTLSMode.OPTIONAL_MUTUAL}


def _check_certificates(report: Report, path: str, tls: ServerTLSSettings) -> None:
    if tls.mode is ServerTLSMode.ISTIO_MUTUAL:
        return
    ways = {
        "credentialName": bool(tls.credential_name),
        "credentialNames": bool(tls.credential_names),
        "tlsCertificates": bool(tls.tls_certificates),
        "serverCertificate and privateKey": bool(tls.server_certificate and tls.private_key),
    }
    given = [name for name, value in ways.items() if value]
    if len(given) > 1:
        report.error(path, f"only one of {' or '.join(given)} can be set")
    for name, values in (("credentialNames", tls.credential_names), ("tlsCertificates", tls.tls_certificates)):
        if len(values) > 2:
            report.warn(f"{path}.{name}", "at most two certificates, one RSA and one ECDSA, are used")
    if tls.mode not in _SERVES:
        if tls.ca_crl and tls.credential_name:
            report.error(f"{path}.caCrl", "with credentialName the revocation list comes from the secret")
        return
    if tls.credential_name or tls.credential_names:
        if tls.ca_crl:
            report.warn(f"{path}.caCrl", "with credentialName the revocation list comes from the secret")
        return
    _check_files(report, path, tls)
    if tls.mode is ServerTLSMode.SIMPLE:
        if tls.ca_crl:
            report.error(f"{path}.caCrl", f"mode {tls.mode} does not check client certificates")
    elif not tls.ca_certificates:
        report.error(f"{path}.caCertificates", f"mode {tls.mode} needs CA certificates for the clients")


def _check_files(report: Report, path: str, tls: ServerTLSSettings) -> None:
    for index, certificate in enumerate(tls.tls_certificates):
        if not certificate.server_certificate or not certificate.private_key:
            report.error(f"{path}.tlsCertificates[{index}]", "serverCertificate and privateKey are both required")
    if not tls.tls_certificates:
        for name, value in (("serverCertificate", tls.server_certificate), ("privateKey", tls.private_key)):
            if not value:
                report.error(f"{path}.{name}", f"mode {tls.mode} needs a credentialName, or {name}")


def _check_versions(report: Report, path: str, tls: ServerTLSSettings) -> None:
    low, high = tls.min_protocol_version, tls.max_protocol_version
    if TLSProtocol.TLS_AUTO not in {low, high} and _VERSIONS.index(low) > _VERSIONS.index(high):
        report.warn(f"{path}.minProtocolVersion", f"{low} is above maxProtocolVersion {high}: no client can connect")
    for name, version in (("minProtocolVersion", low), ("maxProtocolVersion", high)):
        if version in {TLSProtocol.TLSV1_0, TLSProtocol.TLSV1_1}:
            report.warn(f"{path}.{name}", f"{version} is insecure; TLS 1.2 is the default minimum")


def plain_tls(tls: ServerTLSSettings) -> ServerTLSSettings:
    """The settings without what a sidecar's listener may not have."""
    return msgspec.structs.replace(tls, https_redirect=False, credential_name="", subject_alt_names=())
