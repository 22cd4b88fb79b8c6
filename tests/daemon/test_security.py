"""Who is let in, and what strangers can do."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from grpclib import GRPCError, Status
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.exceptions import StreamTerminatedError

from pilotfish.ca.authority import Authority, new_key, utc_now
from pilotfish.ca.messages import PATH, CertificateRequest, CertificateResponse
from pilotfish.envoy.resource import CLUSTER, ENDPOINT, SECRET
from pilotfish.grpc import BytesCodec
from pilotfish.kube.client import Client
from pilotfish.kube.resources import PODS, SECRETS, SERVICE_ACCOUNTS, Object, ResourceType

from .conftest import SYSTEM, Cluster
from .harness import ControlPlane, client_tls, config, config_type, connected, node_of, token, until
from .test_control import roots_in

pytestmark = pytest.mark.xdist_group("daemon")


@pytest.fixture
async def trust(plane: ControlPlane, client: Client) -> bytes:
    return str(await until(lambda: roots_in(client, SYSTEM), "the roots")).encode()


@pytest.fixture
def tls(cluster: Cluster, trust: bytes) -> ssl.SSLContext:
    return client_tls(cluster.folder, trust=trust)


async def verdict(port: int, node: Object, tls: ssl.SSLContext, bearer: str = "") -> Status:
    """How a stream begins: OK when the proxy is answered."""
    try:
        async with connected(port, node, tls=tls, bearer=bearer) as proxy:
            await proxy.verdict()
    except GRPCError as error:
        return error.status
    return Status.OK


async def a_pod(client: Client, namespace: str, name: str) -> Object:
    spec = {"serviceAccountName": "default", "containers": [{"name": "c", "image": "x"}], "nodeName": "nowhere"}
    return await client.create(PODS, {"metadata": {"name": name, "namespace": namespace}, "spec": spec})


def forged_expiry(good: str) -> str:
    """A token that says it has expired."""
    head, body, signature = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    text = json.dumps(claims | {"exp": int(time.time()) - 60}).encode()
    return ".".join((head, base64.urlsafe_b64encode(text).decode().rstrip("="), signature))


async def test_tokens(plane: ControlPlane, client: Client, namespace: str, tls: ssl.SSLContext) -> None:
    """Served: a token for our audience and its own identity. Not: another audience, one that expired, one of a
    deleted pod or account, one for another namespace or account. No token is ever logged."""
    good = await token(client, namespace)
    pod = await a_pod(client, namespace, "gone")
    of_pod = await token(client, namespace, pod=pod)
    await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "brief", "namespace": namespace}})
    of_account = await token(client, namespace, "brief")
    await client.delete(PODS, "gone", namespace, grace_seconds=0)
    await client.delete(SERVICE_ACCOUNTS, "brief", namespace)
    foreign = await token(client, namespace, audience="somebody-else")
    mine = node_of(namespace, account="default")
    dotted = node_of(namespace)
    dotted["id"] = f"sidecar~10.1.1.1~evil.{namespace}.victim~victim.svc.cluster.local"
    del dotted["metadata"]["NAMESPACE"]
    expected = [
        (good, mine, Status.OK),
        (foreign, mine, Status.UNAUTHENTICATED),
        (forged_expiry(good), mine, Status.UNAUTHENTICATED),
        (of_pod, mine, Status.UNAUTHENTICATED),
        (of_account, node_of(namespace, account="brief"), Status.UNAUTHENTICATED),
        ("", mine, Status.UNAUTHENTICATED),
        (good, node_of("victim", account="default"), Status.PERMISSION_DENIED),
        (good, node_of(namespace, account="other"), Status.PERMISSION_DENIED),
        (good, dotted, Status.PERMISSION_DENIED),
    ]
    found = [await verdict(plane.secure, node, tls, bearer) for bearer, node, _ in expected]
    assert found == [status for *_, status in expected]
    text = plane.log.read_text()
    for one in (good, of_pod, of_account, foreign):
        assert one not in text
        assert one.rpartition(".")[2] not in text
    assert "PRIVATE KEY" not in text


async def test_certificate_of_another_root(plane: ControlPlane, cluster: Cluster, namespace: str, trust: bytes) -> None:
    """A certificate that says the right name but is of another root does not get a connection."""
    stranger = Authority.self_signed("cluster.local", utc_now())
    tls = client_tls(cluster.folder, stranger, f"spiffe://cluster.local/ns/{namespace}/sa/default", trust=trust)
    with pytest.raises((OSError, StreamTerminatedError)):
        await verdict(plane.secure, node_of(namespace), tls)


async def test_the_request_does_not_choose_the_identity(
    plane: ControlPlane, client: Client, namespace: str, tls: ssl.SSLContext
) -> None:
    """A signing request with another's names gets a certificate of the caller's identity, nothing else."""
    names = x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier("spiffe://cluster.local/ns/kube-system/sa/admin"), x509.DNSName("istiod")]
    )
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "admin")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(names, critical=False)
    pem = builder.sign(new_key(), hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    before = await plane.metric("citadel_server_success_cert_issuance_count") or 0
    async with Channel("127.0.0.1", plane.secure, ssl=tls, codec=BytesCodec()) as channel:
        method: Any = UnaryUnaryMethod(channel, PATH, bytes, bytes)
        request = CertificateRequest(csr=pem, validity_duration=int(timedelta(hours=1).total_seconds()))
        metadata = {"authorization": f"Bearer {await token(client, namespace)}"}
        answer = CertificateResponse.FromString(await method(request.SerializeToString(), metadata=metadata))
        leaf = x509.load_pem_x509_certificate(answer.cert_chain[0].encode())
        sans = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert sans.get_values_for_type(x509.UniformResourceIdentifier) == [
            f"spiffe://cluster.local/ns/{namespace}/sa/default"
        ]
        assert "istiod" not in sans.get_values_for_type(x509.DNSName)
        assert not list(leaf.subject)
        with pytest.raises(GRPCError) as refusal:
            await method(b"x" * (1 << 20), metadata=metadata)
        assert refusal.value.status == Status.RESOURCE_EXHAUSTED
    assert await plane.metric("citadel_server_success_cert_issuance_count") == before + 1


@pytest.fixture
async def credential(client: Client, namespace: str) -> bytes:
    key, chain = Authority.self_signed("x", utc_now()).sign_server(["x.example.com"], timedelta(days=1), utc_now())
    data = {"tls.key": base64.b64encode(key).decode(), "tls.crt": base64.b64encode(chain).decode()}
    body = {"metadata": {"name": "cred", "namespace": namespace}, "type": "kubernetes.io/tls", "data": data}
    await client.create(SECRETS, body)
    return key


async def test_secrets_are_for_verified_proxies_only(plane: ControlPlane, namespace: str, credential: bytes) -> None:
    """A proxy on the plaintext port, which proves nothing, is told that the secret does not exist."""
    node = node_of(namespace, account="default")
    node["id"] = node["id"].replace("sidecar", "router")
    async with connected(plane.grpc, node, CLUSTER) as proxy:
        await proxy.ask(SECRET, "kubernetes://cred")
        await until(lambda: [push for push in proxy.pushes if push.type_url == SECRET], "an answer")
        assert proxy.held[SECRET] == {}
        assert [push.removed for push in proxy.pushes if push.type_url == SECRET] == [("kubernetes://cred",)]


async def test_a_role_applied_later_opens_the_secrets(
    plane: ControlPlane, client: Client, namespace: str, credential: bytes, trust: bytes, cluster: Cluster
) -> None:
    """A gateway that connected before its Role was applied gets its certificates on the same stream soon after."""
    node = node_of(namespace, account="default")
    node["id"] = node["id"].replace("sidecar", "router")
    bearer = await token(client, namespace)
    tls = client_tls(cluster.folder, trust=trust)
    port = {"number": 443, "name": "https", "protocol": "HTTPS"}
    server = {"port": port, "hosts": ["x.example.com"], "tls": {"mode": "SIMPLE", "credentialName": "cred"}}
    await client.create(config_type("Gateway"), config("Gateway", namespace, "gateway", {"servers": [server]}))
    async with connected(plane.secure, node, CLUSTER, tls=tls, bearer=bearer) as proxy:
        await proxy.ask(SECRET, "kubernetes://cred")
        await until(lambda: [push for push in proxy.pushes if push.type_url == SECRET], "an answer")
        assert proxy.held[SECRET] == {}
        rules = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]}]
        metadata = {"name": "reader", "namespace": namespace}
        group = "rbac.authorization.k8s.io"
        roles = ResourceType(group, "v1", "Role", "roles")
        bindings = ResourceType(group, "v1", "RoleBinding", "rolebindings")
        await client.create(roles, {"metadata": metadata, "rules": rules})
        subject = {"kind": "ServiceAccount", "name": "default", "namespace": namespace}
        reference = {"apiGroup": group, "kind": "Role", "name": "reader"}
        await client.create(bindings, {"metadata": metadata, "roleRef": reference, "subjects": [subject]})
        await proxy.holds(SECRET, "kubernetes://cred")


async def answer_to(port: int, body: bytes) -> Status:
    try:
        async with connected(port, {}, sotw=True) as bad:
            await bad.stream.send_request()
            sending = asyncio.create_task(bad.stream.send_message(body))
            try:
                async with asyncio.timeout(60):
                    await bad.stream.recv_message()
            finally:
                sending.cancel()
                await asyncio.wait([sending])
    except GRPCError as error:
        return error.status
    return Status.OK


async def test_bad_requests_end_their_own_stream_only(plane: ControlPlane, namespace: str) -> None:
    """Garbage, a message too big and too many subscriptions are refused; other streams go on; many names are fine."""
    async with connected(plane.grpc, node_of(namespace)) as good:
        await until(lambda: len(good.pushes) >= 2, "its configuration")
        for body, status in ((b"\xff" * 100, Status.INVALID_ARGUMENT), (b"x" * (5 << 20), Status.RESOURCE_EXHAUSTED)):
            assert await answer_to(plane.grpc, body) == status
        names = [f"outbound|80||svc-{n}.nowhere.svc.cluster.local" for n in range(5000)]
        await good.ask(ENDPOINT, *names)
        await until(lambda: len(good.pushes[-1].removed) == 5000, "an answer to every name")
