"""What a debug page is: a question with its asker's rights in, JSON or text out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Object = dict[str, Any]

# istioctl looks for these sentences in the answers it gets.
NO_PROXY_GIVEN = "You must provide a proxyID in the query string"
NOT_CONNECTED = "Proxy not connected to this Pilot instance. It may be connected to another instance."
NO_SUCH_PAGE = "404 page not found"


class PageError(Exception):
    """A page cannot be given: the HTTP status, and a text that says why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = f"{text}\n"


@dataclass(frozen=True)
class Question:
    """The query parameters, and the namespaces whose proxies the asker may see (None: all)."""

    query: Mapping[str, str] = field(default_factory=dict)
    namespaces: frozenset[str] | None = None

    @property
    def proxy(self) -> str:
        """The proxy that is asked for: a part of its connection's id, such as `pod.namespace`."""
        return self.query.get("proxyID", "")

    def may_see(self, namespace: str) -> bool:
        return self.namespaces is None or namespace in self.namespaces


class Later(NamedTuple):
    """What takes long and needs nothing that changes: it is made in a thread, while proxies are served."""

    make: Callable[[], Any]


class Page(NamedTuple):
    make: Callable[[Question], Any]
    """Text becomes text, all else (`Later` too) JSON. Raises PageError."""
    help: str
    variants: tuple[tuple[str, str], ...] = ()
    """Query strings that make it another page, with their help."""
