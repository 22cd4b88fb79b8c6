"""Who asks: a client certificate of our authority, a service-account token, or nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from aiohttp import web

from pilotfish.local.apiserver.errors import ApiError, forbidden, unauthorized
from pilotfish.local.apiserver.request import ANONYMOUS, User

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

AUTHENTICATED = "system:authenticated"


class Authenticator:
    """Turns credentials into users."""

    def user(self, core: Core, http: web.BaseRequest) -> User:
        """Raises 401 for credentials that are not good; who shows none is `system:anonymous`, who may do nothing."""
        header = http.headers.get("Authorization", "")
        scheme, _, token = header.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            verified = core.tokens.verify(core, token.strip())
            if verified is None:
                raise unauthorized()
            return verified[0]
        if not header and (offered := _websocket_token(http)):
            verified = core.tokens.verify(core, offered)
            if verified is None:
                raise unauthorized()
            return verified[0]
        if header and scheme.lower() != "bearer":
            raise unauthorized()
        transport = http.transport
        certificate: dict[str, Any] | None = transport.get_extra_info("peercert") if transport else None
        return certificate_user(certificate) if certificate else ANONYMOUS


def certificate_user(certificate: dict[str, Any]) -> User:
    """The user a verified certificate names."""
    name, groups = "", []
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                name = value
            elif key == "organizationName":
                groups.append(value)
    if not name:
        raise unauthorized()
    return User(name, (*groups, AUTHENTICATED))


def _websocket_token(http: web.BaseRequest) -> str:
    """Browsers cannot set headers on a WebSocket: the token travels as a subprotocol."""
    import base64  # noqa: PLC0415 - hardly ever used
    import binascii  # noqa: PLC0415

    prefix = "base64url.bearer.authorization.k8s.io."
    offered = http.headers.get("Sec-WebSocket-Protocol", "")
    for name in offered.split(",") if prefix in offered else ():
        if name.strip().startswith(prefix):
            text = name.strip().removeprefix(prefix)
            try:
                return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
            except (binascii.Error, UnicodeDecodeError):
                raise unauthorized() from None
    return ""


def impersonated(core: Core, http: web.BaseRequest, user: User) -> User:
    """The user that Impersonate-* headers ask to be. Raises 403 unless the caller may."""
    headers = http.headers
    name = headers.get("Impersonate-User", "")
    groups = headers.getall("Impersonate-Group", [])
    uid = headers.get("Impersonate-Uid", "")
    extra: dict[str, tuple[str, ...]] = {}
    for header in headers:
        if header.lower().startswith("impersonate-extra-"):
            extra[unquote(header[len("impersonate-extra-") :]).lower()] = tuple(headers.getall(header))
    if not (name or groups or uid or extra):
        return user
    if not name:
        raise ApiError(500, "InternalError", "Internal error occurred: requested impersonation without a user name")
    allowed = core.authorizer.allowed
    account = name.split(":") if name.startswith("system:serviceaccount:") else []
    one = ("", "serviceaccounts", account[2], account[3]) if len(account) == 4 else ("", "users", "", name)
    asks = [one]
    asks += [("", "groups", "", group) for group in groups]
    asks += [("authentication.k8s.io", "uids", "", uid)] if uid else []
    asks += [("authentication.k8s.io", f"userextras/{key}", "", v) for key, values in extra.items() for v in values]
    for group, resource, namespace, wanted in asks:
        plural, _, subresource = resource.partition("/")
        if not allowed(core, user, "impersonate", group, plural, subresource, namespace, wanted):
            why = f'User "{user.name}" cannot impersonate resource "{resource}" in API group "{group}" '
            where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
            raise forbidden(resource, group, wanted, why + where)
    if len(account) == 4 and not groups:
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{account[2]}"]
    last = AUTHENTICATED if name != "system:anonymous" else "system:unauthenticated"
    return User(name, tuple(dict.fromkeys([*groups, last])), uid, extra)
