"""The built-in template `sidecar`: what is added to an application's pod."""

from __future__ import annotations

from typing import Any

from pilotfish.inject import proxy
from pilotfish.inject.annotations import REROUTE, SIDECAR, TRAFFIC
from pilotfish.inject.context import PROXY_ID, Context, Object
from pilotfish.inject.multus import with_network

INIT, VALIDATION = "istio-init", "istio-validation"
OWN_INBOUND_PORTS = ("15090", "15021")
TLS_MODE = "security.istio.io/tlsMode"
TUNNEL = "networking.istio.io/tunnel"
MULTUS = "k8s.v1.cni.cncf.io/networks"


def sidecar(context: Context) -> Object:
    """A partial pod that is laid over the user's."""
    container = _proxy(context)
    spec: Object = {}
    if context.native:
        container["restartPolicy"] = "Always"
        spec["initContainers"] = [*_init(context), container]
    else:
        spec |= {"initContainers": _init(context), "containers": [container]}
    spec["volumes"] = [*proxy.volumes(context), *context.annotations.named(f"{SIDECAR}userVolume", _VOLUMES)]
    return {"metadata": _metadata(context), "spec": spec | proxy.pull_secrets(context)}


_VOLUMES = (
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "hostPath",
    "persistentVolumeClaim",
    "projected",
    "secret",
)
_MOUNTS = ("mountPath", "mountPropagation", "readOnly", "subPath", "subPathExpr")


def _metadata(context: Context) -> Object:
    made = proxy.metadata(context, truncate=True)
    made["labels"][TLS_MODE] = context.labels.get(TLS_MODE) or "istio"
    if str(context.proxy_metadata.get("ISTIO_META_ENABLE_HBONE")) == "true":
        made["labels"][TUNNEL] = context.labels.get(TUNNEL) or "http"
    if _plugin(context):
        made["annotations"] |= _for_plugin(context)
    return made


def _plugin(context: Context) -> Any:
    """The settings of the network plugin that makes the capture rules, when there is one."""
    found = (context.settings.values.get("pilot") or {}).get("cni") or {}
    return found if found.get("enabled") else None


# ------------------------------------------------------------------------------ capture


class _Capture:
    """What is captured, from annotations and values; each is checked as it is read."""

    def __init__(self, context: Context) -> None:
        notes, values = context.annotations, context.settings.proxy
        self.outbound_ranges = notes.ranges(f"{TRAFFIC}includeOutboundIPRanges", values.get("includeIPRanges", "*"))
        self.not_outbound_ranges = notes.ranges(
            f"{TRAFFIC}excludeOutboundIPRanges", values.get("excludeIPRanges", ""), every=False
        )
        self.inbound_ports = notes.ports(f"{TRAFFIC}includeInboundPorts", values.get("includeInboundPorts", "*"))
        excluded = notes.ports(f"{TRAFFIC}excludeInboundPorts", values.get("excludeInboundPorts", ""), every=False)
        self.not_inbound_ports = _with_port(excluded, context.probed_port)
        self.outbound_ports = notes.ports(f"{TRAFFIC}includeOutboundPorts", values.get("includeOutboundPorts", ""))
        self.not_outbound_ports = notes.ports(
            f"{TRAFFIC}excludeOutboundPorts", values.get("excludeOutboundPorts", ""), every=False
        )
        self.rerouted = notes.text(REROUTE, notes.text(f"{TRAFFIC}kubevirtInterfaces"))
        self.not_interfaces = notes.text(f"{TRAFFIC}excludeInterfaces")
        self.given = {name: notes.has(TRAFFIC + name) for name in ("includeOutboundPorts", "excludeOutboundPorts")}


def _with_port(ports: str, port: int) -> str:
    """The port is added to a list of ports unless it is there, or 0."""
    listed = ports.split(",")
    if not port or str(port) in listed:
        return ports
    return ",".join([*(one.strip() for one in listed if one.strip()), str(port)])


def _init(context: Context) -> list[Object]:
    """The container that makes the capture rules, or, with a network plugin, looks whether they are there."""
    capture = _Capture(context)
    if context.mode == "NONE":
        return []
    mesh, plugin = context.mesh, _plugin(context)
    tproxy = context.mode == "TPROXY"
    flags = {
        "-p": str(mesh.get("proxyListenPort") or 15001),
        "-z": str(mesh.get("proxyInboundListenPort") or 15006),
        "-u": str(PROXY_ID if tproxy else context.proxy_ids[0]),
        "-m": context.mode,
        "-i": capture.outbound_ranges,
        "-x": capture.not_outbound_ranges,
        "-b": capture.inbound_ports,
        "-d": ",".join([*OWN_INBOUND_PORTS, *([capture.not_inbound_ports] if capture.not_inbound_ports else [])]),
    }
    if capture.given["includeOutboundPorts"] or capture.outbound_ports:
        flags["-q"] = capture.outbound_ports
    if capture.given["excludeOutboundPorts"] or capture.not_outbound_ports:
        flags["-o"] = capture.not_outbound_ports
    if capture.rerouted:
        flags["-k"] = capture.rerouted
    if capture.not_interfaces:
        flags["-c"] = capture.not_interfaces
    arguments = ["istio-iptables", *(word for pair in flags.items() for word in pair), *proxy.log_flags(context)]
    values = context.settings.globals.get("proxy_init") or {}
    if plugin:
        arguments += ["--run-validation", "--skip-rule-apply"]
    elif values.get("forceApplyIptables"):
        arguments.append("--force-apply")
    if context.settings.globals.get("nativeNftables"):
        arguments.append("--native-nftables")
    made: Object = {
        "name": VALIDATION if plugin else INIT,
        "image": proxy.image(context, str(values.get("image") or ""), ""),
        "args": arguments,
        "resources": proxy.resources(context),
        "securityContext": _init_security(context, tproxy=tproxy),
        **proxy.pull_policy(context),
    }
    if context.proxy_metadata:
        made["env"] = [{"name": k, "value": str(v)} for k, v in sorted(context.proxy_metadata.items())]
    return [made]


def _for_plugin(context: Context) -> dict[str, str]:
    """What a network plugin reads from the pod."""
    capture, notes = _Capture(context), context.annotations
    found = {
        f"{SIDECAR}interceptionMode": context.mode,
        f"{TRAFFIC}includeInboundPorts": capture.inbound_ports,
        f"{TRAFFIC}excludeInboundPorts": capture.not_inbound_ports,
    }
    optional = {
        f"{TRAFFIC}includeOutboundIPRanges": capture.outbound_ranges,
        f"{TRAFFIC}excludeOutboundIPRanges": capture.not_outbound_ranges,
        f"{TRAFFIC}includeOutboundPorts": capture.outbound_ports,
        f"{TRAFFIC}excludeOutboundPorts": capture.not_outbound_ports,
        f"{TRAFFIC}kubevirtInterfaces": notes.text(f"{TRAFFIC}kubevirtInterfaces"),
        REROUTE: notes.text(REROUTE),
        f"{TRAFFIC}excludeInterfaces": capture.not_interfaces,
    }
    found |= {name: value for name, value in optional.items() if value}
    if _plugin(context).get("provider") == "multus":
        found[MULTUS] = with_network(notes.text(MULTUS), "default/istio-cni")
    return found


# ------------------------------------------------------------------------------ the containers


def _init_security(context: Context, *, tproxy: bool) -> Object:
    privileged = bool(context.settings.proxy.get("privileged"))
    common: Object = {"allowPrivilegeEscalation": privileged, "privileged": privileged, **_seccomp(context)}
    if _plugin(context):
        user, group = (PROXY_ID, PROXY_ID) if tproxy else context.proxy_ids
        return common | {
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsGroup": group,
            "runAsNonRoot": True,
            "runAsUser": user,
        }
    return common | {
        "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
        "readOnlyRootFilesystem": False,
        "runAsGroup": 0,
        "runAsNonRoot": False,
        "runAsUser": 0,
    }


def _seccomp(context: Context) -> Object:
    profile = context.settings.proxy.get("seccompProfile")
    return {"seccompProfile": profile} if profile else {}


def _proxy(context: Context) -> Object:
    made = proxy.container(context, "sidecar")
    made |= {"securityContext": _security(context), "resources": proxy.resources(context)}
    made["volumeMounts"] += context.annotations.named(f"{SIDECAR}userVolumeMount", _MOUNTS)
    if "lifecycle" not in made:
        if context.holds and not context.native:
            made["lifecycle"] = {"postStart": {"exec": {"command": ["pilot-agent", "wait"]}}}
        elif context.native:
            command = ["pilot-agent", "request", f"--debug-port={context.probed_port}", "POST", "drain"]
            made["lifecycle"] = {"preStop": {"exec": {"command": command}}}
    if context.probed_port:
        made["readinessProbe"] = proxy.readiness(context, annotated=True)
        startup = context.settings.proxy.get("startupProbe") or {}
        if startup.get("enabled", True):
            made["startupProbe"] = {
                **proxy.READY,
                "initialDelaySeconds": 0,
                "periodSeconds": 1,
                "timeoutSeconds": 3,
                "failureThreshold": int(startup.get("failureThreshold") or 600),
            }
    return made


def _security(context: Context) -> Object:
    user, group = context.proxy_ids
    if str(context.proxy_metadata.get("IPTABLES_TRACE_LOGGING")) == "true":
        return {
            "allowPrivilegeEscalation": True,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "privileged": True,
            "readOnlyRootFilesystem": True,
            "runAsGroup": group,
            "runAsNonRoot": False,
            "runAsUser": 0,
            **_seccomp(context),
        }
    privileged = bool(context.settings.proxy.get("privileged"))
    default = bool(context.settings.proxy.get("capNetBindService"))
    wanted = {
        "NET_ADMIN": context.mode == "TPROXY",
        "NET_BIND_SERVICE": context.annotations.boolean(f"{SIDECAR}capNetBindService", default),
    }
    added = [name for name, yes in wanted.items() if yes]
    return {
        "allowPrivilegeEscalation": privileged,
        "capabilities": {**({"add": added} if added else {}), "drop": ["ALL"]},
        "privileged": privileged,
        "readOnlyRootFilesystem": True,
        "runAsGroup": PROXY_ID if added else group,
        "runAsNonRoot": not added,
        "runAsUser": 0 if added else user,
        **_seccomp(context),
    }
