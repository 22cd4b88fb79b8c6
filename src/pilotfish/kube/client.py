"""Requests to one API server: read, write, watch."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohttp
import msgspec

from pilotfish.kube import config as kubeconfig
from pilotfish.kube.discovery import RESTMapper
from pilotfish.kube.errors import ApiStatusError, UnreachableError
from pilotfish.kube.resources import Object, ResourceType

_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
_BACKOFF = (0.05, 2.0)  # first and longest pause between tries, seconds
_decode = msgspec.json.Decoder().decode


class PatchType(StrEnum):
    """How a patch body is meant; the value is its content type."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


class Propagation(StrEnum):
    """What becomes of the objects owned by a deleted one."""

    BACKGROUND = "Background"
    FOREGROUND = "Foreground"
    ORPHAN = "Orphan"


class ObjectList(NamedTuple):
    """The items of a list and the resource version to watch from."""

    items: list[Object]
    resource_version: str


class WatchEvent(NamedTuple):
    """`type` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: Object


class Client:
    """One API server as one user. Use as a context manager, or `close()` it.

    Every method raises ApiStatusError for a refusal and UnreachableError when there is no answer. A request the server
    cannot have seen (connection refused), a read that was cut off, and an answer 429 or 503 with Retry-After are tried
    again for up to `retry_seconds`; every other request is sent once.
    """

    def __init__(
        self, config: kubeconfig.Config, *, user_agent: str = "pilotfish", retry_seconds: float = 10.0
    ) -> None:
        self.config = config
        self.mapper = RESTMapper(self)
        self._retry_seconds = retry_seconds
        self._tokens = kubeconfig.TokenSource(config)
        self._headers = {"User-Agent": user_agent, "Accept-Encoding": "identity"}
        if config.impersonate:
            self._headers["Impersonate-User"] = config.impersonate
        self._ssl = config.ssl_context()
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def from_file(cls, path: Path | None = None, *, context: str | None = None, user_agent: str = "pilotfish") -> Self:
        """A client for the kubeconfig `path`, else as `config.load` finds it."""
        return cls(kubeconfig.load(path, context), user_agent=user_agent)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # ------------------------------------------------------------------ objects

    async def get(
        self,
        resource: ResourceType,
        name: str,
        namespace: str = "",
        *,
        subresource: str = "",
        metadata_only: bool = False,
    ) -> Object:
        path = resource.path(name, namespace, subresource)
        return await self.request("GET", path, accept=_METADATA if metadata_only else "")

    async def list(
        self,
        resource: ResourceType,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
        page_size: int = 500,
    ) -> ObjectList:
        """All objects of a kind, in pages of `page_size` (0: in one). `labels` and `fields` are selectors."""
        find: dict[str, Any] = {"labels": labels, "fields": fields, "metadata_only": metadata_only}
        try:
            pages = [page async for page in self.pages(resource, namespace, **find, page_size=page_size)]
        except ApiStatusError as error:
            if error.code != 410 or not page_size:
                raise
            # The pages took longer than the server keeps history: once more, in one piece.
            pages = [page async for page in self.pages(resource, namespace, **find, page_size=0)]
        return ObjectList([item for page in pages for item in page.items], pages[-1].resource_version)

    async def pages(
        self,
        resource: ResourceType,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
        page_size: int = 500,
    ) -> AsyncIterator[ObjectList]:
        """The same, page by page. Raises ApiStatusError 410 when that takes longer than the server keeps history."""
        params = _selectors(labels, fields)
        if page_size:
            params["limit"] = str(page_size)
        path = resource.path("", namespace)
        while True:
            page = await self.request("GET", path, params=params, accept=_METADATA_LIST if metadata_only else "")
            api_version, kind = page.get("apiVersion"), str(page.get("kind", "")).removesuffix("List")
            items: list[Object] = page.get("items") or []
            for item in items:
                # Items of built-in kinds come without their type; everyone below wants it.
                item.setdefault("apiVersion", api_version)
                item.setdefault("kind", kind)
            meta = page["metadata"]
            yield ObjectList(items, meta.get("resourceVersion", ""))
            if not meta.get("continue"):
                return
            params["continue"] = meta["continue"]

    async def watch(
        self,
        resource: ResourceType,
        namespace: str = "",
        *,
        resource_version: str,
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
        timeout_seconds: int | None = None,
    ) -> AsyncIterator[WatchEvent]:
        """Changes after `resource_version`, with bookmarks, until the server ends the watch.

        An ERROR event is raised as ApiStatusError (`errors.is_expired`: list again).
        """
        seconds = timeout_seconds or random.randint(300, 600)  # noqa: S311 - spreads reconnects, no secret
        params = _selectors(labels, fields) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(seconds),
        }
        accept = _METADATA if metadata_only else ""
        async with self.stream("GET", resource.path("", namespace), params=params, accept=accept) as response:
            async for line in _lines(response, seconds + 30.0):
                event = _decode(line)
                if event["type"] == "ERROR":
                    raise ApiStatusError.from_status(event["object"])
                yield WatchEvent(event["type"], event["object"])

    async def create(
        self,
        resource: ResourceType,
        obj: Mapping[str, Any],
        namespace: str = "",
        *,
        name: str = "",
        subresource: str = "",
        field_manager: str = "",
        dry_run: bool = False,
    ) -> Object:
        """POST. `name` is needed for subresources only (`binding`, `eviction`, `token`)."""
        namespace = namespace or obj.get("metadata", {}).get("namespace", "")
        path = resource.path(name, namespace, subresource)
        return await self.request("POST", path, params=_write_options(field_manager, dry_run), body=obj)

    async def update(
        self,
        resource: ResourceType,
        obj: Mapping[str, Any],
        *,
        subresource: str = "",
        field_manager: str = "",
        dry_run: bool = False,
    ) -> Object:
        """PUT. With a `metadata.resourceVersion` it is refused (`is_conflict`) when the object has changed since."""
        meta = obj["metadata"]
        path = resource.path(meta["name"], meta.get("namespace", ""), subresource)
        return await self.request("PUT", path, params=_write_options(field_manager, dry_run), body=obj)

    async def patch(
        self,
        resource: ResourceType,
        name: str,
        patch: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        namespace: str = "",
        *,
        patch_type: PatchType = PatchType.MERGE,
        subresource: str = "",
        field_manager: str = "",
        force: bool = False,
        dry_run: bool = False,
    ) -> Object:
        params = _write_options(field_manager, dry_run)
        if force:
            params["force"] = "true"
        path = resource.path(name, namespace, subresource)
        return await self.request("PATCH", path, params=params, body=patch, content_type=patch_type.value)

    async def apply(
        self,
        obj: Mapping[str, Any],
        field_manager: str,
        *,
        force: bool = False,
        subresource: str = "",
        dry_run: bool = False,
        resource: ResourceType | None = None,
    ) -> Object:
        """Server-side apply. The kind is looked up by discovery unless `resource` is given.

        A namespaced object without a namespace goes to the configuration's. Raises ApiStatusError 409 with one cause
        a field when others own what it sets and `force` is off, and 404 when the server does not know the kind.
        """
        if resource is None:
            resource = await self.mapper.resource_for(str(obj.get("apiVersion", "")), str(obj.get("kind", "")))
        meta = obj.get("metadata") or {}
        namespace = (meta.get("namespace") or self.config.namespace) if resource.namespaced else ""
        return await self.patch(
            resource,
            str(meta.get("name", "")),
            obj,
            namespace,
            patch_type=PatchType.APPLY,
            subresource=subresource,
            field_manager=field_manager,
            force=force,
            dry_run=dry_run,
        )

    async def delete(
        self,
        resource: ResourceType,
        name: str,
        namespace: str = "",
        *,
        propagation: Propagation | None = None,
        grace_seconds: int | None = None,
        uid: str = "",
        resource_version: str = "",
        dry_run: bool = False,
    ) -> Object:
        """DELETE; the answer is a Status, or the object when it lives on until its finalizers are done.

        With `uid` or `resource_version` it is refused (409) when the object is another or has changed.
        """
        options = _delete_options(propagation, grace_seconds, dry_run)
        if uid or resource_version:
            options["preconditions"] = {
                key: value for key, value in (("uid", uid), ("resourceVersion", resource_version)) if value
            }
        return await self.request("DELETE", resource.path(name, namespace), body=options)

    async def delete_collection(
        self,
        resource: ResourceType,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        propagation: Propagation | None = None,
        grace_seconds: int | None = None,
        dry_run: bool = False,
    ) -> Object:
        return await self.request(
            "DELETE",
            resource.path("", namespace),
            params=_selectors(labels, fields),
            body=_delete_options(propagation, grace_seconds, dry_run),
        )

    # ------------------------------------------------------------------ requests

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        accept: str = "",
    ) -> Object:
        """Any request whose answer is JSON. `body` is encoded as JSON unless it is bytes already."""
        accept = accept or "application/json"
        raw = await self.request_raw(
            method, path, params=params, body=body, content_type=content_type, headers=headers, accept=accept
        )
        answer: Object = _decode(raw)
        return answer

    async def request_raw(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        accept: str = "*/*",
    ) -> bytes:
        """Any request; the answer as it came (logs, metrics, OpenAPI)."""
        async with self.stream(
            method,
            path,
            params=params,
            body=body,
            content_type=content_type,
            headers=headers,
            accept=accept,
            timeout_seconds=60.0,
        ) as response:
            try:
                return await response.read()
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise UnreachableError(f"{self.config.server}: the answer broke off: {_why(error)}") from error

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        accept: str = "",
        timeout_seconds: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful answer whose body the caller reads as it comes, without a time limit unless one is given."""
        headers = {**(headers or {}), "Accept": accept or "application/json"}
        data: bytes | None = None
        if body is not None:
            data = body if isinstance(body, bytes) else msgspec.json.encode(body)
            headers["Content-Type"] = content_type
        response = await self._send(
            method, path, params=params, data=data, headers=headers, timeout_seconds=timeout_seconds
        )
        try:
            yield response
        finally:
            # A body read to its end has gone back to the pool; any other connection is of no further use.
            response.close()

    @asynccontextmanager
    async def websocket(
        self, path: str, params: Sequence[tuple[str, str]] = (), *, protocols: Sequence[str] = ("v5.channel.k8s.io",)
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A WebSocket as exec, attach and port-forward use it."""
        headers = await self._authorization(self._headers)
        try:
            async with self._open_session().ws_connect(
                self.config.server + path,
                params=list(params),
                protocols=protocols,
                headers=headers,
                max_msg_size=0,
                server_hostname=self.config.tls_server_name,
            ) as socket:
                yield socket
        except aiohttp.WSServerHandshakeError as error:
            raise ApiStatusError(error.status, "", f"{path}: the server answered {error.status}") from error
        except aiohttp.ClientError as error:
            raise UnreachableError(f"{self.config.server}: {_why(error)}") from error

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # No limit: every watch holds a connection of its own.
                connector=aiohttp.TCPConnector(limit=0, ssl=self._ssl if self._ssl is not None else True),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
            )
        return self._session

    async def _authorization(self, headers: Mapping[str, str]) -> dict[str, str]:
        token = await self._tokens.token()
        return dict(headers) | ({"Authorization": f"Bearer {token}"} if token else {})

    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None,
        data: bytes | None,
        headers: Mapping[str, str],
        timeout_seconds: float | None,
    ) -> aiohttp.ClientResponse:
        deadline = time.monotonic() + self._retry_seconds
        pause, longest = _BACKOFF
        renewed = False
        while True:
            after: float | None = None
            try:
                response = await self._open_session().request(
                    method,
                    self.config.server + path,
                    params=params,
                    data=data,
                    headers=await self._authorization({**self._headers, **headers}),
                    timeout=aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=10.0),
                    server_hostname=self.config.tls_server_name,
                )
                if response.status < 300:
                    return response
                refusal = await _refusal(response)
                if response.status == 401 and self._tokens.renewable and not renewed:
                    self._tokens.expire()
                    renewed = True
                    continue
                after = refusal.retry_after if response.status in {429, 503} else None
                if after is None or time.monotonic() + after >= deadline:
                    raise refusal
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                if not _worth_retrying(method, error) or time.monotonic() + pause >= deadline:
                    raise UnreachableError(f"{self.config.server}: {_why(error)}") from error
            await asyncio.sleep(pause * random.uniform(0.8, 1.2) if after is None else after)  # noqa: S311 - jitter
            pause = min(pause * 2, longest)


def _worth_retrying(method: str, error: BaseException) -> bool:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorDNSError):
        return False
    # A refused connection carried nothing; a cut one may have done its work, so only reads are sent again.
    return isinstance(error, aiohttp.ClientConnectorError) or (
        method == "GET" and isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
    )


def _why(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted: {error.certificate_error}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return str(error.os_error.strerror or error.os_error)
    return str(error) or type(error).__name__


async def _refusal(response: aiohttp.ClientResponse) -> ApiStatusError:
    body = await response.read()
    header = response.headers.get("Retry-After", "")
    return ApiStatusError.from_response(response.status, body, float(header) if header.isdigit() else None)


async def _lines(response: aiohttp.ClientResponse, seconds: float) -> AsyncIterator[bytes]:
    """The body line by line, of any length. A broken connection ends it: a watch is resumed anyhow."""
    rest: list[bytes] = []
    try:
        async with asyncio.timeout(seconds):
            async for chunk in response.content.iter_any():
                first, *more = chunk.split(b"\n")
                rest.append(first)
                for piece in more:
                    line = b"".join(rest)
                    rest = [piece]
                    if line:
                        yield line
    except (aiohttp.ClientError, OSError, TimeoutError):
        return


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {key: value for key, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}


def _write_options(field_manager: str, dry_run: bool) -> dict[str, str]:
    options = {"fieldManager": field_manager} if field_manager else {}
    return options | {"dryRun": "All"} if dry_run else options


def _delete_options(propagation: Propagation | None, grace_seconds: int | None, dry_run: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
    if propagation is not None:
        options["propagationPolicy"] = propagation.value
    if grace_seconds is not None:
        options["gracePeriodSeconds"] = grace_seconds
    if dry_run:
        options["dryRun"] = ["All"]
    return options
