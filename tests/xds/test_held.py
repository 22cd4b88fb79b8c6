"""What a proxy has, as a reference to what all have and the difference."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pilotfish.envoy.resource import CLUSTER, finish
from pilotfish.xds.held import Held

NAMES = st.sampled_from("abcde")
VERSIONS = st.dictionaries(NAMES, st.sampled_from("123"))
STEPS = st.one_of(
    st.tuples(st.just("set"), NAMES, st.sampled_from(["", "1", "2", "3"])),
    st.tuples(st.just("pop"), NAMES, st.just("")),
    st.tuples(st.just("share"), VERSIONS, st.just("")),
)


@given(VERSIONS, st.lists(STEPS, max_size=12))
def test_it_is_a_dictionary(start: dict[str, str], steps: list[tuple[str, object, str]]) -> None:
    """Whatever is set, taken away and shared, it holds what a dictionary would."""
    held, plain = Held(start), dict(start)
    for what, about, version in steps:
        if isinstance(about, dict):
            held.share({name: finish(CLUSTER, name, b"", at) for name, at in about.items()})
            plain = dict(about)
        elif what == "set":
            held[str(about)] = plain[str(about)] = version
        else:
            assert held.pop(str(about), None) == plain.pop(str(about), None)
        assert dict(held) == plain
        assert len(held) == len(plain)
        assert {name: held.get(name) for name in "abcde"} == {name: plain.get(name) for name in "abcde"}


def test_what_is_equal_is_shared() -> None:
    """Many versions of its own become a reference when they are those that all have, and only then."""
    every = {str(n): finish(CLUSTER, str(n), b"", "1") for n in range(100)}
    held = Held(dict.fromkeys(every, "1"))
    held["7"] = "0"
    held.share_if_equal(every)
    assert held["7"] == "0"
    held["7"] = "1"
    held.share_if_equal(every)
    every["7"] = finish(CLUSTER, "7", b"", "2")
    assert held["7"] == "2", "it is the same object now"
