"""Which versions of resources a proxy has, without a copy for every proxy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping

from pilotfish.envoy.resource import Resource

_WORTH_SHARING = 32


class Held(MutableMapping[str, str]):
    """Versions by name. What a proxy has in common with others is a reference to the compiled resources (`share`); only
    what differs from them is its own."""

    __slots__ = ("_base", "_own")

    def __init__(self, versions: Mapping[str, str] | None = None) -> None:
        self._base: Mapping[str, Resource] = {}
        self._own: dict[str, str | None] = dict(versions or {})
        """None for a name of the base that it does not have."""

    def __getitem__(self, name: str) -> str:
        if name in self._own:
            version = self._own[name]
            if version is None:
                raise KeyError(name)
            return version
        return self._base[name].version

    def __setitem__(self, name: str, version: str) -> None:
        self._own[name] = version

    def __delitem__(self, name: str) -> None:
        if self._own.get(name, "") is None:
            raise KeyError(name)
        if name in self._base:
            self._own[name] = None
        else:
            del self._own[name]

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in self._base if name not in self._own)
        yield from (name for name, version in self._own.items() if version is not None)

    def __len__(self) -> int:
        added = sum(1 for name, version in self._own.items() if version is not None and name not in self._base)
        gone = sum(1 for version in self._own.values() if version is None)
        return len(self._base) + added - gone

    def share(self, every: Mapping[str, Resource]) -> None:
        """It has exactly these resources."""
        self._base, self._own = every, {}

    def share_if_equal(self, every: Mapping[str, Resource]) -> None:
        """Looks only when there is much of its own."""
        if len(self._own) < _WORTH_SHARING or len(self) != len(every):
            return
        if all(self.get(name) == one.version for name, one in every.items()):
            self.share(every)
