from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from tests.controllers.builders import obj

from pilotfish.kube.client import Client, Propagation
from pilotfish.kube.errors import is_not_found
from pilotfish.kube.resources import (
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    EVENTS,
    NAMESPACES,
    SECRETS,
    SERVICE_ACCOUNTS,
    ResourceType,
)
from pilotfish.local.controllers.garbagecollector import FOREGROUND, ORPHAN, Graph, Owners, node_of, verdict

Run = Callable[..., Any]
Object = dict[str, Any]
WIDGETS = ResourceType("example.com", "v1", "Widget", "widgets")


def config_map(name: str, *owners: Object, **meta: Any) -> Object:
    one = obj("ConfigMap", name)
    one["metadata"] |= {"uid": name, "ownerReferences": list(owners), **meta}
    return one


def owned_by(name: str, **more: Any) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": name, **more}


def put(graph: Graph, one: Object) -> set[str]:
    return graph.put(node_of(CONFIG_MAPS, one))


def test_who_is_looked_at() -> None:
    """An object with an unknown owner, the dependents of one that goes, and a waiting owner whose dependent went."""
    graph = Graph()
    assert put(graph, config_map("child", owned_by("parent"))) == {"child"}
    assert put(graph, config_map("parent")) == set()
    assert put(graph, config_map("other", owned_by("parent"))) == set()
    waiting = config_map("parent", deletionTimestamp="t", finalizers=[FOREGROUND])
    assert put(graph, waiting) == {"parent", "child", "other"}
    assert graph.remove("other") == {"parent"}
    assert graph.remove("parent") == {"child"}
    assert graph.remove("child") == set()
    assert not graph.nodes
    assert not graph.dependents


def test_verdicts() -> None:
    """One owner that is there keeps an object; without any it goes the way its finalizers say."""
    child = node_of(CONFIG_MAPS, config_map("child", owned_by("a"), owned_by("b")))
    gone: list[Mapping[str, Any]] = [owned_by("a")]
    solid: list[Mapping[str, Any]] = [owned_by("b")]
    assert verdict(child, Owners(solid=solid, gone=gone), []) is None
    assert verdict(child, Owners(gone=gone), []) is Propagation.BACKGROUND
    assert verdict(child, Owners(waiting=gone), []) is Propagation.BACKGROUND
    assert verdict(child, Owners(waiting=gone), [child]) is Propagation.FOREGROUND
    keeps = node_of(CONFIG_MAPS, config_map("child", owned_by("a"), finalizers=[ORPHAN]))
    assert verdict(keeps, Owners(gone=gone), []) is Propagation.ORPHAN


# ---------------------------------------------------------------------- on a real server


def names(found: list[Object]) -> set[str]:
    return {one["metadata"]["name"] for one in found} - {"kube-root-ca.crt"}


async def make(client: Client, namespace: str, name: str, *owners: Object, **reference: Any) -> Object:
    references = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": o["metadata"]["name"],
            "uid": o["metadata"]["uid"],
            **reference,
        }
        for o in owners
    ]
    return await client.create(CONFIG_MAPS, {"metadata": {"name": name, "ownerReferences": references}}, namespace)


async def test_chain_in_the_background(client: Client, until: Run, namespace: str) -> None:
    """Grandchildren go as well."""
    top = await make(client, namespace, "top")
    middle = await make(client, namespace, "middle", top)
    await make(client, namespace, "bottom", middle)
    await client.delete(CONFIG_MAPS, "top", namespace)
    await until(CONFIG_MAPS, lambda found: not names(found))


async def test_two_owners(client: Client, until: Run, namespace: str) -> None:
    """While one of two owners is left the object stays, and forgets the other."""
    a, b = await make(client, namespace, "a"), await make(client, namespace, "b")
    await make(client, namespace, "child", a, b)
    await client.delete(CONFIG_MAPS, "a", namespace)
    await until(
        CONFIG_MAPS,
        lambda found: (
            [
                [r["name"] for r in one["metadata"]["ownerReferences"]]
                for one in found
                if one["metadata"]["name"] == "child"
            ]
            == [["b"]]
        ),
    )
    await client.delete(CONFIG_MAPS, "b", namespace)
    await until(CONFIG_MAPS, lambda found: not names(found))


async def test_foreground_waits_for_blocking_dependents(client: Client, until: Run, namespace: str) -> None:
    """The owner goes after the dependents that block it, here one that a finalizer holds."""
    top = await make(client, namespace, "top")
    await make(client, namespace, "child", top, blockOwnerDeletion=True)
    await client.patch(CONFIG_MAPS, "child", {"metadata": {"finalizers": ["example.com/hold"]}}, namespace)
    await client.delete(CONFIG_MAPS, "top", namespace, propagation=Propagation.FOREGROUND)
    await until(
        CONFIG_MAPS,
        lambda found: all(
            "deletionTimestamp" in one["metadata"] for one in found if one["metadata"]["name"] == "child"
        ),
    )
    assert names((await client.list(CONFIG_MAPS, namespace)).items) == {"top", "child"}
    await client.patch(CONFIG_MAPS, "child", {"metadata": {"finalizers": None}}, namespace)
    await until(CONFIG_MAPS, lambda found: not names(found))


async def test_foreground_circle_ends(client: Client, until: Run, namespace: str) -> None:
    """Two objects that own each other do not wait for each other for ever."""
    a = await make(client, namespace, "a")
    b = await make(client, namespace, "b", a, blockOwnerDeletion=True)
    reference = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": "b",
        "uid": b["metadata"]["uid"],
        "blockOwnerDeletion": True,
    }
    await client.patch(CONFIG_MAPS, "a", {"metadata": {"ownerReferences": [reference]}}, namespace)
    await client.delete(CONFIG_MAPS, "a", namespace, propagation=Propagation.FOREGROUND)
    await until(CONFIG_MAPS, lambda found: not names(found))


async def test_owner_in_another_namespace_is_no_owner(client: Client, until: Run, namespace: str) -> None:
    """An owner is looked for in the namespace of its dependent only; the mistake is told in an event."""
    other = f"{namespace}-b"
    await client.create(NAMESPACES, {"metadata": {"name": other}})
    try:
        owner = await make(client, other, "owner")
        await make(client, namespace, "child", owner)
        await until(CONFIG_MAPS, lambda found: "child" not in names(found))
        await until(EVENTS, lambda found: any(one["reason"] == "OwnerRefInvalidNamespace" for one in found))
    finally:
        await client.delete(NAMESPACES, other)


async def test_cluster_scoped_owner_and_custom_resources(client: Client, until: Run, namespace: str) -> None:
    """Custom resources own and are owned like any other, from the moment their kind is there."""
    kind = f"Widget{namespace.replace('-', '')}"
    plural = f"{kind.lower()}s"
    resource = ResourceType("example.com", "v1", kind, plural)
    definition = {
        "metadata": {"name": f"{plural}.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"},
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
            ],
        },
    }
    made = await client.create(CUSTOM_RESOURCE_DEFINITIONS, definition)
    try:
        await until(
            CUSTOM_RESOURCE_DEFINITIONS,
            lambda found: any(
                c["type"] == "Established" and c["status"] == "True"
                for one in found
                if one["metadata"]["uid"] == made["metadata"]["uid"]
                for c in one.get("status", {}).get("conditions") or ()
            ),
            where="",
        )
        head = {"apiVersion": "example.com/v1", "kind": kind}
        owner = await client.create(resource, {**head, "metadata": {"name": "w"}}, namespace)
        reference = {**head, "name": "w", "uid": owner["metadata"]["uid"]}
        await client.create(SECRETS, {"metadata": {"name": "s", "ownerReferences": [reference]}}, namespace)
        parent = await make(client, namespace, "parent")
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "parent", "uid": parent["metadata"]["uid"]}
        await client.create(resource, {**head, "metadata": {"name": "x", "ownerReferences": [reference]}}, namespace)
        await client.delete(resource, "w", namespace)
        await client.delete(CONFIG_MAPS, "parent", namespace)
        await until(SECRETS, lambda found: not found)
        await until(resource, lambda found: not found)
    finally:
        await client.delete(CUSTOM_RESOURCE_DEFINITIONS, f"{plural}.example.com")


async def test_namespace_ends_when_all_is_gone(client: Client, kubectl: Run, until: Run, namespace: str) -> None:
    """What holds a namespace back is told in its conditions; when that is gone, so is the namespace."""
    name = f"{namespace}-end"
    await client.create(NAMESPACES, {"metadata": {"name": name}})
    await until(SERVICE_ACCOUNTS, lambda found: names(found) == {"default"}, where=name)
    await client.create(CONFIG_MAPS, {"metadata": {"name": "held", "finalizers": ["example.com/hold"]}}, name)
    await kubectl("-n", name, "create", "deployment", "web", "--image=a:1")
    await client.delete(NAMESPACES, name)

    def condition(found: list[Object], kind: str) -> str:
        for one in found:
            if one["metadata"]["name"] == name:
                for c in one["status"].get("conditions") or ():
                    if c["type"] == kind and c["status"] == "True":
                        return str(c["message"])
        return ""

    found = await until(
        NAMESPACES, lambda found: "configmaps. has 1" in condition(found, "NamespaceContentRemaining"), where=""
    )
    assert "example.com/hold in 1 resource instances" in condition(found, "NamespaceFinalizersRemaining")
    await client.patch(CONFIG_MAPS, "held", {"metadata": {"finalizers": None}}, name)
    await until(NAMESPACES, lambda found: name not in names(found), where="")


async def test_accounts_and_certificates_come_back(client: Client, until: Run, namespace: str) -> None:
    """The default account and the root certificate are made again when deleted, and put right when changed."""
    before = await until(SERVICE_ACCOUNTS, lambda found: names(found) == {"default"})
    await client.delete(SERVICE_ACCOUNTS, "default", namespace)
    await until(SERVICE_ACCOUNTS, lambda found: found and found[0]["metadata"]["uid"] != before[0]["metadata"]["uid"])
    (right,) = await until(CONFIG_MAPS, lambda found: found)
    assert "BEGIN CERTIFICATE" in right["data"]["ca.crt"]
    await client.patch(CONFIG_MAPS, "kube-root-ca.crt", {"data": {"ca.crt": "wrong"}}, namespace)
    await until(CONFIG_MAPS, lambda found: found[0]["data"] == right["data"])
    await client.delete(CONFIG_MAPS, "kube-root-ca.crt", namespace)
    await until(CONFIG_MAPS, lambda found: found and found[0]["metadata"]["uid"] != right["metadata"]["uid"])


async def test_token_secret_works_and_goes_with_its_account(client: Client, until: Run, namespace: str) -> None:
    """The token in the Secret is one the API server takes; without the account the Secret is removed."""
    import base64  # noqa: PLC0415 - only here
    import dataclasses  # noqa: PLC0415 - only here

    await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "robot"}}, namespace)
    meta = {"name": "t", "annotations": {"kubernetes.io/service-account.name": "robot"}}
    await client.create(SECRETS, {"metadata": meta, "type": "kubernetes.io/service-account-token"}, namespace)
    (secret,) = await until(SECRETS, lambda found: set(found[0].get("data") or ()) == {"token", "ca.crt", "namespace"})
    token = base64.b64decode(secret["data"]["token"]).decode()
    robot = dataclasses.replace(client.config, client_certificate=None, client_key=None, token=token)
    async with Client(robot) as caller:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = await caller.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=review)
    assert answer["status"]["userInfo"]["username"] == f"system:serviceaccount:{namespace}:robot"
    await client.delete(SERVICE_ACCOUNTS, "robot", namespace)
    await until(SECRETS, lambda found: not found)


async def test_orphaned_dependents_stay(client: Client, until: Run, namespace: str) -> None:
    """Orphans forget their owner before it goes."""
    top = await make(client, namespace, "top")
    children = await asyncio.gather(*(make(client, namespace, f"c{n}", top) for n in range(5)))
    await client.delete(CONFIG_MAPS, "top", namespace, propagation=Propagation.ORPHAN)
    found = await until(CONFIG_MAPS, lambda found: "top" not in names(found))
    assert names(found) == {one["metadata"]["name"] for one in children}
    assert not any(one["metadata"].get("ownerReferences") for one in found)
    with pytest.raises(Exception, match="not found") as missing:
        await client.get(CONFIG_MAPS, "top", namespace)
    assert is_not_found(missing.value)
