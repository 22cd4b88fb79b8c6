"""What goes wrong between us and an API server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class KubeError(Exception):
    """Any failure of this room; the text is fit for a user."""


class ConfigError(KubeError):
    """The kubeconfig, or the service account of this pod, cannot be used."""


class UnreachableError(KubeError):
    """No answer from the API server: connection refused or lost, a name that does not resolve, TLS that fails."""


class ApiStatusError(KubeError):
    """The API server refused: `code` is the HTTP status, `reason` the word for programs (`NotFound`, `Conflict`, …)."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details: Mapping[str, Any] = details or {}
        self.retry_after = retry_after
        """Seconds the server asks us to wait, None when it does not say."""

    @property
    def causes(self) -> list[Mapping[str, str]]:
        """The wrong fields: `{"reason", "message", "field"}` each."""
        return list(self.details.get("causes") or [])

    @classmethod
    def from_status(cls, status: Mapping[str, Any], code: int = 0, retry_after: float | None = None) -> ApiStatusError:
        """From a `Status` object, as a response body or the object of an ERROR watch event."""
        code = int(status.get("code") or code)
        details = status.get("details") or {}
        after = details.get("retryAfterSeconds")
        return cls(
            code,
            str(status.get("reason") or ""),
            str(status.get("message") or f"the server answered {code}"),
            details,
            float(after) if after and retry_after is None else retry_after,
        )

    @classmethod
    def from_response(cls, code: int, body: bytes, retry_after: float | None = None) -> ApiStatusError:
        """From any answer that is not a success, whether or not its body is a Status."""
        try:
            status = msgspec.json.decode(body)
        except msgspec.DecodeError:
            status = None
        if isinstance(status, dict) and status.get("kind") == "Status":
            return cls.from_status(status, code, retry_after)
        text = body[:512].decode(errors="replace").strip()
        return cls(code, "", text or f"the server answered {code}", None, retry_after)


def is_not_found(error: BaseException) -> bool:
    return isinstance(error, ApiStatusError) and error.code == 404


def is_conflict(error: BaseException) -> bool:
    """The object has changed since it was read (or, for an apply, others own fields)."""
    return isinstance(error, ApiStatusError) and error.code == 409 and error.reason != "AlreadyExists"


def is_already_exists(error: BaseException) -> bool:
    return isinstance(error, ApiStatusError) and error.code == 409 and error.reason == "AlreadyExists"


def is_namespace_ending(error: BaseException) -> bool:
    """Nothing can be created any more in a namespace that is being deleted."""
    causes = error.causes if isinstance(error, ApiStatusError) else []
    return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


def is_expired(error: BaseException) -> bool:
    """The resource version is too old: list again."""
    return isinstance(error, ApiStatusError) and (error.code == 410 or error.reason in {"Expired", "Gone"})
