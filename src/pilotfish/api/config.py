"""An Istio object: its metadata and its typed spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec

from pilotfish.api.decode import from_json
from pilotfish.api.errors import DecodeError, FieldError
from pilotfish.api.kinds import BY_API_VERSION, KINDS
from pilotfish.api.meta import Api, Source, StringMap

Spec_co = TypeVar("Spec_co", bound=Api, covariant=True)


class Config(msgspec.Struct, Generic[Spec_co], frozen=True, kw_only=True, gc=False):
    kind: str
    api_version: str
    """As written; all served versions have one shape."""
    name: str
    namespace: str = ""
    labels: StringMap = {}
    annotations: StringMap = {}
    creation_timestamp: str = ""
    """RFC 3339 in UTC, so that text order is time order. Empty for objects from files."""
    generation: int = 0
    resource_version: str = ""
    uid: str = ""
    spec: Spec_co
    status: Mapping[str, Any] = {}
    unknown: tuple[FieldError, ...] = ()
    """Fields the API does not have; they are not in `spec`."""
    source: Source | None = None

    @property
    def group(self) -> str:
        return self.api_version.partition("/")[0]

    @property
    def age_order(self) -> tuple[str, str, str]:
        """Sort key of Istio's "oldest first": creation time, name, namespace."""
        return (self.creation_timestamp, self.name, self.namespace)

    def __str__(self) -> str:
        name = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {name}" + (f" ({self.source})" if self.source else "")


class _Metadata(msgspec.Struct, rename="camel", gc=False):
    name: str | None = None
    generate_name: str | None = None
    namespace: str | None = None
    labels: Mapping[str, str] | None = None
    annotations: Mapping[str, str] | None = None
    creation_timestamp: str | None = None
    generation: int | None = None
    resource_version: str | None = None
    uid: str | None = None


_TOP = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})


def decode(obj: Mapping[str, Any], source: Source | None = None) -> Config[Api]:
    """Read an object of any Istio kind and version.

    Raises DecodeError (all problems, with paths) when it is of no known kind or a field has the wrong type. Unknown
    fields are no error here; they are listed in `unknown`.
    """
    if not isinstance(obj, Mapping):
        raise DecodeError([FieldError("", f"an object must be a mapping with apiVersion and kind, not {obj!r:.40}")])
    api_version, kind = obj.get("apiVersion"), obj.get("kind")
    try:
        known = BY_API_VERSION[api_version, kind]  # type: ignore[index]  # anything else is not in the table
    except (KeyError, TypeError):
        raise DecodeError([_unknown_kind(api_version, kind)], _subject(obj)) from None
    unknown: tuple[FieldError, ...] = ()
    try:
        metadata = msgspec.convert(obj.get("metadata") or {}, _Metadata)
    except msgspec.ValidationError as error:
        raise DecodeError([FieldError("metadata", str(error))], _subject(obj)) from None
    try:
        spec, unknown = from_json(obj.get("spec") or {}, known.type, "spec")
    except DecodeError as error:
        raise DecodeError(error.errors, _subject(obj)) from None
    if len(obj) > 3 and not _TOP.issuperset(obj):
        unknown += tuple(FieldError(str(key), "unknown field") for key in obj if key not in _TOP)
    status = obj.get("status")
    return Config(
        kind=known.kind,
        api_version=str(api_version),
        name=metadata.name or metadata.generate_name or "",
        namespace=metadata.namespace or "",
        labels=metadata.labels or {},
        annotations=metadata.annotations or {},
        creation_timestamp=metadata.creation_timestamp or "",
        generation=metadata.generation or 0,
        resource_version=metadata.resource_version or "",
        uid=metadata.uid or "",
        spec=spec,
        status=status if isinstance(status, Mapping) else {},
        unknown=unknown,
        source=source,
    )


def _subject(obj: Mapping[str, Any]) -> str:
    metadata = obj.get("metadata")
    if not isinstance(metadata, Mapping):
        metadata = {}
    name = "/".join(str(part) for part in (metadata.get("namespace"), metadata.get("name")) if part)
    return f"{obj.get('kind') or 'object'} {name}".rstrip()


def _unknown_kind(api_version: Any, kind: Any) -> FieldError:
    if isinstance(kind, str) and kind in KINDS:
        known = KINDS[kind]
        versions = ", ".join(f"{known.group}/{version}" for version in known.versions)
        return FieldError("apiVersion", f"{api_version!r} is not a version of {kind}; it is served as {versions}")
    return FieldError("kind", f"{kind!r} in {api_version!r} is not a kind of this mesh")
