"""The workload's certificate: fetched, renewed in time, handed to whoever listens.

States: **none** (nothing signed yet: retry with growing pauses, Envoy waits), **fresh** (sleep until half of the life
has passed), **due** (renew; on failure keep the present one and retry ever more eagerly as the end nears). A new root
in the mounted ConfigMap makes it due at once, so that a rotated authority reaches every workload without a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grpclib import GRPCError
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.exceptions import StreamTerminatedError

from pilotfish.agent import protowire
from pilotfish.agent.keys import expiry_of, new_key_pair
from pilotfish.agent.options import AgentError, Options
from pilotfish.grpc import BytesCodec

log = logging.getLogger(__name__)

CREATE = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
RENEW_AT = 0.5
"""Part of the life after which a certificate is renewed (SECRET_GRACE_PERIOD_RATIO), give or take 1 %."""
RETRY = (0.05, 10.0)
"""First and longest pause between tries, seconds."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with its key and the roots to trust, PEM; and when it ends."""

    chain: bytes
    key: bytes
    roots: bytes
    issued: float
    until: float

    def __repr__(self) -> str:
        return f"Identity(until={self.until})"

    @property
    def renew_at(self) -> float:
        spread = random.uniform(-0.01, 0.01)  # noqa: S311 (spreads renewals, no secret)
        return self.issued + (self.until - self.issued) * (RENEW_AT + spread)


def split_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise AgentError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


class Certificates:
    """Keeps `current`; `changed` is called after every change."""

    def __init__(self, options: Options, connect: Callable[..., Channel] = Channel) -> None:
        self.options = options
        self.current: Identity | None = None
        self.ready = asyncio.Event()
        self.failures = 0
        self._listeners: list[Callable[[], None]] = []
        self._connect = connect
        self._root_seen = b""

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    async def run(self) -> None:
        """Runs until cancelled."""
        pause = RETRY[0]
        while True:
            try:
                await self._renew()
                pause = RETRY[0]
            except (AgentError, GRPCError, StreamTerminatedError, OSError, TimeoutError) as error:
                self.failures += 1
                log.warning("no certificate from %s: %s", self.options.ca_address, _why(error))
                await asyncio.sleep(pause * random.uniform(0.7, 1.0))  # noqa: S311 (jitter)
                pause = min(pause * 2, self._longest_pause())
                continue
            await self._until_due()

    def _longest_pause(self) -> float:
        """While the present certificate holds there is time; near its end there is not."""
        left = self.current.until - time.time() if self.current else 0.0
        return max(1.0, min(RETRY[1] * 6, left / 20)) if self.current else RETRY[1]

    async def _until_due(self) -> None:
        if self.current is None:
            return
        due = self.current.renew_at
        while (left := due - time.time()) > 0:
            await asyncio.sleep(min(left, 10.0))
            if self._read_root() != self._root_seen:
                log.info("the trusted roots changed; renewing")
                return

    def _read_root(self) -> bytes:
        try:
            return self.options.root_cert.read_bytes()
        except OSError as error:
            raise AgentError(
                f"cannot read the mesh's root certificate {self.options.root_cert}: {error.strerror}; "
                "is ConfigMap istio-ca-root-cert mounted?"
            ) from error

    async def _renew(self) -> None:
        options = self.options
        identity = f"spiffe://{options.trust_domain}/ns/{options.namespace}/sa/{options.service_account}"
        roots = self._read_root()
        pair = await new_key_pair(identity)
        chain = await self._sign(pair.request, roots)
        if len(chain) < 2:
            raise AgentError("the authority answered without a root certificate")
        # The last one holds the issuer's roots; the mounted ConfigMap may know more while roots are being changed.
        trusted = b"".join(dict.fromkeys((*_split(chain[-1].encode()), *_split(roots))))
        leaf = "".join(one.strip() + "\n" for one in chain[:-1]).encode()
        now = time.time()
        self.current = Identity(leaf, pair.key, trusted, now, now + options.cert_ttl_seconds)
        self._root_seen = roots
        self.ready.set()
        for listener in self._listeners:
            listener()
        until = await expiry_of(leaf)
        self.current = Identity(leaf, pair.key, trusted, now, until)
        log.info("certificate for %s, valid for %d s", identity, until - now)

    async def _sign(self, request: str, roots: bytes) -> list[str]:
        host, port = split_address(self.options.ca_address or self.options.discovery_address)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.load_verify_locations(cadata=roots.decode())
        tls.set_alpn_protocols(["h2"])
        metadata: dict[str, str] = {}
        if cluster := str(self.options.metadata.get("CLUSTER_ID", "")):
            metadata["clusterid"] = cluster
        try:
            metadata["authorization"] = "Bearer " + self.options.token.read_text().strip()
        except OSError as error:
            raise AgentError(f"cannot read the token {self.options.token}: {error.strerror}") from error
        channel = self._connect(host, port, ssl=tls, codec=BytesCodec())
        try:
            method: Any = UnaryUnaryMethod(channel, CREATE, bytes, bytes)
            body = protowire.certificate_request(request, self.options.cert_ttl_seconds)
            return protowire.certificate_chain(await method(body, timeout=10, metadata=metadata))
        finally:
            with contextlib.suppress(OSError):
                channel.close()


def _split(pem: bytes) -> list[bytes]:
    end = b"-----END CERTIFICATE-----"
    return [part.strip() + b"\n" + end + b"\n" for part in pem.split(end) if part.strip()]


def _why(error: BaseException) -> str:
    if isinstance(error, GRPCError):
        return f"{error.status.name}: {error.message}"
    return str(error) or type(error).__name__
