"""What the built-in templates share: the proxy's container, environment and volumes, and the metadata of its pod."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from pilotfish import api
from pilotfish.api.mesh import ProxyConfig
from pilotfish.inject.annotations import SIDECAR
from pilotfish.inject.context import PROXY, Context, Object
from pilotfish.inject.godata import differing
from pilotfish.inject.otel import resource_attributes
from pilotfish.inject.workload import canonical_labels

STATUS_PORT = "status.sidecar.istio.io/port"
READY = {"httpGet": {"path": "/healthz/ready", "port": 15021}}


def metadata(context: Context, *, truncate: bool) -> Object:
    """Labels and annotations of every injected pod. Names cut by `truncate` fit into a label."""
    canonical = canonical_labels(context.labels, context.workload, truncate=truncate)
    annotations = {"istio.io/rev": context.settings.revision}
    for name in ("kubectl.kubernetes.io/default-logs-container", "kubectl.kubernetes.io/default-container"):
        if context.applications and not context.annotations.has(name):
            annotations[name] = context.applications[0]
    return {"labels": canonical, "annotations": annotations}


def image(context: Context, name: str, kind: str) -> str:
    """The proxy's image: a full reference as it is, else a name completed with hub and tag."""
    chosen = context.annotations.text(f"{SIDECAR}proxyImage", name)
    if "/" in chosen:
        return chosen
    return context.settings.image(name or "proxyv2", context.annotations.text(f"{SIDECAR}proxyImageType", kind))


def pull_policy(context: Context) -> Object:
    policy = context.settings.globals.get("imagePullPolicy")
    return {"imagePullPolicy": policy} if policy else {}


def pull_secrets(context: Context) -> Object:
    secrets = context.settings.globals.get("imagePullSecrets")
    return {"imagePullSecrets": [{"name": name} for name in secrets]} if secrets else {}


def log_flags(context: Context) -> list[str]:
    level = (context.settings.globals.get("logging") or {}).get("level") or "default:info"
    flags = [f"--log_output_level={context.annotations.text(f'{SIDECAR}agentLogLevel', level)}"]
    return [*flags, "--log_as_json"] if context.settings.globals.get("logAsJson") else flags


def container(context: Context, kind: str) -> Object:
    """The container `istio-proxy` of a `sidecar` or a gateway (`router`), without what only one of them has."""
    notes, values, globals_ = context.annotations, context.settings.proxy, context.settings.globals
    domain = values.get("clusterDomain") or "cluster.local"
    component = notes.text(f"{SIDECAR}componentLogLevel", values.get("componentLogLevel") or "misc:error")
    service_port = (globals_.get("sts") or {}).get("servicePort")
    outlier_log = values.get("outlierLogPath")
    made: Object = {
        "name": PROXY,
        "image": image(
            context, str(values.get("image") or ""), (context.proxy_config.get("image") or {}).get("imageType") or ""
        ),
        "ports": [{"containerPort": 15090, "name": "http-envoy-prom", "protocol": "TCP"}],
        "args": [
            "proxy",
            kind,
            "--domain",
            f"$(POD_NAMESPACE).svc.{domain}",
            f"--proxyLogLevel={notes.text(f'{SIDECAR}logLevel', values.get('logLevel') or 'warning')}",
            f"--proxyComponentLogLevel={component}",
            *log_flags(context),
            *([f"--stsPort={service_port}"] if service_port else []),
            *([f"--outlierLogPath={outlier_log}"] if outlier_log and kind == "sidecar" else []),
        ],
        "env": environment(context, kind),
        "volumeMounts": mounts(context),
        **pull_policy(context),
    }
    if lifecycle := values.get("lifecycle"):
        made["lifecycle"] = copy.deepcopy(lifecycle)
    return made


def readiness(context: Context, *, annotated: bool) -> Object:
    """The probe of the proxy's own readiness; a sidecar's can be tuned by annotations."""
    values = context.settings.proxy

    def figure(annotation: str, value: str, default: int) -> int:
        given = values.get(value)
        found = default if given is None else int(given)
        prefix = "readiness.status.sidecar.istio.io/"
        return context.annotations.number(prefix + annotation, found) if annotated else found

    return {
        **READY,
        "initialDelaySeconds": figure("initialDelaySeconds", "readinessInitialDelaySeconds", 0),
        "periodSeconds": figure("periodSeconds", "readinessPeriodSeconds", 15),
        "timeoutSeconds": 3,
        "failureThreshold": figure("failureThreshold", "readinessFailureThreshold", 4),
    }


# ------------------------------------------------------------------------------ environment


def _from_field(path: str) -> Object:
    return {"valueFrom": {"fieldRef": {"fieldPath": path}}}


def environment(context: Context, kind: str) -> list[Object]:
    """The agent's environment, in the contract's order."""
    settings, globals_, workload = context.settings, context.settings.globals, context.workload
    sidecar = kind == "sidecar"
    override = context.annotations.has(f"{SIDECAR}bootstrapOverride")
    local = (context.mesh.get("inboundTrafficPolicy") or {}).get("mode") == "LOCALHOST"
    plain: dict[str, Any] = {
        "REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION": "true" if local and sidecar else "",
        "PILOT_CERT_PROVIDER": globals_.get("pilotCertProvider") or "istiod",
        "CA_ADDR": globals_.get("caAddress") or f"{context.control_plane}:15012",
        "POD_NAME": _from_field("metadata.name"),
        "POD_NAMESPACE": _from_field("metadata.namespace"),
        "INSTANCE_IP": _from_field("status.podIP"),
        "SERVICE_ACCOUNT": _from_field("spec.serviceAccountName"),
        "HOST_IP": _from_field("status.hostIP"),
        "ISTIO_CPU_LIMIT": {"valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1"}}},
        "ISTIOD_NAMESPACE": settings.namespace,
        "PROXY_CONFIG": json.dumps(_sent(context), separators=(",", ":"), sort_keys=True),
        "ISTIO_META_POD_PORTS": json.dumps(_ports(context), separators=(",", ":")),
        "ISTIO_META_APP_CONTAINERS": ",".join(context.applications),
        "ISTIO_META_CLUSTER_ID": "Kubernetes",
        "ISTIO_META_NODE_NAME": _from_field("spec.nodeName"),
        "ISTIO_META_INTERCEPTION_MODE": context.mode
        if sidecar
        else context.proxy_config.get("interceptionMode") or "REDIRECT",
        "ISTIO_META_WORKLOAD_NAME": context.labels.get("service.istio.io/workload-name") or workload.name
        if sidecar
        else workload.name,
        "ISTIO_META_OWNER": workload.owner if workload.name else "",
        "ISTIO_BOOTSTRAP_OVERRIDE": "/etc/istio/custom-bootstrap/custom_bootstrap.json" if override else "",
        "ISTIO_META_MESH_ID": globals_.get("meshID") or context.trust_domain,
        "TRUST_DOMAIN": context.trust_domain,
    }
    if sidecar:
        plain |= _datadog(context)
        plain["OTEL_RESOURCE_ATTRIBUTES"] = resource_attributes(
            context.mesh,
            context.annotations.values,
            context.labels,
            context.namespace,
            context.spec.get("containers") or (),
        )
    plain |= {key: str(value) for key, value in context.proxy_metadata.items()}
    plain |= context.placement
    # What only tells where something is may be empty; a list of the applications that is empty says something.
    told = {"ISTIO_META_APP_CONTAINERS", *context.proxy_metadata}
    return [
        {"name": name, **value} if isinstance(value, dict) else {"name": name, "value": str(value)}
        for name, value in plain.items()
        if value != "" or name in told
    ]


def _ports(context: Context) -> list[Object]:
    names = ("name", "hostPort", "containerPort", "protocol", "hostIP")
    return [
        {name: port[name] for name in names if port.get(name)}
        for one in context.spec.get("containers") or ()
        for port in one.get("ports") or ()
    ]


def _datadog(context: Context) -> Mapping[str, str]:
    name = "apm.datadoghq.com/env"
    if context.settings.proxy.get("tracer") != "datadog" or not context.annotations.has(name):
        return {}
    return {key: str(value) for key, value in context.annotations.json(name, dict).items()}


def _sent(context: Context) -> Object:
    """The part of the ProxyConfig that differs from what the agent assumes anyway.

    The mesh's settings for traces are not put into pods, only their own: so they can change without new pods.
    """
    found = differing(api.from_json(context.proxy_config, ProxyConfig)[0])
    if found.get("discoveryAddress") == f"istiod.{context.settings.namespace}.svc:15012":
        del found["discoveryAddress"]
    if context.proxy_config.get("tracing") == (context.mesh.get("defaultConfig") or {}).get("tracing"):
        found.pop("tracing", None)
    return found


# ------------------------------------------------------------------------------ resources, volumes


def resources(context: Context) -> Object:
    """From annotations when any is set (then only these), else from the chart's values."""
    notes = context.annotations
    names = {
        ("requests", "cpu"): "proxyCPU",
        ("requests", "memory"): "proxyMemory",
        ("limits", "cpu"): "proxyCPULimit",
        ("limits", "memory"): "proxyMemoryLimit",
    }
    found: Object = {}
    for (group, unit), name in names.items():
        if notes.has(SIDECAR + name):
            found.setdefault(group, {})[unit] = notes.quantity(SIDECAR + name)
    return found or _present(context.settings.proxy.get("resources") or {})


def _present(value: Any) -> Any:
    """Without what is null, so that a user can take a default away."""
    if isinstance(value, Mapping):
        kept = {key: _present(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in (None, {})}
    return value


def _certificates(context: Context) -> str:
    google = context.settings.globals.get("caName") == "GkeWorkloadCertificate"
    return "gke-workload-certificate" if google else "workload-certs"


def _own_root(context: Context) -> bool:
    return (context.settings.globals.get("pilotCertProvider") or "istiod") == "istiod"


def mounts(context: Context) -> list[Object]:
    certificates = _certificates(context)
    places: dict[str, str] = {
        "workload-socket": "/var/run/secrets/workload-spiffe-uds",
        "credential-socket": "/var/run/secrets/credential-uds",
        certificates: "/var/run/secrets/workload-spiffe-credentials",
        **({"istiod-ca-cert": "/var/run/secrets/istio"} if _own_root(context) else {}),
        "istio-data": "/var/lib/istio/data",
        "istio-envoy": "/etc/istio/proxy",
        "istio-token": "/var/run/secrets/tokens",
        "istio-podinfo": "/etc/istio/pod",
    }
    read_only = {"gke-workload-certificate", "istio-certs"}
    if context.annotations.has(f"{SIDECAR}bootstrapOverride"):
        places["custom-bootstrap-volume"] = "/etc/istio/custom-bootstrap"
    if context.settings.globals.get("mountMtlsCerts"):
        places["istio-certs"] = "/etc/certs/"
    return [
        {"name": name, "mountPath": path, **({"readOnly": True} if name in read_only else {})}
        for name, path in places.items()
    ]


def volumes(context: Context) -> list[Object]:
    def field(path: str) -> Object:
        return {"path": path.rpartition(".")[2], "fieldRef": {"fieldPath": path}}

    globals_, notes = context.settings.globals, context.annotations
    audience = ((globals_.get("sds") or {}).get("token") or {}).get("aud") or "istio-ca"
    token = {"path": "istio-token", "expirationSeconds": 43200, "audience": audience}
    certificates = _certificates(context)
    made: list[Object] = [
        # Without a kind of volume, which is an emptyDir: so a pod or another template can say what it is.
        {"name": "workload-socket"},
        {"name": "credential-socket"},
        {"name": certificates}
        if certificates == "workload-certs"
        else {"name": certificates, "csi": {"driver": "workloadcertificates.security.cloud.google.com"}},
        {"name": "istio-envoy", "emptyDir": {"medium": "Memory"}},
        {"name": "istio-data", "emptyDir": {}},
        {"name": "istio-podinfo", "downwardAPI": {"items": [field("metadata.labels"), field("metadata.annotations")]}},
        {"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": token}]}},
    ]
    if _own_root(context):
        made.append({"name": "istiod-ca-cert", **_root(context)})
    if notes.has(f"{SIDECAR}bootstrapOverride"):
        made.append(
            {"name": "custom-bootstrap-volume", "configMap": {"name": notes.text(f"{SIDECAR}bootstrapOverride")}}
        )
    if globals_.get("mountMtlsCerts"):
        account = context.spec.get("serviceAccountName") or "default"
        made.append({"name": "istio-certs", "secret": {"optional": True, "secretName": f"istio.{account}"}})
    return made


def _root(context: Context) -> Object:
    name = context.settings.globals.get("trustBundleName")
    environment = (context.settings.values.get("pilot") or {}).get("env") or {}
    if environment.get("ENABLE_CLUSTER_TRUST_BUNDLE_API") is not True:
        return {"configMap": {"name": name or "istio-ca-root-cert"}}
    bundle = {"name": f"istio.io:istiod-ca:{name or 'root-cert'}", "path": "root-cert.pem"}
    return {"projected": {"sources": [{"clusterTrustBundle": bundle}]}}
