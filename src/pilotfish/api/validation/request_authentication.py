"""RequestAuthentication."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from pilotfish.api.config import Config
from pilotfish.api.security import JWTRule, RequestAuthentication
from pilotfish.api.validation.report import Report

_KEY_TYPES = {"RSA", "EC", "oct", "OKP"}
_PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "k"}


def check(report: Report, config: Config[RequestAuthentication]) -> None:
    spec = config.spec
    report.target_refs(spec.selector, spec.target_ref, spec.target_refs)
    for index, rule in enumerate(spec.jwt_rules):
        _check_rule(report, f"spec.jwtRules[{index}]", rule)


def _check_rule(report: Report, path: str, rule: JWTRule) -> None:
    if not rule.issuer and not rule.jwks_uri and not rule.jwks:
        report.error(f"{path}.issuer", "issuer, jwksUri or jwks is required")
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
        report.header_name(f"{path}.fromHeaders[{index}].name", header.name)
    if rule.output_payload_to_header:
        report.header_name(f"{path}.outputPayloadToHeader", rule.output_payload_to_header)
    for index, claim in enumerate(rule.output_claim_to_headers):
        report.header_name(f"{path}.outputClaimToHeaders[{index}].header", claim.header)
        if not claim.claim:
            report.error(f"{path}.outputClaimToHeaders[{index}].claim", "claim is required")
    report.duration(f"{path}.timeout", rule.timeout)


def _check_url(report: Report, path: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        report.error(path, f"{url!r} must be a URL with scheme http:// or https:// and a host")


def _check_keys(report: Report, path: str, text: str) -> None:
    try:
        keys = json.loads(text)["keys"]
        kinds = [key["kty"] for key in keys]
        private = any(_PRIVATE & set(key) for key in keys)
    except (ValueError, KeyError, TypeError, RecursionError):
        report.error(path, 'is no JSON Web Key Set; it looks like {"keys": [{"kty": "RSA", "n": …, "e": …}]}')
        return
    for kind in kinds:
        if not isinstance(kind, str) or kind not in _KEY_TYPES:
            report.error(path, f"key type {kind!r} is not known")
    if private:
        report.warn(path, "contains a private key; only public keys belong here")
