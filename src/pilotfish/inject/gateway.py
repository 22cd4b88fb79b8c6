"""The built-in template `gateway`: the user's pod is the proxy; its container `istio-proxy` is completed."""

from __future__ import annotations

from pilotfish.inject.context import Context, Object
from pilotfish.inject.sidecar import proxy_container, volumes


def gateway(context: Context) -> Object:
    """A partial pod that is merged under the user's own."""
    return {
        "spec": {
            "containers": [proxy_container(context, "router")],
            "volumes": volumes(),
            "securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]},
        }
    }
