"""Which object made a proxy refuse its configuration. Only that one is put back; the innocent are left alone.

A refused resource is traced to the objects it was compiled from. Of those, the ones that have changed since the proxy
(or another of the same view) last acknowledged that type are put back to earlier forms on a fork of the graph, latest
first. If that brings back a form of the resource that a proxy has acknowledged, or takes away a resource that was not
there then, the change was the cause, and the object is *quarantined*: it has its earlier form until it is edited again.
If nothing brings back what was acknowledged, the cause is something else, and nobody is blamed.

When several objects changed at once each is tried alone, latest first: one whose quarantine does not end the refusal is
put into force again. An EnvoyFilter, the one kind whose effect cannot be checked beforehand, is tried even when nothing
was acknowledged before, for a proxy that is the first of its view.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from pilotfish import api
from pilotfish.daemon.feed import Feed
from pilotfish.engine import QueryFailed
from pilotfish.envoy import Compiler
from pilotfish.mesh.inputs import Ref
from pilotfish.mesh.proxies import View
from pilotfish.mesh.world import World
from pilotfish.xds.session import Watch

log = logging.getLogger(__name__)

Key = tuple[str, str, str]
"""Kind, namespace, name of a config object."""
Form = tuple[Key, Any]
"""An object and an earlier form of it; None for its absence."""
UNCHECKED = "EnvoyFilter"
NEVER_BLAMED = frozenset({"AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"})
"""Policies are never put back: a workload that is broken into could refuse them to have its own limits lifted."""
MOST_LOOKS = 100
"""How many combinations of earlier forms are compiled to explain one refusal."""
MOST_REMEMBERED = 1000


@dataclass
class Trial:
    """A quarantine that has yet to show whether it ends the refusal."""

    view: View
    type_url: str
    name: str
    reason: str
    steps: list[list[Form]]
    """What is still to be tried when this does not help."""
    state: int = 0
    """Configuration of at least this age answers the question."""
    inside: list[Key] = field(default_factory=list)
    """What is quarantined at the moment."""


class Refusals:
    """`version_of` says which versions of a resource proxies have acknowledged: (type URL, name) → versions."""

    def __init__(
        self,
        world: World,
        compiler: Compiler,
        feed: Feed,
        acknowledged_versions: Callable[[str, str], Iterable[str]],
        changed: Callable[[], None],
    ) -> None:
        self._world = world
        self._compiler = compiler
        self._feed = feed
        self._versions = acknowledged_versions
        self._changed = changed
        self._good: WeakKeyDictionary[View, dict[str, int]] = WeakKeyDictionary()
        self._trials: list[Trial] = []
        self._refused: set[tuple[str, str, str]] = set()
        """Type URL, name and version of what was refused lately."""
        self._unexplained: set[tuple[View, str, str, str]] = set()
        """Refusals that no change explains, so that the next proxy's need not be looked into again."""

    def acknowledged(self, view: View, watch: Watch, state: int) -> None:
        """A proxy has accepted everything of a type, as of `state`."""
        good = self._good.setdefault(view, {})
        good[watch.type_url] = max(state, good.get(watch.type_url, 0))
        if self._trials:
            for trial in list(self._trials):
                if trial.view is view and trial.type_url == watch.type_url and state >= trial.state:
                    self._trials.remove(trial)

    def refused(self, view: View, watch: Watch, state: int, good: int | None) -> None:
        """A proxy has refused a response made from the configuration of `state`; it had accepted that of `good`."""
        known = [one for one in (good, self._good.get(view, {}).get(watch.type_url)) if one is not None]
        for name in _named(watch):
            if len(self._refused) > MOST_REMEMBERED:
                self._refused.clear()
            self._refused.add((watch.type_url, name, watch.held.get(name, "")))
            about = (view, watch.type_url, name)
            trial = next((one for one in self._trials if (one.view, one.type_url, one.name) == about), None)
            if trial is None:
                steps = list(self._steps(view, watch.type_url, name, max(known) if known else None))
                trial = Trial(view, watch.type_url, name, watch.last_error, steps)
            elif state < trial.state:
                continue  # what was refused is older than the cure
            else:
                self._trials.remove(trial)
                self._put_back(trial)
            self._go_on(trial)

    # ---------------------------------------------------------------- suspects

    def _steps(self, view: View, type_url: str, name: str, good: int | None) -> Iterator[list[Form]]:
        """What to put back, and if that does not help, what next. Empty when nothing points at an object."""
        now = self._compiler.one(view, type_url, name)
        if now is None:
            return
        accepted = set(self._versions(type_url, name)) - {now.version}
        suspects = [key for key in self._sources(view, type_url, name) if not self._quarantined(key)]
        if good is None and not accepted:
            unchecked = (key for key in suspects if key[0] == UNCHECKED)
            yield from ([(key, None)] for key in unchecked if self._differs(view, type_url, name, [(key, None)]))
            return
        if (view, type_url, name, now.version) in self._unexplained:
            return
        recent = [key for key in suspects if good is None or self._feed.changed_at(key) > good]
        for forms in itertools.islice(self._combinations(recent), MOST_LOOKS):
            if self._cures(view, type_url, name, forms, accepted, known=good is not None):
                if len(forms) > 1:
                    yield from ([one] for one in forms)
                yield forms
                return
        if len(self._unexplained) > MOST_REMEMBERED:
            self._unexplained.clear()
        self._unexplained.add((view, type_url, name, now.version))

    def _combinations(self, keys: list[Key]) -> Iterator[list[Form]]:
        """Ways to put back one object, two, three: the latest change first."""
        for size in range(1, min(len(keys), 3) + 1):
            for some in itertools.combinations(keys, size):
                for forms in itertools.product(*(self._world.earlier(key[0], Ref(*key[1:])) for key in some)):
                    yield list(zip(some, forms, strict=True))

    def _sources(self, view: View, type_url: str, name: str) -> list[Key]:
        """The config objects behind a resource, the one that changed last first."""
        found = {(one.kind, one.namespace, one.name) for one in self._compiler.sources(view, type_url, name)}
        blamable = (key for key in found if key[0] in api.KINDS and key[0] not in NEVER_BLAMED)
        return sorted(blamable, key=self._feed.changed_at, reverse=True)

    def _cures(
        self, view: View, type_url: str, name: str, forms: list[Form], accepted: set[str], *, known: bool
    ) -> bool:
        """Whether earlier forms bring back an accepted version, or a time when there was no such resource."""
        try:
            before = self._compiler.supposing(view, type_url, name, self._inputs(forms))
        except QueryFailed:
            return False
        return (known and not accepted) if before is None else before.version in accepted

    def _differs(self, view: View, type_url: str, name: str, forms: list[Form]) -> bool:
        """Whether earlier forms lead to something that has not been refused yet."""
        try:
            found = self._compiler.supposing(view, type_url, name, self._inputs(forms))
        except QueryFailed:
            return False
        return found is None or (type_url, name, found.version) not in self._refused

    def _inputs(self, forms: list[Form]) -> dict[Any, Any]:
        return {(self._world.input_of(kind), Ref(*ref)): form for (kind, *ref), form in forms}

    def _quarantined(self, key: Key) -> bool:
        return (key[0], Ref(*key[1:])) in self._world.quarantined

    # ------------------------------------------------------------------ trials

    def _go_on(self, trial: Trial) -> None:
        """Try the next step, if there is one."""
        while trial.steps:
            forms = trial.steps.pop(0)
            if not self._differs(trial.view, trial.type_url, trial.name, forms):
                continue
            reason = f"a proxy refused the configuration made from it: {trial.reason}"
            for key, form in forms:
                if self._world.quarantine(key[0], Ref(*key[1:]), reason, form):
                    trial.inside.append(key)
                    log.error("%s %s/%s is put back to an earlier form: %s", *key, reason)
            if trial.inside:
                trial.state = self._feed.tick()
                self._trials.append(trial)
                break
        self._changed()

    def _put_back(self, trial: Trial) -> None:
        for key in trial.inside:
            if self._world.release(key[0], Ref(*key[1:])):
                log.info("%s %s/%s was not the cause and is in force again", *key)
        trial.inside = []


def _named(watch: Watch) -> list[str]:
    """The resources of the last response that the refusal names; all of them when it names none."""
    named = [
        name for name in watch.last_sent if re.search(rf"(?<![\w.|:/-]){re.escape(name)}(?![\w|/-])", watch.last_error)
    ]
    return named or list(watch.last_sent)
