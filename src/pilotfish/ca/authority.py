"""An authority: a certificate with its key, the chain above it and the roots that are trusted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

BACKDATE = timedelta(minutes=2)
"""Certificates start this long ago, so that a clock that is slightly behind accepts them."""
ROOT_LIFETIME = timedelta(days=3650)
DEFAULT_WORKLOAD_LIFETIME = timedelta(hours=24)
MAX_WORKLOAD_LIFETIME = timedelta(hours=2160)
MIN_RSA_BITS = 2048


class AuthorityError(Exception):
    """The authority's own material cannot be used: the message says which part and why."""


class InvalidRequestError(Exception):
    """A signing request is refused: the message says why."""


def new_key() -> ec.EllipticCurvePrivateKey:
    """P-256: a signature takes a tenth of what RSA 2048 needs, and every TLS stack in a mesh speaks it."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _load_chain(pem: bytes, what: str) -> list[x509.Certificate]:
    if not pem.strip():
        return []
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise AuthorityError(f"{what} holds no readable PEM certificate: {error}") from error


def _load_key(pem: bytes, what: str) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AuthorityError(f"{what} holds no readable unencrypted PEM private key: {error}") from error
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise AuthorityError(f"{what} must be an RSA or elliptic-curve key")
    return key


def _spki(key: x509.Certificate | PrivateKey) -> bytes:
    public = key.public_key()
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class Authority:
    """Signs workload certificates. Immutable; a rotation makes a new one.

    `chain` goes from this authority's certificate up to, not including, a root; it is empty when the authority is
    itself the root. `roots` are all the certificates that a peer should trust, old and new while a rotation lasts.
    """

    certificate: x509.Certificate
    key: PrivateKey
    chain: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]

    @classmethod
    def self_signed(cls, organization: str, now: datetime, lifetime: timedelta = ROOT_LIFETIME) -> Authority:
        """A new root. `organization` becomes the subject, as Istio sets the trust domain there."""
        key = new_key()
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization[:64])])
        return cls._root(name, key, x509.SubjectKeyIdentifier.from_public_key(key.public_key()), now, lifetime)

    def renewed(self, now: datetime, lifetime: timedelta = ROOT_LIFETIME) -> Authority:
        """A root with the key and the names of this one, as Istio renews it: what it signs is valid under this one too,
        which is all that workloads trust until they renew."""
        identifier = x509.SubjectKeyIdentifier(self._identifier())
        return self._root(self.certificate.subject, self.key, identifier, now, lifetime).trusting(self.roots)

    @classmethod
    def _root(
        cls, name: x509.Name, key: PrivateKey, identifier: x509.SubjectKeyIdentifier, now: datetime, lifetime: timedelta
    ) -> Authority:
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(sign_certificates=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key, (), (certificate,))

    @classmethod
    def load(cls, certificate: bytes, key: bytes, chain: bytes, root: bytes) -> Authority:
        """From PEM as `istio-ca-secret` and `cacerts` hold it. Raises AuthorityError when parts do not fit."""
        own = _load_chain(certificate, "ca-cert.pem")
        if not own:
            raise AuthorityError("ca-cert.pem is empty")
        private = _load_key(key, "ca-key.pem")
        if _spki(own[0]) != _spki(private):
            raise AuthorityError("ca-key.pem is not the key of the certificate in ca-cert.pem")
        roots = _load_chain(root, "root-cert.pem") or ([own[0]] if own[0].issuer == own[0].subject else [])
        if not roots:
            raise AuthorityError("root-cert.pem is empty and ca-cert.pem is not self-signed: peers would trust nothing")
        if not _is_ca(own[0]):
            raise AuthorityError("ca-cert.pem is not a CA certificate (basicConstraints CA is not set)")
        above = _intermediates(own[0], [*own[1:], *_load_chain(chain, "cert-chain.pem")], roots)
        return cls(own[0], private, above, tuple(roots))

    def trusting(self, others: tuple[x509.Certificate, ...]) -> Authority:
        """The same authority that also trusts `others`, for the time of a rotation."""
        extra = tuple(one for one in others if one not in self.roots)
        return Authority(self.certificate, self.key, self.chain, self.roots + extra)

    @property
    def root_pem(self) -> bytes:
        return b"".join(certificate_pem(one) for one in self.roots)

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.key)

    @property
    def certificate_pem(self) -> bytes:
        return certificate_pem(self.certificate)

    def sign_workload(
        self, csr_pem: str, uris: list[str], lifetime: timedelta, now: datetime, description: str = ""
    ) -> list[str]:
        """PEM certificates for the public key in the request: leaf, intermediates, and last all roots in one text.

        Only the key is taken from the request; the URI SANs are `uris`, the caller's verified identities.
        `description` says which workload it is, for metrics: it becomes a DNS SAN, which no policy looks at.
        Raises InvalidRequestError for an unreadable request, a weak key, or a lifetime above the maximum.
        """
        if lifetime > MAX_WORKLOAD_LIFETIME:
            raise InvalidRequestError(
                f"requested lifetime {_hours(lifetime)} exceeds the maximum of {_hours(MAX_WORKLOAD_LIFETIME)}"
            )
        public = _public_key_of(csr_pem)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        if description and description.isascii():
            names.append(x509.DNSName(description))
        sans = x509.SubjectAlternativeName(names)
        leaf = self._sign(public, sans, lifetime, now)
        issuing = self._issuing_root()
        # All of them: Istio's agent trusts the last element and nothing else while roots are being changed.
        roots = (issuing, *(root for root in self.roots if root != issuing))
        path = [certificate_pem(one).decode() for one in (leaf, *self.chain)]
        return [*path, "".join(certificate_pem(one).decode() for one in roots)]

    def sign_server(self, dns_names: list[str], lifetime: timedelta, now: datetime) -> tuple[bytes, bytes]:
        """A new serving key and its certificate chain (PEM) for the control plane's own listeners."""
        key = new_key()
        sans = x509.SubjectAlternativeName([x509.DNSName(name) for name in dns_names])
        leaf = self._sign(key.public_key(), sans, lifetime, now)
        return key_pem(key), b"".join(certificate_pem(one) for one in (leaf, *self.chain))

    def _issuing_root(self) -> x509.Certificate:
        top = self.chain[-1] if self.chain else self.certificate
        return next((root for root in self.roots if root.subject == top.issuer), self.roots[0])

    def _sign(
        self,
        public: PublicKey,
        sans: x509.SubjectAlternativeName,
        lifetime: timedelta,
        now: datetime,
    ) -> x509.Certificate:
        # A leaf must not outlive what signs it, or the chain breaks before the leaf is renewed.
        until = min(now + lifetime, self.certificate.not_valid_after_utc)
        if until <= now:
            raise AuthorityError(f"the signing certificate expired at {self.certificate.not_valid_after_utc:%F %T} UTC")
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(sans, critical=True)  # RFC 5280 §4.2.1.6: critical, since the subject is empty
            .add_extension(x509.AuthorityKeyIdentifier(self._identifier(), None, None), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def _identifier(self) -> bytes:
        """Of the key, as our own certificate says it: verifiers compare, and there are several ways to make one."""
        try:
            return self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.key_identifier
        except x509.ExtensionNotFound:
            return x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()).key_identifier


def _hours(span: timedelta) -> str:
    return f"{span.total_seconds() / 3600:g}h"


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_encipherment=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _signed_by(child: x509.Certificate, parent: x509.Certificate) -> bool:
    try:
        child.verify_directly_issued_by(parent)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _intermediates(
    own: x509.Certificate, candidates: list[x509.Certificate], roots: list[x509.Certificate]
) -> tuple[x509.Certificate, ...]:
    """The path from `own` to a root, both ends as Envoy wants them: `own` included unless it is a root, roots not."""
    if own in roots:
        return ()
    path = [own]
    while not any(_signed_by(path[-1], root) for root in roots):
        above = next((one for one in candidates if one not in path and _signed_by(path[-1], one)), None)
        if above is None:
            raise AuthorityError(
                "ca-cert.pem and cert-chain.pem do not lead to a certificate in root-cert.pem: "
                f"nothing signs {path[-1].subject.rfc4514_string() or 'the certificate'!r}"
            )
        path.append(above)
    return tuple(path)


def _public_key_of(csr_pem: str) -> PublicKey:
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        genuine = csr.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise InvalidRequestError(f"the certificate signing request is not a readable PEM PKCS#10: {error}") from error
    if not genuine:
        raise InvalidRequestError("the certificate signing request is not signed by the key it carries")
    key = csr.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise InvalidRequestError(f"the RSA key has {key.key_size} bits; at least {MIN_RSA_BITS} are needed")
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise InvalidRequestError("the key must be RSA, elliptic-curve or Ed25519")
    return key


def utc_now() -> datetime:
    return datetime.now(UTC)
