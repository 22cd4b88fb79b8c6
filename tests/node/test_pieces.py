"""Small pure parts: names, the runtime's configuration, root directories, addresses, published ports."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from pilotfish.local.node import namespaces, oci, publish, resolv, rootfs, tools
from pilotfish.local.node.network import AddressPool, NetworkError, pod_sysctl
from pilotfish.local.node.publish import Published
from pilotfish.local.node.rootfs import Mount
from pilotfish.local.node.security import ALL_CAPABILITIES, Limits
from pilotfish.local.node.security import resolve as security_resolve

LIMITS = Limits(rootless=False, full_map=True, capabilities=frozenset(ALL_CAPABILITIES))


def pod(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": "ns"}, "spec": spec}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            {},
            "search ns.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n",
        ),
        ({"dnsPolicy": "Default"}, "nameserver 10.96.0.10\n"),
        ({"hostNetwork": True}, "nameserver 10.96.0.10\n"),
        (
            {
                "dnsPolicy": "None",
                "dnsConfig": {
                    "nameservers": ["192.0.2.1"],
                    "searches": ["a.b"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
                },
            },
            "search a.b\nnameserver 192.0.2.1\noptions ndots:2 edns0\n",
        ),
    ],
)
def test_resolv_conf(spec: dict[str, Any], expected: str) -> None:
    """dnsPolicy and dnsConfig."""
    assert resolv.resolv_conf(pod(**spec)) == expected


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ({}, "p"),
        ({"hostname": "h"}, "h"),
        ({"hostname": "h", "subdomain": "s"}, "h"),
        ({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": True}, "h.s.ns.svc.cluster.local"),
        ({"hostNetwork": True}, "pilotfish"),
    ],
)
def test_hostname(spec: dict[str, Any], name: str) -> None:
    """hostname, subdomain and setHostnameAsFQDN."""
    assert resolv.hostname(pod(**spec)) == name


def test_hosts() -> None:
    """The pod's own line, with its domain if it has one, and the aliases."""
    text = resolv.hosts(
        pod(hostname="h", subdomain="s", hostAliases=[{"ip": "192.0.2.1", "hostnames": ["x", "y"]}]), "10.244.0.9"
    )
    assert "10.244.0.9\th.s.ns.svc.cluster.local\th\n" in text
    assert text.endswith("# Entries added by HostAliases.\n192.0.2.1\tx\ty\n")


def test_tools_in_an_extracted_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is not installed is taken from PILOTFISH_TOOLS with its libraries; else the package is named."""
    monkeypatch.setattr(tools, "_SYSTEM_PATH", ())
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("PILOTFISH_TOOLS", str(tmp_path))
    tools.find.cache_clear()
    try:
        with pytest.raises(tools.ToolMissingError, match="apt-get install iproute2"):
            tools.find("ip")
        program = tmp_path / "sbin/ip"
        program.parent.mkdir()
        program.touch(mode=0o755)
        (tmp_path / "usr/lib/x86_64-linux-gnu").mkdir(parents=True)
        found = tools.find("ip")
        assert found.path == str(program)
        assert found.env["LD_LIBRARY_PATH"] == f"{tmp_path}/usr/lib/x86_64-linux-gnu:{tmp_path}/usr/lib"
    finally:
        tools.find.cache_clear()


def test_subordinate_ids() -> None:
    """The first line of the user, by name or number."""
    text = "# comment\nann:1:2\n1000:100000:65536\nbob:200000:65536\n"
    assert namespaces.subordinate_ids(text, "bob", 1001) == namespaces.IdRange(200000, 65536)
    assert namespaces.subordinate_ids(text, "carl", 1000) == namespaces.IdRange(100000, 65536)
    assert namespaces.subordinate_ids(text, "dora", 1002) is None


def container(**changes: Any) -> oci.Container:
    context = security_resolve({}, changes.pop("context", {}), None, LIMITS)
    process = oci.Process(("prog", "arg"), ("A=1",), "/w", context, terminal=changes.pop("terminal", False))
    return oci.Container("/root", process, oci.Namespaces("/net", "/ipc", "/uts"), **changes)


def test_oci_process() -> None:
    """Golden: a process with one capability and groups."""
    context = {"runAsUser": 5, "capabilities": {"drop": ["ALL"], "add": ["KILL"]}, "allowPrivilegeEscalation": False}
    found = oci.process(oci.Process(("a",), ("X=1",), "", security_resolve({"fsGroup": 9}, context, None, LIMITS)))
    assert found == {
        "terminal": False,
        "user": {"uid": 5, "gid": 0, "umask": 0o022, "additionalGids": [9]},
        "args": ["a"],
        "env": ["X=1"],
        "cwd": "/",
        "capabilities": {
            "bounding": ["CAP_KILL"],
            "effective": [],
            "permitted": [],
            "inheritable": [],
            "ambient": [],
        },
        "noNewPrivileges": True,
    }


def test_oci_namespaces_and_mounts() -> None:
    """The pod's namespaces are joined, others are new; outer mounts come before inner ones."""
    mounts = (Mount("/s/inner", "/a/b"), Mount("/s/outer", "/a", readonly=False))
    found = oci.config(container(mounts=mounts, hidden=("/a/secret",), shm="/shm"))
    assert found["linux"]["namespaces"] == [
        {"type": "mount"},
        {"type": "network", "path": "/net"},
        {"type": "ipc", "path": "/ipc"},
        {"type": "uts", "path": "/uts"},
        {"type": "pid"},
    ]
    tail = [(m["destination"], m["type"], m["options"][-1]) for m in found["mounts"][-3:]]
    assert tail == [("/a", "bind", "rw"), ("/a/b", "bind", "ro"), ("/a/secret", "tmpfs", "mode=0755")]
    assert "/proc/kcore" in found["linux"]["maskedPaths"]
    assert "maskedPaths" not in oci.config(container(context={"privileged": True}))["linux"]


def test_root_directory(tmp_path: Path) -> None:
    """Mount points exist; below read-only directories of the machine they come from an overlay, never from it."""
    machine = tmp_path / "machine"
    (machine / "usr/share").mkdir(parents=True)
    (machine / "bin").symlink_to("usr/bin")
    (machine / "etc").mkdir()
    (machine / "etc/services").touch()
    system = rootfs.inspect(machine)
    assert system.links == {"bin": "usr/bin"}
    assert [m.target for m in system.mounts] == ["/usr", "/etc/services"]
    volume, file = tmp_path / "volume", tmp_path / "file"
    volume.mkdir()
    file.touch()
    mounts = [
        *system.mounts,
        Mount(str(volume), "/usr/share/html"),
        Mount(str(volume), "/usr/share"),
        Mount(str(volume), "/var/run/secrets/x"),
        Mount(str(file), "/etc/hosts"),
    ]
    root = tmp_path / "root"
    overlays = rootfs.build(root, system, mounts, 1000, 5, "h")
    assert (root / "run/secrets/x").is_dir()
    assert (root / "etc/hosts").is_file()
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert "user1000:x:1000:5:" in (root / "etc/passwd").read_text()
    assert [o.target for o in overlays] == ["/usr/share"]
    assert (Path(overlays[0].skeleton) / "html").is_dir()
    assert sorted(p.name for p in (machine / "usr/share").iterdir()) == []


def test_the_data_directory_is_hidden() -> None:
    """Wherever a mount would show the cluster's data directory, something lies over it."""
    mounts = [Mount("/opt", "/opt"), Mount("/srv/project", "/app")]
    assert rootfs.hidden(mounts, Path("/srv/project/.data")) == ["/app/.data"]
    assert rootfs.hidden(mounts, Path("/home/me/data")) == []


def test_addresses_are_not_used_again_at_once() -> None:
    """A released address comes back last."""
    pool = AddressPool(IPv4Network("10.0.0.0/29"), first=2)
    first = pool.take()
    assert first == IPv4Address("10.0.0.2")
    pool.release(first)
    taken = [pool.take() for _ in range(5)]
    assert taken[-1] == first
    assert len(set(taken)) == 5
    with pytest.raises(NetworkError, match="no pod address is free"):
        pool.take()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.1/rp_filter", "/proc/sys/net/ipv4/conf/eth0.1/rp_filter"),
        ("kernel.shmmax", "/proc/sys/kernel/shmmax"),
        ("kernel.sem", "/proc/sys/kernel/sem"),
        ("fs.mqueue.msg_max", "/proc/sys/fs/mqueue/msg_max"),
    ],
)
def test_sysctls_of_a_pod(name: str, expected: str) -> None:
    """Settings of the pod's own network and IPC namespaces."""
    assert pod_sysctl(name) == Path(expected)


@pytest.mark.parametrize("name", ["kernel.core_pattern", "vm.swappiness", "net/../kernel/core_pattern", "net..x", ""])
def test_sysctls_of_the_machine_are_refused(name: str) -> None:
    """Whatever would change the machine."""
    with pytest.raises(ValueError, match="not a"):
        pod_sysctl(name)
    with pytest.raises(ValueError, match="not a"):
        pod_sysctl("net.ipv4.ip_forward", host_network=True)


def balancer(name: str, port: int, created: str = "1", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "ns", "name": name, "creationTimestamp": created},
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": "10.96.0.9",
            "ports": [{"port": port, "nodePort": 30000 + port}],
            **spec,
        },
    }


def test_published_ports() -> None:
    """A load balancer's ports and node ports; a port that two want goes to the older one."""
    ports, problems = publish.wanted([balancer("b", 80, "2"), balancer("a", 80, "1", ports=[{"port": 80}])])
    assert ports == {
        80: Published(("ns", "a"), "10.96.0.9", 80),
        30080: Published(("ns", "b"), "10.244.0.1", 30080),
    }
    assert problems == {("ns", "b"): ["port 80 of this machine is published for the Service ns/a"]}


def test_other_services_are_not_published() -> None:
    """Neither ClusterIP Services, nor UDP ports, nor load balancers of another class."""
    services = [
        balancer("a", 80, type="ClusterIP"),
        balancer("b", 81, ports=[{"port": 81, "protocol": "UDP", "nodePort": 30081}]),
        balancer("c", 82, ports=[{"port": 82}], loadBalancerClass="x/y"),
    ]
    assert publish.wanted(services) == ({}, {})


async def test_relay_half_close_and_back_pressure() -> None:
    """A client may finish sending and still receive; a slow reader stops the sender instead of filling memory."""
    size = 8 * 1024 * 1024

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = await reader.read()  # until the client's half close
        writer.write(received[::-1])
        await writer.drain()
        writer.close()

    inner = await asyncio.start_server(serve, "127.0.0.1", 0)
    target = Published(("ns", "a"), *inner.sockets[0].getsockname())
    outer = await asyncio.get_running_loop().create_server(lambda: publish._Outside(target), "127.0.0.1", 0)
    async with inner, outer:
        reader, writer = await asyncio.open_connection(*outer.sockets[0].getsockname())
        writer.write(b"a" + b"b" * (size - 1))
        await writer.drain()
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 60)
        assert len(answer) == size
        assert answer[-1:] == b"a"
        writer.close()


async def test_relay_to_nobody() -> None:
    """When the Service refuses, the client's connection is reset, not left hanging."""
    dead = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    address = dead.sockets[0].getsockname()
    dead.close()
    outer = await asyncio.get_running_loop().create_server(
        lambda: publish._Outside(Published(("ns", "a"), *address)), "127.0.0.1", 0
    )
    async with outer:
        reader, writer = await asyncio.open_connection(*outer.sockets[0].getsockname())
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.readexactly(1), 60)
        writer.close()
