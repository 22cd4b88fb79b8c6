"""What the server knows of one kind at one version. Built-in kinds and CustomResourceDefinitions both end up here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pilotfish.local.apiserver.errors import FieldError

Object = dict[str, Any]
"""A Kubernetes object as JSON. Numbers are int or float, absent fields are absent (never None)."""

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


class Strategy:
    """What a kind does beyond its schema.

    Pure: objects in, objects or errors out; no I/O, no clock. Every method has the neutral default. The write path is
    decode → `default` → `prepare_*` → mutating admission → `default` → `validate*` → validating admission → store.
    Metadata common to all kinds (names, labels, generation, deletion) is the server's, not the strategy's.
    """

    deprecation: str = ""
    """A warning that goes with every answer about the kind."""

    def default(self, obj: Object) -> None:
        """Fill in, in place, the defaults that the schema cannot express."""

    def prepare_for_create(self, obj: Object) -> None:
        """Drop or set, in place, what a client may not choose (the server has dropped `status` already)."""

    def prepare_for_update(self, new: Object, old: Object) -> None:
        """Carry over, in place, what a client may not change (the server keeps `status` already)."""

    def prepare_for_status_update(self, new: Object, old: Object) -> None:
        """As `prepare_for_update` for the status subresource (the server keeps everything but `status` already)."""

    def validate(self, obj: Object) -> list[FieldError]:
        return []

    def validate_create(self, obj: Object) -> list[FieldError]:
        """Errors that only a new object can have. `validate(obj)` runs as well."""
        return []

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        """Errors that only a change can have, such as immutable fields. `validate(new)` runs as well."""
        return []

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        return []

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        return []

    def field_labels(self, obj: Object) -> Mapping[str, str]:
        """Values for field selectors besides metadata.name and metadata.namespace: `{"status.phase": "Running"}`."""
        return {}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`. Priority 0 is always shown, 1 with `-o wide`."""

    name: str
    type: str = "string"
    description: str = ""
    priority: int = 0
    format: str = ""


@dataclass(frozen=True, slots=True)
class Subresource:
    """A path under an object. `kind` is what travels there (with its own group and version), e.g. Scale or Eviction."""

    name: str
    kind: str
    verbs: tuple[str, ...]
    group: str = ""
    version: str = ""


@dataclass(frozen=True, eq=False)
class Resource:
    """A kind at one version: where it is served, its shape and its rules."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool
    definition: str
    """Its name in the OpenAPI definitions, e.g. `io.k8s.api.core.v1.Pod`."""
    singular: str = ""
    list_kind: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    subresources: Mapping[str, Subresource] = field(default_factory=dict)
    strategy: Strategy = field(default_factory=Strategy)
    columns: Sequence[Column] = (Column("Name", format="name"), Column("Created At", "date"))
    row: Callable[[Object], list[Any]] | None = None
    """Cells of a table row, as many as columns; None means name and creation time."""
    field_labels: tuple[str, ...] = ()
    """Field selectors it takes beyond metadata.name and metadata.namespace."""
    has_generation: bool = False
    """metadata.generation is kept: 1 at creation, +1 when anything but metadata and status changes."""
    create_on_update: bool = False
    """PUT to a name that does not exist creates it."""
    unconditional_update: bool = True
    """PUT without metadata.resourceVersion is taken."""
    status_on_create: bool = False
    """A client may set `status` when it creates one (Node); else it is dropped where there is a status subresource."""
    reread: bool = False
    """Stored objects may lack defaults that came after them, so they are not shown byte by byte as they are stored."""
    storage_version: str = ""
    """The version it is stored in, when several are served; empty means this one."""
    storage_group: str | None = None
    """The group it is stored under, when it is not its own: events.k8s.io/v1 Events are the core Events."""
    convert: Callable[[Object, str], Object] | None = None
    """Turn an object of any served version into the version named (`group/version`); None: one version only."""
    stored: bool = True
    """False for kinds that are only asked, such as SubjectAccessReview."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version
