"""Networks: endpoints a client cannot reach directly are reached through their network's gateways."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from pilotfish.engine import Db, query
from pilotfish.mesh import inputs, names
from pilotfish.mesh.config import NETWORKS
from pilotfish.mesh.endpoints import Endpoint, Health
from pilotfish.mesh.services import kubernetes_ref
from pilotfish.mesh.workloads import Locality


class NetworkGateway(NamedTuple):
    address: str
    port: int


@query
def gateways(db: Db, network: str) -> tuple[NetworkGateway, ...]:
    """The gateways of a network: those of the mesh networks, and load balancers of Services labelled with it."""
    found: dict[NetworkGateway, None] = {}
    networks = NETWORKS(db, "")
    given = networks.networks.get(network) if networks is not None else None
    for one in given.gateways if given is not None else ():
        if one.address:
            found[NetworkGateway(one.address, one.port)] = None
        elif one.registry_service_name:
            parts = one.registry_service_name.split(".")
            domain = ".".join(parts[3:])
            ref = kubernetes_ref(one.registry_service_name, domain) if len(parts) > 3 else None
            service = inputs.SERVICES(db, ref) if ref is not None else None
            addresses = service.load_balancer if service is not None else ()
            found |= {NetworkGateway(a, one.port): None for a in addresses if names.is_ip(a)}
    for ref in inputs.NETWORK_GATEWAYS(db, network):
        service = inputs.SERVICES(db, ref)
        if service is not None:
            text = service.labels.get("networking.istio.io/gatewayPort", "")
            port = int(text) if text.isdigit() else 15443
            found |= {NetworkGateway(a, port): None for a in service.load_balancer if names.is_ip(a)}
    return tuple(sorted(found))


def reachable(db: Db, network: str, found: Iterable[Endpoint], capable: frozenset[int]) -> list[Endpoint]:
    """The endpoints as a client in `network` can reach them; `capable` are the positions of those that do mTLS.

    An endpoint of another network with known gateways is reached through these, by its SNI, so only with mTLS: others
    are left out. Weights stay in proportion. Without known gateways an endpoint is left as it is.
    """
    direct: list[Endpoint] = []
    behind: dict[tuple[Locality, str], list[Endpoint]] = {}
    for position, one in enumerate(found):
        if not network or not one.network or one.network == network or not gateways(db, one.network):
            direct.append(one)
        elif position in capable and one.health is Health.HEALTHY:
            behind.setdefault((one.locality, one.network), []).append(one)
    if not behind:
        return direct
    counts = {other: len(gateways(db, other)) for _, other in behind}
    scale = math.lcm(*counts.values())
    result = [msgspec.structs.replace(one, weight=one.weight * scale) for one in direct]
    for (locality, other), members in behind.items():
        weight = sum(m.weight for m in members) * scale // counts[other]
        result += [
            Endpoint(g.address, g.port, Health.HEALTHY, weight, locality, (), other, "", "", "", "", "", True, "")
            for g in gateways(db, other)
        ]
    return result
