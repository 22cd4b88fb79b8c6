"""The graph: nodes, marking, pulling, cut-off, provenance, forks and garbage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
I = TypeVar("I", bound=Hashable)  # noqa: E741  the customary letter for an index key

Key = tuple[Any, ...]

CLEAN, CHECK, VERIFYING, DIRTY, RUNNING = 0, 1, 2, 3, 4
"""Up to date; something below may have changed; finding out whether; something read directly has changed; being run."""


class Node:
    """One value of one source: what it read, and who read it."""

    __slots__ = ("key", "pins", "readers", "reads", "source", "state", "value")

    def __init__(self, source: Source, key: Key, state: int) -> None:
        self.source = source
        self.key = key
        self.value: Any = None
        self.state = state
        self.reads: tuple[Node, ...] = ()
        """Each once, in the order of the first read."""
        self.readers: set[Node] = set()
        self.pins = 0


class QueryFailed(Exception):  # noqa: N818  named for what has happened, as the docstrings speak of it
    """A query raised. `cause` is the exception; what it had read by then is `db.inputs(error.source, *error.key)`."""

    def __init__(self, source: Source, key: Key, cause: Exception) -> None:
        self.source, self.key, self.cause = source, key, cause
        super().__init__(f"{source.name}{key!r}: {type(cause).__name__}: {cause}")


class CycleError(Exception):
    """A query needs its own result."""


class _Failure:
    """A failed result, as a value in the graph."""

    __slots__ = ("error",)

    def __init__(self, error: QueryFailed) -> None:
        self.error = error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Failure) and str(other.error) == str(self.error)

    def __hash__(self) -> int:
        return hash(str(self.error))


class Source:
    """Anything that can be read from a `Db` under a key."""

    name: str

    def compute(self, db: Db, key: Key) -> Any:
        raise NotImplementedError

    def read(self, db: Db, *key: Any) -> Any:
        node = db._tables[self].get(key)  # noqa: SLF001  one module, and the hot path
        if node is None or node.state:
            node = db._pull(self, key)  # noqa: SLF001
        reads = db._reads  # noqa: SLF001
        if reads is not None:
            reads[node] = None
        value = node.value
        if type(value) is _Failure:
            raise value.error
        return value

    def __repr__(self) -> str:
        return self.name


class Input(Source, Generic[K, V]):
    """Values from outside, by one key."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.indexes: list[Index[Any, K, V]] = []
        self.facets: list[Facet[K, V, Any]] = []

    if TYPE_CHECKING:

        def __call__(self, db: Db, key: K) -> V | None: ...
    else:
        __call__ = Source.read

    def compute(self, db: Db, key: Key) -> None:
        """A key nobody has put."""


class Facet(Source, Generic[K, V, R]):
    """A part of an input's values, under the same key. Who reads only the part is not even looked at when the rest
    changes; None where the input is empty.

    `part(key, value)` must not raise.
    """

    def __init__(self, name: str, of: Input[K, V], part: Callable[[K, V], R]) -> None:
        self.name = name
        self.of = of
        self.part = part
        of.facets.append(self)

    if TYPE_CHECKING:

        def __call__(self, db: Db, key: K) -> R | None: ...
    else:
        __call__ = Source.read

    def compute(self, db: Db, key: Key) -> R | None:
        value = db.peek(self.of, key[0])
        return self.part(key[0], value) if value is not None else None


class Index(Source, Generic[I, K, V]):
    """Which keys of an input have a property: a sorted tuple of them, per value of the property.

    `entries(key, value)` gives the properties of one object; it must not raise.
    """

    def __init__(self, name: str, of: Input[K, V], entries: Callable[[K, V], Iterable[I]]) -> None:
        self.name = name
        self.of = of
        self.entries = entries
        of.indexes.append(self)

    if TYPE_CHECKING:

        def __call__(self, db: Db, key: I) -> tuple[K, ...]: ...
    else:
        __call__ = Source.read

    def compute(self, db: Db, key: Key) -> tuple[K, ...]:
        members: set[Any] = db.members(self, key)
        return tuple(sorted(members))


class Query(Source, Generic[P, R]):
    """A derived value; made with the decorator `query`."""

    def __init__(self, function: Callable[Concatenate[Db, P], R]) -> None:
        self.function = function
        self.name = function.__name__
        self.__doc__ = function.__doc__

    if TYPE_CHECKING:

        def __call__(self, db: Db, *key: P.args, **named: P.kwargs) -> R: ...
    else:
        __call__ = Source.read

    def compute(self, db: Db, key: Key) -> Any:
        return self.function(db, *key)  # type: ignore[call-arg]  # P is erased in `Key`


def query(function: Callable[Concatenate[Db, P], R]) -> Query[P, R]:
    """Make a plain function a query. Its arguments are its key: positional and hashable."""
    return Query(function)


class Db:
    """A graph of values. Not thread-safe: one task reads and writes at a time, without awaiting in between."""

    def __init__(self) -> None:
        self._tables: defaultdict[Source, dict[Key, Node]] = defaultdict(dict)
        self._members: defaultdict[Index[Any, Any, Any], dict[Key, set[Any]]] = defaultdict(dict)
        self._reads: dict[Node, None] | None = None
        self._stack: list[Node] = []
        self._stale: dict[Node, None] = {}
        self.computed = 0
        """How many queries have been run so far (for tests and benchmarks)."""

    # Inputs

    def put(self, source: Input[K, V], key: K, value: V) -> bool:
        """Set an input. False, and nothing becomes dirty, when it was equal already."""
        return self._set(source, key, value)

    def remove(self, source: Input[K, V], key: K) -> bool:
        """Empty an input. False when it was empty already."""
        return self._set(source, key, None)

    def _set(self, source: Input[K, V], key: K, value: V | None) -> bool:
        if self._stack:
            raise RuntimeError("a query may not change inputs")
        node = self._tables[source].get((key,))
        old = node.value if node is not None else None
        if old is value or old == value:
            return False
        if node is None:
            node = self._tables[source][(key,)] = Node(source, (key,), CLEAN)
        node.value = value
        self._mark(node, DIRTY)
        for facet in source.facets:
            self._refine(facet, key, value)
        for index in source.indexes:
            before = set(index.entries(key, old)) if old is not None else set()
            after = set(index.entries(key, value)) if value is not None else set()
            for entry in before ^ after:
                self._move(index, (entry,), key, entry in after)
        return True

    def _refine(self, facet: Facet[K, V, Any], key: K, value: V | None) -> None:
        node = self._tables[facet].get((key,))
        if node is not None and node.state == CLEAN:
            part = facet.part(key, value) if value is not None else None
            if part != node.value:
                node.value = part
                self._mark(node, DIRTY)
                if node.pins:
                    self._stale[node] = None

    def peek(self, source: Input[K, V], key: K) -> V | None:
        """What an input holds, without recording the read."""
        node = self._node(source, (key,))
        value: V | None = node.value
        return value

    def _move(self, index: Index[Any, K, V], entry: Key, key: K, present: bool) -> None:
        members = self._members[index].setdefault(entry, set())
        if present:
            members.add(key)
        else:
            members.discard(key)
            if not members:
                del self._members[index][entry]
        node = self._tables[index].get(entry)
        if node is not None and node.state != DIRTY:
            node.state = DIRTY
            self._mark(node, CHECK)
            if node.pins:
                self._stale[node] = None

    def members(self, index: Index[Any, K, V], entry: Key) -> set[K]:
        return self._members[index].get(entry, set())

    def keys(self, source: Input[K, V]) -> Iterator[K]:
        """The keys that hold something. Not recorded as a read: for use outside queries."""
        return (node.key[0] for node in self._tables[source].values() if node.value is not None)

    def sizes(self) -> dict[str, int]:
        """How many keys of each input hold something."""
        inputs = {source.name: source for source in tuple(self._tables) if isinstance(source, Input)}
        return {name: sum(1 for _ in self.keys(source)) for name, source in inputs.items()}

    # Marking

    def _mark(self, node: Node, state: int) -> None:
        """The direct readers of `node` become `state`, all further ones CHECK."""
        todo = []
        for reader in node.readers:
            if reader.state == CLEAN:
                todo.append(reader)
            reader.state = max(reader.state, state)
        while todo:
            marked = todo.pop()
            if marked.pins:
                self._stale[marked] = None
            for reader in marked.readers:
                if reader.state == CLEAN:
                    reader.state = CHECK
                    todo.append(reader)

    # Pulling

    def _pull(self, source: Source, key: Key) -> Node:
        node = self._tables[source].get(key)
        if node is None:
            node = self._tables[source][key] = self._new(source, key)
        if node.state in (VERIFYING, RUNNING):
            if self._reads is not None:
                self._reads[node] = None
            raise self._cycle(node)
        if node.state:
            self._refresh(node)
        return node

    def _new(self, source: Source, key: Key) -> Node:
        return Node(source, key, CLEAN if isinstance(source, Input) else DIRTY)

    def _refresh(self, node: Node) -> None:
        """Make `node` CLEAN: verify what it read, in order, and run it again only if some of that changed."""
        if node.state == CHECK:
            node.state = VERIFYING
            self._stack.append(node)
            verified = self._verify(node)
            self._stack.pop()
            if verified:
                node.state = CLEAN
                return
        self._run(node)

    def _verify(self, node: Node) -> bool:
        for read in node.reads:
            if read.state in (VERIFYING, RUNNING):  # a cycle: running again finds and reports it
                return False
            if read.state:
                self._refresh(read)
                if node.state == DIRTY:
                    return False
        return True

    def _cycle(self, node: Node) -> QueryFailed:
        """The same error whichever member is met first, so that the members' results are equal and settle."""
        members = sorted(self._stack[self._stack.index(node) :], key=lambda n: f"{n.source.name}{n.key!r}")
        names = ", ".join(f"{n.source.name}{n.key!r}" for n in members)
        return QueryFailed(members[0].source, members[0].key, CycleError(f"each needs the other: {names}"))

    def _run(self, node: Node) -> None:
        node.state = RUNNING
        outer, reads = self._reads, dict[Node, None]()
        self._reads = reads
        self._stack.append(node)
        self.computed += 1
        value: Any
        finished = False
        try:
            value = node.source.compute(self, node.key)
            finished = True
        except QueryFailed as error:
            value = _Failure(error)
            finished = True
        except Exception as error:  # noqa: BLE001  a failure is a value: contained, and told to whoever reads it
            value = _Failure(QueryFailed(node.source, node.key, error))
            finished = True
        finally:
            self._stack.pop()
            self._reads = outer
            if not finished:
                node.state = DIRTY
        now = tuple(reads)
        if now != node.reads:
            before = set(node.reads)
            for read in before - reads.keys():
                read.readers.discard(node)
            for read in now:
                if read not in before:
                    read.readers.add(node)
            node.reads = now
        old = node.value
        node.state = CLEAN
        if old is not value and old != value:
            node.value = value
            self._mark(node, DIRTY)

    # Pins, staleness, garbage

    def pin(self, source: Source, *key: Any) -> None:
        """Keep a value, and say through `stale` when it may have changed. Pins are counted."""
        self._node(source, key).pins += 1

    def unpin(self, source: Source, *key: Any) -> None:
        node = self._tables[source][key]
        node.pins -= 1
        if not node.pins:
            self._stale.pop(node, None)

    def stale(self) -> list[tuple[Source, Key]]:
        """The pinned values that may have changed since the last call. Reading one arms it again."""
        nodes, self._stale = self._stale, {}
        return [(node.source, node.key) for node in nodes]

    def _node(self, source: Source, key: Key) -> Node:
        node = self._tables[source].get(key)
        if node is None:
            node = self._tables[source][key] = self._new(source, key)
        return node

    def collect(self) -> int:
        """Forget every derived value that no pinned value stands on. Returns how many."""
        keep: set[Node] = set()
        todo = [node for table in self._tables.values() for node in table.values() if node.pins]
        while todo:
            node = todo.pop()
            if node not in keep:
                keep.add(node)
                todo.extend(node.reads)
        gone = 0
        for table in self._tables.values():
            for node in [n for n in table.values() if n not in keep]:
                if isinstance(node.source, Input) and node.value is not None:  # a facet is cheap to find again
                    node.readers &= keep
                    continue
                for read in node.reads:
                    read.readers.discard(node)
                del table[node.key]
                gone += 1
        return gone

    @property
    def recording(self) -> bool:
        """Whether a query is running, so that reads are recorded."""
        return self._reads is not None

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))

    # Provenance

    def reads(self, source: Source, *key: Any) -> tuple[tuple[Source, Key], ...]:
        """What a value read directly, in order."""
        return _names(self._pull(source, key).reads)

    def inputs(self, source: Source, *key: Any) -> tuple[tuple[Source, Key], ...]:
        """The inputs and index keys a value stands on, in the order met; keys that hold nothing included."""
        return _names(_leaves(self._pull(source, key).reads))

    def outputs(self, source: Source, *key: Any) -> tuple[tuple[Source, Key], ...]:
        """The pinned values that stand on an input: what an object has an effect on."""
        node = self._tables[source].get(key)
        found: dict[Node, None] = {}
        seen: set[Node] = set()
        todo = [node] if node is not None else []
        while todo:
            reader = todo.pop()
            if reader in seen:
                continue
            seen.add(reader)
            if reader.pins:
                found[reader] = None
            todo.extend(reader.readers)
        return _names(found)

    # Forks

    def fork(self, replaced: Mapping[tuple[Input[Any, Any], Any], Any]) -> Fork:
        """This graph with some inputs replaced (None removes): what would be. See `Fork`."""
        return Fork(self, replaced)


class Fork(Db):
    """A what-if copy that computes only what the replaced inputs touch and takes the rest from its parent.

    It is for one synchronous look: once the parent changes, the fork mixes old and new, so make another.
    """

    def __init__(self, parent: Db, replaced: Mapping[tuple[Input[Any, Any], Any], Any]) -> None:
        super().__init__()
        self._parent = parent
        self._moved: dict[tuple[Index[Any, Any, Any], Key], set[Any]] = {}
        touched: set[Node] = set()
        for (source, key), value in replaced.items():
            node = parent._node(source, (key,))  # noqa: SLF001  same module
            touched.add(node)
            own = self._tables[source][(key,)] = Node(source, (key,), CLEAN)
            own.value = value
            touched |= {n for f in source.facets if (n := parent._tables[f].get((key,))) is not None}  # noqa: SLF001
            for index in source.indexes:
                before = set(index.entries(key, node.value)) if node.value is not None else set()
                after = set(index.entries(key, value)) if value is not None else set()
                for entry in before ^ after:
                    members = self._moved.setdefault((index, (entry,)), set(parent.members(index, (entry,))))
                    (members.add if entry in after else members.discard)(key)
                    at = parent._tables[index].get((entry,))  # noqa: SLF001
                    if at is not None:
                        touched.add(at)
        self._touched: set[Node] = set()
        todo = list(touched)
        while todo:
            node = todo.pop()
            if node not in self._touched:
                self._touched.add(node)
                todo.extend(node.readers)

    def members(self, index: Index[Any, K, V], entry: Key) -> set[K]:
        moved = self._moved.get((index, entry))
        return self._parent.members(index, entry) if moved is None else moved

    def _new(self, source: Source, key: Key) -> Node:
        node = self._parent._tables[source].get(key)  # noqa: SLF001
        if node is None or node.state or node in self._touched:
            return super()._new(source, key)
        copy = Node(source, key, CLEAN)
        copy.value = node.value
        copy.reads = node.reads  # provenance only: no edge leads back
        return copy

    def _set(self, source: Input[K, V], key: K, value: V | None) -> bool:
        raise RuntimeError("a fork's inputs are given when it is made")


def _leaves(reads: Iterable[Node]) -> dict[Node, None]:
    found: dict[Node, None] = {}
    seen: set[Node] = set()
    todo = list(reversed(list(reads)))
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node.source, Query):
            todo.extend(reversed(node.reads))
        else:
            found[node] = None
    return found


def _names(nodes: Iterable[Node]) -> tuple[tuple[Source, Key], ...]:
    return tuple((node.source, node.key) for node in nodes)
