"""Short names for the content of a pod template."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

_SAFE = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, no digits that look like letters: never a word


def safe_encode(text: str) -> str:
    """Text as letters and digits that are safe in a name (as k8s.io/apimachinery/pkg/util/rand.SafeEncodeString)."""
    return "".join(_SAFE[ord(char) % len(_SAFE)] for char in text)


def content_hash(content: Mapping[str, Any], collisions: int = 0) -> str:
    """At most ten characters that stand for `content`; another `collisions` gives another hash."""
    data = msgspec.json.encode([content, collisions] if collisions else content, order="sorted")
    return safe_encode(str(zlib.crc32(data)))
