"""Istio's security tasks, as requests: who gets in, as whom, and who does not."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from .harness import wait_until
from .mesh import Mesh
from .shop import SHOP, STREET, Shop

pytestmark = [pytest.mark.xdist_group("mesh")]

HTTPBIN = f"http://httpbin.{SHOP}:8000"
ISSUER = "issuer@shop.test"


def security(kind: str, name: str, spec: str, version: str = "v1", annotations: str = "{}") -> str:
    """An object of Istio's security API; `spec` is YAML on one line."""
    metadata = f"{{name: {name}, annotations: {annotations}}}"
    return f"apiVersion: security.istio.io/{version}\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n---\n"


def policy(rules: str, action: str = "ALLOW", app: str = "httpbin", annotations: str = "{}") -> str:
    """An AuthorizationPolicy for an app."""
    spec = f"{{selector: {{matchLabels: {{app: {app}}}}}, action: {action}, rules: {rules}}}"
    return security("AuthorizationPolicy", f"{app}-{action.lower()}", spec, annotations=annotations)


def test_peers_by_namespace_workload_and_port(mesh: Mesh, shop: Shop) -> None:
    """Callers without a sidecar by the narrowest PeerAuthentication; those with one always get in, as themselves."""
    url = f"{HTTPBIN}/get"
    identity = "URI=spiffe://cluster.local/ns/shop/sa/sleep"
    assert identity in shop.headers(f"{HTTPBIN}/headers")["x-forwarded-client-cert"]
    shop.expect({url: "200"}, STREET)
    strict = security("PeerAuthentication", "default", "{mtls: {mode: STRICT}}", "v1beta1")
    with mesh.objects(strict, SHOP):
        shop.expect({url: "000"}, STREET)
        shop.expect({url: "200", "http://echo-headless:8080/": "200"})
        assert shop.lines("echo", 9090) == "hello\n"
        selector = "selector: {matchLabels: {app: httpbin}}"
        workload = f"{{{selector}, mtls: {{mode: STRICT}}, portLevelMtls: {{80: {{mode: DISABLE}}}}}}"
        with mesh.objects(security("PeerAuthentication", "httpbin", workload), SHOP):
            shop.expect({url: "200"}, STREET)
            shop.expect({url: "200"})
            # A connection that rested during the change carries one more request; there is one a worker.
            wait_until(lambda: "x-forwarded-client-cert" not in shop.headers(f"{HTTPBIN}/headers"), "plain text")
        shop.expect({url: "000"}, STREET)
    with mesh.objects(strict, "istio-system"):
        shop.expect({url: "000"}, STREET)
        shop.expect({url: "200"})
    shop.expect({url: "200"}, STREET)


def test_who_may_do_what(mesh: Mesh, shop: Shop) -> None:
    """Allow nothing; then by identity, method, path template and header; DENY wins."""
    nothing = security("AuthorizationPolicy", "nothing", "{}")
    allow = policy(
        "[{from: [{source: {principals: [cluster.local/ns/shop/sa/sleep]}}], "
        'to: [{operation: {methods: [GET], paths: [/get, "/anything/{*}/x", "/status/*"]}}]}, '
        '{when: [{key: "request.headers[x-token]", values: ["ad*"]}]}]'
    )
    deny = policy('[{to: [{operation: {paths: ["/status/*"], notPaths: [/status/200]}}]}]', "DENY")
    url = f"{HTTPBIN}/get"
    with mesh.objects(nothing, SHOP):
        shop.expect({url: "403", "http://echo/": "403"})
        assert shop.text(url) == "RBAC: access denied"
        with mesh.objects(allow + deny, SHOP):
            shop.expect(
                {
                    url: "200",
                    f"-X POST {HTTPBIN}/anything/1/x": "403",
                    f"{HTTPBIN}/anything/1/x": "200",
                    f"{HTTPBIN}/anything/1/2/x": "403",
                    f"{HTTPBIN}/status/200": "200",
                    f"{HTTPBIN}/status/201": "403",
                    f"{HTTPBIN}/ip": "403",
                    "http://echo/": "403",
                }
            )
            shop.expect({url: "403", f"-H x-token:admin {HTTPBIN}/ip": "200"}, STREET)
    shop.expect({url: "200", "http://echo/": "200"})


def test_denied_strangers_and_dry_runs(mesh: Mesh, shop: Shop) -> None:
    """Without an identity nobody passes `notPrincipals`; a dry run decides nothing."""
    url = f"{HTTPBIN}/get"
    everybody = "[{to: [{operation: {paths: [/get]}}]}]"
    with mesh.objects(policy(everybody, "DENY", annotations='{istio.io/dry-run: "true"}'), SHOP):
        strangers = security(
            "AuthorizationPolicy", "strangers", '{action: DENY, rules: [{from: [{source: {notPrincipals: ["*"]}}]}]}'
        )
        with mesh.objects(strangers, SHOP):
            shop.expect({url: "403"}, STREET)
            shop.expect({url: "200"})
    shop.expect({url: "200"}, STREET)


def test_rules_for_tcp(mesh: Mesh, shop: Shop) -> None:
    """On TCP ports an ALLOW rule with conditions of HTTP cannot allow, and one on ports can."""
    with mesh.objects(policy('[{to: [{operation: {ports: ["9090"]}}]}]', app="echo"), SHOP):
        shop.expect({"http://echo/": "403"})
        assert shop.lines("echo", 9090) == "hello\n"
        mesh.apply(policy("[{to: [{operation: {methods: [GET]}}]}]", app="echo"), SHOP)
        shop.expect({"http://echo/": "200"})
        assert shop.lines("echo", 9090) == ""


def test_tokens(mesh: Mesh, shop: Shop) -> None:
    """Requests without a token pass unless a policy asks for one; bad ones do not; claims decide."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = {**json.loads(RSAAlgorithm.to_jwk(key.public_key())), "kid": "k"}

    def request(path: str = "/get", **claims: Any) -> str:
        now = int(time.time())
        payload = {"iss": ISSUER, "sub": "someone", "iat": now, "exp": now + 600, **claims}
        token = jwt.encode(payload, key, algorithm="RS256", headers={"kid": "k"})
        return f"-H 'Authorization: Bearer {token}' {HTTPBIN}{path}"

    keys = json.dumps({"keys": [public]})
    rule = f"{{issuer: {ISSUER}, jwks: '{keys}', outputClaimToHeaders: [{{header: x-sub, claim: sub}}]}}"
    tokens = security(
        "RequestAuthentication", "tokens", f"{{selector: {{matchLabels: {{app: httpbin}}}}, jwtRules: [{rule}]}}"
    )
    with mesh.objects(tokens, SHOP):
        shop.expect(
            {
                f"{HTTPBIN}/get": "200",
                request(): "200",
                request(exp=1): "401",
                request(iss="another"): "401",
                f"-H 'Authorization: Bearer nonsense' {HTTPBIN}/get": "401",
            }
        )
        assert shop.headers(request("/headers"))["x-sub"] == "someone"
        groups = '[{key: "request.auth.claims[groups]", values: [team]}]'
        source = f'[{{source: {{requestPrincipals: ["{ISSUER}/*"]}}}}]'
        with mesh.objects(policy(f"[{{from: {source}, when: {groups}}}]"), SHOP):
            shop.expect(
                {
                    f"{HTTPBIN}/get": "403",
                    request(): "403",
                    request(groups=["other", "team"]): "200",
                    request(groups="team"): "200",
                    request(groups=["other"]): "403",
                }
            )
    shop.expect({f"-H 'Authorization: Bearer nonsense' {HTTPBIN}/get": "200"})
