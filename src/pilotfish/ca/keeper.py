"""Where the authority's key lives: files that were plugged in, or a Secret that the first replica makes.

Order, as Istio has it: a mounted directory (`/etc/cacerts`), the Secret `cacerts` mounted there by the chart, else the
Secret `istio-ca-secret`, made on first use. Replicas that start together agree, because only one create succeeds.
"""

from __future__ import annotations

import logging
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from pilotfish.ca.authority import Authority, AuthorityError, utc_now
from pilotfish.kube.client import Client
from pilotfish.kube.errors import ApiStatusError, is_already_exists, is_not_found
from pilotfish.kube.resources import SECRETS, Object

log = logging.getLogger(__name__)

SECRET_NAME = "istio-ca-secret"  # noqa: S105 (a Kubernetes name)
SECRET_TYPE = "istio.io/ca-root"  # noqa: S105
RENEW_BELOW = 0.2
"""A self-signed root is replaced when less than this part of its life is left."""


def from_files(folder: Path) -> Authority | None:
    """The authority in a mounted directory, None when there is none. Raises AuthorityError when it cannot be used.

    Both layouts are read: Istio's `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem`, `root-cert.pem`, and that of a
    `kubernetes.io/tls` Secret: `tls.crt`, `tls.key`, `ca.crt`.
    """

    def read(name: str) -> bytes:
        path = folder / name
        return path.read_bytes() if path.is_file() else b""

    try:
        return _from_data({name: read(name) for name in (*_ISTIO, *_TLS)})
    except AuthorityError as error:
        raise AuthorityError(f"{folder}: {error}") from error


_ISTIO = ("ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem")
_TLS = ("tls.crt", "tls.key", "ca.crt")


def _from_data(data: Mapping[str, bytes]) -> Authority | None:
    if data.get("ca-key.pem"):
        certificate, key, chain, root = (data.get(name, b"") for name in _ISTIO)
        return Authority.load(certificate, key, chain, root)
    if data.get("tls.key"):
        certificate, key, root = (data.get(name, b"") for name in _TLS)
        return Authority.load(certificate, key, certificate, root)
    return None


async def from_secret(client: Client, namespace: str, trust_domain: str) -> Authority:
    """The self-signed authority of `istio-ca-secret`, made when there is none.

    Raises AuthorityError when the Secret holds something unusable: it is never replaced silently, since every
    workload's trust hangs on it.
    """
    secret = await _find(client, namespace)
    if secret is None:
        made = Authority.self_signed(trust_domain, utc_now())
        try:
            await client.create(SECRETS, _secret_of(made, namespace))
        except ApiStatusError as error:
            if not is_already_exists(error):
                raise
        else:
            log.info("made a self-signed root in Secret %s/%s", namespace, SECRET_NAME)
            return made
        secret = await client.get(SECRETS, SECRET_NAME, namespace)
    try:
        loaded = _from_data({key: b64decode(value) for key, value in (secret.get("data") or {}).items()})
    except (AuthorityError, ValueError) as error:
        raise AuthorityError(f"Secret {namespace}/{SECRET_NAME}: {error}") from error
    if loaded is None:
        raise AuthorityError(f"Secret {namespace}/{SECRET_NAME} has no ca-key.pem")
    return loaded


async def _find(client: Client, namespace: str) -> Object | None:
    try:
        return await client.get(SECRETS, SECRET_NAME, namespace)
    except ApiStatusError as error:
        if is_not_found(error):
            return None
        raise


def needs_renewal(authority: Authority) -> bool:
    """Whether a self-signed root is near its end."""
    own = authority.certificate
    life = own.not_valid_after_utc - own.not_valid_before_utc
    return own.not_valid_after_utc - utc_now() < life * RENEW_BELOW


async def renew(client: Client, namespace: str, old: Authority) -> Authority:
    """Put a new self-signed root into the Secret; roots that have not expired stay trusted beside it.

    The Secret is replaced only when it is still the one that was read, so that one of several replicas wins.
    """
    secret = await client.get(SECRETS, SECRET_NAME, namespace)
    alive = tuple(one for one in old.roots if one.not_valid_after_utc > utc_now() + timedelta(minutes=1))
    new = replace(old, roots=alive).renewed(utc_now())
    body = _secret_of(new, namespace)
    body["metadata"]["resourceVersion"] = secret["metadata"]["resourceVersion"]
    body["type"] = secret.get("type", SECRET_TYPE)  # cannot be changed, and somebody else may have made it
    await client.update(SECRETS, body)
    log.info("replaced the self-signed root in Secret %s/%s", namespace, SECRET_NAME)
    return new


def _secret_of(authority: Authority, namespace: str) -> Object:
    data = {
        "ca-cert.pem": authority.certificate_pem,
        "ca-key.pem": authority.key_pem,
        "root-cert.pem": authority.root_pem,
        "cert-chain.pem": b"",
        "key.pem": b"",
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET_NAME, "namespace": namespace},
        "type": SECRET_TYPE,
        "data": {key: b64encode(value).decode() for key, value in data.items()},
    }
