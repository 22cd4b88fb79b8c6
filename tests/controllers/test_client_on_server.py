"""The API client against a real API server."""

from __future__ import annotations

import asyncio

import pytest

from pilotfish.kube.client import Client, PatchType
from pilotfish.kube.errors import ApiStatusError, is_conflict, is_expired, is_not_found
from pilotfish.kube.informer import Informer
from pilotfish.kube.resources import CONFIG_MAPS, DEPLOYMENTS, PODS


async def test_apply_by_discovery(client: Client, namespace: str) -> None:
    """An object is applied by its kind alone; a conflict names the field and its owner, force takes it."""
    obj = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c", "namespace": namespace},
        "data": {"a": "1"},
    }
    await client.apply(obj, "one")
    changed = {**obj, "data": {"a": "2"}}
    with pytest.raises(ApiStatusError) as refused:
        await client.apply(changed, "two")
    assert is_conflict(refused.value)
    assert [(cause["reason"], cause["field"]) for cause in refused.value.causes] == [
        ("FieldManagerConflict", ".data.a")
    ]
    assert (await client.apply(changed, "two", force=True))["data"] == {"a": "2"}
    with pytest.raises(ApiStatusError, match='no matches for kind "Nope" in version "v1"'):
        await client.apply({**obj, "kind": "Nope"}, "one")


@pytest.mark.parametrize("name", ["deploy", "deployments", "deployment", "deployments.apps", "Deployment"])
async def test_names_of_resources(client: Client, name: str) -> None:
    """Plural, singular, short and group-qualified names find the same resource."""
    assert await client.mapper.resource_named(name) == DEPLOYMENTS


async def test_reads_and_writes(client: Client, namespace: str) -> None:
    """Pages, patches, optimistic locking, preconditions, metadata alone and deletion of many."""
    made = [
        await client.create(CONFIG_MAPS, {"metadata": {"name": f"c{n}", "labels": {"a": "b"}}}, namespace)
        for n in range(5)
    ]
    listed = await client.list(CONFIG_MAPS, namespace, labels="a=b", page_size=2)
    assert [one["metadata"]["name"] for one in listed.items] == [f"c{n}" for n in range(5)]
    assert listed.items[0]["kind"] == "ConfigMap"
    patch = [{"op": "add", "path": "/data", "value": {"k": "v"}}]
    assert (await client.patch(CONFIG_MAPS, "c0", patch, namespace, patch_type=PatchType.JSON))["data"] == {"k": "v"}
    with pytest.raises(ApiStatusError) as refused:
        await client.update(CONFIG_MAPS, {**made[0], "data": {"k": "w"}})
    assert is_conflict(refused.value)
    with pytest.raises(ApiStatusError) as refused:
        await client.delete(CONFIG_MAPS, "c0", namespace, uid="another")
    assert is_conflict(refused.value)
    only = await client.get(CONFIG_MAPS, "c0", namespace, metadata_only=True)
    assert only["kind"] == "PartialObjectMetadata"
    assert "data" not in only
    await client.delete_collection(CONFIG_MAPS, namespace, labels="a=b")
    assert (await client.list(CONFIG_MAPS, namespace, labels="a=b")).items == []
    with pytest.raises(ApiStatusError) as refused:
        await client.get(CONFIG_MAPS, "c0", namespace)
    assert is_not_found(refused.value)
    with pytest.raises(ApiStatusError) as refused:
        await client.create(PODS, {"metadata": {"name": "p"}, "spec": {"containers": []}}, namespace, dry_run=True)
    assert (refused.value.code, refused.value.reason) == (422, "Invalid")
    assert [cause["field"] for cause in refused.value.causes] == ["spec.containers"]


async def test_informers_of_part_of_the_world(client: Client, namespace: str) -> None:
    """A selector sees objects enter and leave; metadata-only informers hold no data."""
    chosen = Informer(client, CONFIG_MAPS, namespace, labels="on=yes")
    bare = Informer(client, CONFIG_MAPS, namespace, metadata_only=True)
    tasks = [asyncio.create_task(one.run()) for one in (chosen, bare)]
    await asyncio.wait_for(asyncio.gather(chosen.synced.wait(), bare.synced.wait()), 60)
    await client.create(CONFIG_MAPS, {"metadata": {"name": "c"}, "data": {"k": "v"}}, namespace)
    await client.patch(CONFIG_MAPS, "c", {"metadata": {"labels": {"on": "yes"}}}, namespace)
    assert await chosen.until(lambda: chosen.store.get(namespace, "c") is not None)
    held = bare.store.get(namespace, "c")
    assert held is not None
    assert "data" not in held
    await client.patch(CONFIG_MAPS, "c", {"metadata": {"labels": {"on": "no"}}}, namespace)
    assert await chosen.until(lambda: len(chosen.store) == 0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_watch_from_nowhere_is_refused_as_expired_or_served(client: Client, namespace: str) -> None:
    """A version from before the history is Expired: the informer lists again on just that."""
    try:
        async with asyncio.timeout(60):
            watch = client.watch(CONFIG_MAPS, namespace, resource_version="1", timeout_seconds=1)
            events = [event async for event in watch]
    except ApiStatusError as error:
        assert is_expired(error)  # noqa: PT017 - either answer is allowed
    else:
        assert all(event.type in {"ADDED", "BOOKMARK"} for event in events)
