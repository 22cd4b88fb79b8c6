"""The proxy subresources of pods, services and nodes: plain HTTP into the node's network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from pilotfish.local import network
from pilotfish.local.apiserver import decode
from pilotfish.local.apiserver.errors import ApiError, bad_request, not_found
from pilotfish.local.apiserver.nodelink import DialConnector, unreachable
from pilotfish.local.apiserver.request import Request
from pilotfish.local.apiserver.resource import Object, Resource

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "host", "authorization"}
_HOP |= {"content-length", "accept-encoding"}


async def answer(core: Core, request: Request, resource: Resource) -> web.StreamResponse:
    """Pass the request on and the answer back."""
    scheme, name, port = _parts(request.target.name)
    where = _where(core, request, resource, name, port)
    if resource.kind == "Node":
        url = f"http://node{request.target.rest or '/'}"
        session, own = core.node.session(), False
    else:
        host = where.get("host") or name
        url = f"{scheme}://{host}:{where['port']}{request.target.rest or '/'}"
        session, own = aiohttp.ClientSession(connector=DialConnector(core.node, **where), auto_decompress=False), True
    headers = {key: value for key, value in request.http.headers.items() if key.lower() not in _HOP}
    body = await decode.read(request)
    try:
        async with session.request(
            request.http.method,
            url,
            params=request.http.query,
            headers=headers,
            data=body or None,
            allow_redirects=False,
            ssl=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=10),
        ) as answered:
            response = web.StreamResponse(status=answered.status, reason=answered.reason)
            for key, value in answered.headers.items():
                if key.lower() not in _HOP:
                    response.headers.add(key, value)
            await response.prepare(request.http)
            async for chunk in answered.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response
    except aiohttp.ClientError as error:
        raise unreachable(f"{resource.singular or resource.plural}: {name}", error) from None
    finally:
        if own:
            await session.close()


def _parts(text: str) -> tuple[str, str, str]:
    """`https:web:8443` is scheme, name and port; scheme and port may be missing."""
    parts = text.split(":")
    if len(parts) == 1:
        return "http", parts[0], ""
    if len(parts) == 2:
        return "http", parts[0], parts[1]
    if len(parts) == 3 and parts[0] in ("http", "https", ""):
        return parts[0] or "http", parts[1], parts[2]
    raise bad_request(f'invalid proxy target "{text}": it must be [SCHEME:]NAME[:PORT]')


def _where(core: Core, request: Request, resource: Resource, name: str, port: str) -> dict[str, Any]:
    obj = core.get("v1", resource.kind, request.target.namespace, name)
    if obj is None:
        raise not_found(resource.plural, resource.group, name)
    if resource.kind == "Node":
        return {"host": str(network.NODE_IP), "port": 0}
    if resource.kind == "Pod":
        return {"pod": obj["metadata"]["uid"], "port": _pod_port(obj, port)}
    for one in obj["spec"].get("ports") or []:
        if port in ("", str(one.get("port")), one.get("name")):
            return _backend(core, obj, one)
    raise ApiError(503, "ServiceUnavailable", f'no service port "{port}" found for service "{name}"')


def _pod_port(pod: Object, port: str) -> int:
    for container in pod["spec"].get("containers") or []:
        for one in container.get("ports") or []:
            if port in ("", one.get("name")):
                return int(one["containerPort"])
    if port and not port.isdigit():
        raise bad_request(f'pod "{pod["metadata"]["name"]}" has no port named "{port}"')
    return int(port) if port else 80


def _backend(core: Core, service: Object, port: Object) -> dict[str, Any]:
    """An endpoint of a service that is ready."""
    meta = service["metadata"]
    slices = core.registry.find("discovery.k8s.io", "v1", "endpointslices")
    if slices is not None:
        bucket = core.registry.bucket(slices)
        for key in bucket.range(meta["namespace"] + "/"):
            one = bucket.items[key].decode()
            if (one["metadata"].get("labels") or {}).get("kubernetes.io/service-name") != meta["name"]:
                continue
            ports = [p["port"] for p in one.get("ports") or [] if (p.get("name") or "") == port.get("name", "")]
            for endpoint in one.get("endpoints") or []:
                if ports and (endpoint.get("conditions") or {}).get("ready", True):
                    return {"host": endpoint["addresses"][0], "port": ports[0]}
    raise ApiError(503, "ServiceUnavailable", f'no endpoints available for service "{meta["name"]}"')
