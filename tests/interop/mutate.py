"""Objects that differ a little from good ones, so that each rule of a validation is met from both sides."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from pilotfish.api.crds import crds

Object = dict[str, Any]

_TEXTS = [
    "", "*", "a", "*.example.com", "example.com", "*example.com", "a.*.com", "UPPER.example.com", "bad host", "a..b",
    "-a", "a-", "a_b", "a.b.", "1.2.3.4", "10.0.0.0/8", "10.0.0.0/40", "::1", "fd00::/8", "300.1.1.1", "mesh",
    "ns/name", "./a.com", "*/*", "*/a.com", "~/*", "ns/", "/a", "~", ".", "unix:///tmp/s", "unix://@abstract",
    "unix://relative", "unix:///dir/", "@request.auth.claims.a", "request.headers[x]", "source.ip", "experimental.a",
    "HTTP", "http", "TCP", "HTTPS", "TLS", "GRPC", "UDP", "MONGO", "tcp", "STATIC", "GET", "get", "/path", "path",
    "^[a-z]+$", "(", "a{2000}", "(?=x)", "x-header", ":authority", ":path", "host", "%REQ(x)%", "%REQ(x", "100%",
    "443", "65536", "0", "-1", "spiffe://cluster.local/ns/a/sa/b", "cluster.local/ns/*/sa/b", "https://a.com/keys",
    "ftp://a.com", "oci://a.com/b:c", "http://", "inline", '{"keys":[]}', "Bearer ", "5xx,reset", "5xx, nonsense",
    "503", "kubernetes://x", "a/b", "region/zone/subzone", "region/*", "cancelled", "ABORTED", "14", "x" * 70,
    "y" * 260, "127.0.0.1:80", "127.0.0.1", "0.0.0.0:8080", "1.1.1.1:80", "[::1]:8080", "type.googleapis.com/x",
    "default", "prod", "v1", "istio", "request.host", "sha256:abc", "a" * 64, "é", "a b", "key=value", "100", "0.5",
]  # fmt: skip
_DURATIONS = [
    "10s",
    "0s",
    "-1s",
    "1ms",
    "0.5ms",
    "1.0005s",
    "1h",
    "500ms",
    "9000000s",
    "5",
    "",
    "1d",
    "100us",
    "+1s",
    "1.5s",
]
_NUMBERS = [-1, 0, 1, 2, 50, 80, 99, 100, 101, 443, 1023, 1024, 15021, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32]
_FLOATS = [-0.1, 0, 0.5, 1, 50, 99.9, 100, 100.1]
_WRONG = ["text", 5, 1.5, True, [], {}, ["a"], {"unknown": 1}, None, [None], "5", "true"]


def schemas() -> dict[tuple[str, str], Object]:
    """The schema of `spec` for each apiVersion and kind."""
    return {
        (f"{one['spec']['group']}/{version['name']}", one["spec"]["names"]["kind"]): version["schema"][
            "openAPIV3Schema"
        ]["properties"]["spec"]
        for one in crds()
        for version in one["spec"]["versions"]
    }


def variations(seeds: list[Object], count: int, seed: int) -> Iterator[Object]:
    """`count` objects, each a seed with one to three changes. The same for the same arguments."""
    dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
    known = schemas()
    kinds = sorted({one["kind"] for one in seeds})
    by_kind = {kind: [one for one in seeds if one["kind"] == kind] for kind in kinds}
    for number in range(count):
        obj = copy.deepcopy(dice.choice(by_kind[kinds[number % len(kinds)]]))
        schema = known[obj["apiVersion"], obj["kind"]]
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            if not isinstance(obj.get("spec"), dict):
                break
            _change(dice, obj["spec"], schema)
        yield obj


def _change(dice: random.Random, spec: Object, schema: Object) -> None:
    places = list(_places(spec, schema))
    parent, key, part = dice.choice(places)
    what = dice.random()
    if what < 0.35 or key is None:
        holder, its = (spec, schema) if key is None else (parent[key], part)
        if isinstance(holder, dict) and its.get("properties"):
            name = dice.choice(sorted(its["properties"]))
            holder[name] = made(dice, its["properties"][name], name)
        elif isinstance(holder, dict) and isinstance(its.get("additionalProperties"), dict):
            holder[dice.choice(_TEXTS)] = made(dice, its["additionalProperties"], "")
        elif isinstance(holder, list):
            items = its.get("items") or {}
            again = copy.deepcopy(dice.choice(holder)) if holder and dice.random() < 0.5 else made(dice, items, "")
            holder.insert(dice.randrange(len(holder) + 1), again)
        elif key is not None:
            parent[key] = made(dice, part, str(key))
    elif what < 0.75:
        parent[key] = made(dice, part, str(key))
    elif what < 0.93:
        del parent[key]
    else:
        parent[key] = copy.deepcopy(dice.choice(_WRONG))


def _places(value: Any, schema: Object, top: bool = True) -> Iterator[tuple[Any, Any, Object]]:
    """Each member of the value: its parent, its key and its schema; the value itself with the key None."""
    if top:
        yield value, None, schema
    if isinstance(value, dict):
        for key, item in value.items():
            part = (schema.get("properties") or {}).get(key) or schema.get("additionalProperties")
            part = part if isinstance(part, dict) else {}
            yield value, key, part
            yield from _places(item, part, top=False)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            part = schema.get("items") or {}
            yield value, index, part
            yield from _places(item, part, top=False)


def made(dice: random.Random, schema: Object, name: str, depth: int = 0) -> Any:
    """A value that often fits the schema, and sometimes does not."""
    if "enum" in schema and dice.random() < 0.9:
        return dice.choice(schema["enum"])
    match schema.get("type"):
        case "boolean":
            return dice.random() < 0.5
        case "integer":
            return dice.choice(_NUMBERS)
        case "number":
            return dice.choice(_FLOATS)
        case "array":
            size = dice.choice((0, 1, 1, 2))
            return [made(dice, schema.get("items") or {}, name, depth + 1) for _ in range(size)]
        case "object":
            return _object(dice, schema, depth)
    if any("duration" in rule["rule"] for rule in schema.get("x-kubernetes-validations", ())):
        return dice.choice(_DURATIONS)
    return dice.choice(_DURATIONS) if "time" in name.lower() and dice.random() < 0.5 else dice.choice(_TEXTS)


def _object(dice: random.Random, schema: Object, depth: int) -> Object:
    found: Object = {}
    properties = schema.get("properties") or {}
    required = [name for name in schema.get("required", ()) if dice.random() < 0.95]
    names = sorted(properties)
    wanted = dice.sample(names, min(len(names), dice.choice((0, 1, 1, 2, 3)))) if depth < 6 else []
    for name in sorted({*required, *wanted}):
        found[name] = made(dice, properties[name], name, depth + 1)
    more = schema.get("additionalProperties")
    if isinstance(more, dict) and dice.random() < 0.8:
        found[dice.choice(_TEXTS)] = made(dice, more, "", depth + 1)
    return found


def unique(objects: list[Object]) -> list[Object]:
    """Without repetitions."""
    return list({json.dumps(one, sort_keys=True): one for one in objects}.values())
