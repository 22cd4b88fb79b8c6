"""The agent with a real Envoy, a real authority and a real xDS server, over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pickle
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from grpclib.server import Server

from pilotfish.agent.http import fetch
from pilotfish.agent.options import Options, read
from pilotfish.agent.run import run
from pilotfish.ca.authority import Authority, utc_now
from pilotfish.ca.caller import Authenticator, Caller, ReviewedToken, UnauthenticatedError
from pilotfish.ca.service import CertificateService
from pilotfish.envoy import proto
from pilotfish.envoy.resource import CLUSTER, LISTENER, Resource, build
from pilotfish.grpc import BytesCodec
from pilotfish.xds.fleet import Connection, Fleet
from pilotfish.xds.requests import Node
from pilotfish.xds.service import DiscoveryService
from pilotfish.xds.session import Request, Response, Watch

ME = "spiffe://cluster.local/ns/book/sa/reviews"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class ControlPlane:
    """A listener that answers `hello`, and nothing else."""

    def __init__(self, port: int) -> None:
        manager = {
            "stat_prefix": "x",
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "v",
                        "domains": ["*"],
                        "routes": [
                            {
                                "match": {"prefix": "/"},
                                "direct_response": {"status": 200, "body": {"inline_string": "hello"}},
                            }
                        ],
                    }
                ]
            },
            "http_filters": [
                proto.extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router")
            ],
        }
        name = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
        listener = {
            "name": "l",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [{"filters": [proto.extension("hcm", name, manager)]}],
        }
        made = build(LISTENER, listener)
        self.types: dict[str, dict[str, Resource]] = {LISTENER: {made.name: made}, CLUSTER: {}}
        self.callers: list[Caller] = []

    def ready(self) -> bool:
        return True

    def source(self, node: Node, caller: Caller | None) -> ControlPlane:
        assert caller is not None
        self.callers.append(caller)
        return self

    def every(self, type_url: str) -> Mapping[str, Resource]:
        return self.types.get(type_url, {})

    def one(self, type_url: str, name: str) -> Resource | None:
        return self.every(type_url).get(name)

    async def debug(self, caller: Caller, request: Request) -> tuple[str, list[tuple[str, str, bytes]]]:
        return request.type_url, [("", request.type_url, b"{}")]

    def sent(self, connection: Connection, response: Response, seconds: float) -> None: ...
    def refused(self, connection: Connection, watch: Watch) -> None: ...
    def acknowledged(self, connection: Connection, watch: Watch) -> None: ...

    def converged(self, connection: Connection, seconds: float) -> None: ...

    def failed(self, connection: Connection, error: Exception) -> None: ...


async def review(token: str, audiences: tuple[str, ...]) -> ReviewedToken:
    if token != "good":
        raise UnauthenticatedError("unknown token")
    return ReviewedToken("system:serviceaccount:book:reviews", ("system:serviceaccounts",), audiences)


@asynccontextmanager
async def mesh(tmp_path: Path, ttl: str = "24h") -> AsyncIterator[tuple[Options, ControlPlane, Authority, int]]:
    """A control plane on one port, and the options of an agent that finds it."""
    authority = Authority.self_signed("cluster.local", utc_now())
    key, chain = authority.sign_server(["localhost"], timedelta(days=1), utc_now())
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "chain").write_bytes(chain)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "chain", tmp_path / "key")
    tls.load_verify_locations(cadata=authority.root_pem.decode())
    tls.set_alpn_protocols(["h2"])
    tls.verify_mode = ssl.CERT_OPTIONAL
    app, admin, status, ready, stats = free_ports(5)
    plane, authenticate = ControlPlane(app), Authenticator(review, "cluster.local")
    services: list[Any] = [
        DiscoveryService(Fleet(), plane, authenticate),
        CertificateService(lambda: authority, authenticate),
    ]
    server = Server(services, codec=BytesCodec())
    await server.start("127.0.0.1", 0, ssl=tls)
    assert server._server is not None
    port = server._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # asyncio's servers have them
    (tmp_path / "root.pem").write_bytes(authority.root_pem)
    (tmp_path / "token").write_text("good\n")
    proxy = (
        f'{{"discoveryAddress": "localhost:{port}", "configPath": "{tmp_path}", "proxyAdminPort": {admin}, '
        f'"statusPort": {status}, "terminationDrainDuration": "100ms"}}'
    )
    options = read(
        "sidecar",
        environment={
            "POD_NAME": "reviews-1",
            "POD_NAMESPACE": "book",
            "INSTANCE_IP": "127.0.0.1",
            "SERVICE_ACCOUNT": "reviews",
            "PROXY_CONFIG": proxy,
            "PILOTFISH_ROOT_CERT": str(tmp_path / "root.pem"),
            "PILOTFISH_TOKEN": str(tmp_path / "token"),
            "PILOTFISH_SDS_SOCKET": str(tmp_path / "sds"),
            "SECRET_TTL": ttl,
            "ISTIO_KUBE_APP_PROBERS": f'{{"/app-health/a/readyz": {{"httpGet": {{"port": {app}, "path": "/x"}}}}}}',
        },
        podinfo=tmp_path,
    )
    try:
        yield dataclasses.replace(options, ready_port=ready, prometheus_port=stats), plane, authority, app
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def running(options: Options) -> AsyncIterator[asyncio.Task[int]]:
    task = asyncio.create_task(run(options))
    try:
        yield task
    finally:
        if not task.done():
            with contextlib.suppress(OSError):
                await fetch(f"http://127.0.0.1:{options.status_port}/quitquitquit", method="POST")
        assert await asyncio.wait_for(task, 60) == 0


async def until(what: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                if found := await what():
                    return found
            await asyncio.sleep(0.02)


async def test_agent_brings_envoy_up_with_its_own_identity(tmp_path: Path) -> None:
    """Ready, configured over mutual TLS, probes and metrics answered, and gone when asked to quit."""
    async with mesh(tmp_path) as (options, plane, _, app):
        started = time.monotonic()
        async with running(options):

            async def ready() -> bool:
                return (await fetch(f"http://127.0.0.1:{options.ready_port}/healthz/ready")).status == 200

            await until(ready)
            print(f"ready after {time.monotonic() - started:.2f} s")
            assert [str(one) for one in plane.callers[0].identities] == [ME]
            assert (await fetch(f"http://127.0.0.1:{app}/")).body == b"hello"
            status = f"http://127.0.0.1:{options.status_port}"
            probe = await fetch(f"{status}/app-health/a/readyz")
            assert (probe.status, probe.body) == (200, b"hello")
            assert (await fetch(f"{status}/app-health/b/readyz")).status == 400
            page = (await fetch(f"{status}/stats/prometheus")).body.decode()
            assert "istio_agent_startup_duration_seconds" in page
            assert "envoy_cluster_manager_cds_update_success" in page
            assert (await fetch(f"{status}/drain")).status == 405
            assert oct((tmp_path / "sds").stat().st_mode & 0o777) == "0o600"
        assert not (tmp_path / "sds").exists()
        with pytest.raises(OSError, match=r"."):
            await fetch(f"http://127.0.0.1:{app}/")


async def test_certificate_is_renewed_at_half_its_life(tmp_path: Path) -> None:
    """A short-lived certificate is replaced in time, Envoy takes the new one, nothing restarts."""
    async with mesh(tmp_path, ttl="6s") as (options, _, _, _), running(options):
        admin = f"http://127.0.0.1:{options.proxy['proxyAdminPort']}"

        async def chain() -> str:
            certificates = json.loads((await fetch(f"{admin}/certs")).body)["certificates"]
            chains = [one for entry in certificates for one in entry.get("cert_chain", [])]
            return chains[0]["serial_number"] if chains else ""

        first = await until(chain)

        async def another() -> bool:
            return await chain() not in ("", first)

        await until(another)


async def test_bad_token_means_not_ready_and_a_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without an accepted token there is no certificate: the agent says why, keeps trying, and recovers."""
    async with mesh(tmp_path) as (options, _, _, _):
        (tmp_path / "token").write_text("stolen")
        async with running(options):

            async def refused() -> bool:
                return "UNAUTHENTICATED" in caplog.text

            await until(refused)
            answer = await fetch(f"http://127.0.0.1:{options.status_port}/healthz/ready")
            assert (answer.status, answer.body[:9]) == (503, b"not ready")
            assert "stolen" not in caplog.text
            (tmp_path / "token").write_text("good")

            async def ready() -> bool:
                return (await fetch(f"http://127.0.0.1:{options.ready_port}/healthz/ready")).status == 200

            await until(ready)


def _pss(pid: int) -> float:
    """MB of a process, shared pages counted in part."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Pss:"))) / 1024


async def test_the_agent_is_small(tmp_path: Path) -> None:
    """A running agent, its certificate fetched and its Envoy configured, takes at most 30 MB."""
    async with mesh(tmp_path) as (options, _, _, _):
        (tmp_path / "options").write_bytes(pickle.dumps(options))
        program = (
            "import asyncio, pathlib, pickle, sys\n"
            "from pilotfish.agent.run import run\n"
            "sys.exit(asyncio.run(run(pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()))))"
        )
        agent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(tmp_path / "options"))
        status = f"http://127.0.0.1:{options.status_port}"
        try:

            async def ready() -> bool:
                return (await fetch(f"{status}/healthz/ready")).status == 200

            await until(ready)
            assert _pss(agent.pid) <= 30
            await fetch(f"{status}/quitquitquit", method="POST")
            assert await asyncio.wait_for(agent.wait(), 20) == 0
        finally:
            if agent.returncode is None:
                agent.kill()
                await agent.wait()
