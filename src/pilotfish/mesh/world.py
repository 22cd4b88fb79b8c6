"""The way in: Kubernetes objects as JSON become engine inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pilotfish import api
from pilotfish.api.mesh import MeshConfig, MeshNetworks
from pilotfish.api.validation import validate
from pilotfish.engine import Db, Input
from pilotfish.mesh import config, inputs
from pilotfish.mesh import kubernetes as k8s
from pilotfish.mesh.inputs import Ref

_KUBERNETES: Mapping[tuple[str, str], tuple[Input[Ref, Any], Callable[[Mapping[str, Any]], Any]]] = {
    ("v1", "Service"): (inputs.SERVICES, k8s.service),
    ("v1", "Pod"): (inputs.PODS, k8s.pod),
    ("v1", "Node"): (inputs.NODES, k8s.node),
    ("v1", "Namespace"): (inputs.NAMESPACES, k8s.namespace),
    ("v1", "Secret"): (inputs.SECRETS, k8s.secret),
    ("v1", "ConfigMap"): (inputs.CONFIG_MAPS, k8s.config_map),
    ("discovery.k8s.io/v1", "EndpointSlice"): (inputs.ENDPOINT_SLICES, k8s.endpoint_slice),
}
_CONFIG: Mapping[str, Input[Ref, Any]] = {
    source.name: source
    for source in (
        inputs.VIRTUAL_SERVICES,
        inputs.DESTINATION_RULES,
        inputs.GATEWAYS,
        inputs.SERVICE_ENTRIES,
        inputs.WORKLOAD_ENTRIES,
        inputs.SIDECARS,
        inputs.ENVOY_FILTERS,
        inputs.PEER_AUTHENTICATIONS,
        inputs.REQUEST_AUTHENTICATIONS,
        inputs.AUTHORIZATION_POLICIES,
        inputs.TELEMETRIES,
    )
}


EARLIER_FORMS = 3
_LAST: Any = object()


class World:
    """All objects of the mesh, as inputs of one engine graph."""

    def __init__(self, settings: config.Settings | None = None, revision: str = "default") -> None:
        """`revision`: config objects labelled with another `istio.io/rev` are not ours."""
        self.db = Db()
        self.revision = revision
        self.settings = settings or config.Settings()
        self.db.put(config.SETTINGS, "", self.settings)
        self._applied: dict[tuple[str, Ref], Any] = {}
        """Config objects as they stand in Kubernetes, where that is not what the engine holds."""
        self._earlier: dict[tuple[str, Ref], tuple[Any, ...]] = {}
        """Up to `EARLIER_FORMS` forms that a config object had before, newest first; None for its absence."""
        self.quarantined: dict[tuple[str, Ref], str] = {}
        """Kind and object, with the reason why its present form is not used."""

    @staticmethod
    def reads(api_version: str, kind: str) -> bool:
        """Whether objects of a kind matter here."""
        return (api_version, kind) in _KUBERNETES or (kind in _CONFIG and (api_version, kind) in api.BY_API_VERSION)

    def apply(self, obj: Mapping[str, Any]) -> bool:
        """Take in an object that was created or changed. False when that makes no difference.

        Raises DecodeError when a config object cannot be read, or would be refused by the webhook (which may not have
        been there to refuse it); what it was before stays.
        """
        found = self.read(obj)
        if found is None:
            return False
        source, ref, value = found
        if value is None:
            return self.delete(obj)
        return self._put(source.name, ref, value) if source.name in _CONFIG else self.db.put(source, ref, value)

    def read(self, obj: Mapping[str, Any]) -> tuple[Input[Ref, Any], Ref, Any] | None:
        """The input an object is, its key, and its value: None when it does not count (another revision's, no
        credential). None for kinds the mesh does not read. Raises as `apply` does."""
        api_version, kind = obj.get("apiVersion", ""), obj.get("kind", "")
        if (plain := _KUBERNETES.get((api_version, kind))) is not None:
            value = plain[1](obj)
            return plain[0], _ref(obj), None if isinstance(value, k8s.Secret) and not value.data else value
        if not self.reads(api_version, kind):
            return None
        if ((obj["metadata"].get("labels") or {}).get("istio.io/rev") or self.revision) != self.revision:
            return _CONFIG[kind], _ref(obj), None
        config = api.decode(obj)
        if errors := validate(config).errors:
            raise api.DecodeError(errors, str(config))
        return _CONFIG[kind], _ref(obj), inputs.resolve(config, self.settings.domain)

    def delete(self, obj: Mapping[str, Any]) -> bool:
        """Take out an object; only its apiVersion, kind, namespace and name are read."""
        api_version, kind = obj.get("apiVersion", ""), obj.get("kind", "")
        if (plain := _KUBERNETES.get((api_version, kind))) is not None:
            return self.db.remove(plain[0], _ref(obj))
        if not self.reads(api_version, kind):
            return False
        ref = _ref(obj)
        for memory in (self._applied, self._earlier, self.quarantined):
            memory.pop((kind, ref), None)
        return self.db.remove(_CONFIG[kind], ref)

    def _put(self, kind: str, ref: Ref, value: Any) -> bool:
        key, source = (kind, ref), _CONFIG[kind]
        if key in self.quarantined:
            if self._applied[key] == value:
                return False
            del self.quarantined[key], self._applied[key]
        old = source(self.db, ref)
        changed = self.db.put(source, ref, value)
        if changed:
            self._earlier[key] = (old, *self._earlier.get(key, ()))[:EARLIER_FORMS]
        return changed

    def earlier(self, kind: str, ref: Ref) -> tuple[Any, ...]:
        """The forms that a config object had before its present one, newest first; None where it did not exist."""
        return self._earlier.get((kind, ref), ())

    @staticmethod
    def input_of(kind: str) -> Input[Ref, Any]:
        """The input that objects of a config kind are."""
        return _CONFIG[kind]

    def quarantine(self, kind: str, ref: Ref, reason: str, form: Any = _LAST) -> bool:
        """Put a config object back to the form it had before its last change, or to another of its `earlier` forms
        (None leaves it out).

        For an object that made a proxy refuse its configuration. It lasts until the object is changed. False when
        there is nothing to put back.
        """
        source = _CONFIG.get(kind)
        value = source(self.db, ref) if source is not None else None
        if source is None or value is None or (kind, ref) in self.quarantined:
            return False
        self._applied[kind, ref] = value
        self.quarantined[kind, ref] = reason
        if form is _LAST:
            form = next(iter(self.earlier(kind, ref)), None)
        return self.db.remove(source, ref) if form is None else self.db.put(source, ref, form)

    def release(self, kind: str, ref: Ref) -> bool:
        """End a quarantine: the object is in force as it stands. False when it was not in quarantine."""
        if self.quarantined.pop((kind, ref), None) is None:
            return False
        self.db.put(_CONFIG[kind], ref, self._applied.pop((kind, ref)))
        return True

    def set_mesh(self, mesh: MeshConfig) -> bool:
        return self.db.put(config.MESH, "", mesh)

    def set_networks(self, networks: MeshNetworks) -> bool:
        return self.db.put(config.NETWORKS, "", networks)

    def jwks_uris(self) -> frozenset[str]:
        """Where key sets have to be fetched from, for `set_jwks`."""
        found = (inputs.REQUEST_AUTHENTICATIONS(self.db, ref) for ref in self.db.keys(inputs.REQUEST_AUTHENTICATIONS))
        rules = (rule for config in found if config is not None for rule in config.spec.jwt_rules)
        return frozenset(rule.jwks_uri for rule in rules if rule.jwks_uri and not rule.jwks)

    def set_jwks(self, uri: str, keys: str) -> bool:
        """A fetched JSON web key set."""
        return self.db.put(inputs.JWKS, uri, keys)


def _ref(obj: Mapping[str, Any]) -> Ref:
    meta = obj["metadata"]
    return Ref(meta.get("namespace") or "", meta["name"])
