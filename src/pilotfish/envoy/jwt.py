"""JSON web tokens: RequestAuthentication as Envoy's jwt_authn filter.

A request without a token passes; one with an invalid token is refused (401); of several issuers one valid token is
enough. What it claims is left in dynamic metadata for authorization and routing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache, lru_cache
from itertools import count

from pilotfish.api.security import JWTRule
from pilotfish.engine import Db, query
from pilotfish.envoy.proto import Fields, extension
from pilotfish.mesh import authentication, inputs
from pilotfish.mesh.proxies import View

NAME = "envoy.filters.http.jwt_authn"
_MESSAGE = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"

_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
"""The curve P-256: y² = x³ - 3x + b modulo p."""


@cache
def nobodys_key() -> str:
    """A key set that refuses every token: a point found by hashing, so that nobody knows its private key.

    Envoy rejects an empty key set, and the whole listener with it; leaving the provider out would let everything pass.
    """
    for attempt in count():
        x = int.from_bytes(hashlib.sha256(f"pilotfish: a key without an owner {attempt}".encode()).digest())
        square = (x**3 - 3 * x + _B) % _P
        y = pow(square, (_P + 1) // 4, _P)
        if x < _P and y * y % _P == square:
            break
    parts = {name: base64.urlsafe_b64encode(v.to_bytes(32)).rstrip(b"=").decode() for name, v in (("x", x), ("y", y))}
    return json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "nobody", **parts}]})


@lru_cache(maxsize=1024)
def _usable(keys: str) -> bool:
    """Whether a key set has a key Envoy can use; otherwise it would refuse the listener, and others would suffer."""
    from jwt import PyJWKSet  # noqa: PLC0415  heavy, and most meshes check no tokens
    from jwt.exceptions import PyJWTError  # noqa: PLC0415

    try:
        return bool(PyJWKSet.from_json(keys).keys)
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return False


@query
def filters(db: Db, view: View) -> tuple[Fields, ...]:
    """The filter for a proxy's RequestAuthentications; none without any."""
    rules = [rule for _, rule in authentication.jwt_rules(db, view.namespace, view.labels, view.gateway_name)]
    if not rules:
        return ()
    rules.sort(key=lambda r: r.issuer)
    names = [f"origins-{i}" for i in range(len(rules))]
    providers = {
        name: _provider(db, rule, gateway=not view.is_sidecar) for name, rule in zip(names, rules, strict=True)
    }
    if len(names) == 1:
        requires: Fields = {"requires_any": {"requirements": [{"provider_name": names[0]}, {"allow_missing": {}}]}}
    else:
        each = [{"provider_name": name} for name in names]
        missing = [{"requires_any": {"requirements": [{"provider_name": n}, {"allow_missing": {}}]}} for n in names]
        requires = {"requires_any": {"requirements": [*each, {"requires_all": {"requirements": missing}}]}}
    config: Fields = {
        "providers": providers,
        "rules": [{"match": {"prefix": "/"}, "requires": requires}],
        "bypass_cors_preflight": True,
    }
    return (extension(NAME, _MESSAGE, config),)


def _provider(db: Db, rule: JWTRule, *, gateway: bool) -> Fields:
    keys = rule.jwks
    if not keys and rule.jwks_uri:
        keys = inputs.JWKS(db, rule.jwks_uri) or ""
    fields: Fields = {
        "issuer": rule.issuer,
        "local_jwks": {"inline_string": keys if keys and _usable(keys) else nobodys_key()},
        "payload_in_metadata": "payload",
        "forward": rule.forward_original_token,
        "normalize_payload_in_metadata": {
            "space_delimited_claims": list(dict.fromkeys(("scope", "permission", *rule.space_delimited_claims)))
        },
    }
    if rule.audiences:
        fields["audiences"] = list(rule.audiences)
    if rule.from_headers:
        fields["from_headers"] = [{"name": h.name, "value_prefix": h.prefix} for h in rule.from_headers]
    if rule.from_params:
        fields["from_params"] = list(rule.from_params)
    if rule.from_cookies:
        fields["from_cookies"] = list(rule.from_cookies)
    if rule.output_payload_to_header:
        fields["forward_payload_header"] = rule.output_payload_to_header
    if rule.output_claim_to_headers:
        fields["claim_to_headers"] = [
            {"header_name": c.header, "claim_name": c.claim} for c in rule.output_claim_to_headers
        ]
    if gateway:
        fields["clear_route_cache"] = True
    return fields
