"""RequestAuthentication."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

from pilotfish.api.config import Config
from pilotfish.api.security import JWTRule, RequestAuthentication
from pilotfish.api.urls import scheme_of
from pilotfish.api.validation.report import PLAIN_HEADER, TOKEN, Report

_NEEDED = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x"), "oct": ("k",)}
_TEXTS = {"kty", "crv", "alg", "kid", "use"}
_NUMBERS = {"n", "e", "x", "y", "k", "d", "p", "q", "dp", "dq", "qi"}
_PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "k"}


def check(report: Report, config: Config[RequestAuthentication]) -> None:
    spec = config.spec
    report.target_refs(spec.selector, spec.target_ref, spec.target_refs)
    for index, rule in enumerate(spec.jwt_rules):
        _check_rule(report, f"spec.jwtRules[{index}]", rule)


def _check_rule(report: Report, path: str, rule: JWTRule) -> None:
    if not rule.issuer and not rule.jwks_uri:
        report.error(f"{path}.issuer", "issuer or jwksUri is required")
    if rule.jwks_uri and rule.jwks:
        report.error(path, "only one of jwks and jwksUri can be set")
    if rule.jwks_uri:
        _check_url(report, f"{path}.jwksUri", rule.jwks_uri)
    if rule.jwks:
        _check_keys(report, f"{path}.jwks", rule.jwks)
    for name, values in (
        ("audiences", rule.audiences),
        ("fromParams", rule.from_params),
        ("fromCookies", rule.from_cookies),
        ("spaceDelimitedClaims", rule.space_delimited_claims),
    ):
        for index, value in enumerate(values):
            if not value:
                report.error(f"{path}.{name}[{index}]", "must not be empty")
    for index, header in enumerate(rule.from_headers):
        _check_header(report, f"{path}.fromHeaders[{index}].name", header.name)
    if rule.output_payload_to_header:
        _check_header(report, f"{path}.outputPayloadToHeader", rule.output_payload_to_header)
    for index, claim in enumerate(rule.output_claim_to_headers):
        report.header_name(f"{path}.outputClaimToHeaders[{index}].header", claim.header, PLAIN_HEADER)
        if not claim.claim:
            report.error(f"{path}.outputClaimToHeaders[{index}].claim", "claim is required")
    report.duration(f"{path}.timeout", rule.timeout)


def _check_header(report: Report, path: str, name: str) -> None:
    if not name:
        report.error(path, "header name must not be empty")
    elif TOKEN.fullmatch(name) is None:
        report.warn(path, f"there cannot be a header {name!r}")


def _check_url(report: Report, path: str, url: str) -> None:
    try:
        good = scheme_of(url, request=False) in {"http", "https"}
    except ValueError:
        good = False
    if not good:
        report.error(path, f"{url!r} must be a URL with scheme http:// or https:// and a host")
    elif not urlsplit(url).hostname:
        report.warn(path, f"{url!r} has no host, so no key can be fetched")


def _check_keys(report: Report, path: str, text: str) -> None:
    try:
        keys = json.loads(text)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        keys = None
    if not isinstance(keys, list):
        report.error(path, 'is no JSON Web Key Set; it looks like {"keys": [{"kty": "RSA", "n": …, "e": …}]}')
        return
    for index, key in enumerate(keys):
        if problem := _key_problem(key):
            report.error(path, f"keys[{index}] {problem}")
    if any(isinstance(key, dict) and _PRIVATE & set(key) for key in keys):
        report.warn(path, "contains a private key; only public keys belong here")


def _key_problem(key: Any) -> str | None:
    if not isinstance(key, dict):
        return "must be an object"
    kind = key.get("kty")
    if not isinstance(kind, str) or kind not in _NEEDED:
        return f"has the key type {kind!r}, which is not known"
    if missing := [name for name in _NEEDED[kind] if name not in key]:
        return f"has no {' and '.join(missing)}, which a key of type {kind} needs"
    for name, value in key.items():
        if name in _TEXTS and not isinstance(value, str):
            return f"must have a text as {name}"
        if name in _NUMBERS and not _is_base64(value):
            return f"has a {name} that is no base64"
    operations, chain = key.get("key_ops", []), key.get("x5c", [])
    if not isinstance(operations, list) or not all(isinstance(one, str) for one in operations):
        return "must have a list of texts as key_ops"
    if not isinstance(chain, list) or not all(map(_is_base64, chain)):
        return "must have a list of base64 as x5c"
    return None


def _is_base64(value: Any) -> bool:
    return (
        isinstance(value, str)
        and re.fullmatch(r"[-+/_A-Za-z0-9]*={0,2}", value) is not None
        and len(value.rstrip("=")) % 4 != 1
    )
