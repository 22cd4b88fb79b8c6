"""The injector's settings as they change under a running control plane, asked through its webhook."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import aiohttp
import pytest

from pilotfish.kube.client import Client
from pilotfish.kube.resources import CONFIG_MAPS, NAMESPACES

from .conftest import Cluster
from .harness import ControlPlane, new_namespace, until

pytestmark = pytest.mark.xdist_group("daemon")

ONE = "templates:\n  mine: |\n    metadata: {labels: {mine: {{ .ObjectMeta.Name | quote }} }}\n"
BROKEN = ONE.replace("quote", "quotes")
FAILING = ONE.replace(".ObjectMeta.Name", "fail `ask the platform team`")


async def injected(plane: ControlPlane, namespace: str, path: str = "/inject", **meta: Any) -> dict[str, Any]:
    """What the webhook answers: the values of its patch by their paths, or the refusal."""
    notes = {"inject.istio.io/templates": "mine"}
    pod = {
        "metadata": {"name": "a", "annotations": notes, **meta},
        "spec": {"containers": [{"name": "a", "image": "a"}]},
    }
    review = {"kind": "AdmissionReview", "request": {"uid": "1", "namespace": namespace, "object": pod}}
    url = f"https://127.0.0.1:{plane.https}{path}"
    async with aiohttp.ClientSession() as session, session.post(url, json=review, ssl=False) as answer:
        found = (await answer.json())["response"]
    if not found["allowed"]:
        return {"refused": found["status"]["message"]}
    return {one["path"]: one["value"] for one in json.loads(b64decode(found.get("patch") or b"W10="))}


async def test_settings_that_cannot_be_read_leave_those_in_force(cluster: Cluster, client: Client) -> None:
    """A template that is wrong is told once, on the page of problems and in the log; pods are injected as before. One
    that fails for a pod refuses the pod, with the reason."""
    system = await new_namespace(client, "sys")
    plane = ControlPlane(cluster.kubeconfig, cluster.folder, system, "injector")

    async def put(config: str) -> None:
        body = {"metadata": {"name": "istio-sidecar-injector", "namespace": system}, "data": {"config": config}}
        await client.apply({"apiVersion": "v1", "kind": "ConfigMap", **body}, "test", force=True, resource=CONFIG_MAPS)

    async def problems() -> list[Any]:
        return list(json.loads((await plane.get("/debug/problems"))[1]))

    await put(BROKEN)
    plane.start()
    try:
        await plane.ready()
        refused = (await injected(plane, "shop"))["refused"]
        assert "ConfigMap istio-sidecar-injector, key config: template mine:1: there is no function 'quotes'" in refused
        await put(ONE)

        async def works() -> bool:
            return bool((await injected(plane, "shop")).get("/metadata/labels", {}).get("mine") == "a")

        await until(works, "the template")
        assert await problems() == []
        await put(BROKEN)
        await until(lambda: "the settings in force stay" in plane.log.read_text(), "the message")
        assert "there is no function 'quotes'" in str(await problems())
        assert await works()
        await put(FAILING)

        async def refuses() -> bool:
            answer = (await injected(plane, "shop")).get("refused", "")
            return "template mine:1" in answer and "ask the platform team" in answer

        await until(refuses, "the refusal")
        assert await problems() == []
    finally:
        plane.end()


async def test_the_url_names_cluster_and_network(plane: ControlPlane) -> None:
    """Of a cluster whose webhook calls a control plane elsewhere; the network is also the pod's label."""
    made = await injected(plane, "shop", "/inject/cluster/east/net/north--slash--1", annotations={})
    assert made["/metadata/labels"]["topology.istio.io/network"] == "north/1"
    everyone = [*made.get("/spec/containers", ()), *made.get("/spec/initContainers", ())]
    proxy = next(one for one in everyone if one["name"] == "istio-proxy")
    env = {one["name"]: one.get("value") for one in proxy["env"]}
    assert (env["ISTIO_META_CLUSTER_ID"], env["ISTIO_META_NETWORK"]) == ("east", "north/1")


async def test_on_openshift_the_namespace_says_who_the_proxy_is(cluster: Cluster, client: Client) -> None:
    """User and group are the last of the namespace's, in the proxy and in the capture rules."""
    system, shop = await new_namespace(client, "sys"), await new_namespace(client, "shop")
    notes = {"openshift.io/sa.scc.uid-range": "1000620000/10000"}
    await client.patch(NAMESPACES, shop, {"metadata": {"annotations": notes}})
    plane = ControlPlane(cluster.kubeconfig, cluster.folder, system, "openshift", PLATFORM="openshift")
    plane.start()
    try:
        await plane.ready()

        async def proxy() -> Any:
            made = await injected(plane, shop, annotations={"sidecar.istio.io/nativeSidecar": "true"})
            init, found = made["/spec/initContainers"]
            assert init["args"][init["args"].index("-u") + 1] == str(found["securityContext"]["runAsUser"])
            return found["securityContext"]["runAsUser"] == 1000629999 and found["securityContext"]["runAsGroup"]

        assert await until(proxy, "the namespace's user") == 1000629999
    finally:
        plane.end()
