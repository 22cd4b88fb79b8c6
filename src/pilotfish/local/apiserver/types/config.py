"""ConfigMaps and Secrets."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from pilotfish.local.apiserver.errors import FieldError
from pilotfish.local.apiserver.resource import Object
from pilotfish.local.apiserver.types import printing
from pilotfish.local.apiserver.types import validation as v
from pilotfish.local.apiserver.types.declare import resource
from pilotfish.local.apiserver.types.kind import Kind
from pilotfish.local.apiserver.types.validation import Errors

MAX_SIZE = 1 << 20
"""Bytes that a ConfigMap or Secret may hold."""

OPAQUE = "Opaque"
SERVICE_ACCOUNT_TOKEN = "kubernetes.io/service-account-token"  # noqa: S105 (the name of a type)
SERVICE_ACCOUNT_NAME = "kubernetes.io/service-account.name"
_DOCKER_KEYS = {"kubernetes.io/dockercfg": ".dockercfg", "kubernetes.io/dockerconfigjson": ".dockerconfigjson"}


def _decoded_size(text: str) -> int:
    return len(text) // 4 * 3 - text.endswith("=") - text.endswith("==")


def _frozen(new: Object, old: Object, fields: tuple[str, ...]) -> Errors:
    """What an object that was made immutable may not change."""
    if not old.get("immutable"):
        return []
    why = "field is immutable when `immutable` is set"
    errors = [] if new.get("immutable") else [FieldError.forbidden("immutable", why)]
    return errors + [FieldError.forbidden(field, why) for field in fields if not v.same(new.get(field), old.get(field))]


class ConfigMaps(Kind):
    def validate(self, obj: Object) -> Errors:
        errors: Errors = []
        data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
        for key in data:
            errors += v.check(f"data[{key}]", key, v.config_key)
            if key in binary:
                errors.append(FieldError.invalid(f"data[{key}]", key, "duplicate of key present in binaryData"))
        for key in binary:
            errors += v.check(f"binaryData[{key}]", key, v.config_key)
        size = sum(len(text.encode()) for text in data.values()) + sum(map(_decoded_size, binary.values()))
        if size > MAX_SIZE:
            errors.append(FieldError.too_long("[]", MAX_SIZE))  # so Kubernetes writes the path of the whole object
        return errors

    def validate_update(self, new: Object, old: Object) -> Errors:
        return _frozen(new, old, ("data", "binaryData"))


class Secrets(Kind):
    def default(self, obj: Object) -> None:
        plain = obj.pop("stringData", None)
        if plain:
            encoded = {key: base64.b64encode(text.encode()).decode() for key, text in plain.items()}
            obj["data"] = (obj.get("data") or {}) | encoded
        if not obj.get("type"):
            obj["type"] = OPAQUE

    def validate(self, obj: Object) -> Errors:
        data = obj.get("data") or {}
        errors: Errors = []
        for key in data:
            errors += v.check(f"data[{key}]", key, v.config_key)
        if sum(map(_decoded_size, data.values())) > MAX_SIZE:
            errors.append(FieldError.too_long("data", MAX_SIZE))
        return errors + _of_type(obj.get("type", OPAQUE), data, obj["metadata"].get("annotations") or {})

    def validate_update(self, new: Object, old: Object) -> Errors:
        return v.immutable("type", new.get("type"), old.get("type")) + _frozen(new, old, ("data",))

    def concerns(self, obj: Object) -> list[str]:
        if obj.get("type") != "kubernetes.io/tls":
            return []
        data = obj.get("data") or {}
        problem = _key_pair_problem(data.get("tls.crt", ""), data.get("tls.key", ""))
        return [problem] if problem else []

    def field_labels(self, obj: Object) -> Mapping[str, str]:
        return {"type": obj.get("type", "")}


def _of_type(kind: str, data: Mapping[str, str], annotations: Mapping[str, str]) -> Errors:
    """What a type of Secret needs."""
    if kind == SERVICE_ACCOUNT_TOKEN:
        if not annotations.get(SERVICE_ACCOUNT_NAME):
            return [FieldError.required(f"metadata.annotations[{SERVICE_ACCOUNT_NAME}]")]
    elif key := _DOCKER_KEYS.get(kind):
        if key not in data:
            return [FieldError.required(f"data[{key}]")]
        if not _is_json_object(data[key]):
            return [FieldError.invalid(f"data[{key}]", "<secret contents redacted>", "must be a JSON object")]
    elif kind == "kubernetes.io/basic-auth":
        if "username" not in data and "password" not in data:
            return [FieldError.required("data[username]"), FieldError.required("data[password]")]
    elif kind == "kubernetes.io/ssh-auth":
        return v.required("data[ssh-privatekey]", data.get("ssh-privatekey"))
    elif kind == "kubernetes.io/tls":
        return [FieldError.required(f"data[{key}]") for key in ("tls.crt", "tls.key") if key not in data]
    return []


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(base64.b64decode(text)), dict | None)
    except ValueError:
        return False


def _key_pair_problem(certificate: str, key: str) -> str:
    """What is wrong with a certificate and its key, as Go's crypto/tls says it."""
    from cryptography import x509  # noqa: PLC0415 - slow to load, and rarely needed
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - as above

    pem, key_pem = base64.b64decode(certificate), base64.b64decode(key)
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        return "tls: failed to find any PEM data in certificate input"
    if b"-----BEGIN" not in key_pem:
        return "tls: failed to find any PEM data in key input"
    try:
        public = x509.load_pem_x509_certificates(pem)[0].public_key()
        private = serialization.load_pem_private_key(key_pem, None)
    except (ValueError, TypeError):
        return "tls: failed to parse the certificate or its private key"
    encoding = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if public.public_bytes(*encoding) != private.public_key().public_bytes(*encoding):
        return "tls: private key does not match public key"
    return ""


def _config_map_row(obj: Object) -> list[Any]:
    return [printing.name(obj), len(obj.get("data") or {}) + len(obj.get("binaryData") or {}), printing.age(obj)]


def _secret_row(obj: Object) -> list[Any]:
    return [printing.name(obj), obj.get("type", ""), len(obj.get("data") or {}), printing.age(obj)]


RESOURCES = (
    resource(
        "v1",
        "ConfigMap",
        "configmaps",
        short="cm",
        strategy=ConfigMaps(),
        columns=printing.columns("Name, Data, Age"),
        row=_config_map_row,
    ),
    resource(
        "v1",
        "Secret",
        "secrets",
        field_labels=("type",),
        strategy=Secrets(),
        columns=printing.columns("Name, Type, Data, Age"),
        row=_secret_row,
    ),
)
