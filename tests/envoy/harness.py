"""From YAML to compiled resources, and from those to a configuration that a real Envoy takes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.message import Message

from pilotfish.api.files import load_all
from pilotfish.api.mesh import decode_mesh_config
from pilotfish.envoy import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, Compiler, Resource, proto
from pilotfish.mesh import View, World

SECTIONS = {"clusters": CLUSTER, "endpoints": ENDPOINT, "listeners": LISTENER, "routes": ROUTE, "secrets": SECRET}
HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


class Case:
    """A YAML text: Kubernetes and Istio objects, at most one MeshConfig, and a Proxy, which says what to look at.

    The Proxy is a test's own kind: `type` (sidecar), `name`, `namespace`, `ip`, `labels`, `metadata`, `verified`, and
    `show`: section (clusters, endpoints, listeners, routes, secrets) to patterns of resource names.
    """

    def __init__(self, text: str, world: World | None = None) -> None:
        self.world = world or World()
        self.proxy: dict[str, Any] = {}
        for obj, _ in load_all(text):
            if obj["kind"] == "Proxy":
                self.proxy = obj
            elif obj["kind"] == "MeshConfig":
                self.world.set_mesh(decode_mesh_config({k: v for k, v in obj.items() if k != "kind"})[0])
            elif obj["kind"] == "JWKS":
                self.world.set_jwks(obj["uri"], obj["keys"])
            else:
                if obj["kind"] not in ("Node", "Namespace"):
                    obj["metadata"].setdefault("namespace", "default")
                self.world.apply(obj)
        self.compiler = Compiler(self.world)

    def view(self, **changes: Any) -> View:
        return view(self.compiler, {**self.proxy, **changes})

    def shown(self) -> dict[str, list[Any]]:
        """The resources the Proxy asks for, as plain data."""
        one = self.view()
        result: dict[str, list[Any]] = {}
        for section, patterns in self.proxy.get("show", {}).items():
            found = self.compiler.every(one, SECTIONS[section])
            names = [n for n in found if any(fnmatchcase(n, p) for p in patterns)]
            result[section] = [proto.to_dict(message(SECTIONS[section], found[n])) for n in sorted(names)]
        assert not self.compiler.errors(), self.compiler.errors()
        return result


def view(compiler: Compiler, proxy: Mapping[str, Any]) -> View:
    namespace = proxy.get("namespace", "default")
    kind, ip, name = proxy.get("type", "sidecar"), proxy.get("ip", "10.1.0.1"), proxy.get("name", "client-1")
    node = {
        "id": f"{kind}~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local",
        "metadata": {"NAMESPACE": namespace, "LABELS": proxy.get("labels", {}), **proxy.get("metadata", {})},
        "locality": proxy.get("locality", {}),
        "extensions": proxy.get("extensions"),
    }
    return compiler.view(node, (namespace, "default") if proxy.get("verified", True) else None)


def message(type_url: str, resource: Resource) -> Message:
    return proto.decode(type_url.removeprefix(proto.TYPE_URL), resource.body)


def everything(compiler: Compiler, one: View) -> dict[str, dict[str, Any]]:
    """All resources of a view by section and name, as plain data."""
    return {
        section: {name: proto.to_dict(message(url, r)) for name, r in compiler.every(one, url).items()}
        for section, url in SECTIONS.items()
    }


def bootstrap(resources: Mapping[str, Mapping[str, Any]], *, admin: str = "") -> dict[str, Any]:
    """A static configuration with the same content: routes and load assignments are put in place."""
    routes, loads = resources["routes"], resources["endpoints"]
    listeners = [_with_routes(listener, routes) for listener in resources["listeners"].values()]
    clusters = [_with_endpoints(cluster, loads) for cluster in resources["clusters"].values()]
    h2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    clusters += [
        {"name": name, "type": "STATIC", "typed_extension_protocol_options": h2} for name in ("xds", "sds-grpc")
    ]
    result: dict[str, Any] = {
        "node": {"id": "test", "cluster": "test"},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            }
        },
        "static_resources": {
            "listeners": listeners,
            "clusters": clusters,
            "secrets": list(resources.get("secrets", {}).values()),
        },
    }
    if admin:
        result["admin"] = {"address": {"pipe": {"path": admin}}}
    return result


def _with_routes(value: Any, routes: Mapping[str, Any]) -> Any:
    """The same with every reference to a route configuration replaced by the configuration itself."""
    if isinstance(value, list):
        return [_with_routes(v, routes) for v in value]
    if not isinstance(value, dict):
        return value
    made = {k: _with_routes(v, routes) for k, v in value.items()}
    if value.get("@type") == HCM and "rds" in made:
        name = made.pop("rds")["route_config_name"]
        made["route_config"] = routes.get(name, {"name": name, "validate_clusters": False})
    return made


def _with_endpoints(cluster: Any, loads: Mapping[str, Any]) -> Any:
    if cluster.get("type") != "EDS":
        return cluster
    made = {k: v for k, v in cluster.items() if k != "eds_cluster_config"}
    made["type"] = "STATIC"
    made["load_assignment"] = loads.get(cluster["name"], {"cluster_name": cluster["name"]})
    return made


def _unshared(value: Any) -> Any:
    """The same without shared scopes of statistics: `--mode validate` of Envoy 1.40 ends in a fault at them."""
    if isinstance(value, list):
        return [_unshared(v) for v in value]
    if not isinstance(value, dict):
        return value
    return {k: _unshared(v) for k, v in value.items() if k != "sharing_name"}


def validate(resources: Mapping[str, Mapping[str, Any]], tmp_path: Path) -> None:
    """Real Envoy accepts the resources."""
    path = tmp_path / "bootstrap.pb"
    path.write_bytes(serialise(_unshared(bootstrap(resources))))
    done = subprocess.run(
        [proto.envoy_binary(), "--mode", "validate", "-c", path, "-l", "error", "--disable-hot-restart"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr + done.stdout


def serialise(configuration: Mapping[str, Any]) -> bytes:
    made = proto.from_dict("envoy.config.bootstrap.v3.Bootstrap", configuration)
    return made.SerializeToString(deterministic=True)


def dump(data: Any) -> str:
    return yaml.safe_dump(json.loads(json.dumps(data)), sort_keys=True, width=120, allow_unicode=True)
