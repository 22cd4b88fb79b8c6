"""The API server's process: `python -m pilotfish.local.apiserver --data DIR --port N --address A`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import errno
import fcntl
import functools
import gc
import json
import logging
import os
import signal
import socket
import ssl
import sys
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from aiohttp import web

from pilotfish.local import network
from pilotfish.local.apiserver import bootstrap, crd, decode, metrics, pki, types
from pilotfish.local.apiserver.admission import Admission
from pilotfish.local.apiserver.authn import Authenticator
from pilotfish.local.apiserver.authz import MASTERS, Authorizer
from pilotfish.local.apiserver.core import Core
from pilotfish.local.apiserver.customkinds import CustomKinds
from pilotfish.local.apiserver.hostlink import HostLink
from pilotfish.local.apiserver.nodelink import NodeLink
from pilotfish.local.apiserver.registry import Definitions, Registry
from pilotfish.local.apiserver.resource import Resource
from pilotfish.local.apiserver.server import Server
from pilotfish.local.apiserver.services import Allocator
from pilotfish.local.apiserver.store import Store, StoreError
from pilotfish.local.apiserver.tokens import Tokens

log = logging.getLogger("pilotfish.local.apiserver")


class StartError(Exception):
    """The server cannot start; the text says why and what to do."""


def _lock(data: Path) -> int:
    """Hold the data directory for this process. The lock ends with the process, however it ends."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        (data / "run").mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(data / "run" / "apiserver.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        why = f"cannot use the data directory {data}: {error.strerror}. Choose another with --data"
        raise StartError(why) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        why = f"another API server runs on {data}. Stop it first (pilotfish down), or choose another --data"
        raise StartError(why) from None
    return descriptor


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            why = f"port {port} of {address} is taken by another program. Stop it, or choose another --port"
        else:
            why = f"cannot listen on {address} port {port}: {error.strerror}"
        raise StartError(why) from None
    return listener


def _core(data: Path, authority: pki.Authority) -> Core:
    try:
        store = Store(data / "objects.db")
    except StoreError as error:
        raise StartError(f"cannot open the object store {error}") from None
    registry = Registry(store, _built_in(), _definitions)
    core = Core(
        data=data,
        store=store,
        registry=registry,
        tokens=Tokens(authority.account_key),
        authenticator=Authenticator(),
        authorizer=Authorizer(),
        admission=Admission(),
        allocator=Allocator(store),
        custom=CustomKinds(),
        node=NodeLink(data / "run"),
    )
    core.custom.load(core)
    bootstrap.ensure(core)
    return core


def _built_in() -> tuple[Resource, ...]:
    """The built-in kinds; the rules of CustomResourceDefinitions live beside what is made of them."""
    known = tuple(
        dataclasses.replace(one, strategy=crd.strategy) if one.kind == "CustomResourceDefinition" else one
        for one in types.resources()
    )
    return (*known, *metrics.RESOURCES)


@functools.cache
def _definitions() -> Definitions:
    return types.definitions() | metrics.DEFINITIONS


def _write_kubeconfigs(data: Path, authority: pki.Authority, server: str) -> None:
    inside = f"https://{network.NODE_IP}:{network.API_PORT}"
    node = f"system:node:{network.NODE_NAME}"
    manager = "system:kube-controller-manager"
    for path, url, user, group in (
        (data / "kubeconfig", server, "kubernetes-admin", MASTERS),
        (data / "pki" / "node.kubeconfig", inside, node, "system:nodes"),
        (data / "pki" / "controllers.kubeconfig", server, manager, MASTERS),
    ):
        pair = authority.client(user, group)
        pki.write_private(path, authority.kubeconfig(url, user, pair, _chosen_namespace(path)))


def _chosen_namespace(kubeconfig: Path) -> str:
    """What the user set as the namespace of commands (`kubectl config set-context --current --namespace`)."""
    try:
        text = kubeconfig.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
    if "namespace" not in text:
        return ""
    import yaml  # noqa: PLC0415 - only for a file that kubectl has written

    try:
        contexts = yaml.safe_load(text)["contexts"]
        found = next(one["context"] for one in contexts if one["name"] == "pilotfish")
        return str(found.get("namespace") or "")
    except (yaml.YAMLError, LookupError, StopIteration, TypeError, AttributeError):
        return ""  # a file that cannot be read is written anew


async def _run(arguments: argparse.Namespace) -> None:
    data: Path = arguments.data
    authority = pki.Authority(data / "pki")
    listener = _listen(arguments.address, arguments.port)
    port = listener.getsockname()[1]
    tls = authority.server_context(arguments.address)
    core = _core(data, authority)
    serving = web.Server(
        Server(core).handle,
        request_factory=_request,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=300,
        tcp_keepalive=True,
    )
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(serving, sock=listener, ssl=tls)
    shown = f"[{arguments.address}]" if ":" in arguments.address else arguments.address
    reach = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(shown, shown)  # noqa: S104 (compared, not bound)
    host = HostLink(data / "run", lambda sock: loop.create_server(serving, sock=sock, ssl=tls), arguments.address)
    await host.start()
    _write_kubeconfigs(data, authority, f"https://{reach}:{port}")
    controllers = _start_controllers(data / "pki" / "controllers.kubeconfig")
    core.custom.resume()
    gc.collect()
    gc.freeze()
    state = data / "run" / "apiserver.json"
    started = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"pid": os.getpid(), "port": port, "address": arguments.address, "started": started}
    pki.write_private(state, json.dumps(facts).encode() + b"\n")
    try:
        await stop.wait()
    finally:
        state.unlink(missing_ok=True)
        server.close()
        if controllers is not None:
            controllers.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await controllers
        await host.close()
        await serving.shutdown(0.2)
        await core.admission.caller.close()
        await core.node.close()
        core.store.close()


def _request(message, payload, protocol, writer, task):  # type: ignore[no-untyped-def]  # aiohttp's own types are private
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=decode.MAX_BODY + 1024)


def _start_controllers(kubeconfig: Path) -> asyncio.Task[None] | None:
    try:
        from pilotfish.local.controllers import run  # noqa: PLC0415 - after the server is up
    except ImportError:
        return None
    task: asyncio.Task[None] = asyncio.get_running_loop().create_task(run(kubeconfig), name="controllers")
    task.add_done_callback(_controllers_ended)
    return task


def _controllers_ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("the controllers ended: %s", error, exc_info=error)


def main() -> int:
    parser = argparse.ArgumentParser(prog="pilotfish-apiserver", description="The Kubernetes API for one machine.")
    parser.add_argument("--data", type=Path, required=True, help="directory that holds objects, keys and sockets")
    parser.add_argument("--port", type=int, default=6443, help="port to listen on; 0 chooses a free one")
    parser.add_argument("--address", default="127.0.0.1", help="address to listen on")
    arguments = parser.parse_args()
    arguments.data = arguments.data.absolute()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    os.umask(0o077)
    try:
        _lock(arguments.data)
        uvloop.run(_run(arguments))
    except (StartError, ssl.SSLError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
