"""The mesh as queries over objects: services, workloads, endpoints, visibility, which policy applies to whom.

Objects come in through `World`. A proxy is a `View`: what of it determines its configuration.
"""

from pilotfish.mesh.config import Settings
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.proxies import BadNode, View
from pilotfish.mesh.world import World

__all__ = ["BadNode", "Ref", "Settings", "View", "World"]
