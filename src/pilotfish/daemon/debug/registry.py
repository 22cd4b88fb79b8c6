"""Services and endpoints in the JSON that istiod writes of its own structures; Kiali and istioctl read it."""

from __future__ import annotations

from collections.abc import Iterator

from pilotfish.daemon.debug.page import Object
from pilotfish.engine import Db
from pilotfish.mesh import inputs
from pilotfish.mesh import kubernetes as k8s
from pilotfish.mesh.config import mesh, settings
from pilotfish.mesh.endpoints import Endpoint, Health, endpoints
from pilotfish.mesh.services import Port, Resolution, Service, exports, kubernetes_ref, namespaces, service

_RESOLUTIONS = {
    Resolution.ENDPOINTS: 0,
    Resolution.DNS: 1,
    Resolution.PASSTHROUGH: 2,
    Resolution.DNS_ROUND_ROBIN: 3,
    Resolution.ALIAS: 4,
    Resolution.DYNAMIC_DNS: 5,
}
_HEALTH = {Health.HEALTHY: 1, Health.UNHEALTHY: 2, Health.DRAINING: 3}
_DISTRIBUTION = {"PreferClose": 1, "PreferSameZone": 1, "PreferSameNode": 2}


def services(db: Db) -> Iterator[Service]:
    """All services of the mesh."""
    for namespace in namespaces(db):
        for one in exports(db, namespace):
            if (found := service(db, one.namespace, one.host)) is not None:
                yield found


def port(one: Port) -> Object:
    return {**({"name": one.name} if one.name else {}), "port": one.number, "protocol": str(one.protocol)}


def registered(db: Db, one: Service) -> Object:
    """A service; fields without a tag have Go's names, as there."""
    ref = kubernetes_ref(one.host, settings(db).domain) if one.kubernetes else None
    origin = inputs.SERVICES(db, ref) if ref is not None else None
    allocated = {
        "autoAllocatedIPv4Address": next((a for a in one.auto_addresses if ":" not in a), ""),
        "autoAllocatedIPv6Address": next((a for a in one.auto_addresses if ":" in a), ""),
    }
    return {
        "Attributes": _attributes(db, one, origin),
        **({"ports": [port(p) for p in one.ports]} if one.ports else {}),
        **({"creationTime": one.created} if one.created else {}),
        "hostname": one.host,
        "clusterVIPs": {"Addresses": {settings(db).cluster: list(one.addresses)} if one.addresses else None},
        "defaultAddress": next(iter(one.addresses), "0.0.0.0"),  # noqa: S104  Istio's word for none
        **{key: value for key, value in allocated.items() if value},
        "Resolution": _RESOLUTIONS[one.resolution],
        "MeshExternal": one.external,
        "ResourceVersion": "",
    }


def _attributes(db: Db, one: Service, origin: k8s.Service | None) -> Object:
    cluster = settings(db).cluster
    external = list(origin.load_balancer) if origin is not None else []
    # Only what is said of the service itself: the default of the mesh is not.
    own = set(one.export_to) - set(mesh(db).default_service_export_to or ("*",))
    return {
        "ServiceRegistry": "Kubernetes" if one.kubernetes else "External",
        "Name": one.name if one.kubernetes else one.host,
        "Namespace": one.namespace,
        "Labels": dict(origin.labels) or None if origin is not None else None,
        "ExportTo": {key: {} for key in sorted(own)} or None,
        "Visibility": 0,
        "LabelSelectors": dict(one.selector) or None,
        "Aliases": [{"Namespace": "", "Hostname": alias} for alias in one.aliases] or None,
        "ClusterExternalAddresses": {"Addresses": {cluster: external} if external else None},
        "ClusterExternalPorts": None,
        "PassthroughTargetPorts": None,
        "Type": origin.type if origin is not None else "",
        "ExternalName": origin.external_name if origin is not None else "",
        "NodeLocal": one.local_only,
        "TrafficDistribution": _DISTRIBUTION.get(one.traffic_distribution, 0),
        "ObjectName": "" if one.kubernetes else one.name,
        "DNSConnectStrategy": 0,
        "PublishNotReadyAddresses": one.publish_not_ready,
    }


def shards(db: Db) -> Object:
    """The endpoints of all services, by host and namespace. One cluster is one shard."""
    found: Object = {}
    cluster, domain = settings(db).cluster, mesh(db).trust_domain
    for one in services(db):
        of_ports = [(p, end) for p in one.ports for end in endpoints(db, one.namespace, one.host, p.number)]
        listed = [_endpoint(one, p, end, domain, cluster) for p, end in of_ports]
        accounts: Object = {account: {} for row in listed if (account := row["ServiceAccount"])}
        registry = "Kubernetes" if one.kubernetes else "External"
        places = {f"{registry}/{cluster}": listed} if listed else {}
        found.setdefault(one.host, {})[one.namespace] = {"Shards": places, "ServiceAccounts": accounts}
    return found


def _endpoint(one: Service, at: Port, end: Endpoint, domain: str, cluster: str) -> Object:
    account = end.service_account
    return {
        "Labels": dict(end.labels),
        "Addresses": [end.address],
        "ServicePortName": at.name,
        "LegacyClusterPortKey": 0 if one.kubernetes else at.number,
        "ServiceAccount": f"spiffe://{domain}/ns/{end.namespace}/sa/{account}" if account else "",
        "Network": end.network,
        "Locality": {"Label": str(end.locality), "ClusterID": cluster},
        "EndpointPort": end.port,
        "LbWeight": end.weight,
        "TLSMode": "istio" if end.tls else "disabled",
        "Namespace": end.namespace,
        "WorkloadName": end.workload,
        "HostName": end.hostname,
        "SubDomain": "",
        "HealthStatus": _HEALTH[end.health],
        "SendUnhealthyEndpoints": True,
        "NodeName": end.node,
    }
