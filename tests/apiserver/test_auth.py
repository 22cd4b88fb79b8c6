"""Who is who, and who may do what."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
from tests.apiserver.conftest import ApiServer, wait

RBAC = "/apis/rbac.authorization.k8s.io/v1"
MERGE = "application/merge-patch+json"


def grant(server: ApiServer, namespace: str, *rules: tuple[str, str, str], name: str = "robot") -> str:
    """A service account with these (group, resource, verb) rules in its namespace; its token."""
    token = server.account_token(namespace, name)
    listed = [{"apiGroups": [g], "resources": [r], "verbs": [v]} for g, r, v in rules]
    server.create(f"{RBAC}/namespaces/{namespace}/roles", {"metadata": {"name": name}, "rules": listed})
    server.create(
        f"{RBAC}/namespaces/{namespace}/rolebindings",
        {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        },
    )
    return token


def maps(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps"


def test_nobody_may_do_nothing(server: ApiServer, namespace: str) -> None:
    """Without credentials only health and version answer; with bad ones nothing does."""
    assert server.call("GET", maps(namespace), token="").code == 403
    assert server.call("GET", "/apis", token="").code == 403
    assert server.call("GET", "/readyz", token="").raw == b"ok"
    assert server.call("GET", "/version", token="").code == 200
    assert server.call("GET", "/readyz", token="nonsense").code == 401
    assert server.call("GET", maps(namespace), headers={"Authorization": "Basic eDp5"}).code == 401


def test_roles_grant_what_they_say(server: ApiServer, namespace: str) -> None:
    """A rule allows its verb on its resource in its namespace, and nothing else."""
    token = grant(server, namespace, ("", "configmaps", "list"))
    assert server.call("GET", maps(namespace), token=token).code == 200
    refused = server.call("GET", maps(namespace) + "/x", token=token)
    assert refused.json["message"] == (
        f'configmaps "x" is forbidden: User "system:serviceaccount:{namespace}:robot" cannot get resource '
        f'"configmaps" in API group "" in the namespace "{namespace}"'
    )
    assert server.call("GET", maps("default"), token=token).code == 403
    assert server.call("GET", maps(namespace), token=token, watch="1").code == 403
    server.call("DELETE", f"{RBAC}/namespaces/{namespace}/rolebindings/robot")
    assert server.call("GET", maps(namespace), token=token).code == 403


def test_nobody_grants_more_than_he_has(server: ApiServer, namespace: str) -> None:
    """Roles and bindings beyond the writer's own rules are refused, what he has he may pass on."""
    token = grant(
        server,
        namespace,
        ("rbac.authorization.k8s.io", "roles", "create"),
        ("rbac.authorization.k8s.io", "rolebindings", "create"),
        ("", "pods", "get"),
    )
    roles = f"{RBAC}/namespaces/{namespace}/roles"

    def role(name: str, resource: str) -> dict[str, Any]:
        rule = {"apiGroups": [""], "resources": [resource], "verbs": ["get"]}
        return {"metadata": {"name": name}, "rules": [rule]}

    assert server.call("POST", roles, role("same", "pods"), token=token).code == 201
    refused = server.call("POST", roles, role("more", "secrets"), token=token)
    assert refused.code == 403
    assert "attempting to grant RBAC permissions not currently held" in refused.json["message"]
    binding = {
        "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    }
    assert server.call("POST", f"{RBAC}/namespaces/{namespace}/rolebindings", binding, token=token).code == 403


def test_aggregated_roles_gather_rules(server: ApiServer, namespace: str) -> None:
    """A ClusterRole with the label of `view` widens view, and narrows it again when it goes."""
    name = f"more-{namespace}"
    server.create(
        f"{RBAC}/clusterroles",
        {
            "metadata": {"name": name, "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
            "rules": [{"apiGroups": [f"{namespace}.example.com"], "resources": ["things"], "verbs": ["get"]}],
        },
    )

    def gathered() -> bool:
        rules = server.call("GET", f"{RBAC}/clusterroles/view").json["rules"]
        return any(f"{namespace}.example.com" in rule.get("apiGroups", []) for rule in rules)

    wait(gathered, "the aggregation")
    server.call("DELETE", f"{RBAC}/clusterroles/{name}")
    wait(lambda: not gathered(), "the end of the aggregation")


def test_tokens_end_with_what_they_are_bound_to(server: ApiServer, namespace: str) -> None:
    """A token of a deleted pod or account is worth nothing; one for another audience is none for us."""
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    token = grant(server, namespace, ("", "configmaps", "list"))
    pods = f"/api/v1/namespaces/{namespace}/pods"
    spec = {"containers": [{"name": "c", "image": "i"}], "serviceAccountName": "robot", "schedulerName": "nobody"}
    pod = server.create(pods, {"metadata": {"name": "p"}, "spec": spec})
    reference = {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": pod["metadata"]["uid"]}
    made = server.create(f"{accounts}/robot/token", {"spec": {"boundObjectRef": reference, "expirationSeconds": 700}})
    bound = made["status"]["token"]
    claims = jwt.decode(bound, options={"verify_signature": False})
    assert claims["kubernetes.io"]["pod"]["name"] == "p"
    assert 690 < claims["exp"] - claims["iat"] <= 700
    assert server.call("GET", maps(namespace), token=bound).code == 200
    server.call("DELETE", f"{pods}/p")
    assert server.call("GET", maps(namespace), token=bound).code == 401
    other = server.create(f"{accounts}/robot/token", {"spec": {"audiences": ["vault"]}})["status"]["token"]
    assert server.call("GET", maps(namespace), token=other).code == 401
    reviewed = server.create(
        "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": other, "audiences": ["vault", "x"]}}
    )
    assert reviewed["status"]["authenticated"] is True
    assert reviewed["status"]["audiences"] == ["vault"]
    assert server.call("POST", f"{accounts}/robot/token", {"spec": {"expirationSeconds": 5}}).code == 422
    server.call("DELETE", f"{accounts}/robot")
    assert server.call("GET", maps(namespace), token=token).code == 401


def test_forged_tokens(server: ApiServer, namespace: str) -> None:
    """No signature, another key, other claims: 401."""
    token = server.account_token(namespace)
    claims = jwt.decode(token, options={"verify_signature": False})
    head, _, signature = token.split(".")
    changed = base64.urlsafe_b64encode(json.dumps(claims | {"sub": "x"}).encode()).decode().rstrip("=")
    forged = [
        jwt.encode(claims, "", algorithm="none"),
        jwt.encode(claims, "a secret of thirty-two characters", algorithm="HS256"),
        f"{head}.{changed}.{signature}",
    ]
    assert [server.call("GET", "/version", token=one).code for one in forged] == [401, 401, 401]


def test_tokens_verify_against_the_published_keys(server: ApiServer, namespace: str) -> None:
    """OpenID Connect discovery leads to keys with which anyone can check a token."""
    token = server.account_token(namespace)
    configuration = server.call("GET", "/.well-known/openid-configuration").json
    keys = jwt.PyJWKSet.from_dict(server.call("GET", "/openid/v1/jwks").json)
    key = keys[jwt.get_unverified_header(token)["kid"]]
    issuer = configuration["issuer"]
    claims = jwt.decode(token, key, algorithms=["ES256"], audience=issuer, issuer=issuer)
    assert claims["sub"] == f"system:serviceaccount:{namespace}:robot"
    assert configuration["jwks_uri"].endswith("/openid/v1/jwks")


def test_acting_as_another(server: ApiServer, namespace: str) -> None:
    """Admins may impersonate: they are then that user; others may not."""
    token = grant(server, namespace, ("", "configmaps", "list"))
    who = f"system:serviceaccount:{namespace}:robot"
    assert server.kubectl("auth", "can-i", "list", "configmaps", "-n", namespace, "--as", who).stdout == "yes\n"
    done = server.kubectl("auth", "can-i", "get", "configmaps", "-n", namespace, "--as", who, ok=False)
    assert done.stdout == "no\n"
    refused = server.call("GET", maps(namespace), token=token, headers={"Impersonate-User": "root"})
    assert "cannot impersonate resource" in refused.json["message"]
    headers = {"Impersonate-User": "ann", "Impersonate-Group": "makers", "Impersonate-Extra-Team": "red"}
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    seen = server.call("POST", path, {}, headers=headers).json["status"]["userInfo"]
    assert seen == {"username": "ann", "groups": ["makers", "system:authenticated"], "extra": {"team": ["red"]}}


def test_reviews_of_access(server: ApiServer, namespace: str) -> None:
    """SubjectAccessReview and SelfSubjectRulesReview answer from the same rules."""
    token = grant(server, namespace, ("", "configmaps", "list"))
    attributes = {"namespace": namespace, "verb": "list", "resource": "configmaps"}
    body = {"spec": {"user": f"system:serviceaccount:{namespace}:robot", "resourceAttributes": attributes}}
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    assert server.create(path, body)["status"]["allowed"] is True
    body["spec"]["resourceAttributes"] = attributes | {"verb": "delete"}
    assert server.create(path, body)["status"]["allowed"] is False
    rules = server.call(
        "POST",
        "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
        {"spec": {"namespace": namespace}},
        token=token,
    ).json["status"]["resourceRules"]
    assert {"verbs": ["list"], "apiGroups": [""], "resources": ["configmaps"]} in rules
