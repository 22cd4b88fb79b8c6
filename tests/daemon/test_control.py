"""What the control plane does besides serving: leadership, roots, webhooks, metrics, debug."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from grpclib import GRPCError, Status

from pilotfish.ca.authority import Authority, certificate_pem, utc_now
from pilotfish.envoy import proto
from pilotfish.envoy.resource import CLUSTER
from pilotfish.kube.client import Client, PatchType
from pilotfish.kube.errors import ApiStatusError, is_not_found
from pilotfish.kube.resources import CONFIG_MAPS, LEASES, SECRETS, SERVICES, VALIDATING_WEBHOOK_CONFIGURATIONS

from .conftest import SYSTEM, Cluster
from .harness import ControlPlane, client_tls, connected, new_namespace, node_of, service, token, until

pytestmark = pytest.mark.xdist_group("daemon")


async def roots_in(client: Client, namespace: str) -> str:
    try:
        found = await client.get(CONFIG_MAPS, "istio-ca-root-cert", namespace)
    except ApiStatusError as error:
        if is_not_found(error):
            return ""
        raise
    return str(found["data"].get("root-cert.pem", ""))


async def test_roots_are_in_every_namespace_and_repaired(plane: ControlPlane, client: Client) -> None:
    """A new namespace gets the roots; edited or deleted, they come back."""
    namespace = await new_namespace(client)
    pem = str(await until(lambda: roots_in(client, namespace), "the roots"))
    assert x509.load_pem_x509_certificates(pem.encode())
    await client.patch(CONFIG_MAPS, "istio-ca-root-cert", {"data": {"root-cert.pem": "nonsense"}}, namespace)

    async def repaired() -> bool:
        return await roots_in(client, namespace) == pem

    await until(repaired, "the repair")
    await client.delete(CONFIG_MAPS, "istio-ca-root-cert", namespace)
    await until(repaired, "the new one")


def webhook(name: str, namespace: str) -> dict[str, Any]:
    hook = {
        "name": "x.validation.istio.io",
        "clientConfig": {"service": {"namespace": namespace, "name": "istiod", "path": "/validate"}, "caBundle": ""},
        "rules": [{"operations": ["CREATE"], "apiGroups": ["x.example"], "apiVersions": ["*"], "resources": ["*"]}],
        "failurePolicy": "Ignore",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    other = {**hook, "name": "other.example.com", "clientConfig": {"url": "https://127.0.0.1:1/"}}
    return {"metadata": {"name": name, "labels": {"istio.io/rev": "default"}}, "webhooks": [hook, other]}


async def test_one_leads_and_the_other_takes_over(cluster: Cluster, client: Client) -> None:
    """Both replicas serve and patch webhooks, one leads; when it ends the other does the leader's work."""
    system = await new_namespace(client, "sys")
    first = ControlPlane(cluster.kubeconfig, cluster.folder, system, "first")
    second = ControlPlane(cluster.kubeconfig, cluster.folder, system, "second")
    name = f"validator-{system}"

    async def patched() -> str:
        found = await client.get(VALIDATING_WEBHOOK_CONFIGURATIONS, name)
        ours, other = found["webhooks"]
        assert "caBundle" not in other["clientConfig"] or not other["clientConfig"]["caBundle"]
        bundle = ours["clientConfig"].get("caBundle", "")
        return bundle if ours["failurePolicy"] == "Fail" else ""

    async def holder() -> str:
        try:
            lease = await client.get(LEASES, "istio-leader", system)
        except ApiStatusError as error:
            if is_not_found(error):
                return ""
            raise
        return str(lease["spec"].get("holderIdentity") or "")

    try:
        first.start()
        await first.ready()
        await until(holder, "a leader")
        second.start()
        await second.ready()
        await client.create(VALIDATING_WEBHOOK_CONFIGURATIONS, webhook(name, system))
        bundle = b64decode(str(await until(patched, "the bundle")))
        secret = await client.get(SECRETS, "istio-ca-secret", system)
        assert b64decode(secret["data"]["root-cert.pem"]) == bundle
        for one in (first, second):
            async with connected(one.grpc, node_of(system)) as proxy:
                await until(partial(getattr, proxy, "pushes"), "an answer")
        assert (await holder()).startswith("first")
        first.end()
        await until(lambda: _starts(holder, "second"), "the new leader")
        stale = b64encode(b"stale").decode()
        change = [{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": stale}]
        await client.patch(VALIDATING_WEBHOOK_CONFIGURATIONS, name, change, patch_type=PatchType.JSON)

        async def again() -> bool:
            return b64decode(await patched()) == bundle

        await until(again, "the repaired bundle")
    finally:
        first.end()
        second.end()
        with suppress(ApiStatusError):  # not made yet, if the test failed before
            await client.delete(VALIDATING_WEBHOOK_CONFIGURATIONS, name)


async def _starts(get: Any, text: str) -> bool:
    return str(await get()).startswith(text)


async def test_a_root_near_its_end_is_replaced_and_both_are_trusted(cluster: Cluster, client: Client) -> None:
    """The leader renews a self-signed root in time; workloads trust the old and the new, and certificates of the old
    root are still let in."""
    system = await new_namespace(client, "sys")
    now = utc_now()
    old = Authority.self_signed("cluster.local", now - timedelta(days=90), timedelta(days=100))
    data = {"ca-cert.pem": old.certificate_pem, "ca-key.pem": old.key_pem, "root-cert.pem": old.root_pem}
    encoded = {key: b64encode(value).decode() for key, value in data.items()}
    await client.create(SECRETS, {"metadata": {"name": "istio-ca-secret", "namespace": system}, "data": encoded})
    plane = ControlPlane(cluster.kubeconfig, cluster.folder, system, "rotating")
    plane.start()
    try:
        await plane.ready()

        async def both() -> str:
            pem = await roots_in(client, system)
            return pem if pem.count("BEGIN CERTIFICATE") == 2 and old.root_pem.decode() in pem else ""

        trust = str(await until(both, "both roots"))
        tls = client_tls(cluster.folder, old, f"spiffe://cluster.local/ns/{system}/sa/default", trust=trust.encode())

        async def served() -> bool:
            try:
                async with connected(plane.secure, node_of(system), CLUSTER, tls=tls) as proxy:
                    await until(lambda: proxy.pushes, "an answer")
                    return True
            except (OSError, AssertionError):
                return False

        await until(served, "service for a certificate of the old root")
    finally:
        plane.end()


async def test_replaced_files_keep_the_old_root_trusted(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    """When plugged-in files are replaced the new authority signs, and the old root stays trusted for a while."""
    system = await new_namespace(client, "sys")
    folder = tmp_path / "cacerts"
    folder.mkdir()

    def plug(authority: Authority) -> None:
        for name, content in (
            ("ca-cert.pem", authority.certificate_pem),
            ("ca-key.pem", authority.key_pem),
            ("root-cert.pem", certificate_pem(authority.certificate)),
        ):
            (folder / name).write_bytes(content)

    old, new = (Authority.self_signed("cluster.local", utc_now()) for _ in range(2))
    plug(old)
    extra = {"ROOT_CA_DIR": str(folder), "ROOT_CA_CHECK_INTERVAL": "100ms"}
    plane = ControlPlane(cluster.kubeconfig, cluster.folder, system, "plugged", **extra)
    plane.start()
    try:
        await plane.ready()

        async def trusted() -> set[x509.Certificate]:
            return set(x509.load_pem_x509_certificates((await roots_in(client, system)).encode() or old.root_pem))

        plug(new)

        async def both() -> bool:
            return await trusted() == {old.certificate, new.certificate}

        await until(both, "both roots")
    finally:
        plane.end()


async def test_metrics_have_istios_names(plane: ControlPlane, client: Client, namespace: str) -> None:
    """What dashboards read is there, with values that follow what happens."""
    services = await plane.metric("pilot_services")
    connected_before = await plane.metric("pilot_xds", version="9.9.9") or 0
    async with connected(plane.grpc, node_of(namespace, ISTIO_VERSION="9.9.9")) as proxy:
        await until(lambda: proxy.pushes, "an answer")
        assert await plane.metric("pilot_xds", version="9.9.9") == connected_before + 1
        converged = await plane.metric("pilot_proxy_convergence_time_count") or 0
        pushed = await plane.metric("pilot_xds_pushes", type="cds") or 0
        await client.create(SERVICES, service("counted", namespace, 8021))
        await proxy.holds(CLUSTER, f"outbound|8021||counted.{namespace}.svc.cluster.local")
        assert await plane.metric("pilot_services") == (services or 0) + 1
        assert (await plane.metric("pilot_xds_pushes", type="cds") or 0) > pushed

        async def observed() -> bool:
            return (await plane.metric("pilot_proxy_convergence_time_count") or 0) > converged

        await until(observed, "a convergence time")
    _, page = await plane.get("/metrics")
    assert "_created" not in page
    for name in ("citadel_server_csr_count", "citadel_server_root_cert_expiry_timestamp", "pilot_virt_services"):
        assert f"\n{name} " in page
    assert "process_cpu_seconds_total" in page


async def test_debug_over_xds(plane: ControlPlane, cluster: Cluster, client: Client, namespace: str) -> None:
    """As istioctl asks: proxy states and a dump over xDS; callers outside the system namespace see their own only."""
    trust = await roots_in(client, SYSTEM) or str(await until(lambda: roots_in(client, SYSTEM), "the roots"))
    tls = client_tls(cluster.folder, trust=trust.encode())
    admin, user = await token(client, SYSTEM), await token(client, namespace)

    async def ask(type_url: str, name: str, bearer: str) -> Any:
        async with asyncio.timeout(60), connected(plane.secure, {}, tls=tls, bearer=bearer, sotw=True) as one:
            names = [name] if name else []
            request = {
                "node": {"id": "debug~0.0.0.0~istioctl~cluster.local"},
                "type_url": type_url,
                "resource_names": names,
                "response_nonce": "istioctl sends the time here",
            }
            await one.stream.send_message(proto.encode("envoy.service.discovery.v3.DiscoveryRequest", request))
            body = await one.stream.recv_message()
            return proto.decode("envoy.service.discovery.v3.DiscoveryResponse", body)

    node = node_of(namespace, "seen")
    async with connected(plane.grpc, node) as proxy:
        await until(lambda: len(proxy.pushes) >= 2, "its configuration")
        states = await ask("istio.io/debug/syncz", "", admin)
        assert {one.type_url for one in states.resources} == {proto.TYPE_URL + "envoy.service.status.v3.ClientConfig"}
        mine = next(one.value for one in states.resources if f"seen.{namespace}".encode() in one.value)
        assert CLUSTER.encode() in mine
        own = await ask("istio.io/debug/syncz", "", user)
        assert own.resources
        assert all(namespace.encode() in one.value for one in own.resources)
        dump = await ask("istio.io/debug/config_dump", f"seen.{namespace}", user)
        assert [one.type_url.rpartition(".")[2] for one in dump.resources][:2] == [
            "BootstrapConfigDump",
            "ClustersConfigDump",
        ]
        page = await ask("istio.io/debug", "connections", admin)
        assert json.loads(page.resources[0].value)["totalClients"] >= 1
        assert json.loads(states.control_plane.identifier)["Component"] == "istiod"
        nobody = await ask("istio.io/debug/config_dump", "nobody", admin)
        assert b"Proxy not connected to this Pilot instance." in nobody.resources[0].value
        for name, text in (
            ("config_dump?proxyID=nobody", b"Proxy not connected to this Pilot instance."),
            ("config_dump", b"You must provide a proxyID in the query string"),
            ("nonsense", b"404 page not found"),
        ):
            assert text in (await ask("istio.io/debug", name, admin)).resources[0].value
        other = await ask("istio.io/debug", f"config_dump?proxyID=seen.{namespace}", await token(client, "default"))
        assert b"not connected" in other.resources[0].value
        for type_url, name, bearer, status in (
            ("istio.io/debug", "syncz", user, Status.PERMISSION_DENIED),
            ("istio.io/debug", "", admin, Status.INVALID_ARGUMENT),
            ("istio.io/debug/syncz", "", "forged", Status.UNAUTHENTICATED),
        ):
            with pytest.raises(GRPCError) as refusal:
                await ask(type_url, name, bearer)
            assert refusal.value.status == status
