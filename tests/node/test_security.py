"""Security contexts become ids and capabilities."""

from __future__ import annotations

from typing import Any

import pytest

from pilotfish.local.node import security
from pilotfish.local.node.security import ALL_CAPABILITIES, DEFAULT_CAPABILITIES, Limits, SecurityError, resolve

ROOT = Limits(rootless=False, full_map=True, capabilities=frozenset(ALL_CAPABILITIES))
FULL = Limits(rootless=True, full_map=True, capabilities=frozenset(ALL_CAPABILITIES))
SINGLE = Limits(rootless=True, full_map=False, capabilities=frozenset(ALL_CAPABILITIES))


@pytest.mark.parametrize(
    ("pod", "container", "image", "uid", "gid", "groups"),
    [
        ({}, {}, None, 0, 0, ()),
        ({}, {}, 1337, 1337, 1337, ()),
        ({"runAsUser": 5}, {}, 1337, 5, 0, ()),
        ({"runAsUser": 5, "runAsGroup": 6}, {"runAsUser": 7}, None, 7, 6, ()),
        ({"fsGroup": 9, "supplementalGroups": [8, 9]}, {"runAsUser": 7}, None, 7, 0, (8, 9)),
    ],
)
def test_ids(
    pod: dict[str, Any], container: dict[str, Any], image: int | None, uid: int, gid: int, groups: tuple[int, ...]
) -> None:
    """The container's settings win over the pod's, those over the image's."""
    found = resolve(pod, container, image, ROOT)
    assert (found.uid, found.gid, found.groups, found.warnings) == (uid, gid, groups, ())


@pytest.mark.parametrize(("container", "text"), [({}, "image will run as root"), ({"runAsUser": 0}, "breaks non-root")])
def test_run_as_non_root(container: dict[str, Any], text: str) -> None:
    """A container that must not run as user 0 is refused when it would."""
    with pytest.raises(SecurityError, match=text):
        resolve({"runAsNonRoot": True}, container, None, ROOT)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, set(DEFAULT_CAPABILITIES)),
        ({"drop": ["ALL"]}, set()),
        ({"drop": ["ALL"], "add": ["NET_ADMIN"]}, {"NET_ADMIN"}),
        ({"add": ["CAP_NET_ADMIN"]}, {*DEFAULT_CAPABILITIES, "NET_ADMIN"}),
        ({"drop": ["CHOWN"]}, set(DEFAULT_CAPABILITIES) - {"CHOWN"}),
        ({"add": ["ALL"], "drop": ["SYS_ADMIN"]}, set(ALL_CAPABILITIES) - {"SYS_ADMIN"}),
    ],
)
def test_capabilities(capabilities: dict[str, Any], expected: set[str]) -> None:
    """`add` and `drop` act on the default set; ALL acts first."""
    found = resolve({}, {"capabilities": capabilities}, None, ROOT)
    assert set(found.capabilities) == {f"CAP_{name}" for name in expected}


def test_one_user_id_only() -> None:
    """Without other user ids the process runs as 0 but without capabilities in force, and that is said once."""
    found = resolve({"fsGroup": 5}, {"runAsUser": 1000}, None, SINGLE)
    assert (found.uid, found.gid, found.groups, found.effective) == (0, 0, (), False)
    assert len(found.warnings) == 1
    assert "instead of user 1000" in found.warnings[0]
    assert resolve({}, {}, None, SINGLE).warnings == ()


def test_the_mesh_s_proxy_among_one_user_id() -> None:
    """The proxy's user cannot tell its traffic apart there: it gets what it needs to mark its sockets."""
    found = resolve({}, {"runAsUser": 1337, "capabilities": {"drop": ["ALL"]}}, None, SINGLE)
    assert (found.uid, found.capabilities, found.effective) == (0, ("CAP_NET_ADMIN",), True)
    found = resolve({}, {"runAsUser": 1337, "capabilities": {"drop": ["ALL"]}}, None, FULL)
    assert (found.uid, found.capabilities, found.effective) == (1337, (), False)


def test_ids_beyond_the_map() -> None:
    """Ids that do not exist in the node become nobody, with a warning."""
    found = resolve({}, {"runAsUser": 100000}, None, FULL)
    assert found.uid == 65534
    assert "65535" in found.warnings[0]


def test_capabilities_the_node_lacks() -> None:
    """A capability that was asked for and cannot be had is named."""
    limits = Limits(rootless=False, full_map=True, capabilities=frozenset({"CHOWN"}))
    found = resolve({}, {"capabilities": {"add": ["SYS_TIME"]}}, None, limits)
    assert found.capabilities == ("CAP_CHOWN",)
    assert "SYS_TIME" in found.warnings[0]


def test_privilege_escalation() -> None:
    """allowPrivilegeEscalation: false sets no_new_privs; privileged gets everything."""
    assert resolve({}, {"allowPrivilegeEscalation": False}, None, ROOT).no_new_privileges
    found = resolve({}, {"privileged": True}, None, ROOT)
    assert found.privileged
    assert len(found.capabilities) == len(ALL_CAPABILITIES)


def test_capability_mask() -> None:
    """The mask in /proc/PID/status is read by the kernel's numbers."""
    assert security.parse_capability_mask(1 << 12 | 1) == frozenset({"CHOWN", "NET_ADMIN"})
    assert len(security.parse_capability_mask((1 << 41) - 1)) == 41
