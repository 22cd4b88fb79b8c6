"""Service-account tokens: signed by the cluster's key, bound to an account and perhaps to a pod, secret or node."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pilotfish.local import network
from pilotfish.local.apiserver.request import User
from pilotfish.local.apiserver.resource import Object

if TYPE_CHECKING:
    from pilotfish.local.apiserver.core import Core

ISSUER = f"https://kubernetes.default.svc.{network.CLUSTER_DOMAIN}"
AUDIENCES = (ISSUER,)
"""Audiences of the API server itself; a token for any of them is good for calling it."""
MIN_SECONDS = 600
DEFAULT_SECONDS = 3600
MAX_SECONDS = 1 << 32
_CACHED = 4096


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Tokens:
    """Signs and verifies."""

    def __init__(self, key_file: Path) -> None:
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{key_file} holds no elliptic-curve key")
        self._key = key
        self._public = key.public_key()
        der = self._public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        digest = hashes.Hash(hashes.SHA256())
        digest.update(der)
        self.key_id = _b64(digest.finalize())
        self._verified: dict[str, dict[str, Any]] = {}

    def sign(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self.key_id})

    def issue(
        self,
        account: Object,
        audiences: list[str],
        seconds: int,
        bound: tuple[str, str, str] | None = None,
        node: tuple[str, str] | None = None,
    ) -> tuple[str, int]:
        """A token for a service account and the second it expires. `bound` is (kind in lower case, name, uid)."""
        meta = account["metadata"]
        now = int(time.time())
        private: dict[str, Any] = {
            "namespace": meta["namespace"],
            "serviceaccount": {"name": meta["name"], "uid": meta["uid"]},
        }
        if bound:
            private[bound[0]] = {"name": bound[1], "uid": bound[2]}
        if node:
            private["node"] = {"name": node[0], "uid": node[1]} if node[1] else {"name": node[0]}
        claims = {
            "aud": audiences or list(AUDIENCES),
            "exp": now + seconds,
            "iat": now,
            "iss": ISSUER,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": private,
            "nbf": now,
            "sub": f"system:serviceaccount:{meta['namespace']}:{meta['name']}",
        }
        return self.sign(claims), now + seconds

    def _claims(self, token: str) -> dict[str, Any] | None:
        known = self._verified.get(token)
        if known is None:
            try:
                known = jwt.decode(
                    token,
                    self._public,
                    algorithms=["ES256"],
                    options={"verify_aud": False, "verify_iat": False},
                    leeway=5,
                )
            except jwt.PyJWTError:
                return None
            if len(self._verified) >= _CACHED:
                self._verified.clear()
            self._verified[token] = known
        if known.get("exp", float("inf")) < time.time():
            return None
        return known

    def verify(self, core: Core, token: str, audiences: tuple[str, ...] = AUDIENCES) -> tuple[User, list[str]] | None:
        """The caller and the audiences both sides agree on; None when the token is not, or no longer, good."""
        claims = self._claims(token)
        if claims is None:
            return None
        if claims.get("iss") != ISSUER:
            return None
        given = claims.get("aud") or []
        agreed = [a for a in audiences if a in ([given] if isinstance(given, str) else given)]
        private = claims.get("kubernetes.io") or {}
        if not agreed or not self._alive(core, private):
            return None
        account = private["serviceaccount"]
        extra = {"authentication.kubernetes.io/credential-id": (f"JTI={claims.get('jti', '')}",)}
        for kind in ("pod", "node"):
            if kind in private:
                extra[f"authentication.kubernetes.io/{kind}-name"] = (private[kind]["name"],)
                if private[kind].get("uid"):
                    extra[f"authentication.kubernetes.io/{kind}-uid"] = (private[kind]["uid"],)
        return _user(private["namespace"], account["name"], account["uid"], extra), agreed

    @staticmethod
    def _alive(core: Core, private: dict[str, Any]) -> bool:
        namespace = private.get("namespace", "")
        account = private.get("serviceaccount") or {}
        if not _is(core.get("v1", "ServiceAccount", namespace, account.get("name", "")), account.get("uid")):
            return False
        for kind in ("Pod", "Secret"):
            bound = private.get(kind.lower())
            if bound and not _is(core.get("v1", kind, namespace, bound.get("name", "")), bound.get("uid")):
                return False
        return True

    def jwks(self) -> dict[str, Any]:
        numbers = self._public.public_numbers()
        key = {
            "use": "sig",
            "kty": "EC",
            "kid": self.key_id,
            "crv": "P-256",
            "alg": "ES256",
            "x": _b64(numbers.x.to_bytes(32, "big")),
            "y": _b64(numbers.y.to_bytes(32, "big")),
        }
        return {"keys": [key]}

    @staticmethod
    def discovery(server: str) -> dict[str, Any]:
        """The OpenID Connect discovery document; `server` is how the caller reached us, `https://host:port`."""
        return {
            "issuer": ISSUER,
            "jwks_uri": f"{server}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }


def _is(obj: Object | None, uid: str | None) -> bool:
    return obj is not None and obj["metadata"]["uid"] == uid


def _user(namespace: str, name: str, uid: str, extra: Mapping[str, tuple[str, ...]]) -> User:
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    return User(f"system:serviceaccount:{namespace}:{name}", groups, uid, extra)
