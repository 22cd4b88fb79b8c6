"""The debug pages of both control planes beside each other, on the same objects: names, parameters and shapes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.daemon.harness import ControlPlane, connected, until
from tests.e2e.harness import SAMPLES, Cluster, fresh, wait_until

from pilotfish.envoy.proto import envoy_binary

from .istiod import install_istiod

pytestmark = [pytest.mark.xdist_group("interop-debug")]

OBJECTS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers}
spec: {action: DENY, rules: [{from: [{source: {namespaces: [books]}}]}]}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: logs}
spec: {accessLogging: [{providers: [{name: envoy}]}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside}
spec:
  hosts: [outside.example.com]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
  endpoints: [{address: other.example.com, labels: {a: b}}]
"""


class Planes:
    """Asks istiod in its pod and ours on this machine, about the first pod of details."""

    def __init__(self, cluster: Cluster, ours: ControlPlane) -> None:
        self.cluster, self.ours = cluster, ours
        istiod = cluster.get("pods", "-n", "istio-system", "-l", "app=istiod")["items"][0]["metadata"]["name"]
        self._exec = ("exec", "-n", "istio-system", istiod, "--", "curl", "-s", "-w", "\n%{http_code}")
        self.proxy = cluster.get("pods", "-n", "books", "-l", "app=details")["items"][0]["metadata"]["name"]

    def theirs(self, page: str) -> tuple[int, str]:
        text = self.cluster.kubectl(*self._exec, f"http://127.0.0.1:15014/{page}")
        body, _, status = text.rpartition("\n")
        return int(status), body

    async def both(self, page: str) -> tuple[Any, Any]:
        """The JSON of a page, of istiod and of ours."""
        status, theirs = self.theirs(f"debug/{page}")
        assert status == 200, theirs
        code, ours = await self.ours.get(f"/debug/{page}")
        assert code == 200, ours
        return json.loads(theirs), json.loads(ours)


@pytest.fixture(scope="module")
def cluster(programs: Path, istio_source: Path) -> Iterator[Cluster]:
    """A cluster with Istio's control plane and Bookinfo."""
    with fresh("rootful") as one:
        one.up()
        install_istiod(one, programs, istio_source, envoy_binary())
        one.kubectl("create", "namespace", "books")
        one.kubectl("label", "namespace", "books", "istio-injection=enabled")
        one.kubectl("apply", "-n", "books", "-f", str(SAMPLES / "bookinfo" / "bookinfo.yaml"))
        one.apply(OBJECTS, "books")
        yield one


@pytest.fixture(scope="module")
def plane(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of ours on the same objects, which reads Istio's settings and root."""
    made = ControlPlane(cluster.data / "kubeconfig", tmp_path_factory.mktemp("plane"), "istio-system")
    made.start()
    yield made
    made.end()


@pytest.fixture
async def planes(cluster: Cluster, plane: ControlPlane) -> AsyncIterator[Planes]:
    """Both, with the proxy of details connected to each. Istio's has a real one, ours somebody with its node."""
    await plane.ready()
    one = Planes(cluster, plane)

    def node() -> dict[str, Any] | None:
        clients = json.loads(one.theirs(f"debug/adsz?proxyID={one.proxy}")[1] or "{}").get("clients")
        return clients[0]["metadata"] if clients else None

    metadata = wait_until(lambda: one.theirs(f"debug/adsz?proxyID={one.proxy}")[0] == 200 and node(), "a proxy")
    address = metadata["INSTANCE_IPS"].split(",")[0]
    described = {"id": f"sidecar~{address}~{one.proxy}.books~books.svc.cluster.local", "metadata": metadata}
    async with connected(plane.grpc, described) as proxy:
        await until(lambda: len(proxy.pushes) >= 2, "its configuration")
        yield one


FREE = {"Labels", "labels", "annotations", "metadata"}
"""What is below these names is the users' own, or the proxy's."""
_LACKING = "type uid domain annotations resourceVersion creationTimestamp generation Status Extra"
NOT_HERE = tuple(f"rule.{name}" for name in _LACKING.split())
"""Of a rule in a proxy's view we show name, namespace and what it says: the rest is in configz."""


def shape(value: Any) -> Any:
    """Names and kinds of values, not the values: of a list that of its elements joined; None fits everything."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        joined: Any = None
        for one in value:
            joined = _join(joined, shape(one))
        return [joined]
    return type(value).__name__ if value is not None else None


def _join(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _join(one.get(key), other.get(key)) for key in {**one, **other}}
    if isinstance(one, list) and isinstance(other, list):
        return [_join(one[0], other[0])]
    return one if one is not None else other


def differences(theirs: Any, ours: Any, at: str = "") -> list[str]:
    """Where the shape of ours lacks a name of theirs, or has another kind of value."""
    if theirs is None or ours is None:
        return []
    if isinstance(theirs, dict) and isinstance(ours, dict):
        lacking = [f"{at}.{key}" for key in theirs if key not in ours and theirs[key] is not None]
        found = [f"{one} is missing" for one in lacking if not one.endswith(NOT_HERE)]
        both = (key for key in theirs if key in ours and key not in FREE)
        return found + [one for key in both for one in differences(theirs[key], ours[key], f"{at}.{key}")]
    if isinstance(theirs, list) and isinstance(ours, list):
        return differences(theirs[0], ours[0], f"{at}[]")
    return [] if theirs == ours else [f"{at}: {theirs} there, {ours} here"]


async def test_every_page_of_istio_is_there(planes: Planes) -> None:
    """What istiod lists, ours list."""
    theirs, ours = await planes.both("list")
    assert set(theirs) <= set(ours)


@pytest.mark.parametrize(
    "page",
    [
        "registryz",
        "endpointShardz",
        "endpointz",
        "configz",
        "resourcesz",
        "connections",
        "adsz?proxyID=PROXY",
        "authorizationz",
        "telemetryz",
        "telemetryz?proxyID=PROXY",
        "clusterz",
        "networkz",
        "mcsz",
        "ambientz",
        "push_status",
        "pushcontext",
        "sidecarz?proxyID=PROXY",
        "cachez",
    ],
)
async def test_shape(planes: Planes, page: str) -> None:
    """A page has the names and kinds of values that istiod's has."""
    theirs, ours = await planes.both(page.replace("PROXY", planes.proxy))
    assert theirs is None or ours is not None
    assert not differences(shape(theirs), shape(ours)), json.dumps(ours)[:2000]


async def test_values(planes: Planes) -> None:
    """The same services, endpoints, targets of a proxy, policies and objects; equal except for what is a version."""
    theirs, ours = await planes.both("registryz")
    by_host = ({one["hostname"]: one for one in found} for found in (theirs, ours))
    there, here = by_host
    assert there.keys() == here.keys()
    for host, one in there.items():
        for key in ("ports", "clusterVIPs", "defaultAddress", "Resolution", "MeshExternal", "creationTime"):
            assert here[host][key] == one[key], (host, key)
        assert here[host]["Attributes"] == one["Attributes"], host
    theirs, ours = await planes.both("endpointShardz")
    assert theirs.keys() == ours.keys()
    for host in ("details.books.svc.cluster.local", "outside.example.com"):
        (shard,), (mine,) = (list(one[host]["books"]["Shards"].values()) for one in (theirs, ours))
        keys = ("Addresses", "EndpointPort", "ServicePortName", "ServiceAccount", "Namespace", "NodeName")
        assert [[one[key] for key in keys] for one in mine] == [[one[key] for key in keys] for one in shard]
    theirs, ours = await planes.both("instancesz")
    name = f"{planes.proxy}.books"
    assert [one["Port"] for one in ours[name]] == [one["Port"] for one in theirs[name]]
    assert [one["Service"]["hostname"] for one in ours[name]] == [one["Service"]["hostname"] for one in theirs[name]]
    theirs, ours = await planes.both("authorizationz")
    assert ours == theirs
    theirs, ours = await planes.both("telemetryz")
    assert ours == theirs
    theirs, ours = await planes.both("clusterz")
    assert ours == theirs
    theirs, ours = await planes.both("configz")
    objects = ({(one["kind"], one["metadata"]["name"]): one["spec"] for one in found} for found in (theirs, ours))
    there, here = objects
    assert there.keys() == here.keys()


async def test_configuration_of_a_proxy(planes: Planes) -> None:
    """The dump has istiod's parts in its order; `types` gives plain resources, without private keys."""
    theirs, ours = await planes.both(f"config_dump?include_eds&proxyID={planes.proxy}")
    assert [one["@type"] for one in ours["configs"]] == [one["@type"] for one in theirs["configs"]]
    theirs, ours = await planes.both(f"config_dump?types=cds&proxyID={planes.proxy}")
    names = ({one["name"] for one in found["configs"]} for found in (theirs, ours))
    there, here = names
    assert there <= here
    theirs, ours = await planes.both("mesh")
    assert theirs.keys() - {"extensionProviders"} <= ours.keys(), ours


@pytest.mark.parametrize(
    ("page", "status", "text"),
    [
        ("config_dump", 400, "You must provide a proxyID in the query string"),
        ("edsz?proxyID=nobody", 404, "Proxy not connected to this Pilot instance."),
        ("sidecarz?proxyID=nobody", 404, "Proxy not connected to this Pilot instance."),
        ("telemetryz?proxyID=nobody", 404, "Proxy not connected to this Pilot instance."),
        ("nonsense", 404, "404 page not found"),
        ("force_disconnect?proxyID=PROXY", 404, "404 page not found"),
        ("adsz?push=true", 200, "Pushed to "),
    ],
)
async def test_words(planes: Planes, page: str, status: int, text: str) -> None:
    """Tools look for these statuses and sentences."""
    path = f"debug/{page.replace('PROXY', planes.proxy)}"
    for code, body in (planes.theirs(path), await planes.ours.get(f"/{path}")):
        assert (code, body[: len(text)]) == (status, text)
