"""Which kinds are served right now: the built-in ones and those of CustomResourceDefinitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pilotfish.local.apiserver.resource import Resource
from pilotfish.local.apiserver.store import Bucket, Store

if TYPE_CHECKING:
    from pilotfish.local.apiserver.schema import Schema

Definitions = Mapping[str, Mapping[str, Any]]


class Registry:
    """Resources by group, version and plural, with their compiled schemas and their buckets."""

    def __init__(self, store: Store, builtin: tuple[Resource, ...], definitions: Callable[[], Definitions]) -> None:
        self._store = store
        self._builtin = builtin
        self._builtin_definitions = definitions
        self._by_path: dict[tuple[str, str, str], Resource] = {(r.group, r.version, r.plural): r for r in builtin}
        self._custom: dict[str, tuple[list[Resource], Definitions]] = {}
        self._custom_of: dict[str, Definitions] = {}
        self._schemas: dict[str, Schema] = {}
        self._buckets: dict[Resource, Bucket] = {}
        self.version = 0
        """Grows with every change; discovery and OpenAPI documents are cached by it."""

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._by_path.get((group, version, plural))

    def of_kind(self, api_version: str, kind: str) -> Resource | None:
        group, _, version = api_version.rpartition("/")
        for resource in self._by_path.values():
            if resource.kind == kind and resource.group == group and resource.version == version:
                return resource
        return None

    def __iter__(self) -> Iterator[Resource]:
        return iter(tuple(self._by_path.values()))

    def versions_of(self, resource: Resource) -> list[Resource]:
        """The same kind at every version it is served in."""
        return [r for r in self if (r.group, r.plural) == (resource.group, resource.plural)]

    def is_custom(self, resource: Resource) -> bool:
        return resource.definition in self._custom_of

    def custom(self) -> Iterator[tuple[str, list[Resource]]]:
        for name, (resources, _) in self._custom.items():
            yield name, resources

    def set_custom(self, crd_name: str, resources: list[Resource], definitions: Definitions) -> None:
        """Serve what a CustomResourceDefinition says from now on, in place of what it said before."""
        self.remove_custom(crd_name)
        self._custom[crd_name] = (resources, definitions)
        for resource in resources:
            self._by_path[resource.group, resource.version, resource.plural] = resource
            self._custom_of[resource.definition] = definitions
        self.version += 1

    def remove_custom(self, crd_name: str) -> None:
        resources, _ = self._custom.pop(crd_name, ([], {}))
        for resource in resources:
            self._by_path.pop((resource.group, resource.version, resource.plural), None)
            self._custom_of.pop(resource.definition, None)
            self._schemas.pop(resource.definition, None)
            self._buckets.pop(resource, None)
        if resources:
            self.version += 1

    def definitions(self, resource: Resource) -> Definitions:
        custom = self._custom_of.get(resource.definition)
        return self._builtin_definitions() if custom is None else custom

    def schema(self, resource: Resource) -> Schema:
        return self.schema_named(resource.definition, self._custom_of.get(resource.definition))

    def schema_named(self, definition: str, definitions: Definitions | None = None) -> Schema:
        compiled = self._schemas.get(definition)
        if compiled is None:
            from pilotfish.local.apiserver import schema  # noqa: PLC0415 - heavy, and only writes need it

            compiled = schema.compile_definition(definition, definitions or self._builtin_definitions())
            self._schemas[definition] = compiled
        return compiled

    def bucket(self, resource: Resource) -> Bucket:
        bucket = self._buckets.get(resource)
        if bucket is None:
            group = resource.group if resource.storage_group is None else resource.storage_group
            bucket = self._buckets[resource] = self._store.bucket(f"{group}/{resource.plural}")
        return bucket

    def storage_version(self, resource: Resource) -> str:
        """The apiVersion under which the objects of a resource are stored."""
        group = resource.group if resource.storage_group is None else resource.storage_group
        version = resource.storage_version or resource.version
        return f"{group}/{version}" if group else version


def key_of(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name
