"""Who may ask, and about which namespaces: the strategies `token` and `anonymous`, as Kiali has them.

With `token` the caller shows a token of the cluster: `kubectl create token` makes one. The API server says whose it is
(TokenReview) and what that user may see (SubjectAccessReview): a namespace to whoever may `get` it, everything to
whoever may `get` all of them. It comes as `Authorization: Bearer`, as `X-Pilotfish-Token` (on ways where the other
header is used up, as in the API server's proxy), or in the cookie that `POST /api/authenticate` gives for it.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from pilotfish.ca.caller import ReviewedToken, UnauthenticatedError, expiry_of
from pilotfish.ca.review import TokenReviewer
from pilotfish.kube.client import Client
from pilotfish.kube.errors import KubeError
from pilotfish.kube.resources import NAMESPACES, SUBJECT_ACCESS_REVIEWS
from pilotfish.telemetry.console import AUDIENCE, TOKEN_HEADER

COOKIE = "pilotfish-console-token"
SESSION_SECONDS = 86400.0
"""A session lives as long as its token, and no longer than this (Kiali's `login_token.expiration_seconds`)."""
YES_SECONDS, NO_SECONDS = 20.0, 5.0
"""How long an answer about a user and a namespace is reused; a Role may be on its way."""
REMEMBERED_MOST = 4096
_COOKIE_MOST = 3800
"""What browsers keep in one cookie, less its name and attributes."""


class AccessError(Exception):
    """The caller may not have this; the text says why. `status` is 401, 403 or, when nobody could be asked, 503."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Reader(NamedTuple):
    """Somebody who asks."""

    username: str
    may: Callable[[str], Awaitable[bool]]
    """Whether a namespace, or with "" everything, may be shown. Raises AccessError when nobody can tell."""


class Access(Protocol):
    """A strategy."""

    async def reader(self, request: web.Request) -> Reader:
        """Who asks. Raises AccessError."""
        ...

    def routes(self) -> list[web.RouteDef]:
        """What is answered without login: whether there is one, and how to get in."""
        ...


class Anonymous:
    """Whoever can connect may see everything."""

    async def reader(self, request: web.Request) -> Reader:
        return Reader("anonymous", _always)

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/auth/info", self._info)]

    async def _info(self, _: web.Request) -> web.Response:
        return web.json_response({"strategy": "anonymous", "sessionInfo": {}})


async def _always(_: str) -> bool:
    return True


class Tokens:
    """Tokens of the cluster that `client` is for."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._review = TokenReviewer(client)
        self._known: OrderedDict[tuple[str, str], tuple[float, bool]] = OrderedDict()
        # Sessions end with the process; another one's cookies are not accepted.
        self._key = os.urandom(32)

    async def reader(self, request: web.Request) -> Reader:
        token = request.headers.get(TOKEN_HEADER, "") or _bearer(request) or self._opened(request)
        if not token:
            raise AccessError(401, "who is asking? Log in, or send a token of this cluster as Authorization: Bearer")
        return self._reader(await self._reviewed(token))

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/auth/info", self._info),
            web.post("/api/authenticate", self._login),
            web.get("/api/logout", self._logout),
        ]

    # ------------------------------------------------------------------ who

    async def _reviewed(self, token: str) -> ReviewedToken:
        audiences = (AUDIENCE,) if AUDIENCE in _audiences(token) else ()
        try:
            found = await self._review(token, audiences)
        except UnauthenticatedError as error:
            if isinstance(error.__cause__, KubeError):
                raise AccessError(503, str(error)) from error
            raise AccessError(401, f"the token is not accepted: {error}") from error
        if audiences and AUDIENCE not in found.audiences:
            raise AccessError(401, f"the token is not accepted: nobody confirms that it is for {AUDIENCE}")
        return found

    def _reader(self, user: ReviewedToken) -> Reader:
        who = {"user": user.username, "uid": user.uid, "groups": user.groups, "extra": user.extra}
        same = json.dumps(who, sort_keys=True)

        async def may(namespace: str) -> bool:
            found = self._known.get((same, namespace))
            if found is None or found[0] <= time.monotonic():
                found = self._known[same, namespace] = await self._asked(who, namespace)
                self._known.move_to_end((same, namespace))
                while len(self._known) > REMEMBERED_MOST:
                    self._known.popitem(last=False)
            return found[1]

        return Reader(user.username, may)

    # ------------------------------------------------------------------ what

    async def _asked(self, who: Mapping[str, Any], namespace: str) -> tuple[float, bool]:
        """Until when it holds, and whether somebody may see a namespace."""
        # As the API server itself asks about GET /api/v1/namespaces/NAME.
        what = {"verb": "get", "version": "v1", "resource": "namespaces", "namespace": namespace, "name": namespace}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {**who, "resourceAttributes": what},
        }
        try:
            answer = await self._client.create(SUBJECT_ACCESS_REVIEWS, review)
        except KubeError as error:
            raise AccessError(503, f"the API server cannot be asked what you may see: {error}") from error
        allowed = bool((answer.get("status") or {}).get("allowed"))
        return time.monotonic() + (YES_SECONDS if allowed else NO_SECONDS), allowed

    async def _sees_something(self, reader: Reader) -> bool:
        if await reader.may(""):
            return True
        try:
            names = [one["metadata"]["name"] for one in (await self._client.list(NAMESPACES)).items]
        except KubeError as error:
            raise AccessError(503, f"the API server cannot be asked for namespaces: {error}") from error
        for name in names:
            if await reader.may(name):
                return True
        return False

    # ------------------------------------------------------------------ sessions of browsers

    async def _login(self, request: web.Request) -> web.Response:
        try:
            _same_origin(request)
            token = str((await request.post()).get("token") or "").strip()
            if not token:
                raise AccessError(401, "no token: send it as the form's field `token`")
            reader = self._reader(await self._reviewed(token))
            if not await self._sees_something(reader):
                raise AccessError(401, f"{reader.username} may not get any namespace, so there is nothing to show")
        except AccessError as error:
            return refusal(error)
        until = min(time.time() + SESSION_SECONDS, expiry_of(token) or float("inf"))
        sealed = self._sealed(token, until)
        if len(sealed) > _COOKIE_MOST:
            return refusal(AccessError(401, "this token is too long for a cookie: send it as Authorization: Bearer"))
        response = web.json_response({"username": reader.username, "expiresOn": _moment(until)})
        secure = request.headers.get("X-Forwarded-Proto", request.scheme) == "https"
        response.set_cookie(
            COOKIE, sealed, max_age=int(until - time.time()), httponly=True, samesite="Strict", secure=secure
        )
        return response

    async def _logout(self, _: web.Request) -> web.Response:
        response = web.Response(status=204)
        response.del_cookie(COOKIE)
        return response

    async def _info(self, request: web.Request) -> web.Response:
        session: dict[str, str] = {}
        token = self._opened(request)
        try:
            if token:
                session["username"] = (await self._reviewed(token)).username
                session["expiresOn"] = _moment(self._session(request)[1])
        except AccessError:
            session = {}
        return web.json_response({"strategy": "token", "sessionInfo": session})

    def _sealed(self, token: str, until: float) -> str:
        nonce = os.urandom(12)
        content = msgspec.json.encode((token, until))
        return base64.urlsafe_b64encode(nonce + _cipher(self._key).encrypt(nonce, content, None)).decode()

    def _opened(self, request: web.Request) -> str:
        """The token of a session; empty when there is none."""
        token, until = self._session(request)
        return token if until > time.time() else ""

    def _session(self, request: web.Request) -> tuple[str, float]:
        sealed = request.cookies.get(COOKIE)
        if not sealed:
            return "", 0.0
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - 10 MB that only browsers' sessions need

        try:
            raw = base64.urlsafe_b64decode(sealed)
            return msgspec.json.decode(_cipher(self._key).decrypt(raw[:12], raw[12:], None), type=tuple[str, float])
        except (ValueError, InvalidTag, msgspec.DecodeError):
            return "", 0.0


def _cipher(key: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - 10 MB that only sessions need

    return AESGCM(key)


def _bearer(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _audiences(token: str) -> Iterable[str]:
    """For whom a token says it is; unverified, to ask the API server the right question."""
    try:
        payload = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))).get("aud")
    except (IndexError, ValueError, AttributeError):
        return ()
    return [found] if isinstance(found, str) else found if isinstance(found, list) else ()


def _same_origin(request: web.Request) -> None:
    """Another page must not log its visitor in here. Raises AccessError."""
    origin = request.headers.get("Origin")
    host = request.headers.get("X-Forwarded-Host", request.host)
    if origin is not None and urlsplit(origin).netloc != host:
        raise AccessError(403, "a page of another origin may not log in")


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def refusal(error: AccessError) -> web.Response:
    """An AccessError as an answer. A 401 ends the session."""
    response = web.json_response({"error": str(error)}, status=error.status)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
        response.del_cookie(COOKIE)
    return response


def for_all(routes: Iterable[web.RouteDef], access: Access) -> list[web.RouteDef]:
    """The same routes, for those only who may see everything."""

    def guarded(handler: Any) -> Any:
        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                reader = await access.reader(request)
                if not await reader.may(""):
                    raise AccessError(403, f"{reader.username} may not get all namespaces")
            except AccessError as error:
                return refusal(error)
            response: web.StreamResponse = await handler(request)
            return response

        return answer

    return [web.route(one.method, one.path, guarded(one.handler)) for one in routes]


async def all_readable(reader: Reader, namespaces: Iterable[str]) -> bool:
    """Whether there are namespaces, and each may be shown."""
    names = set(namespaces)
    return bool(names) and all([bool(name) and await reader.may(name) for name in names])


def namespace_of(service: str) -> str:
    """The namespace of a service as proxies report spans, NAME.NAMESPACE; empty when it has none."""
    name, _, namespace = service.rpartition(".")
    return namespace if name else ""


def namespaces_asked(where: Mapping[str, Iterable[str]]) -> list[Iterable[str]]:
    """The lists of namespaces that a question about metrics is limited to: what it finds has to do with each list."""
    names = ("source_workload_namespace", "destination_workload_namespace", "destination_service_namespace")
    return [where[name] for name in names if name in where]
