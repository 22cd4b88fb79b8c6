"""What a request asks for: the address taken apart, the query, the accepted answer forms, who asks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from pilotfish.local.apiserver.errors import ApiError, bad_request

META_GROUP = "meta.k8s.io"
CONNECT = ("exec", "attach", "portforward", "proxy")
"""Subresources that carry a stream; what follows `proxy` in the path belongs to the target."""


@dataclass(frozen=True, slots=True)
class User:
    """Who asks, once authenticated."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def info(self) -> dict[str, Any]:
        """As `UserInfo` of TokenReview, SelfSubjectReview and AdmissionReview."""
        out: dict[str, Any] = {"username": self.name}
        if self.uid:
            out["uid"] = self.uid
        if self.groups:
            out["groups"] = list(self.groups)
        if self.extra:
            out["extra"] = {key: list(values) for key, values in self.extra.items()}
        return out


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))


@dataclass(slots=True)
class Target:
    """An address. Resource paths have `resource` (the plural) set; all others are known by `path` alone."""

    path: str
    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    chosen: str = ""
    """The one name that a list or watch selects by metadata.name, which counts for resourceNames of rules."""
    rest: str = ""
    """What follows a `proxy` subresource, with its leading slash."""


@dataclass(slots=True)
class Accept:
    """The form of the answer: `as_` is empty, Table or PartialObjectMetadata; `v` the version asked for it."""

    yaml: bool = False
    as_: str = ""
    v: str = "v1"
    group: str = META_GROUP


@dataclass(slots=True)
class Request:
    """One call on a resource: where to, by whom, with which options."""

    http: web.BaseRequest
    target: Target
    user: User
    query: Mapping[str, str]
    accept: Accept
    warnings: list[str] = field(default_factory=list)

    def flag(self, name: str) -> bool:
        """A boolean of the query, as Go's conversion reads it: present and not false."""
        value = self.query.get(name)
        return value is not None and value.lower() not in ("false", "0")

    def number(self, name: str) -> int | None:
        value = self.query.get(name, "")
        if not value:
            return None
        try:
            return int(value)
        except ValueError:
            raise bad_request(f'strconv.ParseInt: parsing "{value}": invalid syntax ({name})') from None

    @property
    def dry_run(self) -> bool:
        return "dryRun" in self.query

    @property
    def field_manager(self) -> str:
        """The manager of changes: as given, else the program's name in User-Agent."""
        given = self.query.get("fieldManager", "")
        return given or self.http.headers.get("User-Agent", "unknown").split("/")[0][:128] or "unknown"

    @property
    def field_validation(self) -> str:
        return self.query.get("fieldValidation", "") or "Warn"


_BY_NAME = re.compile(r"(?:^|,)metadata\.name==?([^,=!]+)")
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get", "HEAD": "get"}


def parse(method: str, raw_path: str, query: Mapping[str, str]) -> Target:
    """Take an address apart as the real server does (k8s.io/apiserver RequestInfo)."""
    parts = [unquote(part) for part in raw_path.strip("/").split("/")] if raw_path.strip("/") else []
    verb = _VERBS.get(method, method.lower())
    target = Target("/" + "/".join(parts), verb)
    if not parts or parts[0] not in ("api", "apis"):
        target.verb = method.lower()
        return target
    head = 1 if parts[0] == "api" else 2
    if len(parts) < head + 2:
        target.verb = method.lower()
        return target
    target.group = parts[1] if head == 2 else ""
    target.version = parts[head]
    parts = parts[head + 1 :]
    watching = False
    if parts[0] == "watch" and len(parts) > 1:
        watching, parts = True, parts[1:]
    if parts[0] == "namespaces" and len(parts) > 1:
        target.namespace = parts[1]
        if len(parts) > 2 and parts[2] not in ("finalize", "status"):
            parts = parts[2:]
    target.resource = parts[0]
    if len(parts) > 1:
        target.name = parts[1]
    if len(parts) > 2:
        target.subresource = parts[2]
    if len(parts) > 3:
        target.rest = "/" + "/".join(parts[3:])
    elif target.subresource == "proxy" and raw_path.endswith("/"):
        target.rest = "/"
    if target.resource == "namespaces" and target.namespace:
        target.namespace = target.name
    watching = watching or query.get("watch", "false").lower() in ("", "true", "1")
    if verb == "get" and watching and not target.subresource:
        target.verb = "watch"
    elif verb == "get" and not target.name:
        target.verb = "list"
    elif verb == "delete" and not target.name:
        target.verb = "deletecollection"
    if not target.name and (match := _BY_NAME.search(query.get("fieldSelector", ""))):
        target.chosen = match[1]
    return target


def accepted(header: str) -> Accept:
    """The first form of an Accept header that we can give. Raises 406."""
    if not header or header == "application/json":
        return Accept()
    clauses = []
    for i, text in enumerate(header.split(",")):
        media, *parameters = (part.strip() for part in text.split(";"))
        values = dict(p.split("=", 1) for p in parameters if "=" in p)
        try:
            quality = float(values.get("q", "1"))
        except ValueError:
            quality = 0.0
        clauses.append((-quality, i, media, values))
    for _, _, media, values in sorted(clauses, key=lambda clause: clause[:2]):
        if media not in ("application/json", "application/yaml", "*/*", "application/*", "text/*"):
            continue
        form = Accept(media == "application/yaml", values.get("as", ""), values.get("v", "v1"), values.get("g", ""))
        if not form.as_:
            return form
        if form.group == META_GROUP and form.v in ("v1", "v1beta1") and form.as_ in _FORMS:
            return form
        if form.group == "apidiscovery.k8s.io" and form.as_ == "APIGroupDiscoveryList" and form.v in ("v2", "v2beta1"):
            return form
    raise ApiError(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, application/yaml",
    )


_FORMS = ("Table", "PartialObjectMetadata", "PartialObjectMetadataList")
