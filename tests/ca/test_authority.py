"""What the authority signs, and what it refuses."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given
from hypothesis import strategies as st

from pilotfish.ca.authority import Authority, AuthorityError, InvalidRequestError, key_pem, new_key
from pilotfish.ca.identity import SpiffeId

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ME = "spiffe://cluster.local/ns/book/sa/reviews"


def request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, uri: str = ME) -> str:
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr = csr.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
    return csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def uris(pem: str) -> list[str]:
    names = x509.load_pem_x509_certificate(pem.encode()).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


def test_signs_the_verified_identity_and_not_what_the_request_claims() -> None:
    """A request that names another identity gets a certificate for the caller's own."""
    authority = Authority.self_signed("cluster.local", NOW)
    chain = authority.sign_workload(request(new_key(), "spiffe://cluster.local/ns/x/sa/admin"), [ME], DAY, NOW)
    assert uris(chain[0]) == [ME]
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    assert not list(leaf.subject)
    assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


def test_chain_is_leaf_first_root_last_and_verifies() -> None:
    """A verifier that knows only the root accepts the leaf for both client and server use."""
    authority = Authority.self_signed("cluster.local", NOW)
    chain = authority.sign_workload(request(new_key()), [ME], DAY, NOW)
    leaf, root = (x509.load_pem_x509_certificate(one.encode()) for one in chain)
    assert root == authority.certificate
    verifier = PolicyBuilder().store(Store([root])).time(NOW).build_client_verifier()
    assert verifier.verify(leaf, []).subjects is not None


@pytest.mark.parametrize(
    ("csr", "lifetime", "why"),
    [
        ("", DAY, "not a readable"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", DAY, "not a readable"),
        (request(rsa.generate_private_key(65537, 1024)), DAY, "1024 bits"),  # noqa: S505 (weak on purpose)
        (request(new_key()), timedelta(days=91), "exceeds the maximum"),
    ],
)
def test_refuses_bad_requests(csr: str, lifetime: timedelta, why: str) -> None:
    """Unreadable, weak and too greedy requests are refused with the reason."""
    with pytest.raises(InvalidRequestError, match=why):
        Authority.self_signed("cluster.local", NOW).sign_workload(csr, [ME], lifetime, NOW)


def test_leaf_never_outlives_its_signer() -> None:
    """Near the end of the authority's life, leaves end with it; afterwards nothing is signed."""
    authority = Authority.self_signed("cluster.local", NOW, lifetime=timedelta(hours=1))
    leaf = x509.load_pem_x509_certificate(authority.sign_workload(request(new_key()), [ME], DAY, NOW)[0].encode())
    assert leaf.not_valid_after_utc == authority.certificate.not_valid_after_utc
    with pytest.raises(AuthorityError, match="expired"):
        authority.sign_workload(request(new_key()), [ME], DAY, NOW + DAY)


def plugged_in() -> tuple[Authority, Authority]:
    root = Authority.self_signed("root", NOW)
    key = new_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "intermediate")]))
        .issuer_name(root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 100 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(root.key, hashes.SHA256())
    )
    return root, Authority(certificate, key, (certificate,), root.roots)


def test_plugged_in_intermediate_is_part_of_the_chain() -> None:
    """With `cacerts`, workloads get leaf, intermediate and root."""
    root, middle = plugged_in()
    loaded = Authority.load(middle.certificate_pem, middle.key_pem, b"", root.root_pem)
    chain = loaded.sign_workload(request(new_key()), [ME], DAY, NOW)
    assert [x509.load_pem_x509_certificate(one.encode()) for one in chain[1:]] == [
        middle.certificate,
        root.certificate,
    ]


def test_material_that_does_not_fit_is_refused_with_the_part_named() -> None:
    """Another key, an unrelated root and unreadable PEM are told apart."""
    root, middle = plugged_in()
    other = Authority.self_signed("other", NOW)
    for key, trust, why in [
        (key_pem(new_key()), root.root_pem, "not the key of the certificate"),
        (middle.key_pem, other.root_pem, "do not lead to a certificate in root-cert.pem"),
        (b"junk", root.root_pem, "ca-key.pem holds no readable"),
        (middle.key_pem, b"junk", "root-cert.pem holds no readable"),
    ]:
        with pytest.raises(AuthorityError, match=why):
            Authority.load(middle.certificate_pem, key, b"", trust)


def test_rotation_keeps_the_old_root_trusted() -> None:
    """A new authority that also trusts the old roots hands out both, its own first, in one text as Istio's agent reads
    it."""
    old, new = Authority.self_signed("a", NOW), Authority.self_signed("b", NOW)
    both = new.trusting(old.roots)
    assert both.roots == (new.certificate, old.certificate)
    assert both.sign_workload(request(new_key()), [ME], DAY, NOW)[-1].encode() == both.root_pem


def root_of_istio(identifier: bytes) -> Authority:
    """A self-signed root whose key identifier is no hash that we would make: Go's are newer than RFC 5280's."""
    key = new_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "cluster.local")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW - DAY, NOW + 30 * DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier(identifier), critical=False)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return Authority.load(pem, key_pem(key), b"", pem)


def test_certificates_name_the_key_as_their_issuer_does() -> None:
    """Envoy takes a root for the issuer only when the key identifiers are the same. A renewed root keeps it, and the
    key, so that what it signs is valid under the old root, for whoever has not heard of the new one yet."""
    old = root_of_istio(b"20 bytes not our own")
    new = old.renewed(NOW + DAY)
    assert new.certificate != old.certificate
    assert new.roots == (new.certificate, old.certificate)
    for authority in (old, new):
        pem = authority.sign_workload(request(new_key()), [ME], DAY, NOW + DAY)[0]
        leaf = x509.load_pem_x509_certificate(pem.encode())
        named = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        assert named.key_identifier == b"20 bytes not our own"
        leaf.verify_directly_issued_by(old.certificate)


def test_server_certificate_loads_into_a_tls_context(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The control plane's own certificate and key fit each other."""
    folder = tmp_path_factory.mktemp("tls")
    key, chain = Authority.self_signed("cluster.local", NOW).sign_server(["istiod.istio-system.svc"], DAY, NOW)
    (folder / "key").write_bytes(key)
    (folder / "chain").write_bytes(chain)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder / "chain", folder / "key")


@given(st.text())
def test_identity_parses_only_its_own_form(text: str) -> None:
    """Whatever parses prints back unchanged; nothing else parses."""
    try:
        assert str(SpiffeId.parse(text)) == text
    except ValueError:
        return


def test_identity_examples() -> None:
    """The five segments are needed; an @ in the trust domain becomes a dot."""
    assert SpiffeId.parse(ME) == SpiffeId("cluster.local", "book", "reviews")
    for bad in (
        "spiffe://a/ns/b/sa",
        "spiffe://a/ns/b/sa/c/d",
        "spiffe://a/sa/c/ns/b",
        "http://a/ns/b/sa/c",
        "spiffe:///ns/b/sa/c",
    ):
        with pytest.raises(ValueError, match="not of the form"):
            SpiffeId.parse(bad)
    assert str(SpiffeId.of("me@corp", "n", "s")) == "spiffe://me.corp/ns/n/sa/s"
