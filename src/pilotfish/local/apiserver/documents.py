"""Addresses that are no resources: discovery, OpenAPI, version, health, OpenID configuration."""

from __future__ import annotations

import hashlib
import json
import platform
import zlib
from typing import TYPE_CHECKING, Any

from aiohttp import web

from pilotfish.local.apiserver import discovery, respond
from pilotfish.local.apiserver.core import encode
from pilotfish.local.apiserver.errors import ApiError
from pilotfish.local.apiserver.request import Request

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

KUBERNETES = "1.36.0"
"""The version of Kubernetes whose API this is."""


def not_found() -> web.Response:
    return web.Response(status=404, text="404 page not found\n")


def version() -> dict[str, str]:
    major, minor, _ = KUBERNETES.split(".")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"v{KUBERNETES}+pilotfish",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": platform.python_implementation(),
        "platform": f"linux/{machine}",
    }


_HEALTH = ("healthz", "livez", "readyz")
_CHECKS = ("ping", "log", "etcd", "poststarthook/rbac/bootstrap-roles")


def _health(path: str, query: Any) -> web.Response:
    first, _, check = path.strip("/").partition("/")
    if check and check not in _CHECKS:
        return not_found()
    if "verbose" in query and not check:
        listed = "".join(f"[+]{name} ok\n" for name in _CHECKS)
        return web.Response(text=f"{listed}{first} check passed\n")
    return web.Response(text="ok")


async def answer(core: Core, request: Request) -> web.StreamResponse:
    """Answer a request whose address is no resource."""
    path = request.target.path
    if request.http.method not in ("GET", "HEAD"):
        raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    first = path.strip("/").split("/")[0]
    if first in _HEALTH:
        return _health(path, request.query)
    if first in ("api", "apis"):
        return await _discovery(core, request)
    if first == "openapi":
        return await _openapi(core, request)
    found: Any = None
    if path == "/version":
        found = version()
    elif path == "/.well-known/openid-configuration":
        found = core.tokens.discovery(f"https://{request.http.host}")
    elif path == "/openid/v1/jwks":
        return await respond.raw(request, encode(core.tokens.jwks()), media="application/jwk-set+json")
    elif path == "/":
        found = {"paths": _paths(core)}
    if found is None:
        return not_found()
    return await respond.value(request, found)


def _paths(core: Core) -> list[str]:
    paths = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis"]
    for group, versions in discovery.groups(core.registry).items():
        if group:
            paths += [f"/apis/{group}", *(f"/apis/{group}/{one}" for one in versions)]
    paths += ["/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"]
    return paths


async def _discovery(core: Core, request: Request) -> web.StreamResponse:
    parts = request.target.path.strip("/").split("/")
    registry = core.registry
    if len(parts) == 1:
        if request.accept.as_ == "APIGroupDiscoveryList":
            return await _aggregated(core, request, parts[0] == "api")
        if parts[0] == "api":
            return await respond.value(request, discovery.core_versions(request.http.host))
        return await respond.value(request, discovery.group_list(registry))
    found = None
    if parts[0] == "api" and len(parts) == 2:
        found = discovery.resource_list(registry, "", parts[1])
    elif parts[0] == "apis" and len(parts) == 2:
        found = discovery.group(registry, parts[1])
    elif parts[0] == "apis" and len(parts) == 3:
        found = discovery.resource_list(registry, parts[1], parts[2])
    return not_found() if found is None else await respond.value(request, found)


async def _aggregated(core: Core, request: Request, is_core: bool) -> web.StreamResponse:
    document = discovery.aggregated(core.registry, request.accept.v, core=is_core)
    etag = discovery.etag(document)
    if request.http.headers.get("If-None-Match") == etag:
        return web.Response(status=304, headers={"ETag": etag, "Vary": "Accept"})
    media = f"application/json;g=apidiscovery.k8s.io;v={request.accept.v};as=APIGroupDiscoveryList"
    response = await respond.raw(request, encode(document), media=media)
    response.headers["ETag"] = etag
    response.headers["Vary"] = "Accept"
    return response


async def _openapi(core: Core, request: Request) -> web.StreamResponse:
    parts = request.target.path.strip("/").split("/")
    if parts[1:2] == ["v2"] and len(parts) == 2:
        if "protobuf" in request.http.headers.get("Accept", ""):
            return _openapi_protobuf(core)
        return await _cached(core, request, "v2", "")
    if parts[1:2] != ["v3"]:
        return not_found()
    group_versions = _group_versions(core)
    if len(parts) == 2:
        paths = {}
        for path, api_version in group_versions.items():
            digest = _document(core, "v3", api_version)[1]
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
        return await respond.value(request, {"paths": paths})
    path = "/".join(parts[2:])
    if path not in group_versions:
        return not_found()
    return await _cached(core, request, "v3", group_versions[path])


def _openapi_protobuf(core: Core) -> web.Response:
    from pilotfish.local.apiserver import openapi_protobuf  # noqa: PLC0415 - asked for seldom

    packed, digest = _document(core, "v2", "")
    body = openapi_protobuf.document(json.loads(zlib.decompress(packed)))
    return web.Response(body=body, headers={"Content-Type": openapi_protobuf.MEDIA, "ETag": f'"{digest}"'})


def _group_versions(core: Core) -> dict[str, str]:
    """Paths of OpenAPI v3 documents (`api/v1`, `apis/apps/v1`) to the apiVersion each describes."""
    return {
        f"apis/{group}/{version}" if group else f"api/{version}": f"{group}/{version}" if group else version
        for group, versions in discovery.groups(core.registry).items()
        for version in versions
    }


def _document(core: Core, form: str, api_version: str) -> tuple[bytes, str]:
    """An OpenAPI document, compressed, and the digest of its content; built when first asked for.

    They are large and asked for seldom: in memory they are kept compressed.
    """
    from pilotfish.local.apiserver import openapi  # noqa: PLC0415 - only kubectl explain and validation need it

    registry = core.registry
    resources = [r for r in registry if form == "v2" or r.api_version == api_version]
    definitions: dict[str, Any] = {}
    for resource in resources:
        definitions |= registry.definitions(resource)
    key = (form, api_version)
    stamp = tuple(sorted(f"{r.definition}/{id(r)}" for r in resources))
    known = _documents.get(key)
    if known is not None and known[0] == stamp:
        return known[1], known[2]
    if form == "v2":
        document = openapi.v2_document(resources, definitions)
    else:
        document = openapi.v3_document(api_version, resources, definitions)
    body = encode(document)
    digest = hashlib.sha256(body).hexdigest().upper()
    packed = zlib.compress(body, 1)
    _documents[key] = (stamp, packed, digest)
    return packed, digest


_documents: dict[tuple[str, str], tuple[tuple[str, ...], bytes, str]] = {}


async def _cached(core: Core, request: Request, form: str, api_version: str) -> web.StreamResponse:
    packed, digest = _document(core, form, api_version)
    etag = f'"{digest}"'
    if request.http.headers.get("If-None-Match") == etag:
        return web.Response(status=304, headers={"ETag": etag})
    response = await respond.raw(request, zlib.decompress(packed))
    response.headers["ETag"] = etag
    response.headers["Vary"] = "Accept-Encoding, Accept"
    if request.query.get("hash") == digest:
        response.headers["Cache-Control"] = "public, immutable"
    return response
