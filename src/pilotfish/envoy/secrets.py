"""Secrets for gateways, and for sidecars that a DestinationRule selects: certificates and keys from Kubernetes
Secrets, by the names listeners and clusters use.

Whether a proxy may have them is for the caller to decide first (its identity must be verified, see `View.verified`):
here only secrets of the proxy's own namespace exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pilotfish.api.networking.destination_rule import ClientTLSMode
from pilotfish.engine import Db, query
from pilotfish.envoy.outbound_listeners import Address
from pilotfish.envoy.proto import Fields
from pilotfish.envoy.resource import SECRET, Resource, build
from pilotfish.mesh import inputs
from pilotfish.mesh.gateways import merged, server
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.proxies import View
from pilotfish.mesh.workloads import selects

_SCHEME = "kubernetes://"
_CONFIG_MAP = "configmap://"
_CA = "-cacert"


@query
def addresses(db: Db, view: View) -> Mapping[str, Address]:
    """The secrets a proxy's configuration refers to. Nothing for a proxy whose identity is not verified."""
    if not view.verified:
        return {}
    names = (*(() if view.is_sidecar else _servers(db, view)), *_rules(db, view))
    return {name: (secret, (view.namespace, name)) for name in names}


def _servers(db: Db, view: View) -> Iterator[str]:
    """Of the Gateways a gateway serves."""
    unprivileged = view.flag("UNPRIVILEGED_POD") == "true"
    for one in merged(db, view.namespace, view.labels, view.named_ports, unprivileged):
        for bound in one.servers:
            spec = server(db, bound)
            settings = spec.tls if spec is not None else None
            if settings is None:
                continue
            for name in (*settings.credential_names, settings.credential_name, settings.ca_cert_credential_name):
                if name:
                    full = name if "://" in name else _SCHEME + name
                    yield full
                    yield full + _CA


def _rules(db: Db, view: View) -> Iterator[str]:
    """Of DestinationRules: all for a gateway, those that select it for a sidecar."""
    for ref in inputs.CREDENTIAL_RULES(db, ""):
        config = inputs.DESTINATION_RULES(db, ref)
        if config is None:
            continue
        selector = config.spec.workload_selector
        labels = selector.match_labels if selector is not None else {}
        if view.is_sidecar and not (labels and ref.namespace == view.namespace and selects(labels, view.labels)):
            continue
        policies = [config.spec.traffic_policy, *(s.traffic_policy for s in config.spec.subsets)]
        for policy in policies:
            asked = [policy.tls, *(level.tls for level in policy.port_level_settings)] if policy is not None else []
            for tls in asked:
                if tls is not None and tls.credential_name and tls.mode in (ClientTLSMode.SIMPLE, ClientTLSMode.MUTUAL):
                    full = tls.credential_name if "://" in tls.credential_name else _SCHEME + tls.credential_name
                    yield full
                    yield full + _CA


@query
def secret(db: Db, namespace: str, name: str) -> Resource | None:
    """A secret by its SDS name; None while it does not exist or lacks what is asked for.

    Raises ValueError for a certificate that does not fit its key: the proxy would refuse it without naming it, and
    this way its last good form stays.
    """
    if name.startswith(_CONFIG_MAP):
        found = inputs.CONFIG_MAPS(db, Ref(namespace, name.removeprefix(_CONFIG_MAP)))
        return _authority(name, found.data) if found is not None else None
    plain = name.removeprefix(_SCHEME)
    if plain.endswith(_CA):
        own = inputs.SECRETS(db, Ref(namespace, plain))
        if own is not None and (made := _authority(name, own.data)) is not None:
            return made
        found = inputs.SECRETS(db, Ref(namespace, plain.removesuffix(_CA)))
        return _authority(name, found.data) if found is not None else None
    found = inputs.SECRETS(db, Ref(namespace, plain))
    if found is None:
        return None
    data = found.data
    chain, key = data.get("tls.crt") or data.get("cert"), data.get("tls.key") or data.get("key")
    if not chain or not key:
        return None
    if why := _misfit(chain, key):
        raise ValueError(f"the Secret {namespace}/{plain} cannot be served: {why}")
    certificate: Fields = {
        "certificate_chain": {"inline_bytes": chain},
        "private_key": {"inline_bytes": key},
    }
    if staple := data.get("tls.ocsp-staple"):
        certificate["ocsp_staple"] = {"inline_bytes": staple}
    return build(SECRET, {"name": name, "tls_certificate": certificate})


def _misfit(chain: bytes, key: bytes) -> str:
    """Why a certificate and a key cannot be used together; empty when they can."""
    try:
        certificate = x509.load_pem_x509_certificate(chain)
    except ValueError:
        return "tls.crt holds no certificate in PEM form"
    try:
        private = load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return "tls.key holds no private key in PEM form without a passphrase"
    if certificate.public_key() != private.public_key():
        return "tls.key is not the key of the certificate in tls.crt"
    return ""


def _authority(name: str, data: Mapping[str, bytes]) -> Resource | None:
    root = data.get("ca.crt") or data.get("cacert")
    if not root:
        return None
    context: Fields = {"trusted_ca": {"inline_bytes": root}}
    if revoked := data.get("crl") or data.get("ca.crl"):
        context["crl"] = {"inline_bytes": revoked}
    return build(SECRET, {"name": name, "validation_context": context})
