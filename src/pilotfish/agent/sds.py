"""Secrets for Envoy over a Unix socket: `default` (key and certificate), `ROOTCA`, and certificate files by name.

Names of files are Istio's: `file-cert:<certificate>~<key>` and `file-root:<path>`; `file-root:system` is the system's
bundle. Files are read again every few seconds and pushed when they change.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Mapping
from pathlib import Path

from grpclib import GRPCError, Status
from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream

from pilotfish.agent.certificates import Certificates
from pilotfish.agent.protowire import (
    SECRET_TYPE,
    DiscoveryRequest,
    discovery_response,
    key_pair_secret,
    roots_secret,
)
from pilotfish.grpc import BytesCodec

log = logging.getLogger(__name__)

PATH = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
WORKLOAD, ROOTS = "default", "ROOTCA"
FILE_CERT, FILE_ROOT = "file-cert:", "file-root:"
FILES_SECONDS = 5.0


class SecretServer:
    """Serves one Envoy. The socket is ours alone: the directory is, and the socket's mode says so too."""

    def __init__(self, certificates: Certificates, path: Path) -> None:
        self._certificates = certificates
        self._path = path
        self._streams: set[asyncio.Event] = set()
        self._server: Server | None = None
        certificates.on_change(self._wake)

    def __mapping__(self) -> Mapping[str, Handler]:
        return {PATH: Handler(self._stream, Cardinality.STREAM_STREAM, bytes, bytes)}

    async def start(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self._server = Server([self], codec=BytesCodec())
        await self._server.start(path=str(self._path))
        self._path.chmod(0o600)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        self._path.unlink(missing_ok=True)

    def _wake(self) -> None:
        for event in self._streams:
            event.set()

    async def _stream(self, stream: Stream[bytes, bytes]) -> None:
        first = await stream.recv_message()
        if first is None:
            return
        request = _parse(first)
        wake = asyncio.Event()
        wake.set()
        self._streams.add(wake)
        sender = asyncio.create_task(self._send(stream, request.names, wake))
        try:
            while (body := await stream.recv_message()) is not None:
                answer = _parse(body)
                if answer.refused:
                    log.warning("Envoy refused the secrets %s", ", ".join(answer.names))
        finally:
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sender
            self._streams.discard(wake)

    async def _send(self, stream: Stream[bytes, bytes], names: tuple[str, ...], wake: asyncio.Event) -> None:
        """Whenever a secret is there and differs from what was sent. Envoy opens a stream for each name."""
        sent: list[bytes] = []
        version = 0
        files = any(name.startswith((FILE_CERT, FILE_ROOT)) for name in names)
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), FILES_SECONDS if files else None)
            wake.clear()
            secrets = [one for one in map(self._secret, names) if one]
            if secrets and secrets != sent:
                version += 1
                await stream.send_message(discovery_response(SECRET_TYPE, str(version), secrets))
                sent = secrets

    def _secret(self, name: str) -> bytes:
        """A serialised Secret; empty while it is not there."""
        current = self._certificates.current
        if name == WORKLOAD:
            return key_pair_secret(name, current.chain, current.key) if current else b""
        if name == ROOTS:
            return roots_secret(name, current.roots) if current else b""
        try:
            if name.startswith(FILE_CERT):
                chain, _, key = name.removeprefix(FILE_CERT).partition("~")
                return key_pair_secret(name, Path(chain).read_bytes(), Path(key).read_bytes())
            if name.startswith(FILE_ROOT):
                path = name.removeprefix(FILE_ROOT)
                bundle = ssl.get_default_verify_paths().cafile if path == "system" else path
                return roots_secret(name, Path(bundle or "/etc/ssl/certs/ca-certificates.crt").read_bytes())
        except OSError as error:
            log.warning("secret %s: cannot read %s: %s", name, error.filename, error.strerror)
            return b""
        log.warning("Envoy asks for the unknown secret %s", name)
        return b""


def _parse(body: bytes) -> DiscoveryRequest:
    try:
        return DiscoveryRequest.parse(body)
    except (ValueError, UnicodeDecodeError) as error:
        raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from error
