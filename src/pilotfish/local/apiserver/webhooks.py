"""Calls of webhooks: one JSON document there, one back, over TLS, to a URL or to a Service of the cluster."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec

from pilotfish.local.apiserver.core import encode
from pilotfish.local.apiserver.nodelink import DialConnector
from pilotfish.local.apiserver.resource import Object

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

MAX_ANSWER = 8 << 20
DEFAULT_SECONDS = 10
_CLIENTS = 64


class WebhookError(Exception):
    """The webhook could not be asked, or its answer cannot be read; the text says why."""


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """The body. Raises ValueError when it is too large."""
    parts: list[bytes] = []
    left = MAX_ANSWER
    async for part in response.content.iter_any():
        parts.append(part)
        left -= len(part)
        if left < 0:
            raise ValueError(f"the answer is larger than {MAX_ANSWER} bytes")
    return b"".join(parts)


class Caller:
    """Keeps connections to webhooks open between calls."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, ...], aiohttp.ClientSession] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def post(self, core: Core, client: Object, body: Any, seconds: float = DEFAULT_SECONDS) -> Any:
        """Post to the webhook of a clientConfig. Raises WebhookError."""
        bundle = client.get("caBundle", "")
        url = client.get("url", "")
        name = None
        where: dict[str, Any] = {}
        if not url:
            service = client.get("service") or {}
            name = f"{service.get('name', '')}.{service.get('namespace', '')}.svc"
            port = service.get("port") or 443
            url = f"https://{name}:{port}/{(service.get('path') or '').lstrip('/')}"
            where = {"host": self._address(core, service, port), "port": port}
        session = await self._session(core, (url.split("/")[2], bundle, str(where)), where)
        try:
            async with asyncio.timeout(seconds):
                response = await session.post(
                    url,
                    data=encode(body),
                    headers={"Content-Type": "application/json"},
                    ssl=self._context(bundle),
                    allow_redirects=False,
                )
                async with response:
                    raw = await _whole(response)
        except TimeoutError:
            raise WebhookError(f'Post "{url}?timeout={seconds:g}s": context deadline exceeded') from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = error.os_error.strerror or error if isinstance(error, aiohttp.ClientConnectorError) else error
            raise WebhookError(f'Post "{url}?timeout={seconds:g}s": {why}') from None
        if response.status != 200:
            text = raw[:200].decode(errors="replace")
            raise WebhookError(
                f"an error on the server ({text!r}) has prevented the request from succeeding "
                f"(status {response.status})"
            )
        try:
            return msgspec.json.decode(raw)
        except msgspec.DecodeError as error:
            raise WebhookError(f"couldn't get version/kind; json parse error: {error}") from None

    @staticmethod
    def _address(core: Core, service: Object, port: int) -> str:
        name, namespace = service.get("name", ""), service.get("namespace", "")
        found = core.get("v1", "Service", namespace, name)
        if found is None:
            raise WebhookError(f'service "{name}" not found')
        address = (found.get("spec") or {}).get("clusterIP", "")
        if not address or address == "None":
            raise WebhookError(f'service "{name}" has no address to call')
        if not any(p.get("port") == port for p in found["spec"].get("ports") or []):
            raise WebhookError(f'service "{name}" has no port {port}')
        return str(address)

    async def _session(self, core: Core, key: tuple[str, ...], where: dict[str, Any]) -> aiohttp.ClientSession:
        session = self._sessions.get(key)
        if session is None:
            if len(self._sessions) >= _CLIENTS:
                await self._sessions.pop(next(iter(self._sessions))).close()
            connector = DialConnector(core.node, **where) if where else aiohttp.TCPConnector()
            timeout = aiohttp.ClientTimeout(total=None)
            session = self._sessions[key] = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return session

    def _context(self, bundle: str) -> ssl.SSLContext:
        context = self._contexts.get(bundle)
        if context is None:
            try:
                pem = base64.b64decode(bundle).decode() if bundle else None
                context = ssl.create_default_context(cadata=pem)
            except (binascii.Error, UnicodeDecodeError, ssl.SSLError) as error:
                raise WebhookError(f"unable to load root certificates: {error}") from None
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if len(self._contexts) >= _CLIENTS:
                self._contexts.clear()
            self._contexts[bundle] = context
        return context

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
