"""Into a running pod: logs, exec, attach. The node does the work; this relays.

exec and attach speak WebSocket (v5 and v4 channels) or SPDY to the client, WebSocket to the node.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import aiohttp
from aiohttp import WSMsgType, web

from pilotfish.local.apiserver import upgrade
from pilotfish.local.apiserver.authz import refusal
from pilotfish.local.apiserver.errors import ApiError, FieldError, bad_request, invalid, not_found
from pilotfish.local.apiserver.nodelink import unreachable
from pilotfish.local.apiserver.request import Request
from pilotfish.local.apiserver.resource import Object, Resource
from pilotfish.local.apiserver.spdy import SpdyError, Stream

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

_V5, _V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
_CHANNELS = {"stdin": 0, "stdout": 1, "stderr": 2, "error": 3, "resize": 4}
_CLOSE_STDIN = b"\xff\x00"
_STREAMS_SECONDS = 30
_NODE = "http://node"


async def answer(core: Core, request: Request, resource: Resource, name: str) -> web.StreamResponse:
    """Answer a call of a streaming subresource."""
    if name not in ("log", "proxy") and request.http.method == "GET":
        # A WebSocket must be a GET; it needs the right to create all the same.
        t = request.target
        if not core.authorizer.allowed(core, request.user, "create", "", t.resource, name, t.namespace, t.name):
            t.verb = "create"
            raise refusal(request.user, t)
    if name != "log":
        await core.admission.ask(core, request, resource, "CONNECT", _connect_options(request, resource, name))
    if name == "proxy":
        from pilotfish.local.apiserver import proxy  # noqa: PLC0415 - seldom used

        return await proxy.answer(core, request, resource)
    if name == "log":
        _check_log_options(request)
    pod = _pod(core, request, resource)
    if name == "log":
        return await _logs(core, request, pod)
    if not (pod.get("spec") or {}).get("nodeName"):
        raise bad_request(f"pod {request.target.name} does not have a host assigned")
    if not (upgrade.wants_websocket(request.http) or upgrade.wants_spdy(request.http)):
        raise bad_request("Upgrade request required")
    if name == "portforward":
        from pilotfish.local.apiserver import portforward  # noqa: PLC0415 - seldom used

        return await portforward.answer(core, request, pod)
    return await _execute(core, request, pod, name)


def _connect_options(request: Request, resource: Resource, name: str) -> Object:
    """What the query asks for, as the object that webhooks see (PodExecOptions and the like)."""
    kind = {"exec": "Exec", "attach": "Attach", "portforward": "PortForward", "proxy": "Proxy"}[name]
    out: Object = {"kind": f"{resource.kind}{kind}Options", "apiVersion": "v1"}
    query = request.http.query
    if name == "proxy":
        return out | ({"path": request.target.rest} if request.target.rest else {})
    if name == "portforward":
        ports = [int(port) for text in query.getall("ports", []) for port in text.split(",") if port.isdigit()]
        return out | ({"ports": ports} if ports else {})
    flags = ("stdin", "stdout", "stderr", "tty")
    out |= {flag: True for flag in flags if query.get(flag, "").lower() in ("true", "1")}
    if query.get("container"):
        out["container"] = query["container"]
    if name == "exec":
        out["command"] = query.getall("command", [])
    return out


def _pod(core: Core, request: Request, resource: Resource) -> Object:
    target = request.target
    pod = core.get("v1", "Pod", target.namespace, target.name)
    if pod is None or resource.kind != "Pod":
        raise not_found(resource.plural, resource.group, target.name)
    return pod


def _container(request: Request, pod: Object) -> str:
    """The container asked for, or the one that is meant. Raises 400."""
    spec, name = pod["spec"], pod["metadata"]["name"]
    every = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    every += spec.get("ephemeralContainers") or []
    asked = request.query.get("container", "")
    if asked:
        if not any(c["name"] == asked for c in every):
            raise bad_request(f"container {asked} is not valid for pod {name}")
        return asked
    default = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
    if default and any(c["name"] == default for c in every):
        return str(default)
    if len(spec.get("containers") or []) == 1:
        return str(spec["containers"][0]["name"])
    listed = " ".join(c["name"] for c in spec.get("containers") or [])
    why = f"a container name must be specified for pod {name}, choose one of: [{listed}]"
    if spec.get("initContainers"):
        why += " or one of the init containers: [" + " ".join(c["name"] for c in spec["initContainers"]) + "]"
    raise bad_request(why)


def _address(verb: str, pod: Object, container: str, query: Iterable[tuple[str, str]]) -> str:
    meta = pod["metadata"]
    text = urlencode([(key, value) for key, value in query if key != "container"])
    return f"{_NODE}/{verb}/{meta['namespace']}/{meta['name']}/{container}" + (f"?{text}" if text else "")


def _check_log_options(request: Request) -> None:
    """Refuse what the real server refuses: 400 for what is no number, 422 for what makes no sense."""
    query, numbers = request.query, {}
    for field in ("tailLines", "limitBytes", "sinceSeconds"):
        if text := query.get(field):
            try:
                numbers[field] = int(text)
            except ValueError:
                raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax ({field})') from None
    errors = []
    if numbers.get("tailLines", 0) < 0:
        errors.append(FieldError.invalid("tailLines", numbers["tailLines"], "must be greater than or equal to 0"))
    if query.get("sinceTime") and "sinceSeconds" in numbers:
        errors.append(FieldError.forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified"))
        del numbers["sinceSeconds"]
    errors += [
        FieldError.invalid(field, numbers[field], "must be greater than 0")
        for field in ("limitBytes", "sinceSeconds")
        if numbers.get(field, 1) < 1
    ]
    if errors:
        raise invalid("PodLogOptions", "", request.target.name, errors)


async def _logs(core: Core, request: Request, pod: Object) -> web.StreamResponse:
    container = _container(request, pod)
    if not pod["spec"].get("nodeName"):
        return web.Response(status=204)
    timeout = aiohttp.ClientTimeout(total=None, connect=5)
    url = _address("containerLogs", pod, container, request.http.query.items())
    try:
        async with core.node.session().get(url, timeout=timeout) as answered:
            if answered.status >= 400:
                why = (await answered.text()).strip()
                raise _node_refused(answered.status, why)
            response = web.StreamResponse(headers={"Content-Type": "text/plain"})
            response.enable_chunked_encoding()
            await response.prepare(request.http)
            async for chunk in answered.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response
    except aiohttp.ClientError as error:
        raise unreachable("the node", error) from None


def _node_refused(status: int, why: str) -> ApiError:
    if status in (400, 404):
        return bad_request(why) if status == 400 else ApiError(404, "NotFound", why)
    return ApiError(500, "InternalError", f"Internal error occurred: {why}")


async def _execute(core: Core, request: Request, pod: Object, verb: str) -> web.StreamResponse:
    container = _container(request, pod)
    http = request.http
    url = _address(verb, pod, container, http.query.items())
    known = (_V5, _V4)
    protocol = _V5
    if upgrade.wants_websocket(http):
        asked = upgrade.offered(http)
        protocol = next((p for p in known if p in asked), _V4 if not asked else "")
        if not protocol:
            raise bad_request(f"none of the subprotocols {', '.join(asked)} is known; known are {', '.join(known)}")
    timeout = aiohttp.ClientTimeout(total=None, connect=5)
    session = core.node.session()
    try:
        inside = await session.ws_connect(
            url, protocols=(protocol,), max_msg_size=0, compress=0, timeout=aiohttp.ClientWSTimeout(ws_close=2)
        )
    except aiohttp.WSServerHandshakeError as error:
        async with session.get(url, timeout=timeout) as answered:  # the handshake hides the reason
            raise _node_refused(error.status, (await answered.text()).strip() or error.message) from None
    except aiohttp.ClientError as error:
        raise unreachable("the node", error) from None
    try:
        if upgrade.wants_websocket(http):
            return await _relay(http, inside, protocol)
        return await _relay_spdy(request, inside)
    finally:
        await inside.close()


async def _relay(http: web.BaseRequest, inside: aiohttp.ClientWebSocketResponse, protocol: str) -> web.StreamResponse:
    """Messages there and back until either side closes."""
    outside = web.WebSocketResponse(protocols=(protocol,), max_msg_size=0, compress=False)
    await outside.prepare(http)

    async def inwards() -> None:
        async for message in outside:
            if message.type is WSMsgType.BINARY:
                await inside.send_bytes(message.data)
            elif message.type is WSMsgType.TEXT:
                await inside.send_bytes(message.data.encode())

    async def outwards() -> None:
        async for message in inside:
            if message.type is WSMsgType.BINARY:
                await outside.send_bytes(message.data)

    await first_of(inwards(), outwards())
    with contextlib.suppress(ConnectionError, RuntimeError):
        await outside.close()
    return outside


async def first_of(*works: Any) -> None:
    """Run side by side until the first ends; end the others. Lost connections are no error."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = task.exception()
            if error is not None and not isinstance(error, ConnectionError | RuntimeError | SpdyError):
                raise error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _relay_spdy(request: Request, inside: aiohttp.ClientWebSocketResponse) -> web.StreamResponse:
    """The streams of a SPDY client as the channels of the node."""
    query = request.query
    tty = query.get("tty", "").lower() in ("true", "1")
    wanted = {
        "error",
        *(name for name in ("stdin", "stdout", "stderr") if query.get(name, "").lower() in ("true", "1")),
    }
    if tty:
        wanted = wanted - {"stderr"} | {"resize"}
    streams: dict[str, Stream] = {}
    complete = asyncio.Event()

    def accept(stream: Stream) -> None:
        streams[stream.headers.get("streamtype", "")] = stream
        if wanted <= streams.keys():
            complete.set()

    upgraded = upgrade.Upgraded(request.http, accept)
    protocol = upgrade.spdy_protocol(request.http, (_V4, "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"))
    connection, pump = await upgraded.bare(protocol)
    try:
        async with asyncio.timeout(_STREAMS_SECONDS):
            await first_of(complete.wait(), connection.closed.wait())

        async def inwards(name: str) -> None:
            while data := await streams[name].read():
                await inside.send_bytes(bytes([_CHANNELS[name]]) + data)
            if name == "stdin":
                await inside.send_bytes(_CLOSE_STDIN)
            await connection.closed.wait()

        async def outwards() -> None:
            by_channel = {_CHANNELS[name]: stream for name, stream in streams.items() if name in _CHANNELS}
            async for message in inside:
                if message.type is WSMsgType.BINARY and message.data:
                    stream = by_channel.get(message.data[0])
                    if stream is not None and len(message.data) > 1:
                        await stream.write(message.data[1:])
            for stream in streams.values():
                await stream.finish()

        inputs = [inwards(name) for name in ("stdin", "resize") if name in streams]
        await first_of(outwards(), connection.closed.wait(), *inputs)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await connection.closed.wait()
    except TimeoutError:
        pass  # the client never opened the streams it announced
    finally:
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)
    return upgraded.response
