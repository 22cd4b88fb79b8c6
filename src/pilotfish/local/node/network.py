"""The node's network: its own address, a network namespace with an address for every pod, and the way between them.

A pod has one interface, `eth0`, with a /32 address and a default route through the link-local address 169.254.1.1,
which is a permanent neighbour entry for the other end of the pair. There is no bridge: every packet between pods is
routed by the node's namespace, so that connection tracking sees both directions and service addresses work.

The node's default route leads to a device that goes nowhere; the firewall refuses what is sent there. There has to be
one all the same: a service address exists nowhere, and the kernel rewrites destinations only on the way out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from pilotfish.local.network import NODE_IP, NODE_NAME, POD_CIDR
from pilotfish.local.node import namespaces, tools
from pilotfish.local.node.processes import Processes

UPLINK = "nowhere0"
GATEWAY = "169.254.1.1"
_GATEWAY_MAC = "ee:ee:ee:ee:ee:ee"
_SYSCTL_PART = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_FIRST_POD = 10
"""Addresses below are kept for the node itself."""


class NetworkError(RuntimeError):
    """A pod's network could not be made; the text says what failed."""


class AddressPool:
    """Pod addresses. A released address goes to the end of the queue, so that it is not used again at once."""

    def __init__(self, network: IPv4Network = POD_CIDR, first: int = _FIRST_POD) -> None:
        base = int(network.network_address)
        self._next = base + first
        self._end = int(network.broadcast_address)
        self._released: deque[IPv4Address] = deque()
        self._used: set[IPv4Address] = set()

    def take(self) -> IPv4Address:
        """A free address; raises `NetworkError` when there is none."""
        while self._next < self._end:
            address = IPv4Address(self._next)
            self._next += 1
            if address not in self._used:
                self._used.add(address)
                return address
        if not self._released:
            raise NetworkError("no pod address is free")
        address = self._released.popleft()
        self._used.add(address)
        return address

    def release(self, address: IPv4Address) -> None:
        """Give an address back."""
        if address in self._used:
            self._used.remove(address)
            self._released.append(address)


@dataclass
class Sandbox:
    """The namespaces of a pod, held open by descriptors of this process (no process is needed to keep them)."""

    net_fd: int
    ipc_fd: int
    uts_fd: int
    ip: IPv4Address
    host_network: bool = False

    @property
    def net(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.net_fd}"

    @property
    def ipc(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.ipc_fd}"

    @property
    def uts(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.uts_fd}"


def node_commands() -> str:
    """The `ip -batch` text that sets up the node's own namespace.

    The two rules refuse what the node itself sends to a pod that is gone, also after a service address was rewritten:
    the firewall sees only the device that was chosen before.
    """
    return f"""\
link set lo up
link add {UPLINK} type veth peer name {UPLINK}p
link set {UPLINK}p up
link set {UPLINK} up
address add {NODE_IP}/32 dev {UPLINK}
neighbour replace {GATEWAY} lladdr {_GATEWAY_MAC} dev {UPLINK} nud permanent
route add default via {GATEWAY} dev {UPLINK} onlink src {NODE_IP}
rule add pref 100 iif lo to {POD_CIDR} lookup main suppress_prefixlength 0
rule add unreachable pref 101 iif lo to {POD_CIDR}
"""


def pod_commands(ip: IPv4Address, link: str, node_pid: int) -> str:
    """The `ip -batch` text for the inside of a pod; it makes the pair and gives the other end to the node."""
    return f"""\
link set lo up
link add eth0 type veth peer name {link} address {_GATEWAY_MAC} netns {node_pid}
address add {ip}/32 dev eth0
link set eth0 up
neighbour replace {GATEWAY} lladdr {_GATEWAY_MAC} dev eth0 nud permanent
route add default via {GATEWAY} dev eth0 onlink
"""


def route_commands(ip: IPv4Address, link: str) -> str:
    """The `ip -batch` text for the node's side of a pod."""
    return f"""\
link set {link} up
route replace {ip}/32 dev {link} src {NODE_IP}
"""


def pod_sysctl(name: str, *, host_network: bool = False) -> Path:
    """The file of a setting a pod may make: only those that belong to its own namespaces. Raises ValueError.

    Slashes may stand for dots, as sysctl(8) takes them (interface names may have dots).
    """
    parts = name.split("/") if "/" in name else name.split(".")
    if not all(_SYSCTL_PART.fullmatch(part) for part in parts):
        raise ValueError("not a valid name")
    plain = ".".join(parts)
    if plain.startswith("net.") and not host_network:
        return Path("/proc/sys", *parts)
    if plain.startswith(("kernel.shm", "kernel.msg", "fs.mqueue.")) or plain == "kernel.sem":
        return Path("/proc/sys", *parts)
    raise ValueError("it is not a setting of the pod's own namespaces")


def _write_sysctl(name: str, value: str) -> None:
    Path("/proc/sys", *name.split(".")).write_text(value)


def _disable_ipv6() -> None:
    """No IPv6 but on loopback: nothing assigns addresses, and link-local ones only make noise."""
    with contextlib.suppress(FileNotFoundError):  # a kernel without it
        _write_sysctl("net.ipv6.conf.default.disable_ipv6", "1")


def _make_namespaces(hostname: str, sysctls: Mapping[str, str], host_network: bool) -> tuple[list[int], list[str]]:
    """New network, IPC and UTS namespaces, made in a thread that ends there: [net, ipc, uts] descriptors and the
    settings that could not be made."""
    result: list[int] = []
    failed: list[str] = []
    errors: list[OSError] = []

    def work() -> None:
        try:
            kinds = namespaces.CLONE_NEWIPC | (0 if host_network else namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWNET)
            namespaces.unshare(kinds)
            if not host_network:
                namespaces.sethostname(hostname)
                _write_sysctl("net.ipv4.ip_unprivileged_port_start", "0")
                _disable_ipv6()
            for name, value in sysctls.items():
                try:
                    pod_sysctl(name, host_network=host_network).write_text(value)
                except OSError as error:
                    failed.append(f"sysctl {name}={value}: {os.strerror(error.errno or 0)}")
                except ValueError as error:
                    failed.append(f"sysctl {name}={value}: {error}")
            result.extend(os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY) for kind in ("net", "ipc", "uts"))
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="namespaces")
    thread.start()
    thread.join()
    if errors:
        for fd in result:
            os.close(fd)
        raise NetworkError(f"cannot make the namespaces of the pod: {errors[0]}")
    return result, failed


class Network:
    """Makes and removes the network of the node and of its pods."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._pool = AddressPool()

    async def set_up(self) -> None:
        """The node's own addresses, routes and settings."""
        namespaces.sethostname(NODE_NAME)
        _write_sysctl("net.ipv4.ip_forward", "1")
        # Refusals are the answer to every wrong address, at any rate.
        _write_sysctl("net.ipv4.icmp_ratelimit", "0")
        _write_sysctl("net.ipv4.ip_unprivileged_port_start", "0")
        _disable_ipv6()
        await self._batch(node_commands(), [])

    async def create(
        self, hostname: str, sysctls: Mapping[str, str], *, host_network: bool = False
    ) -> tuple[Sandbox, list[str]]:
        """The namespaces and the address of a pod, and the sysctls that the kernel refused."""
        (net, ipc, uts), failed = await asyncio.to_thread(_make_namespaces, hostname, sysctls, host_network)
        if host_network:
            return Sandbox(net, ipc, uts, NODE_IP, host_network=True), failed
        try:
            ip = self._pool.take()
        except NetworkError:
            for fd in (net, ipc, uts):
                os.close(fd)
            raise
        sandbox = Sandbox(net, ipc, uts, ip)
        link = f"pod{int(ip) - int(POD_CIDR.network_address)}"
        try:
            await self._batch(pod_commands(ip, link, os.getpid()), ["nsenter", f"--net={sandbox.net}"])
            await self._batch(route_commands(ip, link), [])
        except NetworkError:
            self.destroy(sandbox)
            raise
        return sandbox, failed

    def destroy(self, sandbox: Sandbox) -> None:
        """Let go of a pod's namespaces. The kernel removes the interface pair and its route with the last process."""
        for fd in (sandbox.net_fd, sandbox.ipc_fd, sandbox.uts_fd):
            os.close(fd)
        if not sandbox.host_network:
            self._pool.release(sandbox.ip)

    async def _batch(self, text: str, prefix: list[str]) -> None:
        ip = tools.find("ip")  # by path: an unpacked one is not on the PATH of nsenter, nor are its libraries
        result = await self._processes.run([*prefix, ip.path, "-batch", "-"], stdin=text.encode(), env=ip.env)
        if result.code != 0:
            raise NetworkError(f"cannot set up the network: {result.message}")
