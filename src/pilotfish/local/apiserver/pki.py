"""The cluster's own certificate authority, its certificates and the kubeconfig files made from them."""

from __future__ import annotations

import base64
import json
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pilotfish.local import network

CA_YEARS = 10
LEAF_YEARS = 1


def write_private(path: Path, content: bytes) -> None:
    """Replace a file at once; only its owner may read it."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} holds no elliptic-curve key")
    return key


def _name(common_name: str, groups: tuple[str, ...] = ()) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Issues certificates under `DATA/pki/ca.crt`; makes CA and service-account key at first use."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        certificate, key = directory / "ca.crt", directory / "ca.key"
        if not (certificate.exists() and key.exists()):
            self._create(certificate, key)
        self.certificate = x509.load_pem_x509_certificate(certificate.read_bytes())
        self.pem = certificate.read_bytes()
        self._key = _load_key(key)
        self.account_key = directory / "sa.key"
        if not self.account_key.exists():
            write_private(self.account_key, _key_pem(ec.generate_private_key(ec.SECP256R1())))

    def _create(self, certificate: Path, key_file: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("pilotfish-ca")
        now = datetime.now(UTC) - timedelta(hours=1)
        built = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=365 * CA_YEARS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(_usage(ca=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        write_private(key_file, _key_pem(key))
        write_private(certificate, built.public_bytes(serialization.Encoding.PEM))

    def _issue(self, name: x509.Name, usage: x509.ObjectIdentifier, alternatives: list[str]) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC) - timedelta(hours=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=365 * LEAF_YEARS))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(a) for a in alternatives]), False)
        return Pair(
            builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
            _key_pem(key),
        )

    def client(self, user: str, *groups: str) -> Pair:
        """A client certificate: the common name is the user, the organisations are its groups."""
        return self._issue(_name(user, groups), ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def server_context(self, address: str) -> ssl.SSLContext:
        """TLS for the server, under every name it is called by; callers may show a certificate of this CA."""
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        names += [f"kubernetes.default.svc.{network.CLUSTER_DOMAIN}", "localhost", "127.0.0.1", "::1"]
        names += [str(network.NODE_IP), str(network.API_SERVICE_IP)]
        if address not in names and address not in ("0.0.0.0", "::"):  # noqa: S104 (compared, not bound)
            names.append(address)
        pair = self._issue(_name("kube-apiserver"), ExtendedKeyUsageOID.SERVER_AUTH, names)
        file = self.directory / "apiserver.pem"
        write_private(file, pair.certificate + pair.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(file)
        context.load_verify_locations(cadata=self.pem.decode())
        context.verify_mode = ssl.CERT_OPTIONAL
        context.set_alpn_protocols(["http/1.1"])
        return context

    def kubeconfig(self, server: str, user: str, pair: Pair, namespace: str = "") -> bytes:
        """A kubeconfig with everything inside. JSON, which is YAML. `namespace` is the default one of commands."""

        def text(pem: bytes) -> str:
            return base64.b64encode(pem).decode()

        context = {"cluster": "pilotfish", "user": user} | ({"namespace": namespace} if namespace else {})
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "pilotfish", "cluster": {"server": server, "certificate-authority-data": text(self.pem)}}
            ],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate-data": text(pair.certificate),
                        "client-key-data": text(pair.key),
                    },
                }
            ],
            "contexts": [{"name": "pilotfish", "context": context}],
            "current-context": "pilotfish",
        }
        return json.dumps(config, indent=2).encode() + b"\n"


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
