"""Refusals as Kubernetes words them: a field error for what is wrong in an object, a Status for the whole request."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """Why a field was refused (`causes[].reason` of a Status)."""

    REQUIRED = "FieldValueRequired"
    INVALID = "FieldValueInvalid"
    TYPE_INVALID = "FieldValueTypeInvalid"
    NOT_SUPPORTED = "FieldValueNotSupported"
    DUPLICATE = "FieldValueDuplicate"
    FORBIDDEN = "FieldValueForbidden"
    NOT_FOUND = "FieldValueNotFound"
    TOO_LONG = "FieldValueTooLong"
    TOO_MANY = "FieldValueTooMany"
    INTERNAL = "InternalError"


def _show(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field: its path (`spec.containers[0].name`), the reason and the text a user reads."""

    reason: Reason
    path: str
    text: str

    @classmethod
    def required(cls, path: str, detail: str = "") -> FieldError:
        return cls(Reason.REQUIRED, path, "Required value" + (f": {detail}" if detail else ""))

    @classmethod
    def invalid(cls, path: str, value: Any, detail: str) -> FieldError:
        return cls(Reason.INVALID, path, f"Invalid value: {_show(value)}: {detail}")

    @classmethod
    def type_invalid(cls, path: str, value: Any, detail: str) -> FieldError:
        return cls(Reason.TYPE_INVALID, path, f"Invalid value: {_show(value)}: {detail}")

    @classmethod
    def not_supported(cls, path: str, value: Any, allowed: list[str]) -> FieldError:
        choices = ", ".join(_show(one) for one in allowed)
        return cls(Reason.NOT_SUPPORTED, path, f"Unsupported value: {_show(value)}: supported values: {choices}")

    @classmethod
    def duplicate(cls, path: str, value: Any) -> FieldError:
        return cls(Reason.DUPLICATE, path, f"Duplicate value: {_show(value)}")

    @classmethod
    def forbidden(cls, path: str, detail: str) -> FieldError:
        return cls(Reason.FORBIDDEN, path, f"Forbidden: {detail}")

    @classmethod
    def not_found(cls, path: str, value: Any) -> FieldError:
        return cls(Reason.NOT_FOUND, path, f"Not found: {_show(value)}")

    @classmethod
    def too_long(cls, path: str, limit: int) -> FieldError:
        return cls(Reason.TOO_LONG, path, f"Too long: may not be more than {limit} bytes")

    @classmethod
    def too_many(cls, path: str, count: int, limit: int) -> FieldError:
        return cls(Reason.TOO_MANY, path, f"Too many: {count}: must have at most {limit} items")

    @property
    def cause(self) -> dict[str, str]:
        return {"reason": self.reason.value, "message": self.text, "field": self.path}

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


@dataclass
class ApiError(Exception):
    """A request that is refused; `status()` is the body the client gets."""

    code: int
    reason: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def status(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            body["reason"] = self.reason
        if self.details:
            body["details"] = self.details
        return body | {"code": self.code}


def _qualified(resource: str, group: str) -> str:
    return f"{resource}.{group}" if group else resource


def _details(name: str, group: str, kind: str) -> dict[str, Any]:
    return {k: v for k, v in (("name", name), ("group", group), ("kind", kind)) if v}


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(resource: str, group: str, name: str, why: str) -> ApiError:
    what = _qualified(resource, group) + (f' "{name}"' if name else "")
    return ApiError(403, "Forbidden", f"{what} is forbidden: {why}", _details(name, group, resource))


def not_found(resource: str, group: str, name: str) -> ApiError:
    """`resource` is the plural; the Status names it as its kind, as Kubernetes does."""
    return ApiError(
        404, "NotFound", f'{_qualified(resource, group)} "{name}" not found', _details(name, group, resource)
    )


def already_exists(resource: str, group: str, name: str) -> ApiError:
    return ApiError(
        409, "AlreadyExists", f'{_qualified(resource, group)} "{name}" already exists', _details(name, group, resource)
    )


def conflict(resource: str, group: str, name: str, why: str) -> ApiError:
    what = _qualified(resource, group)
    return ApiError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {what} "{name}": {why}',
        _details(name, group, resource),
    )


def invalid(kind: str, group: str, name: str, errors: list[FieldError]) -> ApiError:
    """The object has wrong fields: 422 with one cause a field. Unlike the others it names the kind, not the plural."""
    texts = list(dict.fromkeys(str(e) for e in errors))
    listed = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    details = _details(name, group, kind)
    if errors:
        details["causes"] = [e.cause for e in errors]
    return ApiError(422, "Invalid", f'{_qualified(kind, group)} "{name}" is invalid: {listed}', details)


def gone(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def internal(message: str) -> ApiError:
    return ApiError(500, "InternalError", f"Internal error occurred: {message}", {"causes": [{"message": message}]})
