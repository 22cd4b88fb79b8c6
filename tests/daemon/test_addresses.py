"""ServiceEntries without addresses get some, in their status and in what capturing proxies are told."""

from __future__ import annotations

import pytest

from pilotfish.envoy.resource import LISTENER, NAME_TABLE
from pilotfish.kube.client import Client

from .harness import ControlPlane, config, config_type, connected, node_of, until

pytestmark = pytest.mark.xdist_group("daemon")

PORTS = [{"number": 6379, "name": "tcp", "protocol": "TCP"}]


async def test_addresses_are_given_and_taken_away(plane: ControlPlane, client: Client, namespace: str) -> None:
    """Two entries for one TCP port get addresses of their own, which stay; a proxy that captures DNS gets a listener
    and a name for each. An entry that brings its own loses what it was given."""
    kind = config_type("ServiceEntry")

    async def addresses(name: str) -> list[str]:
        found = await client.get(kind, name, namespace)
        return [one["value"] for one in (found.get("status") or {}).get("addresses") or ()]

    for name in ("one", "two"):
        spec = {"hosts": [f"{name}.{namespace}.test"], "ports": PORTS, "resolution": "DNS"}
        await client.create(kind, config("ServiceEntry", namespace, name, spec))
    await until(lambda: addresses("one"))
    await until(lambda: addresses("two"))
    one, two = await addresses("one"), await addresses("two")
    assert len({*one, *two}) == 4
    assert [address.split(".")[0].split(":")[0] for address in one] == ["240", "2001"]
    async with connected(plane.grpc, node_of(namespace, DNS_CAPTURE="true")) as proxy:
        await proxy.ask(NAME_TABLE)
        for address in (one[0], two[0]):
            await proxy.holds(LISTENER, f"{address}_6379")
            await proxy.holds(NAME_TABLE, "", address.encode())
        changed = await client.get(kind, "two", namespace)
        changed["spec"]["addresses"] = ["192.0.2.77"]
        await client.update(kind, changed)
        await proxy.holds(LISTENER, "192.0.2.77_6379")
        await proxy.lacks(LISTENER, f"{two[0]}_6379")

    async def gone() -> bool:
        return not await addresses("two")

    await until(gone)
    assert await addresses("one") == one
