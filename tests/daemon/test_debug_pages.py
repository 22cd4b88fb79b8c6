"""The debug pages of a running control plane, and the log levels that istioctl changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from grpclib import GRPCError
from grpclib.exceptions import ProtocolError

from pilotfish.daemon import logs
from pilotfish.envoy.resource import CLUSTER, LISTENER
from pilotfish.kube.client import Client
from pilotfish.kube.resources import SERVICES

from .conftest import SYSTEM, Cluster
from .harness import SECONDS, ControlPlane, config, config_type, connected, node_of, service, until

pytestmark = pytest.mark.xdist_group("daemon")


async def test_pages(plane: ControlPlane, client: Client, namespace: str) -> None:
    """Every page that is listed can be had, and they speak of the same mesh by Istio's names."""
    await client.create(SERVICES, service("shop", namespace, 8080))
    rule = config("DestinationRule", namespace, "shop", {"host": "shop", "subsets": [{"name": "v1"}]})
    await client.create(config_type("DestinationRule"), rule)
    host = f"shop.{namespace}.svc.cluster.local"
    proxy_config = {"concurrency": 2, "statusPort": 15020}
    async with connected(plane.grpc, node_of(namespace, "web", PROXY_CONFIG=proxy_config)) as proxy:
        await proxy.holds(CLUSTER, f"outbound|8080|v1|{host}")

        async def page(name: str, **query: str) -> Any:
            words = "&".join(f"{key}={value}" for key, value in {"proxyID": f"web.{namespace}", **query}.items())
            status, text = await plane.get(f"/debug/{name}{'&' if '?' in name else '?'}{words}")
            assert status == 200, (name, text)
            return json.loads(text) if text[:1] in '[{"n' else text

        for name in await page("list"):
            await page(name)
        found = next(one for one in await page("registryz") if one["hostname"] == host)
        assert found["ports"] == [{"name": "http", "port": 8080, "protocol": "HTTP"}]
        assert found["Attributes"]["ServiceRegistry"] == "Kubernetes"
        assert set((await page("endpointShardz"))[host][namespace]) == {"Shards", "ServiceAccounts"}
        scope = await page("sidecarz")
        assert host in scope["servicesByHostname"]
        assert scope["destinationRules"][host][0]["from"] == [{"Namespace": namespace, "Name": "shop"}]
        assert f"outbound|8080|v1|{host}" in (await page("cachez"))[CLUSTER]
        assert (await page("cachez", sizes="true"))["total"].endswith("B")
        assert {"group": "networking.istio.io", "version": "v1", "kind": "DestinationRule"} in await page("resourcesz")
        assert ("DestinationRule", "shop") in {(o["kind"], o["metadata"]["name"]) for o in await page("configz")}
        (client_row,) = (await page("adsz"))["clients"]
        assert client_row["metadata"]["PROXY_CONFIG"] == proxy_config
        plain = await page("config_dump", types="cds")
        assert {one["@type"] for one in plain["configs"]} == {CLUSTER}
        (row,) = (one for one in await page("syncz") if one["proxy"] == f"web.{namespace}")
        assert row["cluster_acked"] == row["cluster_sent"] != ""
        status, index = await plane.get("/debug")
        assert status == 200
        assert '<a href="/debug/registryz">' in index
        pushed = await page("adsz", push="true")
        assert pushed.startswith("Pushed to ")
    status, version = await plane.get("//version")
    assert status == 200
    assert len(version.split("-")) == 3


async def test_a_proxy_that_comes_back_is_in_sync(plane: ControlPlane, namespace: str) -> None:
    """It holds everything already: nothing is sent, and the state is not `not sent`."""
    node = node_of(namespace, "again")

    async def state() -> Any:
        rows = json.loads((await plane.get("/debug/syncz"))[1])
        return next((one for one in rows if one["proxy"] == f"again.{namespace}"), None)

    async with connected(plane.grpc, node, CLUSTER) as proxy:
        await until(lambda: proxy.pushes, "its clusters")
        versions = {name: version for name, (version, _) in proxy.held[CLUSTER].items()}
    async with connected(plane.grpc, node, LISTENER) as proxy:
        await proxy.ask(CLUSTER, versions=versions)

        async def kept() -> bool:
            row = await state() or {}
            return bool(row.get("cluster_sent") == row.get("cluster_acked") == "kept")

        await until(kept, "a proxy in sync")
        assert CLUSTER not in {one.type_url for one in proxy.pushes}


@asynccontextmanager
async def other_plane(cluster: Cluster, name: str, **env: str) -> AsyncIterator[ControlPlane]:
    made = ControlPlane(cluster.kubeconfig, cluster.folder, SYSTEM, name, **env)
    made.start()
    try:
        await made.ready()
        yield made
    finally:
        made.end()


async def test_closed_pages(cluster: Cluster) -> None:
    """`ENABLE_DEBUG_ON_HTTP=false` takes them from both ports, and nothing else."""
    async with other_plane(cluster, "istiod-closed", ENABLE_DEBUG_ON_HTTP="false") as plane:
        for port in (plane.http, plane.monitoring):
            for path in ("/debug", "/debug/syncz"):
                assert (await plane.get(path, port))[0] == 404
        assert (await plane.get("/metrics"))[0] == 200


async def test_force_disconnect(cluster: Cluster, namespace: str) -> None:
    """With `UNSAFE_ENABLE_ADMIN_ENDPOINTS` an operator ends the stream of a proxy."""
    async with other_plane(cluster, "istiod-unsafe", UNSAFE_ENABLE_ADMIN_ENDPOINTS="true") as plane:

        async def connections() -> int:
            return int(json.loads((await plane.get("/debug/connections"))[1])["totalClients"])

        with contextlib.suppress(GRPCError, ProtocolError):  # how the client hears of it depends on what comes first
            async with connected(plane.grpc, node_of(namespace, "gone")) as proxy:
                await until(lambda: proxy.pushes, "its configuration")
                assert await connections() == 1
                assert await plane.get(f"/debug/force_disconnect?proxyID=gone.{namespace}") == (200, "OK")
                assert proxy.reading is not None
                done, _ = await asyncio.wait([proxy.reading], timeout=SECONDS)
                assert done, "the stream has ended"
                assert await connections() == 0


async def test_log_levels(plane: ControlPlane) -> None:
    """They are listed and changed by scope; an unknown scope is refused with the names that there are."""
    url = f"http://localhost:{plane.controlz}/scopej/"
    async with aiohttp.ClientSession() as session:

        async def levels() -> dict[str, str]:
            async with session.get(url) as answer:
                return {one["name"]: one["output_level"] for one in await answer.json()}

        assert (await levels())["ads"] == "info"
        async with session.put(f"{url}ads", json={"name": "ads", "output_level": "error"}) as answer:
            assert answer.status == 202
        assert (await levels())["ads"] == "error"
        assert (await levels())["default"] == "info"
        async with session.put(f"{url}ads", json={"name": "ads", "output_level": "info"}) as answer:
            assert answer.status == 202
        async with session.put(f"{url}nonsense", json={"output_level": "info"}) as answer:
            assert answer.status == 400
            assert "there are ads, ca" in (await answer.json())["error"]


def test_levels_of_the_command_line() -> None:
    """`scope:level` pairs as Istio writes them; scopes that do not exist here are passed over."""
    before = {name: logging.getLogger(scope.logger).level for name, scope in logs.SCOPES.items()}
    try:
        logs.configure("default:warn,ads:debug,wle:debug", as_json=False)
        assert (logs.level("default"), logs.level("ads"), logs.level("ca")) == ("warn", "debug", "warn")
        logs.configure("none", as_json=False)
        assert logs.level("default") == "none"
    finally:
        for name, level in before.items():
            logging.getLogger(logs.SCOPES[name].logger).setLevel(level)
