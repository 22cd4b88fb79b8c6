"""The built-in template `gateway`: the user's pod is the proxy; its container `istio-proxy` is completed."""

from __future__ import annotations

from pilotfish.inject import proxy
from pilotfish.inject.context import Context, Object

LOW_PORTS = {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]}


def gateway(context: Context) -> Object:
    """A partial pod that is laid over the user's own."""
    container = proxy.container(context, "router")
    user, group = context.proxy_ids
    container["securityContext"] = {"runAsUser": user, "runAsGroup": group}
    container["readinessProbe"] = proxy.readiness(context, annotated=False)
    security = (context.settings.values.get("gateways") or {}).get("securityContext")
    return {
        "metadata": proxy.metadata(context, truncate=False),
        "spec": {
            "securityContext": security or LOW_PORTS,
            "containers": [container],
            "volumes": proxy.volumes(context),
            **proxy.pull_secrets(context),
        },
    }
