"""Admission and conversion webhooks, called over TLS."""

from __future__ import annotations

import base64
import datetime as dt
import http.server
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.apiserver.conftest import ApiServer

Answer = Callable[[dict[str, Any]], dict[str, Any]]
REGISTRATION = "/apis/admissionregistration.k8s.io/v1"


def _certificate(directory: Path) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hook")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("hook.default.svc")]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "hook.pem").write_bytes(pem + private)
    return pem


class Hook:
    """An HTTPS server; each path answers with a function of the review's request."""

    def __init__(self, directory: Path) -> None:
        self.bundle = base64.b64encode(_certificate(directory)).decode()
        self.answers: dict[str, Answer] = {}
        self.seen: list[dict[str, Any]] = []
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def do_POST(self) -> None:
                review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                caller = review["request"].get("userInfo", {}).get("username", "")
                if not caller.startswith("system:"):  # controllers write as well
                    hook.seen.append(review["request"])
                response = hook.answers[self.path](review["request"])
                answer = {"apiVersion": review["apiVersion"], "kind": review["kind"]}
                answer["response"] = {"uid": review["request"]["uid"], **response}
                data = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "hook.pem")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def client(self, path: str) -> dict[str, str]:
        return {"url": f"https://127.0.0.1:{self.server.server_address[1]}{path}", "caBundle": self.bundle}


@pytest.fixture
def hook(tmp_path: Path) -> Iterator[Hook]:
    made = Hook(tmp_path)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def install(server: ApiServer, namespace: str, hook: Hook) -> Iterator[Callable[..., None]]:
    """Register webhooks for the ConfigMaps of the test's namespace; they go with the test."""
    installed: list[str] = []

    def make(*webhooks: dict[str, Any], kind: str = "Mutating") -> None:
        full = [
            {
                "name": f"h{number}.example.com",
                "clientConfig": hook.client(webhook.pop("path", "/")),
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "rules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "resources": ["configmaps"],
                        "operations": ["CREATE", "UPDATE", "DELETE"],
                    }
                ],
                **webhook,
            }
            for number, webhook in enumerate(webhooks)
        ]
        path = f"{REGISTRATION}/{kind.lower()}webhookconfigurations"
        name = f"{namespace}-{len(installed)}"
        server.create(path, {"metadata": {"name": name}, "webhooks": full})
        installed.append(f"{path}/{name}")

    yield make
    for path in installed:
        server.call("DELETE", path)


def patching(*operations: dict[str, Any]) -> Answer:
    patch = base64.b64encode(json.dumps(operations).encode()).decode()
    return lambda _: {"allowed": True, "patchType": "JSONPatch", "patch": patch}


def maps(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps"


def test_mutation_and_validation(server: ApiServer, namespace: str, hook: Hook, install: Callable[..., None]) -> None:
    """A mutating webhook's patch is in the object that the validating one sees and that is stored."""
    hook.answers["/patch"] = patching({"op": "add", "path": "/data", "value": {"by": "hook"}})
    hook.answers["/check"] = lambda r: {"allowed": r["object"]["data"] == {"by": "hook"}, "warnings": ["take care"]}
    install({"path": "/patch"})
    install({"path": "/check"}, kind="Validating")
    answer = server.call("POST", maps(namespace), {"metadata": {"name": "c"}})
    assert (answer.code, answer.json["data"]) == (201, {"by": "hook"})
    assert answer.headers["Warning"] == '299 - "take care"'
    request = hook.seen[-1]
    assert request["userInfo"]["username"] == "kubernetes-admin"
    assert (request["operation"], request["name"], request["namespace"]) == ("CREATE", "c", namespace)
    assert request["object"]["metadata"]["uid"] == answer.json["metadata"]["uid"]


def test_a_refusal_reaches_the_user(
    server: ApiServer, namespace: str, hook: Hook, install: Callable[..., None]
) -> None:
    """The webhook's words and code are the answer's; deletions can be refused as well."""
    server.create(maps(namespace), {"metadata": {"name": "c"}})
    hook.answers["/"] = lambda r: {
        "allowed": r["operation"] != "DELETE",
        "status": {"message": "not on my watch", "code": 403},
    }
    install({}, kind="Validating")
    refused = server.call("DELETE", maps(namespace) + "/c")
    assert refused.code == 403
    assert refused.json["message"] == 'admission webhook "h0.example.com" denied the request: not on my watch'
    assert server.call("GET", maps(namespace) + "/c").code == 200


def test_webhooks_that_fail(server: ApiServer, namespace: str, hook: Hook, install: Callable[..., None]) -> None:
    """A slow webhook is given up in time: the write fails or goes on, as failurePolicy says."""
    released = threading.Event()

    def slow(_: dict[str, Any]) -> dict[str, Any]:
        released.wait(10)
        return {"allowed": True}

    hook.answers["/"] = slow
    for policy, code in (("Fail", 500), ("Ignore", 201)):
        install({"failurePolicy": policy, "timeoutSeconds": 1, "objectSelector": {"matchLabels": {"p": policy}}})
        started = time.monotonic()
        body = {"metadata": {"name": policy.lower(), "labels": {"p": policy}}}
        assert server.call("POST", maps(namespace), body).code == code
        assert time.monotonic() - started < 5
    released.set()


def test_an_unknown_authority_is_refused(
    server: ApiServer, namespace: str, hook: Hook, install: Callable[..., None]
) -> None:
    """A webhook whose certificate caBundle does not vouch for is not called."""
    hook.answers["/"] = lambda _: {"allowed": True}
    other = base64.b64encode((server.data / "pki" / "ca.crt").read_bytes()).decode()
    install({"clientConfig": hook.client("/") | {"caBundle": other}})
    refused = server.call("POST", maps(namespace), {"metadata": {"name": "c"}})
    assert refused.code == 500
    assert "failed calling webhook" in refused.json["message"]
    assert hook.seen == []


def test_a_second_look(server: ApiServer, namespace: str, hook: Hook, install: Callable[..., None]) -> None:
    """With reinvocationPolicy IfNeeded an earlier webhook sees once more what a later one has changed."""

    def first(request: dict[str, Any]) -> dict[str, Any]:
        if "b" not in (request["object"].get("data") or {}):
            return {"allowed": True}
        return patching({"op": "add", "path": "/data/a", "value": "saw b"})(request)

    hook.answers["/first"] = first
    hook.answers["/second"] = patching({"op": "add", "path": "/data", "value": {"b": "1"}})
    install({"path": "/first", "reinvocationPolicy": "IfNeeded"}, {"path": "/second"})
    made = server.create(maps(namespace), {"metadata": {"name": "c"}})
    assert made["data"] == {"a": "saw b", "b": "1"}
    assert len(hook.seen) == 3


def test_match_conditions(server: ApiServer, namespace: str, hook: Hook, install: Callable[..., None]) -> None:
    """A webhook is called for what all its conditions hold for."""
    hook.answers["/"] = lambda _: {"allowed": False}
    conditions = [
        {"name": "named", "expression": "object.metadata.name.startsWith('no')"},
        {"name": "who", "expression": "request.userInfo.username == 'kubernetes-admin'"},
    ]
    install({"matchConditions": conditions})
    assert server.call("POST", maps(namespace), {"metadata": {"name": "yes"}}).code == 201
    assert server.call("POST", maps(namespace), {"metadata": {"name": "no"}}).code == 400


def test_dry_runs_spare_webhooks_with_effects(
    server: ApiServer, namespace: str, hook: Hook, install: Callable[..., None]
) -> None:
    """A dry run is told to webhooks; what a patch makes of the object is validated like any other write."""
    hook.answers["/"] = patching({"op": "add", "path": "/data", "value": {"not a key!": "x"}})
    install({})
    answer = server.call("POST", maps(namespace), {"metadata": {"name": "c"}}, dryRun="All")
    assert answer.code == 422
    assert hook.seen[-1]["dryRun"] is True
    assert hook.seen[-1]["options"]["dryRun"] == ["All"]


def test_conversion(server: ApiServer, hook: Hook, namespace: str) -> None:
    """A custom kind of two versions is read in either; one call converts a whole list."""

    def convert(request: dict[str, Any]) -> dict[str, Any]:
        wanted = request["desiredAPIVersion"]
        out = []
        for obj in request["objects"]:
            old, new = ("size", "length") if wanted.endswith("v2") else ("length", "size")
            spec = {new: obj["spec"][old]} if old in obj.get("spec", {}) else obj.get("spec", {})
            out.append(obj | {"apiVersion": wanted, "spec": spec})
        return {"convertedObjects": out, "result": {"status": "Success"}}

    hook.answers["/convert"] = convert
    group = f"{namespace}.example.com"

    def version(name: str, field: str) -> dict[str, Any]:
        spec = {"type": "object", "properties": {field: {"type": "integer"}}}
        schema = {"type": "object", "properties": {"spec": spec}}
        return {"name": name, "served": True, "storage": name == "v1", "schema": {"openAPIV3Schema": schema}}

    conversion = {
        "strategy": "Webhook",
        "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": hook.client("/convert")},
    }
    definition = {
        "metadata": {"name": f"ropes.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "ropes", "kind": "Rope"},
            "versions": [version("v1", "size"), version("v2", "length")],
            "conversion": conversion,
        },
    }
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    server.create(definitions, definition)
    old, new = (f"/apis/{group}/{v}/namespaces/{namespace}/ropes" for v in ("v1", "v2"))
    head = {"kind": "Rope", "spec": {"size": 1}}
    server.create(old, head | {"apiVersion": f"{group}/v1", "metadata": {"name": "a"}})
    server.create(new, {"kind": "Rope", "metadata": {"name": "b"}, "spec": {"length": 2}})
    assert server.call("GET", old + "/b").json["spec"] == {"size": 2}
    hook.seen.clear()
    listed = server.call("GET", new).json["items"]
    assert [(item["apiVersion"], item["spec"]) for item in listed] == [
        (f"{group}/v2", {"length": 1}),
        (f"{group}/v2", {"length": 2}),
    ]
    assert len(hook.seen) == 1
    server.call("DELETE", f"{definitions}/ropes.{group}")


def test_a_webhook_behind_a_service(own_server: ApiServer, hook: Hook) -> None:
    """A Service is reached through the node, under the name NAME.NAMESPACE.svc; without a node the call fails."""
    own_server.settle("default")
    hook.answers["/check"] = lambda r: {"allowed": r["name"] != "bad"}
    port = hook.server.server_address[1]
    own_server.create(
        "/api/v1/namespaces/default/services", {"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 443}]}}
    )
    service = own_server.call("GET", "/api/v1/namespaces/default/services/hook").json
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}
    webhook = {
        "name": "h.example.com",
        "clientConfig": {
            "service": {"name": "hook", "namespace": "default", "path": "/check"},
            "caBundle": hook.bundle,
        },
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
        "rules": [rule],
    }
    path = f"{REGISTRATION}/validatingwebhookconfigurations"
    own_server.create(path, {"metadata": {"name": "h"}, "webhooks": [webhook]})
    unreachable = own_server.call("POST", maps("default"), {"metadata": {"name": "good"}})
    assert unreachable.code == 500
    assert "the node is not running" in unreachable.json["message"]
    asked: list[dict[str, Any]] = []
    with socket.socket(socket.AF_UNIX) as dialer:
        dialer.bind(str(own_server.data / "run" / "dial.sock"))
        dialer.listen()

        def dial() -> None:
            while True:
                try:
                    link, _ = dialer.accept()
                except OSError:
                    return
                with link, socket.create_connection(("127.0.0.1", port)) as made:
                    asked.append(json.loads(link.recv(4096)))
                    socket.send_fds(link, [b"{}\n"], [made.fileno()])

        thread = threading.Thread(target=dial, daemon=True)
        thread.start()
        assert own_server.call("POST", maps("default"), {"metadata": {"name": "good"}}).code == 201
        assert own_server.call("POST", maps("default"), {"metadata": {"name": "bad"}}).code == 400
        dialer.shutdown(socket.SHUT_RDWR)
    assert asked == [{"host": service["spec"]["clusterIP"], "port": 443}]


def test_connections_are_admitted(server: ApiServer, namespace: str, hook: Hook, install: Callable[..., None]) -> None:
    """exec and port-forward ask the webhooks for CONNECT, with their options as the object."""
    hook.answers["/deny"] = lambda _: {"allowed": False, "status": {"message": "no shells"}}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/*"], "operations": ["CONNECT"]}
    install({"path": "/deny", "rules": [rule]}, kind="Validating")
    pods = f"/api/v1/namespaces/{namespace}/pods"
    refused = server.call("POST", f"{pods}/p/exec?command=sh&command=-c&container=app&stdout=true")
    assert (refused.code, "no shells" in refused.json["message"]) == (400, True)
    seen = hook.seen[-1]
    assert (seen["operation"], seen["subResource"], seen["name"]) == ("CONNECT", "exec", "p")
    assert seen["kind"] == {"group": "", "version": "v1", "kind": "PodExecOptions"}
    assert (seen["object"]["command"], seen["object"]["container"]) == (["sh", "-c"], "app")
    assert server.call("POST", f"{pods}/p/portforward?ports=80").code == 400
    assert hook.seen[-1]["object"] == {"kind": "PodPortForwardOptions", "apiVersion": "v1", "ports": [80]}


def test_a_scale_is_admitted_as_such(
    server: ApiServer, namespace: str, hook: Hook, install: Callable[..., None]
) -> None:
    """A webhook for deployments/scale sees the Scale that was and that is to be, and may refuse it."""
    hook.answers["/few"] = lambda r: {"allowed": r["object"]["spec"].get("replicas", 0) < 3}
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments/scale"], "operations": ["UPDATE"]}
    install({"path": "/few", "rules": [rule]}, kind="Validating")
    labels = {"app": "d"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"schedulerName": "nobody", "containers": [{"name": "c", "image": "i"}]},
    }
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    server.create(path, {"metadata": {"name": "d"}, "spec": spec})
    merge = "application/merge-patch+json"
    codes = [
        server.call("PATCH", f"{path}/d/scale", {"spec": {"replicas": n}}, content_type=merge).code for n in (2, 3)
    ]
    assert codes == [200, 400]
    seen = hook.seen[-1]
    assert (seen["kind"]["kind"], seen["resource"]["resource"]) == ("Scale", "deployments")
    assert (seen["oldObject"]["spec"], seen["object"]["spec"]) == ({"replicas": 2}, {"replicas": 3})
