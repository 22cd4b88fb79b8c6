"""The compiled schema: OpenAPI v3 dictionaries become a graph of `Schema` nodes, once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

OpenApi = Mapping[str, Any]
Definitions = Mapping[str, OpenApi]

ABSENT: Final[Any] = type("Absent", (), {"__repr__": lambda _: "ABSENT", "__bool__": lambda _: False})()
"""Stands for "no such value" where None means null."""

_REF = "#/components/schemas/"
_META = "io.k8s.apimachinery.pkg.apis.meta.v1"
OBJECT_META = f"{_META}.ObjectMeta"
_QUANTITY = "quantity"

LIMITS = {
    "minimum": "minimum",
    "maximum": "maximum",
    "exclusiveMinimum": "exclusive_minimum",
    "exclusiveMaximum": "exclusive_maximum",
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_items",
    "maxItems": "max_items",
    "minProperties": "min_properties",
    "maxProperties": "max_properties",
    "multipleOf": "multiple_of",
    "pattern": "pattern",
    "uniqueItems": "unique_items",
}


class CustomDefinition(dict[str, Any]):
    """The definition of a custom resource among definitions: it is compiled by the rules of structural schemas."""

    status_subresource: bool = False
    compiled: Schema | None = None


class Schema:
    """What is known of one place in an object. Nodes are shared and form cycles; never change one after compiling.

    `structural` tells custom resources (unknown fields are pruned, null is judged by `nullable`) from built-in kinds
    (decoded as Go does: null is absence, empty optional lists and maps are dropped).
    """

    __slots__ = (
        "additional",
        "all_of",
        "any_of",
        "cel_plain",
        "default",
        "default_children",
        "default_keys",
        "description",
        "embedded",
        "enum",
        "exclusive_maximum",
        "exclusive_minimum",
        "format",
        "has_rules",
        "int_or_string",
        "item_keys",
        "items",
        "list_type",
        "map_keys",
        "map_type",
        "max_items",
        "max_length",
        "max_properties",
        "maximum",
        "min_items",
        "min_length",
        "min_properties",
        "minimum",
        "multiple_of",
        "name",
        "negated",
        "nullable",
        "omit_zero",
        "one_of",
        "patch_merge_key",
        "patch_strategy",
        "pattern",
        "preserve_unknown",
        "programs",
        "properties",
        "quantity",
        "required",
        "resource_root",
        "status_subresource",
        "structural",
        "type",
        "unique_items",
        "validations",
        "zero_cache",
    )

    name: str
    """The last part of the definition's name (`PodSpec`), empty for inline schemas."""
    type: str
    """object, array, string, integer, number, boolean, or empty when anything is taken."""
    format: str
    properties: Mapping[str, Schema]
    items: Schema | None
    additional: Schema | None
    required: tuple[str, ...]
    nullable: bool
    omit_zero: bool
    """A scalar that is left out when it is zero (`x-omit-zero`: in Go it is no pointer)."""
    int_or_string: bool
    quantity: bool
    preserve_unknown: bool
    embedded: bool
    list_type: str
    """atomic, set or map."""
    map_keys: tuple[str, ...]
    map_type: str
    """granular or atomic."""
    patch_strategy: frozenset[str]
    """Of merge, replace, retainKeys."""
    patch_merge_key: str
    default: Any
    """ABSENT when there is none."""
    enum: tuple[Any, ...] | None
    description: str
    pattern: str | None
    minimum: float | None
    maximum: float | None
    exclusive_minimum: bool
    exclusive_maximum: bool
    multiple_of: float | None
    min_length: int | None
    max_length: int | None
    min_items: int | None
    max_items: int | None
    min_properties: int | None
    max_properties: int | None
    unique_items: bool
    zero_cache: Any
    validations: tuple[Mapping[str, Any], ...]
    """`x-kubernetes-validations` as written."""
    has_rules: bool | None
    programs: Any
    cel_plain: bool | None
    """Caches of validation: whether there are rules here or below, the compiled ones, whether CEL sees values as is."""
    all_of: tuple[Schema, ...]
    any_of: tuple[Schema, ...]
    one_of: tuple[Schema, ...]
    negated: Schema | None
    structural: bool
    status_subresource: bool
    """On the root of a custom resource: it has `/status`, so its status is owned there only."""
    resource_root: bool
    """A whole object of a custom resource, with apiVersion, kind and metadata."""
    default_keys: tuple[tuple[str, Any], ...]
    default_children: tuple[tuple[str, Schema], ...]
    item_keys: tuple[tuple[str, Any], ...]
    """The keys of a list of type map, each with the default of that field (or ABSENT)."""

    def __init__(self) -> None:
        self.name = self.type = self.format = self.patch_merge_key = self.description = ""
        self.properties = {}
        self.items = self.additional = self.negated = None
        self.required = self.map_keys = self.default_keys = self.default_children = self.item_keys = ()
        self.all_of = self.any_of = self.one_of = self.validations = ()
        self.nullable = self.int_or_string = self.quantity = self.preserve_unknown = self.embedded = False
        self.omit_zero = False
        self.structural = self.status_subresource = self.resource_root = self.unique_items = False
        self.exclusive_minimum = self.exclusive_maximum = False
        self.list_type, self.map_type = "atomic", "granular"
        self.patch_strategy = frozenset()
        self.default = self.zero_cache = ABSENT
        self.enum = self.programs = self.pattern = self.has_rules = self.cel_plain = None
        self.minimum = self.maximum = self.multiple_of = None
        self.min_length = self.max_length = self.min_items = self.max_items = None
        self.min_properties = self.max_properties = None

    def __repr__(self) -> str:
        return f"Schema({self.name or self.type or 'any'})"

    def child(self, key: str) -> Schema | None:
        """The schema of a map's entry or an object's field; None when it has no place for it."""
        return self.properties.get(key) or self.additional

    def zero(self) -> Any:
        """An object of this kind as Go prints it before anything is set: what no client can be said to have added.

        Structs held by value are `{}`, required lists null. A custom resource starts with nothing.
        """
        if self.zero_cache is ABSENT:
            self.zero_cache = None
            zero: dict[str, Any] = {}
            for key, node in self.properties.items():
                if node.default == {} and node.default is not ABSENT and not node.structural:
                    zero[key] = node.zero()
                elif key in self.required and node.type in ("array", "object") and not node.structural:
                    zero[key] = None
            self.zero_cache = zero
        return self.zero_cache


ANY: Final = Schema()
"""Anything at all; lists and maps in it are atomic."""
ANY_KEPT: Final = Schema()
"""Anything at all under `x-kubernetes-preserve-unknown-fields`: maps are granular, lists atomic."""
ANY.map_type = "atomic"
ANY_KEPT.preserve_unknown = ANY.preserve_unknown = True
ANY_KEPT.additional = ANY_KEPT


def compile_definition(name: str, definitions: Definitions) -> Schema:
    """The schema named `name`, e.g. `io.k8s.api.core.v1.Pod`. KeyError when there is no such definition."""
    definition = definitions[name]
    if isinstance(definition, CustomDefinition):
        if definition.compiled is None:
            definition.compiled = compile_schema(definition)
            definition.compiled.status_subresource = definition.status_subresource
        return definition.compiled
    return _compiler(definitions).compile(name)


def compile_schema(openapi: OpenApi, *, root: bool = True) -> Schema:
    """A structural schema, as a CustomResourceDefinition gives it for a whole object (`root`) or a part of one."""
    node = _Structural().node(openapi, root=root)
    _finish([node])
    return node


_compilers: dict[int, _Compiler] = {}


def _compiler(definitions: Definitions) -> _Compiler:
    compiler = _compilers.get(id(definitions))
    if compiler is None:
        if len(_compilers) >= 8:  # only tests have so many; the server has one
            _compilers.clear()
        compiler = _compilers[id(definitions)] = _Compiler(definitions)
    return compiler


def _common(node: Schema, openapi: OpenApi) -> None:
    """What both kinds of schema share: everything but the children."""
    get = openapi.get
    node.type = get("type", node.type)
    node.format = get("format", node.format)
    node.nullable = get("nullable", node.nullable)
    node.omit_zero = get("x-omit-zero", node.omit_zero)
    node.default = get("default", node.default)
    if "required" in openapi:
        node.required = tuple(openapi["required"])
    if "enum" in openapi:
        node.enum = tuple(openapi["enum"])
    for wire, slot in LIMITS.items():
        if wire in openapi:
            setattr(node, slot, openapi[wire])
    if get("x-kubernetes-int-or-string") or node.format == "int-or-string":
        node.int_or_string = True
    if node.format == _QUANTITY:
        node.quantity = True
    if get("x-kubernetes-preserve-unknown-fields"):
        node.preserve_unknown = True
    if get("x-kubernetes-embedded-resource"):
        node.embedded = True
    if rules := get("x-kubernetes-validations"):
        node.validations = tuple(rules)
    node.map_type = get("x-kubernetes-map-type", node.map_type)
    _patching(node, openapi)


def _patching(node: Schema, openapi: OpenApi) -> None:
    """How lists and maps are merged. A list without a list type follows its patch strategy, as in Kubernetes."""
    if strategy := openapi.get("x-kubernetes-patch-strategy"):
        node.patch_strategy = frozenset(strategy.split(","))
        node.patch_merge_key = openapi.get("x-kubernetes-patch-merge-key", "")
    if list_type := openapi.get("x-kubernetes-list-type"):
        node.list_type = list_type
        node.map_keys = tuple(openapi.get("x-kubernetes-list-map-keys", ()))
    elif node.type == "array" and "merge" in node.patch_strategy:
        node.list_type = "map" if node.patch_merge_key else "set"
        node.map_keys = (node.patch_merge_key,) if node.patch_merge_key else ()


class _Compiler:
    """Definitions of built-in kinds. A definition is one node, however often and however recursively it is used."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self.done: dict[str, Schema] = {}
        self.fresh: list[Schema] = []
        self.aliases: list[tuple[Schema, Schema, OpenApi]] = []

    def compile(self, name: str) -> Schema:
        if name in self.done:
            return self.done[name]
        self.fresh, self.aliases = [], []
        node = self.named(name)
        for alias, target, openapi in self.aliases:
            for slot in Schema.__slots__:
                setattr(alias, slot, getattr(target, slot))
            alias.default = ABSENT
            _common(alias, openapi)
        _finish(self.fresh)
        return node

    def named(self, name: str) -> Schema:
        node = self.done.get(name)
        if node is None:
            node = self.done[name] = Schema()
            self.fresh.append(node)
            self.fill(node, self.definitions[name])
            node.name = name.rpartition(".")[2]
        return node

    def node(self, openapi: OpenApi) -> Schema:
        reference = openapi.get("$ref")
        if reference is None and len(openapi.get("allOf", ())) == 1 and "type" not in openapi:
            reference = openapi["allOf"][0].get("$ref")
        if reference is not None:
            target = self.named(reference.removeprefix(_REF).removeprefix("#/definitions/"))
            if not openapi.keys() - {"$ref", "allOf", "description"}:
                return target
            alias = Schema()
            self.fresh.append(alias)
            self.aliases.append((alias, target, openapi))
            return alias
        node = Schema()
        self.fresh.append(node)
        self.fill(node, openapi)
        return node

    def fill(self, node: Schema, openapi: OpenApi) -> None:
        _common(node, openapi)
        node.properties = {key: self.node(child) for key, child in openapi.get("properties", {}).items()}
        if "items" in openapi:
            node.items = self.node(openapi["items"])
        additional = openapi.get("additionalProperties")
        if isinstance(additional, Mapping):
            node.additional = self.node(additional)
        if node.preserve_unknown and not node.properties:
            node.additional = ANY if node.type == "object" else ANY_KEPT
        if node.type == "object" and node.additional is ANY:
            node.map_type = "atomic"


class _Structural:
    """Schemas of custom resources."""

    def node(self, openapi: OpenApi, *, root: bool = False, bare: bool = False) -> Schema:
        """`bare`: inside allOf, anyOf, oneOf and not, where a schema only judges and never describes."""
        node = Schema()
        node.structural = True
        _common(node, openapi)
        node.properties = {key: self.node(child, bare=bare) for key, child in openapi.get("properties", {}).items()}
        if "items" in openapi:
            node.items = self.node(openapi["items"], bare=bare)
        additional = openapi.get("additionalProperties")
        if isinstance(additional, Mapping):
            node.additional = self.node(additional, bare=bare)
        elif additional is True:
            node.additional = ANY_KEPT
        node.all_of = tuple(self.node(one, bare=True) for one in openapi.get("allOf", ()))
        node.any_of = tuple(self.node(one, bare=True) for one in openapi.get("anyOf", ()))
        node.one_of = tuple(self.node(one, bare=True) for one in openapi.get("oneOf", ()))
        if "not" in openapi:
            node.negated = self.node(openapi["not"], bare=True)
        if (root or node.embedded) and not bare:
            self.resource(node)
        if node.list_type == "map" and node.items is not None and not node.map_keys:
            node.list_type = "atomic"
        return node

    def resource(self, node: Schema) -> None:
        """A whole object lives here: whatever the schema says, it has apiVersion, kind and metadata."""
        node.resource_root = True
        node.type = "object"
        own = dict(node.properties)
        for key in ("apiVersion", "kind"):
            if key not in own:
                own[key] = self.node({"type": "string"})
        meta = _object_meta()
        if limited := own.get("metadata"):
            meta = _overlay(meta, limited)
        own["metadata"] = meta
        node.properties = own


def _overlay(meta: Schema, limited: Schema) -> Schema:
    """ObjectMeta, with what a custom resource says about name and generateName on top."""
    copy = Schema()
    for slot in Schema.__slots__:
        setattr(copy, slot, getattr(meta, slot))
    copy.properties = dict(meta.properties) | {
        key: node for key, node in limited.properties.items() if key in ("name", "generateName")
    }
    copy.default = ABSENT
    return copy


def _object_meta() -> Schema:
    from pilotfish.local.apiserver import types  # noqa: PLC0415 - the definitions are loaded when first needed

    return compile_definition(OBJECT_META, types.definitions())


def _finish(nodes: Iterable[Schema]) -> None:
    """Note on each node where below it there are defaults, so that filling them in never looks elsewhere."""
    every: list[Schema] = []
    seen: set[int] = set()
    stack = list(nodes)
    parents: dict[int, list[Schema]] = {}
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        every.append(node)
        for child in _children(node):
            parents.setdefault(id(child), []).append(node)
            stack.append(child)
    filled = [node for node in every if any(c.default is not ABSENT for c in _children(node))]
    marked = {id(node) for node in filled}
    while filled:
        for parent in parents.get(id(filled.pop()), ()):
            if id(parent) not in marked:
                marked.add(id(parent))
                filled.append(parent)
    for node in every:
        if node is ANY or node is ANY_KEPT:
            continue
        node.default_keys = tuple((k, c.default) for k, c in node.properties.items() if c.default is not ABSENT)
        node.default_children = tuple((k, c) for k, c in node.properties.items() if id(c) in marked)
        if node.list_type == "map" and node.items is not None:
            properties = node.items.properties
            node.item_keys = tuple(
                (key, properties[key].default if key in properties else ABSENT) for key in sorted(node.map_keys)
            )


def _children(node: Schema) -> list[Schema]:
    children = list(node.properties.values())
    if node.items is not None:
        children.append(node.items)
    if node.additional is not None and node.additional is not node:
        children.append(node.additional)
    return children
