"""PersistentVolumes and PersistentVolumeClaims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.quantity import parse
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import claims, pod_defaults, pod_volumes, printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import resource
from pilotfish.local.apiserver.types.kind import Kind, spec_of, status_of
from pilotfish.local.apiserver.types.pod_validation import node_selector
from pilotfish.local.apiserver.types.validation import Errors

_BETA_CLASS = "volume.beta.kubernetes.io/storage-class"
_RECLAIM = ("Delete", "Recycle", "Retain")
_DRIVERS = (
    *("hostPath", "gcePersistentDisk", "awsElasticBlockStore", "glusterfs", "flocker", "nfs", "rbd", "quobyte"),
    *("cephfs", "iscsi", "cinder", "fc", "flexVolume", "azureFile", "vsphereVolume", "photonPersistentDisk"),
    *("portworxVolume", "azureDisk", "scaleIO", "local", "storageos", "csi"),
)
_DEPRECATED = {
    "cephfs": ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    "photonPersistentDisk": ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    "scaleIO": ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    "storageos": ("storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    "glusterfs": ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    "rbd": ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
}


class PersistentVolumeClaims(Kind):
    new_status: Mapping[str, Any] = {"phase": "Pending"}

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("volumeMode", "Filesystem")
        for requirements in (spec.get("resources") or {}).values():
            if isinstance(requirements, dict):
                pod_defaults.round_up(requirements)
        status = obj.get("status")
        if status is not None and not status.get("phase"):
            status["phase"] = "Pending"

    def prepare_for_create(self, obj: Object) -> None:
        super().prepare_for_create(obj)
        spec = obj["spec"]
        if "dataSource" in spec and "dataSourceRef" not in spec:
            spec["dataSourceRef"] = dict(spec["dataSource"])
        elif "dataSourceRef" in spec and "dataSource" not in spec and not spec["dataSourceRef"].get("namespace"):
            spec["dataSource"] = dict(spec["dataSourceRef"])

    def validate(self, obj: Object) -> Errors:
        return claims.spec("spec", spec_of(obj))

    def validate_update(self, new: Object, old: Object) -> Errors:
        """A claim without a volume may be given one; a bound one may ask for another size or class."""
        spec, was = dict(spec_of(new)), spec_of(old)
        if not was.get("volumeName"):
            spec.pop("volumeName", None)
        if status_of(old).get("phase") == "Bound":
            spec = _but_size(spec, _size(was))
            spec.pop("volumeAttributesClassName", None)
            was = {key: value for key, value in was.items() if key != "volumeAttributesClassName"}
        errors: Errors = []
        if not v.same(spec, was):
            why = "spec is immutable after creation but for the size and volumeAttributesClassName of bound claims"
            errors.append(FieldError.forbidden("spec", why))
        size, before = _size(spec_of(new)), _size(spec_of(old))
        least = (status_of(old).get("capacity") or {}).get("storage", "0")
        if size and before and parse(size) < parse(before) and parse(size) <= parse(least):
            why = "field can not be less than status.capacity"
            errors.append(FieldError.forbidden("spec.resources.requests.storage", why))
        return errors + v.immutable("volumeMode", spec_of(new).get("volumeMode"), spec_of(old).get("volumeMode"))

    def validate_status_update(self, new: Object, old: Object) -> Errors:
        _ = old
        return [
            FieldError.invalid(f"status.{field}[{name}]", amount, "must be a valid resource quantity")
            for field in ("capacity", "allocatedResources")
            for name, amount in (status_of(new).get(field) or {}).items()
            if parse(amount) < 0
        ]

    def concerns(self, obj: Object) -> list[str]:
        found = []
        if _BETA_CLASS in (obj["metadata"].get("annotations") or {}):
            why = 'deprecated since v1.8; use "storageClassName" attribute instead'
            found.append(f"metadata.annotations[{_BETA_CLASS}]: {why}")
        return found + claim_warnings("spec", spec_of(obj))


def claim_warnings(path: str, spec: Mapping[str, Any]) -> list[str]:
    found = []
    for kind in ("requests", "limits"):
        size = ((spec.get("resources") or {}).get(kind) or {}).get("storage")
        if size is not None and parse(size) % 1:
            why = f'fractional byte value "{size}" is invalid, must be an integer'
            found.append(f"{path}.resources.{kind}[storage]: {why}")
    return found


def _size(spec: Mapping[str, Any]) -> str | None:
    return ((spec.get("resources") or {}).get("requests") or {}).get("storage")


def _but_size(spec: Mapping[str, Any], size: str | None) -> dict[str, Any]:
    """The spec as if it asked for this size."""
    resources = spec.get("resources") or {}
    requests = dict(resources.get("requests") or {})
    requests.pop("storage", None)
    if size is not None:
        requests["storage"] = size
    return {**spec, "resources": {**resources, "requests": requests}}


class PersistentVolumes(Kind):
    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("persistentVolumeReclaimPolicy", "Retain")
        spec.setdefault("volumeMode", "Filesystem")
        pod_defaults.round_up(spec.get("capacity"))
        if (host := spec.get("hostPath")) is not None:
            host.setdefault("type", "")
        status = obj.get("status")
        if status is not None and not status.get("phase"):
            status["phase"] = "Pending"

    def prepare_for_create(self, obj: Object) -> None:
        since = obj["metadata"].get("creationTimestamp")
        obj["status"] = {"phase": "Pending"} | ({"lastPhaseTransitionTime": since} if since else {})

    def validate(self, obj: Object) -> Errors:
        spec = spec_of(obj)
        errors = claims.access_modes("spec.accessModes", spec.get("accessModes") or [])
        errors += _capacity(spec.get("capacity") or {})
        policy = spec.get("persistentVolumeReclaimPolicy", "")
        errors += v.one_of("spec.persistentVolumeReclaimPolicy", policy, _RECLAIM)
        affinity = spec.get("nodeAffinity")
        if affinity is not None:
            if affinity.get("required") is None:
                errors.append(FieldError.required("spec.nodeAffinity.required", "required node constraints"))
            else:
                errors += node_selector("spec.nodeAffinity.required", affinity["required"])
        errors += _drivers(spec)
        if spec.get("storageClassName"):
            errors += v.check("spec.storageClassName", spec["storageClassName"], v.dns_subdomain)
        return errors + v.one_of("spec.volumeMode", spec.get("volumeMode"), claims.VOLUME_MODES, missing=False)

    def validate_update(self, new: Object, old: Object) -> Errors:
        spec, was = spec_of(new), spec_of(old)
        errors: Errors = []
        if any(not v.same(spec.get(driver), was.get(driver)) for driver in _DRIVERS):
            why = "the source of a volume is immutable after creation"
            errors.append(FieldError.forbidden("spec.persistentvolumesource", why))
        errors += v.immutable("volumeMode", spec.get("volumeMode"), was.get("volumeMode"))
        if was.get("nodeAffinity") is not None:
            errors += v.immutable("nodeAffinity", spec.get("nodeAffinity"), was["nodeAffinity"])
        return errors

    def concerns(self, obj: Object) -> list[str]:
        spec = spec_of(obj)
        found = []
        if spec.get("persistentVolumeReclaimPolicy") == "Recycle":
            found.append(
                "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. "
                "Instead, the recommended approach is to use dynamic provisioning."
            )
        return found + [f"spec.{shown}: {why}" for driver, (shown, why) in _DEPRECATED.items() if driver in spec]


def _capacity(capacity: Mapping[str, str]) -> Errors:
    errors: Errors = []
    if not capacity:
        errors.append(FieldError.required("spec.capacity"))
    if "storage" not in capacity or len(capacity) > 1:
        errors.append(FieldError.not_supported("spec.capacity", dict(capacity), ["storage"]))
    for name, value in capacity.items():
        if parse(value) < 0:
            errors.append(FieldError.invalid(f"spec.capacity[{name}]", value, "must be a valid resource quantity"))
        if parse(value) <= 0:
            errors.append(FieldError.invalid(f"spec.capacity[{name}]", value, v.POSITIVE))
    return errors


def _drivers(spec: Mapping[str, Any]) -> Errors:
    present = [driver for driver in _DRIVERS if spec.get(driver) is not None]
    if not present:
        return [FieldError.required("spec", "must specify a volume type")]
    why = "may not specify more than 1 volume type"
    errors = [FieldError.forbidden(f"spec.{driver}", why) for driver in present[1:]]
    driver, source = present[0], spec[present[0]]
    if driver == "hostPath":
        errors += pod_volumes.host_path("spec.hostPath", source)
        if source.get("path") == "/" and spec.get("persistentVolumeReclaimPolicy") == "Recycle":
            field = "spec.persistentVolumeReclaimPolicy"
            errors.append(FieldError.forbidden(field, "may not be 'recycle' for a hostPath mount of '/'"))
    elif driver == "nfs":
        errors += pod_volumes.nfs("spec.nfs", source)
    elif driver == "local":
        errors += v.required("spec.local.path", source.get("path"))
        errors += v.no_steps_back("spec.local.path", source.get("path", ""))
        if spec.get("nodeAffinity") is None:
            errors.append(FieldError.required("spec.nodeAffinity", "Local volume requires node affinity"))
    elif driver == "csi":
        errors += pod_volumes.csi_driver("spec.csi.driver", source.get("driver", ""))
        errors += v.required("spec.csi.volumeHandle", source.get("volumeHandle"))
    return errors


def _storage_class(obj: Object) -> str:
    annotations = obj["metadata"].get("annotations") or {}
    return str(annotations.get(_BETA_CLASS) or spec_of(obj).get("storageClassName", ""))


def _phase(obj: Object) -> str:
    return "Terminating" if obj["metadata"].get("deletionTimestamp") else str(status_of(obj).get("phase", ""))


def _claim_row(obj: Object) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    bound = bool(spec.get("volumeName"))
    return [
        printing.name(obj),
        _phase(obj),
        spec.get("volumeName", ""),
        (status.get("capacity") or {}).get("storage", "0") if bound else "",
        printing.access_modes(status.get("accessModes")) if bound else "",
        _storage_class(obj),
        spec.get("volumeAttributesClassName", printing.UNSET),
        printing.age(obj),
        spec.get("volumeMode", printing.UNSET),
    ]


def _volume_row(obj: Object) -> list[Any]:
    spec = spec_of(obj)
    claim = spec.get("claimRef")
    return [
        printing.name(obj),
        (spec.get("capacity") or {}).get("storage", "0"),
        printing.access_modes(spec.get("accessModes")),
        spec.get("persistentVolumeReclaimPolicy", ""),
        _phase(obj),
        f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "",
        _storage_class(obj),
        spec.get("volumeAttributesClassName", printing.UNSET),
        status_of(obj).get("reason", ""),
        printing.age(obj),
        spec.get("volumeMode", printing.UNSET),
    ]


RESOURCES = (
    resource(
        "v1",
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        short="pvc",
        status=True,
        strategy=PersistentVolumeClaims(),
        columns=printing.columns(
            "Name, Status, Volume, Capacity, Access Modes, StorageClass, VolumeAttributesClass, Age, VolumeMode*"
        ),
        row=_claim_row,
    ),
    resource(
        "v1",
        "PersistentVolume",
        "persistentvolumes",
        short="pv",
        status=True,
        namespaced=False,
        strategy=PersistentVolumes(),
        columns=printing.columns(
            "Name, Capacity, Access Modes, Reclaim Policy, Status, Claim, StorageClass, VolumeAttributesClass, Reason, "
            "Age, VolumeMode*"
        ),
        row=_volume_row,
    ),
)
