"""The built-in template `sidecar`: what is added to an application's pod."""

from __future__ import annotations

import json
from typing import Any

from pilotfish.inject.annotations import SIDECAR, TRAFFIC
from pilotfish.inject.context import Context, Object

PROXY, INIT, VALIDATION = "istio-proxy", "istio-init", "istio-validation"
PROXY_ID = 1337
OWN_INBOUND_PORTS = ("15090", "15021")
SAFE_PROXY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "privileged": False,
    "readOnlyRootFilesystem": True,
    "runAsGroup": PROXY_ID,
    "runAsNonRoot": True,
    "runAsUser": PROXY_ID,
}


def sidecar(context: Context) -> Object:
    """A partial pod: metadata and spec that are merged over the user's."""
    proxy = proxy_container(context, "sidecar")
    init = [] if _mode(context) == "NONE" else [_init(context)]
    if native(context):
        proxy["restartPolicy"] = "Always"
        hook = {"exec": {"command": ["pilot-agent", "request", "--debug-port=15020", "POST", "drain"]}}
        proxy.setdefault("lifecycle", {}).setdefault("preStop", hook)
        return {"spec": {"initContainers": [*init, proxy], "volumes": volumes()}}
    if holds(context):
        command = ["pilot-agent", "wait"]
        proxy.setdefault("lifecycle", {}).setdefault("postStart", {"exec": {"command": command}})
    spec: Object = {"containers": [proxy], "volumes": volumes()}
    if init:
        spec["initContainers"] = init
    return {"spec": spec}


def native(context: Context) -> bool:
    return context.annotations.boolean(f"{SIDECAR}nativeSidecar", context.native_sidecars)


def holds(context: Context) -> bool:
    """Whether the application waits for its proxy: the proxy then stands first and blocks until it is ready."""
    own = context.proxy_config.get("holdApplicationUntilProxyStarts")
    return bool(context.settings.proxy.get("holdApplicationUntilProxyStarts") if own is None else own)


def _mode(context: Context) -> str:
    default = str(context.proxy_config.get("interceptionMode") or "REDIRECT")
    return context.annotations.choice(f"{SIDECAR}interceptionMode", default, ("REDIRECT", "TPROXY", "NONE"))


def _init(context: Context) -> Object:
    notes, values = context.annotations, context.settings.proxy
    excluded = [*OWN_INBOUND_PORTS, str(context.status_port)]
    user_ports = notes.ports(f"{TRAFFIC}excludeInboundPorts", values.get("excludeInboundPorts", ""))
    excluded += [port for port in user_ports.split(",") if port and port not in excluded]
    flags = {
        "-p": "15001",
        "-z": "15006",
        "-u": str(PROXY_ID),
        "-m": _mode(context),
        "-i": notes.ranges(f"{TRAFFIC}includeOutboundIPRanges", values.get("includeIPRanges", "*")),
        "-x": notes.ranges(f"{TRAFFIC}excludeOutboundIPRanges", values.get("excludeIPRanges", "")),
        "-b": notes.ports(f"{TRAFFIC}includeInboundPorts", values.get("includeInboundPorts") or "*"),
        "-d": ",".join(port for port in excluded if port),
    }
    optional = {
        "-q": notes.ports(f"{TRAFFIC}includeOutboundPorts", values.get("includeOutboundPorts", "")),
        "-o": notes.ports(f"{TRAFFIC}excludeOutboundPorts", values.get("excludeOutboundPorts", "")),
        "-k": notes.text("istio.io/reroute-virtual-interfaces", notes.text(f"{TRAFFIC}kubevirtInterfaces")),
        "-c": notes.text(f"{TRAFFIC}excludeInterfaces"),
    }
    flags |= {flag: value for flag, value in optional.items() if value}
    arguments = ["istio-iptables", *(word for pair in flags.items() for word in pair), *_log_flags(context)]
    if str(context.proxy_metadata.get("ISTIO_META_DNS_CAPTURE", "")).lower() == "true":
        arguments.append("--redirect-dns")
    cni = bool(((context.settings.values.get("istio_cni") or context.settings.values.get("cni")) or {}).get("enabled"))
    image = (context.settings.globals.get("proxy_init") or {}).get("image") or "proxyv2"
    container: Object = {
        "name": VALIDATION if cni else INIT,
        "image": context.settings.image(str(image), _variant(context)),
        "args": [*arguments, "--run-validation", "--skip-rule-apply"] if cni else arguments,
        "resources": resources(context),
        "securityContext": {**SAFE_PROXY, "readOnlyRootFilesystem": False} if cni else _init_security(context),
    }
    if context.proxy_metadata:
        container["env"] = [{"name": k, "value": str(v)} for k, v in context.proxy_metadata.items()]
    return _pull_policy(context, container)


def _init_security(context: Context) -> Object:
    privileged = bool(context.settings.proxy.get("privileged"))
    return {
        "allowPrivilegeEscalation": privileged,
        "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
        "privileged": privileged,
        "readOnlyRootFilesystem": False,
        "runAsGroup": 0,
        "runAsNonRoot": False,
        "runAsUser": 0,
    }


def _variant(context: Context) -> str:
    image_type = (context.proxy_config.get("image") or {}).get("imageType") or ""
    return context.annotations.text(f"{SIDECAR}proxyImageType", image_type)


def _pull_policy(context: Context, container: Object) -> Object:
    if policy := context.settings.globals.get("imagePullPolicy"):
        container["imagePullPolicy"] = policy
    return container


def _log_flags(context: Context) -> list[str]:
    level = (context.settings.globals.get("logging") or {}).get("level") or "default:info"
    flags = [f"--log_output_level={context.annotations.text(f'{SIDECAR}agentLogLevel', level)}"]
    return [*flags, "--log_as_json"] if context.settings.globals.get("logAsJson") else flags


# ------------------------------------------------------------------------------ the proxy's container


def proxy_container(context: Context, kind: str) -> Object:
    """The container `istio-proxy` of a sidecar or (kind `router`) of a gateway."""
    notes, values = context.annotations, context.settings.proxy
    image = notes.text(f"{SIDECAR}proxyImage", values.get("image") or "proxyv2")
    domain = values.get("clusterDomain") or "cluster.local"
    component = notes.text(f"{SIDECAR}componentLogLevel", values.get("componentLogLevel") or "misc:error")
    container: Object = {
        "name": PROXY,
        "image": context.settings.image(image, _variant(context)),
        "ports": [{"containerPort": 15090, "name": "http-envoy-prom", "protocol": "TCP"}],
        "args": [
            "proxy",
            kind,
            "--domain",
            f"$(POD_NAMESPACE).svc.{domain}",
            f"--proxyLogLevel={notes.text(f'{SIDECAR}logLevel', values.get('logLevel') or 'warning')}",
            f"--proxyComponentLogLevel={component}",
            *_log_flags(context),
        ],
        "env": environment(context, kind),
        "securityContext": _proxy_security(context),
        "resources": resources(context),
        "volumeMounts": mounts(),
    }
    if context.status_port:
        container |= _health(context, kind)
    if lifecycle := values.get("lifecycle"):
        container["lifecycle"] = json.loads(json.dumps(lifecycle))
    return _pull_policy(context, container)


def _proxy_security(context: Context) -> Object:
    security: Object = dict(SAFE_PROXY)
    if context.settings.proxy.get("privileged"):
        security |= {"privileged": True, "allowPrivilegeEscalation": True}
    if context.annotations.boolean(f"{SIDECAR}capNetBindService", False):
        security["capabilities"] = {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}
    return security


def _health(context: Context, kind: str) -> Object:
    notes, values = context.annotations, context.settings.proxy
    prefix = "readiness.status.sidecar.istio.io/"
    probe = {"httpGet": {"path": "/healthz/ready", "port": 15021}}
    found: Object = {
        "readinessProbe": {
            **probe,
            "initialDelaySeconds": notes.number(
                f"{prefix}initialDelaySeconds", values.get("readinessInitialDelaySeconds") or 0
            ),
            "periodSeconds": notes.number(f"{prefix}periodSeconds", values.get("readinessPeriodSeconds") or 15),
            "timeoutSeconds": 3,
            "failureThreshold": notes.number(f"{prefix}failureThreshold", values.get("readinessFailureThreshold") or 4),
        }
    }
    startup = values.get("startupProbe") or {}
    if startup.get("enabled", True) and kind == "sidecar":
        found["startupProbe"] = {
            **probe,
            "initialDelaySeconds": 0,
            "periodSeconds": 1,
            "timeoutSeconds": 3,
            "failureThreshold": int(startup.get("failureThreshold") or 600),
        }
    return found


def _from_field(path: str) -> Object:
    return {"valueFrom": {"fieldRef": {"fieldPath": path}}}


def environment(context: Context, kind: str) -> list[Object]:
    """The agent's environment, in the contract's order."""
    settings, spec = context.settings, context.pod.get("spec") or {}
    globals_ = settings.globals
    apps = [one["name"] for one in spec.get("containers") or () if one.get("name") != PROXY]
    ports = [
        {key: port[key] for key in ("name", "containerPort", "protocol") if port.get(key)}
        for one in spec.get("containers") or ()
        if one.get("name") != PROXY
        for port in one.get("ports") or ()
    ]
    multi = globals_.get("multiCluster") or {}
    plain: dict[str, Any] = {
        "PILOT_CERT_PROVIDER": globals_.get("pilotCertProvider") or "istiod",
        "CA_ADDR": globals_.get("caAddress") or f"{context.control_plane}:15012",
        "POD_NAME": _from_field("metadata.name"),
        "POD_NAMESPACE": _from_field("metadata.namespace"),
        "INSTANCE_IP": _from_field("status.podIP"),
        "SERVICE_ACCOUNT": _from_field("spec.serviceAccountName"),
        "HOST_IP": _from_field("status.hostIP"),
        "ISTIOD_NAMESPACE": settings.namespace,
        "PROXY_CONFIG": json.dumps(_sent(context), separators=(",", ":"), sort_keys=True),
        "ISTIO_META_POD_PORTS": json.dumps(ports, separators=(",", ":")),
        "ISTIO_META_APP_CONTAINERS": ",".join(apps),
        "ISTIO_META_CLUSTER_ID": multi.get("clusterName") or "Kubernetes",
        "ISTIO_META_NODE_NAME": _from_field("spec.nodeName"),
        "ISTIO_META_INTERCEPTION_MODE": _mode(context) if kind == "sidecar" else "",
        "ISTIO_META_NETWORK": context.labels.get("topology.istio.io/network") or globals_.get("network") or "",
        "ISTIO_META_WORKLOAD_NAME": context.workload.name,
        "ISTIO_META_OWNER": context.workload.owner,
        "ISTIO_META_MESH_ID": globals_.get("meshID") or context.mesh.get("trustDomain") or "cluster.local",
        "TRUST_DOMAIN": context.mesh.get("trustDomain") or "cluster.local",
    }
    plain |= {key: str(value) for key, value in context.proxy_metadata.items()}
    plain |= context.environment or {}
    env = []
    for name, value in plain.items():
        if isinstance(value, dict):
            env.append({"name": name, **value})
        elif value != "":
            env.append({"name": name, "value": str(value)})
    return env


def _sent(context: Context) -> Object:
    """The part of the ProxyConfig that differs from what the agent assumes anyway.

    The mesh's settings for traces are not put into pods, only their own: so they can change without new pods.
    """
    found = {key: value for key, value in context.proxy_config.items() if value not in (None, "", {}, [])}
    if found.get("tracing") == (context.mesh.get("defaultConfig") or {}).get("tracing"):
        found.pop("tracing", None)
    return found


def resources(context: Context) -> Object:
    """From annotations when any is set (then only these), else from the chart's values."""
    notes = context.annotations
    names = {
        ("requests", "cpu"): "proxyCPU",
        ("requests", "memory"): "proxyMemory",
        ("limits", "cpu"): "proxyCPULimit",
        ("limits", "memory"): "proxyMemoryLimit",
    }
    if not any(notes.has(SIDECAR + name) for name in names.values()):
        return json.loads(json.dumps(context.settings.proxy.get("resources") or {}))  # type: ignore[no-any-return]  # a copy of JSON
    found: Object = {}
    for (group, unit), name in names.items():
        if value := notes.text(SIDECAR + name):
            found.setdefault(group, {})[unit] = value
    return found


def mounts() -> list[Object]:
    places = {
        "workload-socket": "/var/run/secrets/workload-spiffe-uds",
        "credential-socket": "/var/run/secrets/credential-uds",
        "workload-certs": "/var/run/secrets/workload-spiffe-credentials",
        "istiod-ca-cert": "/var/run/secrets/istio",
        "istio-data": "/var/lib/istio/data",
        "istio-envoy": "/etc/istio/proxy",
        "istio-token": "/var/run/secrets/tokens",
        "istio-podinfo": "/etc/istio/pod",
    }
    return [{"name": name, "mountPath": path} for name, path in places.items()]


def volumes() -> list[Object]:
    def field(path: str) -> Object:
        return {"path": path.rpartition(".")[2], "fieldRef": {"fieldPath": path}}

    token = {"path": "istio-token", "expirationSeconds": 43200, "audience": "istio-ca"}
    return [
        {"name": "workload-socket", "emptyDir": {}},
        {"name": "credential-socket", "emptyDir": {}},
        {"name": "workload-certs", "emptyDir": {}},
        {"name": "istio-envoy", "emptyDir": {"medium": "Memory"}},
        {"name": "istio-data", "emptyDir": {}},
        {"name": "istio-podinfo", "downwardAPI": {"items": [field("metadata.labels"), field("metadata.annotations")]}},
        {"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": "istiod-ca-cert", "configMap": {"name": "istio-ca-root-cert"}},
    ]
