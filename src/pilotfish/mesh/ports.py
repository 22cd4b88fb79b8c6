"""The protocol of a port: what is declared, what the name says, or what has to be found out by looking (auto)."""

from __future__ import annotations

from enum import StrEnum


class Protocol(StrEnum):
    HTTP = "HTTP"
    HTTP2 = "HTTP2"
    GRPC = "GRPC"
    GRPC_WEB = "GRPC-Web"
    HTTP_PROXY = "HTTP_PROXY"
    TCP = "TCP"
    HTTPS = "HTTPS"
    TLS = "TLS"
    MONGO = "Mongo"
    REDIS = "Redis"
    MYSQL = "MySQL"
    UDP = "UDP"
    AUTO = ""
    """Unknown: sniffed from the first bytes."""

    @property
    def is_http(self) -> bool:
        return self in _HTTP

    @property
    def is_http2(self) -> bool:
        return self in _HTTP2

    @property
    def is_grpc(self) -> bool:
        return self in (Protocol.GRPC, Protocol.GRPC_WEB)

    @property
    def is_tls(self) -> bool:
        """Routed by the server name of the client's own TLS."""
        return self in (Protocol.HTTPS, Protocol.TLS)

    @property
    def is_tcp(self) -> bool:
        return self in _TCP


_HTTP = frozenset({Protocol.HTTP, Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB, Protocol.HTTP_PROXY})
_HTTP2 = frozenset({Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB})
_TCP = frozenset({Protocol.TCP, Protocol.HTTPS, Protocol.TLS, Protocol.MONGO, Protocol.REDIS, Protocol.MYSQL})

_WORDS = {p.value.lower(): p for p in Protocol if p.value}
_APP_PROTOCOLS = {
    "kubernetes.io/h2c": Protocol.HTTP2,
    "kubernetes.io/ws": Protocol.HTTP,
    "kubernetes.io/wss": Protocol.HTTPS,
}
_NEVER_SNIFFED = frozenset({25, 53, 3306, 27017})
"""Server-first protocols live on these (SMTP, DNS, MySQL, MongoDB): waiting for the client's bytes would hang."""


def named(word: str) -> Protocol:
    """The protocol a `protocol` field names, or whose word a port name starts with; AUTO when it is none."""
    word = word.lower()
    if word.startswith("grpc-web"):
        return Protocol.GRPC_WEB
    return _WORDS.get(word.partition("-")[0], Protocol.AUTO)


def kubernetes(port: int, name: str, transport: str, app_protocol: str | None) -> Protocol:
    """The protocol of a Kubernetes Service port: UDP, then appProtocol, then the name up to the first dash."""
    if transport == "UDP":
        return Protocol.UDP
    if app_protocol in _APP_PROTOCOLS:
        return _APP_PROTOCOLS[app_protocol]
    protocol = named(app_protocol or name)
    if protocol is Protocol.AUTO and port in _NEVER_SNIFFED:
        return Protocol.TCP
    return protocol
