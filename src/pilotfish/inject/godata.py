"""Pods and mesh settings as Go's structs: `.Spec.Containers` and `.ProxyConfig.StatusPort` of injection templates.

Field names are found whatever the case of their letters: `.HostIP` is hostIP. Of a pod, the structs that templates use
are known field by field, with what Go has for a field that is not set, so that a misspelt name is an error. Deeper
parts are open: there a missing field is nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import msgspec

from pilotfish import api
from pilotfish.api.mesh import MeshConfig, ProxyConfig
from pilotfish.gotemplate import StringMap

_TEXT, _NUMBER, _FLAG, _MAP, _LIST, _OPEN = ["text", "number", "flag", "map", "list", "open"]
_ZERO: Mapping[str, Callable[[], Any]] = {
    _TEXT: str,
    _NUMBER: int,
    _FLAG: bool,
    _MAP: StringMap,
    _LIST: list,
    _OPEN: lambda: None,
}


def _fields(**kinds: str) -> dict[str, tuple[str, str]]:
    """Lower-case name → (JSON name, kind). A kind that is no basic one names the structs of a list."""
    return {name.lower(): (name, kind) for kind, names in kinds.items() for name in names.split()}


_KNOWN: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "TypeMeta": _fields(text="kind apiVersion"),
    "NamespacedName": _fields(text="name namespace"),
    "ObjectMeta": _fields(
        text="name generateName namespace selfLink uid resourceVersion",
        number="generation",
        map="labels annotations",
        list="ownerReferences finalizers managedFields",
        open="creationTimestamp deletionTimestamp deletionGracePeriodSeconds",
    ),
    "PodSpec": _fields(
        text="restartPolicy dnsPolicy serviceAccountName deprecatedServiceAccount nodeName hostname subdomain "
        "schedulerName priorityClassName",
        flag="hostNetwork hostPID hostIPC",
        map="nodeSelector",
        list="imagePullSecrets tolerations hostAliases readinessGates topologySpreadConstraints schedulingGates "
        "resourceClaims ephemeralContainers",
        open="terminationGracePeriodSeconds activeDeadlineSeconds automountServiceAccountToken shareProcessNamespace "
        "securityContext affinity priority dnsConfig runtimeClassName enableServiceLinks preemptionPolicy overhead "
        "setHostnameAsFQDN os hostUsers resources",
        Container="containers initContainers",
        Volume="volumes",
    ),
    "Container": _fields(
        text="name image workingDir terminationMessagePath terminationMessagePolicy imagePullPolicy",
        flag="stdin stdinOnce tty",
        list="command args envFrom resizePolicy volumeDevices",
        open="resources restartPolicy livenessProbe readinessProbe startupProbe lifecycle securityContext",
        ContainerPort="ports",
        EnvVar="env",
        VolumeMount="volumeMounts",
    ),
    "ContainerPort": _fields(text="name protocol hostIP", number="hostPort containerPort"),
    "EnvVar": _fields(text="name value", open="valueFrom"),
    "VolumeMount": _fields(
        text="name mountPath subPath subPathExpr", flag="readOnly", open="mountPropagation recursiveReadOnly"
    ),
    "Volume": _fields(
        text="name",
        open="hostPath emptyDir gcePersistentDisk awsElasticBlockStore gitRepo secret nfs iscsi glusterfs "
        "persistentVolumeClaim rbd flexVolume cinder cephfs flocker downwardAPI fc azureFile configMap vsphereVolume "
        "quobyte azureDisk photonPersistentDisk projected portworxVolume scaleIO storageos csi ephemeral image",
    ),
}


class Struct:
    """A struct whose fields are known. Raises LookupError for others."""

    def __init__(self, data: Mapping[str, Any], kind: str) -> None:
        self._data = data
        self._kind = kind

    def go_field(self, name: str) -> Any:
        known, kind = _KNOWN[self._kind][name.lower()]
        value = self._data.get(known)
        if kind in _KNOWN:
            return [Struct(item, kind) for item in value or ()]
        if value is None:
            return _ZERO[kind]()
        if kind == _MAP:
            return StringMap(value)
        return _open(value) if kind in (_OPEN, _LIST) else value

    def plain(self) -> Any:
        return dict(self._data)


class _Open(dict[str, Any]):
    """A part of a pod that is not known here: its fields by their names in Go, or its keys as a map."""

    def go_field(self, name: str) -> Any:
        return next((value for key, value in self.items() if key.lower() == name.lower()), None)

    def plain(self) -> Any:
        return dict(self)


def _open(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _Open({key: _open(item) for key, item in value.items()})
    return [_open(item) for item in value] if isinstance(value, list) else value


def pod_parts(pod: Mapping[str, Any]) -> tuple[Struct, Struct]:
    """`.ObjectMeta` and `.Spec`."""
    return Struct(pod.get("metadata") or {}, "ObjectMeta"), Struct(pod.get("spec") or {}, "PodSpec")


# ------------------------------------------------------------------------------ mesh settings

_OPTIONAL = frozenset(
    {"enablePrometheusMerge", "enableAutoMtls", "holdApplicationUntilProxyStarts", "concurrency"}
    | {"verifyCertificateAtClient", "statsCompression", "fileFlushMinSizeKb"}
)
"""Scalars that are pointers to wrappers in Go, asked by `.GetValue`."""


class _Word(str):
    """A value of an enumeration: prints as its name, which is also its method String."""

    __slots__ = ()

    def go_field(self, name: str) -> Any:
        if name != "String":
            raise LookupError(name)
        return lambda: str(self)

    def plain(self) -> Any:
        return str(self)


class _Wrapped:
    """A scalar that may be missing."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return self._value is not None

    def go_field(self, name: str) -> Any:
        if name == "Value":
            return self._value
        if name == "GetValue":
            return lambda: False if self._value is None else self._value
        raise LookupError(name)

    def plain(self) -> Any:
        return self._value


@cache
def _fields_of(type_: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(type_)


class Message:
    """A protobuf message; `GetX` is the field X. A missing one has empty fields and is nothing."""

    def __init__(self, value: msgspec.Struct | None) -> None:
        self._value = value
        fields = _fields_of(type(value)) if value is not None else ()
        self._fields = {one.encode_name.lower(): one for one in fields}

    def __bool__(self) -> bool:
        return self._value is not None

    def go_field(self, name: str) -> Any:
        key = name.lower()
        if key not in self._fields and key.startswith("get") and (not self._fields or key[3:] in self._fields):
            return lambda: self._field(key[3:])
        if not self._fields:
            return None
        return self._field(key)

    def _field(self, key: str) -> Any:
        if not self._fields:
            return Message(None)
        one = self._fields[key]
        value = getattr(self._value, one.name)
        if one.encode_name in _OPTIONAL:
            return _Wrapped(value)
        return _proto(value)

    def plain(self) -> Any:
        return api.to_json(self._value) if self._value is not None else {}

    def sent(self) -> str:
        """`protoToJSON`: what differs from the defaults."""
        return json.dumps(differing(self._value) if self._value is not None else {}, separators=(",", ":"))


def differing(value: msgspec.Struct) -> dict[str, Any]:
    """The fields of a message, as JSON, that differ from their defaults."""
    made: dict[str, Any] = api.to_json(value)
    equal = {one.encode_name for one in _fields_of(type(value)) if getattr(value, one.name) == one.default}
    return {name: item for name, item in made.items() if name not in equal and item != {}}


def _proto(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return Message(value)
    if value is None:
        return Message(None)
    if isinstance(value, api.Duration):
        return _Word(str(value))
    if isinstance(value, str) and type(value) is not str:
        return _Word(value)
    if isinstance(value, (tuple, list)):
        return [_proto(item) for item in value]
    return StringMap(value) if isinstance(value, Mapping) else value


def mesh_config(mesh: Mapping[str, Any]) -> Message:
    return Message(api.from_json(dict(mesh), MeshConfig)[0])


def proxy_config(config: Mapping[str, Any]) -> Message:
    return Message(api.from_json(dict(config), ProxyConfig)[0])
