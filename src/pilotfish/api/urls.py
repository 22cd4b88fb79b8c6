"""URLs as Go reads them, which is how Istio and Kubernetes judge what users write."""

from __future__ import annotations

import re

_SCHEME = re.compile(r"([A-Za-z][-+.A-Za-z0-9]*):(.*)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")
_BAD_HOST = re.compile(r"""[\x00-\x7f](?<![-_.~!$&'()*+,;=:\[\]<>"%A-Za-z0-9])|%(?!25)[0-7]""")
_PORT = re.compile(r"(:[0-9]*)?")


def scheme_of(text: str, *, request: bool = True) -> str:
    """The scheme in lower case, empty when there is none. Raises ValueError when the text is no URL.

    A request's URL is absolute, or a path, and has no fragment.
    """
    if _CONTROL.search(text):
        raise ValueError("invalid control character in URL")
    if not request:
        text, _, fragment = text.partition("#")
        _check_escapes(fragment)
    elif not text:
        raise ValueError("empty url")
    if text.startswith(":"):
        raise ValueError("missing protocol scheme")
    found = _SCHEME.fullmatch(text)
    scheme, rest = (found[1].lower(), found[2]) if found else ("", text)
    rest = rest.partition("?")[0]
    if not rest.startswith("/"):
        if not scheme and request and rest != "*":
            raise ValueError("invalid URI for request")
        if not scheme and ":" in rest.partition("/")[0]:
            raise ValueError("first path segment in URL cannot contain colon")
        return scheme
    if rest.startswith("//") and (scheme or not (request or rest.startswith("///"))):
        authority, slash, path = rest[2:].partition("/")
        _check_host(authority.rpartition("@")[2])
        rest = slash + path
    _check_escapes(rest)
    return scheme


def _check_escapes(text: str) -> None:
    if found := _BAD_ESCAPE.search(text):
        raise ValueError(f"invalid URL escape {text[found.start() : found.start() + 3]!r}")


def _check_host(host: str) -> None:
    _check_escapes(host)
    name, bracket, port = host.rpartition("]") if host.startswith("[") else ("", "", "")
    if host.startswith("[") and not bracket:
        raise ValueError("missing ']' in host")
    if not host.startswith("["):
        name, colon, number = host.rpartition(":")
        name, port = (name, colon + number) if colon else (host, "")
        if ":" in name:
            raise ValueError(f"invalid port after host {host!r}")
    if _PORT.fullmatch(port) is None:
        raise ValueError(f"invalid port {port!r} after host")
    if found := _BAD_HOST.search(name):
        raise ValueError(f"invalid character {found[0]!r} in host name")
