"""A Pod goes in, a Pod with a sidecar comes out.

Pure: what is injected depends on the pod, its namespace, the injector's settings and the mesh's. `inject` is the whole
of it; the webhook and the offline command call the same function.
"""

from pilotfish.inject.decision import Decision, decide
from pilotfish.inject.errors import InjectionError
from pilotfish.inject.pod import inject
from pilotfish.inject.settings import InjectorSettings

__all__ = ["Decision", "InjectionError", "InjectorSettings", "decide", "inject"]
