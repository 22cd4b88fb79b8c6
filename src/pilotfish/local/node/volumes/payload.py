"""What the files of a volume hold: from ConfigMaps, Secrets and the pod itself. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pilotfish.local.node import env, fields
from pilotfish.local.node.volumes.atomic import File

Object = Mapping[str, Any]
Files = dict[str, File]

DEFAULT_MODE = 0o644


class SourceError(ValueError):
    """A source is missing or wrong; the text goes behind `MountVolume.SetUp failed for volume …`."""


@dataclass(frozen=True)
class Token:
    """A service account token a volume asks for."""

    path: str
    audience: str
    seconds: int


@dataclass(frozen=True)
class Sources:
    """What the content is made from."""

    pod: Object
    config_map: Callable[[str], Object | None]
    secret: Callable[[str], Object | None]
    token: Callable[[Token], bytes | None]
    """The current token, None while there is none."""
    allocatable: Mapping[str, str]


FILE_KINDS = ("configMap", "secret", "downwardAPI", "projected")


def files(volume: Object, sources: Sources) -> Files:
    """The files of a configMap, secret, downwardAPI or projected volume. Raises `SourceError`."""
    group = ((sources.pod.get("spec") or {}).get("securityContext") or {}).get("fsGroup") is not None
    if "projected" in volume:
        projected = volume["projected"] or {}
        mode = _mode(projected.get("defaultMode"))
        result: Files = {}
        for source in projected.get("sources") or ():
            result.update(_source(source, mode, sources))
    else:
        kind = next(kind for kind in FILE_KINDS if kind in volume)
        source = volume[kind] or {}
        result = _source({kind: source}, _mode(source.get("defaultMode")), sources)
    if group:
        # As kubelet: the group of the pod may read what its owner may.
        result = {name: File(f.data, f.mode | ((f.mode & 0o400) >> 3)) for name, f in result.items()}
    return result


def tokens(volume: Object) -> list[Token]:
    """The tokens a projected volume asks for."""
    found = []
    for source in (volume.get("projected") or {}).get("sources") or ():
        token = source.get("serviceAccountToken")
        if token is not None:
            found.append(Token(token["path"], token.get("audience") or "", int(token.get("expirationSeconds") or 3600)))
    return found


def references(volume: Object) -> set[tuple[str, str]]:
    """The (`ConfigMap` or `Secret`, name) pairs a volume is made from."""
    found: set[tuple[str, str]] = set()
    everything = [*((volume.get("projected") or {}).get("sources") or ()), volume]
    for source in everything:
        if source.get("configMap"):
            found.add(("ConfigMap", source["configMap"].get("name", "")))
        if source.get("secret"):
            found.add(("Secret", source["secret"].get("secretName") or source["secret"].get("name", "")))
    return found


def _mode(value: object) -> int:
    return DEFAULT_MODE if value is None else int(str(value))


def _source(source: Object, mode: int, sources: Sources) -> Files:
    if source.get("configMap") is not None:
        one = source["configMap"]
        return _keys("configmap", one.get("name", ""), one, sources.config_map, mode, sources)
    if source.get("secret") is not None:
        one = source["secret"]
        return _keys("secret", one.get("secretName") or one.get("name", ""), one, sources.secret, mode, sources)
    if source.get("downwardAPI") is not None:
        return _downward(source["downwardAPI"], mode, sources)
    if source.get("serviceAccountToken") is not None:
        one = source["serviceAccountToken"]
        token = Token(one["path"], one.get("audience") or "", int(one.get("expirationSeconds") or 3600))
        value = sources.token(token)
        if value is None:
            raise SourceError("the service account token is not there yet")
        return {token.path: File(value, mode)}
    raise SourceError(f"source {', '.join(source)} is not supported on this node")


def _keys(
    kind: str, name: str, one: Object, lookup: Callable[[str], Object | None], mode: int, sources: Sources
) -> Files:
    found = lookup(name)
    optional = bool(one.get("optional"))
    if found is None:
        if optional:
            return {}
        namespace = sources.pod["metadata"]["namespace"]
        raise SourceError(
            f'{kind} "{name}" not found (namespace {namespace})' if not name else f'{kind} "{name}" not found'
        )
    data = env.data_of(found)
    items = one.get("items")
    if not items:
        return {key: File(value, mode) for key, value in data.items()}
    result: Files = {}
    for item in items:
        value = data.get(item["key"])
        if value is None:
            if optional:
                continue
            raise SourceError(
                f"references non-existent {'config' if kind == 'configmap' else 'secret'} key: {item['key']}"
            )
        result[item["path"]] = File(value, mode if item.get("mode") is None else int(item["mode"]))
    return result


def _downward(one: Object, mode: int, sources: Sources) -> Files:
    result: Files = {}
    for item in one.get("items") or ():
        try:
            if item.get("fieldRef"):
                value = fields.field(sources.pod, item["fieldRef"]["fieldPath"])
            else:
                value = env.resource_field(sources.pod, None, item["resourceFieldRef"], sources.allocatable)
        except fields.FieldError as error:
            raise SourceError(f"downwardAPI {item['path']}: {error}") from error
        result[item["path"]] = File(value.encode(), mode if item.get("mode") is None else int(item["mode"]))
    return result
