"""The volumes of a pod: what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.quantity import parse
from pilotfish.local.apiserver.types import claims
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.validation import Errors

Source = dict[str, Any]
Volumes = dict[str, Source]
"""Sound volumes by name."""

HOST_PATH_TYPES = ("", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice")
PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_KEY_TYPES = ("RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519")
_ONE_TYPE = "may not specify more than 1 volume type"

FILE_FIELDS = (
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
)
_SUBSCRIPTED = ("metadata.annotations", "metadata.labels")
_KNOWN_FIELDS = (
    *("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"),
    *("spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName", "spec.schedulerName"),
    *("status.phase", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"),
)
_AMOUNTS = tuple(f"{kind}.{name}" for kind in ("limits", "requests") for name in ("cpu", "ephemeral-storage", "memory"))
_HUGE_PAGES = ("limits.hugepages-", "requests.hugepages-")
_CPU_DIVISORS = ("1m", "1")
_SIZE_DIVISORS = ("1", *(f"1{s}" for s in ("k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")))


def field_ref(path: str, ref: Source, fields: tuple[str, ...]) -> Errors:
    """A reference to a field of the pod itself."""
    if not ref.get("apiVersion"):
        return [FieldError.required(f"{path}.apiVersion")]
    wanted = ref.get("fieldPath", "")
    if not wanted:
        return [FieldError.required(f"{path}.fieldPath")]
    base, bracket, rest = wanted.partition("['")
    if bracket and rest.endswith("']"):
        key = rest[:-2]
        if base not in _SUBSCRIPTED or ref["apiVersion"] != "v1":
            return [FieldError.invalid(f"{path}.fieldPath", wanted, "does not take a subscript")]
        return v.check(path, key.lower() if base == "metadata.annotations" else key, v.qualified_name)
    if ref["apiVersion"] != "v1" or wanted not in _KNOWN_FIELDS:
        return [FieldError.invalid(f"{path}.fieldPath", wanted, "is not a field of a pod that can be referred to")]
    if wanted not in fields:
        return [FieldError.not_supported(f"{path}.fieldPath", wanted, sorted(fields))]
    return []


def resource_field_ref(path: str, ref: Source, *, in_volume: bool) -> Errors:
    """A reference to a request or limit of a container."""
    errors: Errors = []
    name = ref.get("resource", "")
    if in_volume and not ref.get("containerName"):
        errors.append(FieldError.required(f"{path}.containerName"))
    elif not name:
        errors.append(FieldError.required(f"{path}.resource"))
    elif name not in _AMOUNTS and not name.startswith(_HUGE_PAGES):
        errors.append(FieldError.not_supported(f"{path}.resource", name, sorted(_AMOUNTS)))
    divisor = ref.get("divisor", "0")
    allowed = _CPU_DIVISORS if name.endswith(".cpu") else _SIZE_DIVISORS
    if divisor != "0" and (name in _AMOUNTS or name.startswith(_HUGE_PAGES)) and divisor not in allowed:
        errors.append(FieldError.invalid(f"{path}.divisor", divisor, f"must be one of {', '.join(allowed)} for {name}"))
    return errors


def volumes(path: str, found: list[Source], pod_name: str, *, in_pod: bool) -> tuple[Volumes, Errors]:
    """The sound volumes by name, and the errors of the others. `pod_name` is empty for templates."""
    errors: Errors = []
    sound: Volumes = {}
    claims_to_come = {f"{pod_name}-{vol.get('name', '')}" for vol in found if pod_name and vol.get("ephemeral")}
    for i, volume in enumerate(found):
        where = f"{path}[{i}]"
        name = volume.get("name", "")
        wrong = _source(where, volume, pod_name, in_pod=in_pod)
        wrong += v.required(f"{where}.name", name, v.dns_label)
        if name in sound:
            wrong.append(FieldError.duplicate(f"{where}.name", name))
        if not wrong:
            sound[name] = volume
        errors += wrong
        claim = (volume.get("persistentVolumeClaim") or {}).get("claimName", "")
        if claim in claims_to_come:
            why = "must not be the claim that an ephemeral volume will make"
            errors.append(FieldError.invalid(f"{where}.persistentVolumeClaim.claimName", claim, why))
    return sound, errors


def _source(path: str, volume: Source, pod_name: str, *, in_pod: bool) -> Errors:
    errors: Errors = []
    present = [kind for kind in _SOURCES if volume.get(kind) is not None]
    if not present:
        return [FieldError.required(path, "must specify a volume type")]
    for i, kind in enumerate(present):
        if i:
            errors.append(FieldError.forbidden(f"{path}.{kind}", _ONE_TYPE))
        elif kind == "image":
            errors += _image(f"{path}.image", volume[kind], in_pod=in_pod)
        else:
            errors += _SOURCES[kind](f"{path}.{kind}", volume[kind])
    name = volume.get("name", "")
    if present[0] == "ephemeral" and pod_name and name:
        errors += [FieldError.invalid(f"{path}.name", name, text) for text in v.dns_subdomain(f"{pod_name}-{name}")]
    return errors


def _needs(*fields: str) -> Callable[[str, Source], Errors]:
    """A source of which only the presence of some fields is checked."""

    def rule(path: str, source: Source) -> Errors:
        return [FieldError.required(f"{path}.{field}") for field in fields if not source.get(field)]

    return rule


def _empty_dir(path: str, source: Source) -> Errors:
    limit = source.get("sizeLimit")
    if limit is not None and parse(limit) < 0:
        return [FieldError.forbidden(f"{path}.sizeLimit", "must not be negative")]
    return []


def host_path(path: str, source: Source) -> Errors:
    if not source.get("path"):
        return [FieldError.required(f"{path}.path")]
    errors = v.no_steps_back(f"{path}.path", source["path"])
    return errors + v.one_of(f"{path}.type", source.get("type", ""), HOST_PATH_TYPES, missing=False)


def _git_repo(path: str, source: Source) -> Errors:
    return _needs("repository")(path, source) + v.relative_path(f"{path}.directory", source.get("directory", ""))


def _partitioned(field: str) -> Callable[[str, Source], Errors]:
    def rule(path: str, source: Source) -> Errors:
        errors = _needs(field)(path, source)
        partition = source.get("partition", 0)
        if not 0 <= partition <= 255:
            errors.append(FieldError.invalid(f"{path}.partition", partition, "must be between 1 and 255, inclusive"))
        return errors

    return rule


def _key_to_path(path: str, item: Source) -> Errors:
    errors = _needs("key", "path")(path, item)
    errors += v.file_path(f"{path}.path", item.get("path", ""))
    return errors + v.file_mode(f"{path}.mode", item.get("mode"))


def _files(named: str) -> Callable[[str, Source], Errors]:
    def rule(path: str, source: Source) -> Errors:
        errors = v.required(f"{path}.{named}", source.get(named))
        errors += v.file_mode(f"{path}.defaultMode", source.get("defaultMode"))
        for i, item in enumerate(source.get("items") or []):
            errors += _key_to_path(f"{path}.items[{i}]", item)
        return errors

    return rule


def nfs(path: str, source: Source) -> Errors:
    errors = _needs("server", "path")(path, source)
    if not source.get("path", "").startswith("/"):
        errors.append(FieldError.invalid(f"{path}.path", source.get("path", ""), "must be an absolute path"))
    return errors


def _downward_file(path: str, item: Source) -> Errors:
    errors = v.required(f"{path}.path", item.get("path"))
    errors += v.file_path(f"{path}.path", item.get("path", ""))
    field, amount = item.get("fieldRef"), item.get("resourceFieldRef")
    if field is not None:
        errors += field_ref(f"{path}.fieldRef", field, FILE_FIELDS)
        if amount is not None:
            errors.append(FieldError.invalid(path, "resource", "fieldRef and resourceFieldRef exclude each other"))
    elif amount is not None:
        errors += resource_field_ref(f"{path}.resourceFieldRef", amount, in_volume=True)
    else:
        errors.append(FieldError.required(path, "one of fieldRef and resourceFieldRef"))
    return errors + v.file_mode(f"{path}.mode", item.get("mode"))


def _downward(path: str, source: Source) -> Errors:
    errors = v.file_mode(f"{path}.defaultMode", source.get("defaultMode"))
    for item in source.get("items") or []:
        errors += _downward_file(path, item)  # Kubernetes names no index here
    return errors


class _Projection:
    """The sources of one projected volume: their files share one directory."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.taken: set[str] = set()
        self.errors: Errors = []

    def file(self, path: str) -> None:
        if path in self.taken:
            self.errors.append(FieldError.invalid(self.path, path, "conflicting duplicate paths"))
        self.taken.add(path)

    def keyed(self, where: str, source: Source) -> None:
        self.errors += v.required(f"{where}.name", source.get("name"))
        for i, item in enumerate(source.get("items") or []):
            self.errors += _key_to_path(f"{where}.items[{i}]", item)
            if item.get("path"):
                self.file(item["path"])

    def downward(self, where: str, source: Source) -> None:
        for item in source.get("items") or []:
            self.errors += _downward_file(where, item)
            if item.get("path"):
                self.file(item["path"])

    def token(self, where: str, source: Source) -> None:
        seconds = source.get("expirationSeconds", 0)
        if seconds < 600:
            why = "may not be less than 10 minutes"
            self.errors.append(FieldError.invalid(f"{where}.expirationSeconds", seconds, why))
        if seconds > 1 << 32:
            why = "may not be more than 2^32 seconds"
            self.errors.append(FieldError.invalid(f"{where}.expirationSeconds", seconds, why))
        file = source.get("path", "")
        self.errors += v.file_path(f"{self.path}.path", file) if file else v.required(f"{self.path}.path", file)

    def bundle(self, where: str, source: Source) -> None:
        name, signer = source.get("name"), source.get("signerName")
        if name is not None and signer is not None:
            self.errors.append(FieldError.invalid(where, source, "only one of name and signerName may be used"))
        elif name is not None:
            self.errors += v.required(f"{where}.name", name, v.dns_subdomain)
            if source.get("labelSelector") is not None:
                why = "must be unset when name is given"
                self.errors.append(FieldError.invalid(f"{where}.labelSelector", source["labelSelector"], why))
        elif signer is not None:
            self.errors += v.required(f"{where}.signerName", signer)
            self.errors += v.label_selector(f"{where}.labelSelector", source.get("labelSelector"))
        else:
            self.errors.append(FieldError.required(where, "either name or signerName"))
        self.errors += v.required(f"{where}.path", source.get("path"))
        self.errors += v.file_path(f"{where}.path", source.get("path", ""))
        self.file(source.get("path", ""))

    def certificate(self, where: str, source: Source) -> None:
        self.errors += v.required(f"{where}.signerName", source.get("signerName"))
        self.errors += v.one_of(f"{where}.keyType", source.get("keyType", ""), _KEY_TYPES, missing=False)
        longest = source.get("maxExpirationSeconds")
        if longest is not None and not 3600 <= longest <= 7862400:
            why = "must be between 3600 and 7862400"
            self.errors.append(FieldError.invalid(f"{where}.maxExpirationSeconds", longest, why))
        files = [name for name in ("credentialBundlePath", "keyPath", "certificateChainPath") if source.get(name)]
        for name in files:
            self.errors += v.file_path(f"{where}.{name}", source[name])
            self.file(source[name])
        if not files:
            self.errors.append(FieldError.required(where, "one of credentialBundlePath, keyPath, certificateChainPath"))


def _projected(path: str, source: Source) -> Errors:
    errors = v.file_mode(f"{path}.defaultMode", source.get("defaultMode"))
    projection = _Projection(path)
    kinds: dict[str, Callable[[str, Source], None]] = {
        "secret": projection.keyed,
        "configMap": projection.keyed,
        "downwardAPI": projection.downward,
        "serviceAccountToken": projection.token,
        "clusterTrustBundle": projection.bundle,
        "podCertificate": projection.certificate,
    }
    for i, one in enumerate(source.get("sources") or []):
        where = f"{path}.sources[{i}]"
        present = [kind for kind in kinds if one.get(kind) is not None]
        for kind in present:
            kinds[kind](f"{where}.{kind}", one[kind])
        if len(present) > 1:
            projection.errors.append(FieldError.forbidden(where, "may not specify more than 1 volume type per source"))
    return errors + projection.errors


def csi_driver(path: str, name: str) -> Errors:
    if not name:
        return [FieldError.required(path)]
    errors = [FieldError.too_long(path, 63)] if len(name) > 63 else []
    return errors + [FieldError.invalid(path, name, text) for text in v.dns_subdomain(name.lower())]


def _csi(path: str, source: Source) -> Errors:
    errors = csi_driver(f"{path}.driver", source.get("driver", ""))
    secret = source.get("nodePublishSecretRef")
    if secret is not None:
        if not secret.get("name"):
            errors.append(FieldError.required(f"{path}.nodePublishSecretRef.name"))
        else:
            errors += v.check(f"{path}.name", secret["name"], v.dns_subdomain)
    return errors


def _ephemeral(path: str, source: Source) -> Errors:
    template = source.get("volumeClaimTemplate")
    where = f"{path}.volumeClaimTemplate"
    if template is None:
        return [FieldError.required(where)]
    meta = template.get("metadata") or {}
    errors = v.annotation_map(f"{where}.metadata.annotations", meta.get("annotations"))
    errors += v.labels(f"{where}.metadata.labels", meta.get("labels"))
    errors += [
        FieldError.forbidden(f"{where}.metadata.{name}", "cannot be set")
        for name in meta
        if name not in ("annotations", "labels")
    ]
    return errors + claims.spec(f"{where}.spec", template.get("spec") or {})


def _image(path: str, source: Source, *, in_pod: bool) -> Errors:
    errors = v.required(f"{path}.reference", source.get("reference")) if in_pod else []
    return errors + v.one_of(f"{path}.pullPolicy", source.get("pullPolicy", ""), PULL_POLICIES)


def _nothing(_path: str, _source: Source) -> Errors:
    return []


# In the order in which the first counts when there are several. Drivers of storage that this cluster cannot mount are
# checked for their required fields only.
_SOURCES: dict[str, Callable[[str, Source], Errors]] = {
    "emptyDir": _empty_dir,
    "hostPath": host_path,
    "gitRepo": _git_repo,
    "gcePersistentDisk": _partitioned("pdName"),
    "awsElasticBlockStore": _partitioned("volumeID"),
    "secret": _files("secretName"),
    "nfs": nfs,
    "iscsi": _needs("targetPortal", "iqn"),
    "glusterfs": _needs("endpoints", "path"),
    "flocker": _nothing,
    "persistentVolumeClaim": _needs("claimName"),
    "rbd": _needs("monitors", "image"),
    "cinder": _needs("volumeID"),
    "cephfs": _needs("monitors"),
    "quobyte": _needs("registry", "volume"),
    "downwardAPI": _downward,
    "fc": _nothing,
    "flexVolume": _needs("driver"),
    "configMap": _files("name"),
    "azureFile": _needs("secretName", "shareName"),
    "vsphereVolume": _needs("volumePath"),
    "photonPersistentDisk": _needs("pdID"),
    "portworxVolume": _needs("volumeID"),
    "azureDisk": _needs("diskName", "diskURI"),
    "storageos": _nothing,
    "projected": _projected,
    "scaleIO": _needs("gateway", "system", "volumeName"),
    "csi": _csi,
    "ephemeral": _ephemeral,
    "image": _nothing,
}
