"""Why a pod cannot be injected."""

from __future__ import annotations


class InjectionError(Exception):
    """A setting, annotation or the pod itself is wrong; the message names it and what is expected."""
