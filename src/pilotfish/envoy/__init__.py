"""The mesh as Envoy resources: one file per Envoy feature; pure functions to bytes.

`Compiler` is the way out (see its methods): `view` a proxy, `watch` the view, read `every` resource of a type or `one`,
ask what `changed`. Inputs go in through `pilotfish.mesh.World`.
"""

from pilotfish.envoy.compiler import Compiler, Failed, ObjectRef
from pilotfish.envoy.resource import CLUSTER, ENDPOINT, EXTENSION, LISTENER, NAME_TABLE, ROUTE, SECRET, Resource

__all__ = [
    "CLUSTER",
    "ENDPOINT",
    "EXTENSION",
    "LISTENER",
    "NAME_TABLE",
    "ROUTE",
    "SECRET",
    "Compiler",
    "Failed",
    "ObjectRef",
    "Resource",
]
