"""Traffic capture: the rules that lead a pod's TCP connections through its proxy.

The rules and their order are Istio's (its `istio-iptables`), written as nftables and applied in one transaction: either
all hold or none. Applying them again replaces them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pilotfish.agent.options import PROXY_ID, AgentError

NAT, RAW = "istio-proxy-nat", "istio-proxy-raw"
TUNNEL_PORT = 15008
DNS_PORT = 15053
INBOUND_SOURCE = "127.0.0.6"
ALL = "*"


@dataclass(frozen=True)
class Capture:
    """What to capture. Lists hold what the flags of istio-iptables hold: `*`, CIDRs, ports."""

    outbound_port: int = 15001
    inbound_port: int = 15006
    uids: tuple[int, ...] = (PROXY_ID,)
    gids: tuple[int, ...] = (PROXY_ID,)
    mode: str = "REDIRECT"
    outbound_cidrs: tuple[str, ...] = (ALL,)
    excluded_cidrs: tuple[str, ...] = ()
    inbound_ports: tuple[str, ...] = (ALL,)
    excluded_inbound_ports: tuple[str, ...] = ()
    outbound_ports: tuple[str, ...] = ()
    excluded_outbound_ports: tuple[str, ...] = ()
    excluded_interfaces: tuple[str, ...] = ()
    rerouted_interfaces: tuple[str, ...] = ()
    redirect_dns: bool = False
    capture_all_dns: bool = False
    drop_invalid: bool = False
    nameservers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in ("REDIRECT", "NONE"):
            raise AgentError(
                f"interception mode {self.mode}: only REDIRECT and NONE can be had; "
                "set annotation sidecar.istio.io/interceptionMode to REDIRECT"
            )
        for cidr in (*self.outbound_cidrs, *self.excluded_cidrs):
            if cidr != ALL:
                _network(cidr)
        ports = (
            *self.inbound_ports,
            *self.excluded_inbound_ports,
            *self.outbound_ports,
            *self.excluded_outbound_ports,
        )
        for port in ports:
            if port != ALL and not (port.isdigit() and 0 < int(port) < 65536):
                raise AgentError(f"{port!r} is not a port")


def _network(cidr: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(cidr, strict=False)
    except ValueError as error:
        raise AgentError(f"{cidr!r} is not an address range such as 10.0.0.0/8") from error


def split(text: str) -> tuple[str, ...]:
    """A comma list as the flags have it."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _set(values: Iterable[object]) -> str:
    listed = list(dict.fromkeys(map(str, values)))
    return listed[0] if len(listed) == 1 else "{ " + ", ".join(listed) + " }"


def _v4(cidrs: Iterable[str]) -> list[str]:
    return [str(net) for cidr in cidrs if isinstance(net := _network(cidr), ipaddress.IPv4Network)]


def _v6(cidrs: Iterable[str]) -> list[str]:
    return [str(net) for cidr in cidrs if isinstance(net := _network(cidr), ipaddress.IPv6Network)]


def render(capture: Capture) -> str:
    """The nft script: tables are deleted and made anew in the same transaction."""
    if capture.mode == "NONE":
        return cleanup()
    chains = {
        "prerouting": ["type nat hook prerouting priority dstnat; policy accept;", *_prerouting(capture)],
        "output": ["type nat hook output priority -100; policy accept;", *_output(capture)],
        "istio-inbound": _inbound(capture),
        "istio-output": _istio_output(capture),
        "istio-in-redirect": [f"meta l4proto tcp counter redirect to :{capture.inbound_port}"],
        "istio-redirect": [f"meta l4proto tcp counter redirect to :{capture.outbound_port}"],
    }
    if capture.redirect_dns:
        chains["istio-output-dns"] = _dns_redirect(capture)
    tables = {NAT: chains}
    if capture.redirect_dns:
        tables[RAW] = _dns_zones(capture)
    if capture.drop_invalid:
        tables.setdefault(RAW, {})["drop-invalid"] = [
            "type filter hook prerouting priority mangle; policy accept;",
            "ct state invalid counter drop",
        ]
    return cleanup() + "".join(_table(name, one) for name, one in tables.items())


def cleanup() -> str:
    """Remove our tables, present or not."""
    return "".join(f"table inet {name}\ndelete table inet {name}\n" for name in (NAT, RAW))


def _table(name: str, chains: dict[str, list[str]]) -> str:
    lines = [f"table inet {name} {{"]
    # Chains that are jumped to must stand before those that jump.
    for chain in sorted(chains, key=lambda one: (_depth(one), one)):
        lines += [f"  chain {chain} {{", *(f"    {rule}" for rule in chains[chain]), "  }"]
    return "\n".join([*lines, "}", ""])


def _depth(chain: str) -> int:
    order = ("istio-in-redirect", "istio-redirect", "istio-output-dns", "istio-inbound", "istio-output")
    return order.index(chain) if chain in order else len(order)


def _prerouting(capture: Capture) -> list[str]:
    rules = []
    for interface in capture.rerouted_interfaces:
        rules += [
            *(f'iifname "{interface}" ip daddr {cidr} counter return' for cidr in _v4(capture.excluded_cidrs)),
            f'iifname "{interface}" meta l4proto tcp counter jump istio-redirect',
        ]
    rules += [f'iifname "{interface}" counter return' for interface in capture.excluded_interfaces]
    if capture.inbound_ports:
        rules.append("meta l4proto tcp counter jump istio-inbound")
    return rules


def _inbound(capture: Capture) -> list[str]:
    rules = [f"tcp dport {TUNNEL_PORT} counter return"]
    if ALL in capture.inbound_ports:
        if capture.excluded_inbound_ports:
            rules.append(f"tcp dport {_set(capture.excluded_inbound_ports)} counter return")
        return [*rules, "meta l4proto tcp counter jump istio-in-redirect"]
    if capture.inbound_ports:
        rules.append(f"tcp dport {_set(capture.inbound_ports)} counter jump istio-in-redirect")
    return rules


def _output(capture: Capture) -> list[str]:
    rules = [f'oifname "{interface}" counter return' for interface in capture.excluded_interfaces]
    return [*rules, "meta l4proto { tcp, udp } counter jump istio-output"]


def _owners(capture: Capture) -> list[tuple[str, str]]:
    """Matches of the proxy's own traffic, and their negations: by user, by group, by socket mark.

    The mark is for proxies that cannot have a user of their own (a user namespace with a single user).
    """
    pairs = [(f"meta skuid {uid}", f"meta skuid != {uid}") for uid in capture.uids]
    pairs += [(f"meta skgid {gid}", f"meta skgid != {gid}") for gid in capture.gids]
    return [*pairs, (f"meta mark {PROXY_ID}", f"meta mark != {PROXY_ID}")]


def _istio_output(capture: Capture) -> list[str]:
    rules = []
    if capture.excluded_outbound_ports:
        ports = _set(capture.excluded_outbound_ports)
        rules += [f"{protocol} dport {ports} counter return" for protocol in ("tcp", "udp")]
    rules += [
        f'oifname "lo" ip saddr {INBOUND_SOURCE} counter return',
        'oifname "lo" ip6 saddr ::6 counter return',
    ]
    own_dports = f"!= {{ 53, {TUNNEL_PORT} }}" if capture.redirect_dns else f"!= {TUNNEL_PORT}"
    owners = _owners(capture)
    for match, _ in owners:
        rules += [
            f'oifname "lo" ip daddr != 127.0.0.1 tcp dport {own_dports} {match} counter jump istio-in-redirect',
            f'oifname "lo" ip6 daddr != ::1 tcp dport {own_dports} {match} counter jump istio-in-redirect',
        ]
    if not any(_network(cidr).overlaps(_LOOPBACK) for cidr in _v4(c for c in capture.outbound_cidrs if c != ALL)):
        # An application's own loopback traffic stays direct. All matches must fail for it to be the application.
        others = " ".join(negation for _, negation in owners)
        dns = "tcp dport != 53 " if capture.redirect_dns else ""
        rules.append(f'oifname "lo" {dns}{others} counter return')
    rules += [f"{match} counter return" for match, _ in owners]
    if capture.redirect_dns:
        rules.append("counter jump istio-output-dns")
    rules += ["ip daddr 127.0.0.1 counter return", "ip6 daddr ::1 counter return"]
    if excluded := _v4(capture.excluded_cidrs):
        rules.append(f"ip daddr {_set(excluded)} counter return")
    if excluded := _v6(capture.excluded_cidrs):
        rules.append(f"ip6 daddr {_set(excluded)} counter return")
    if capture.outbound_ports:
        rules.append(f"tcp dport {_set(capture.outbound_ports)} counter jump istio-redirect")
    if ALL in capture.outbound_cidrs:
        return [*rules, "meta l4proto tcp counter jump istio-redirect"]
    if included := _v4(capture.outbound_cidrs):
        rules.append(f"meta l4proto tcp ip daddr {_set(included)} counter jump istio-redirect")
    if included := _v6(capture.outbound_cidrs):
        rules.append(f"meta l4proto tcp ip6 daddr {_set(included)} counter jump istio-redirect")
    return rules


_LOOPBACK = ipaddress.ip_network("127.0.0.0/8")


def _servers(capture: Capture, direction: str) -> list[str]:
    """Matches of the nameservers; one empty match when every server is captured."""
    if capture.capture_all_dns:
        return [""]
    v4 = [one for one in capture.nameservers if ":" not in one]
    v6 = [one for one in capture.nameservers if ":" in one]
    found = [f"ip {direction} {_set(v4)} "] if v4 else []
    return found + ([f"ip6 {direction} {_set(v6)} "] if v6 else [])


def _dns_redirect(capture: Capture) -> list[str]:
    return [
        f"{server}{protocol} dport 53 counter redirect to :{DNS_PORT}"
        for server in _servers(capture, "daddr")
        for protocol in ("tcp", "udp")
    ]


def _dns_zones(capture: Capture) -> dict[str, list[str]]:
    """Connection tracking zones, so that the proxy's own queries and the captured ones are not taken for each other."""
    output = ["type filter hook output priority raw; policy accept;"]
    for match, _ in _owners(capture):
        output += [
            f"udp dport 53 {match} counter ct zone set 1",
            f"udp sport {DNS_PORT} {match} counter ct zone set 2",
        ]
    output += [f"{server}udp dport 53 counter ct zone set 2" for server in _servers(capture, "daddr")]
    prerouting = ["type filter hook prerouting priority raw; policy accept;"]
    prerouting += [f"{server}udp sport 53 counter ct zone set 1" for server in _servers(capture, "saddr")]
    return {"output": output, "prerouting": prerouting}


def nameservers(resolv_conf: Path = Path("/etc/resolv.conf")) -> tuple[str, ...]:
    lines = resolv_conf.read_text().splitlines() if resolv_conf.is_file() else []
    return tuple(words[1] for line in lines if (words := line.split()) and words[0] == "nameserver" and len(words) > 1)


async def apply(script: str) -> None:
    """Run one nft transaction. Raises AgentError with what nft says."""
    nft = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin")
    if nft is None:
        raise AgentError("the program nft is not there; install the package nftables")
    process = await asyncio.create_subprocess_exec(
        nft, "-f", "-", stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate(script.encode())
    if process.returncode != 0:
        text = errors.decode(errors="replace").strip()
        hint = "; the container needs capability NET_ADMIN" if "Operation not permitted" in text else ""
        raise AgentError(f"the capture rules were refused: {text.splitlines()[0] if text else 'no message'}{hint}")


async def check() -> None:
    """Whether the rules are there. Raises AgentError."""
    nft = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin") or "nft"
    process = await asyncio.create_subprocess_exec(
        nft,
        *("list", "chain", "inet", NAT, "istio-output"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await process.communicate()
    if process.returncode != 0 or b"istio-redirect" not in out:
        raise AgentError("the capture rules are not in force after they were applied")
