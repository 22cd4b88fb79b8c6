"""Addresses for ServiceEntries that name none."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pilotfish.mesh.allocation import Allocator, read
from pilotfish.mesh.inputs import Ref

SMALL = ("10.9.0.0/28", "fd00::/124")


def entry(name: str, hosts: list[str], created: int = 0, **spec: Any) -> dict[str, Any]:
    meta = {"namespace": "n", "name": name, "creationTimestamp": f"2026-01-01T00:00:{created:02d}Z"}
    return {"metadata": meta, "spec": {"hosts": hosts, "resolution": "DNS", **spec}}


def settle(allocator: Allocator, obj: dict[str, Any]) -> set[Ref]:
    """What the writer does, on an object in memory."""
    losers = allocator.note(read(obj))
    found = allocator.settle(read(obj))
    if found is not None:
        obj["status"] = {"addresses": found}
        allocator.note(read(obj))
    return losers


def held(obj: dict[str, Any]) -> list[str]:
    return [one["value"] for one in obj.get("status", {}).get("addresses", [])]


def test_every_host_gets_one_of_each_range() -> None:
    """The first entry gets the first addresses; an entry that has them is left alone."""
    allocator = Allocator()
    one = entry("one", ["a.test", "b.test", "a.test"])
    settle(allocator, one)
    assert one["status"]["addresses"] == [
        {"value": "240.240.0.1", "host": "a.test"},
        {"value": "2001:2::1", "host": "a.test"},
        {"value": "240.240.0.2", "host": "b.test"},
        {"value": "2001:2::2", "host": "b.test"},
    ]
    assert allocator.settle(read(one)) is None


def test_who_gets_none() -> None:
    """Not with addresses of one's own, not without resolution, not after a label that says no, not for wildcards."""
    allocator = Allocator()
    none = [
        entry("fixed", ["a.test"], addresses=["192.0.2.1"]),
        entry("kept", ["a.test"], resolution="NONE"),
        entry("wild", ["*.test"]),
    ]
    labelled = entry("label", ["a.test"])
    labelled["metadata"]["labels"] = {"networking.istio.io/enable-autoallocate-ip": "False"}
    for one in (*none, labelled):
        assert allocator.settle(read(one)) is None
    dynamic = entry("dynamic", ["*.test"], resolution="DYNAMIC_DNS")
    settle(allocator, dynamic)
    assert held(dynamic) == ["240.240.0.1", "2001:2::1"]


def test_what_is_not_wanted_any_more_is_taken_away() -> None:
    """A host that leaves takes its addresses with it; an entry that gets addresses of its own loses all."""
    allocator = Allocator()
    one = entry("one", ["a.test", "b.test"])
    settle(allocator, one)
    one["spec"]["hosts"] = ["b.test"]
    settle(allocator, one)
    assert held(one) == ["240.240.0.2", "2001:2::2"]
    one["spec"]["addresses"] = ["192.0.2.1"]
    settle(allocator, one)
    assert held(one) == []


def test_the_older_keeps_an_address_and_the_author_before_both() -> None:
    """Two that claim one address, from a restored backup for example: the newer is given another one."""
    allocator = Allocator()
    old, new = entry("old", ["a.test"], 1), entry("new", ["b.test"], 2)
    for one in (new, old):
        one["status"] = {"addresses": [{"value": "240.240.0.9", "host": one["spec"]["hosts"][0]}]}
    assert settle(allocator, new) == set()
    assert settle(allocator, old) == {Ref("n", "new")}
    settle(allocator, new)
    assert held(old) == ["240.240.0.9"]
    assert "240.240.0.9" not in held(new)
    author = entry("author", ["c.test"], 3, addresses=["240.240.0.9"])
    assert settle(allocator, author) == {Ref("n", "old")}
    settle(allocator, old)
    assert "240.240.0.9" not in held(old)


def test_an_exhausted_range_gives_nothing_and_breaks_nothing() -> None:
    """More hosts than addresses: the rest goes without; what is freed is given again."""
    allocator = Allocator(("10.9.0.0/30",))
    many = [entry(f"e{i}", [f"h{i}.test"], i) for i in range(5)]
    for one in many:
        settle(allocator, one)
    assert [len(held(one)) for one in many] == [1, 1, 1, 0, 0]
    allocator.forget(Ref("n", "e1"))
    settle(allocator, many[4])
    assert held(many[4]) == ["10.9.0.2"]


names = st.sampled_from([f"e{i}" for i in range(5)])
edits = st.lists(
    st.one_of(
        st.tuples(st.just("hosts"), names, st.lists(st.sampled_from(["a", "b", "c", "*.w"]), max_size=3)),
        st.tuples(st.just("fix"), names, st.sampled_from([[], ["10.9.0.3"], ["192.0.2.0/24"]])),
        st.tuples(st.just("steal"), names, st.sampled_from(["10.9.0.1", "10.9.0.2", "fd00::1", "nonsense"])),
        st.tuples(st.just("delete"), names, st.none()),
        st.tuples(st.just("restart"), names, st.none()),
    ),
    max_size=30,
)


@given(edits)
def test_nobody_shares_an_address(steps: list[tuple[str, str, Any]]) -> None:
    """Whatever is edited, forged or lost at a restart: in the end every host that should have addresses has some of its
    own, and nobody else has any."""
    allocator = Allocator(SMALL)
    objects: dict[str, dict[str, Any]] = {}
    for what, name, value in steps:
        obj = objects.setdefault(name, entry(name, ["a"], int(name[1])))
        if what == "hosts":
            obj["spec"]["hosts"] = value
        elif what == "fix":
            obj["spec"]["addresses"] = value
        elif what == "steal":
            obj["status"] = {"addresses": [{"value": value, "host": "a"}]}
        elif what == "delete":
            del objects[name]
            allocator.forget(Ref("n", name))
            continue
        else:
            allocator = Allocator(SMALL)
            for one in objects.values():
                allocator.note(read(one))
            continue
        waiting = {name}
        while waiting:
            waiting |= {ref.name for ref in settle(allocator, objects[waiting.pop()])}
    for _ in range(3):  # what a restart brings to light is settled in rounds, as the queue does
        for one in objects.values():
            settle(allocator, one)
    given_out: dict[str, str] = {}
    for name, one in objects.items():
        for address in {*held(one)} - {"nonsense"}:  # what is no address is nobody's
            assert given_out.setdefault(address, name) == name
        assert {host for _, host in read(one).held} == set(read(one).hosts)
    fixed = {a for one in objects.values() for a in one["spec"].get("addresses", ())}
    assert not fixed & given_out.keys()
