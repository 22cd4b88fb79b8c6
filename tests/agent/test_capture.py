"""The capture rules: what they say, and what a connection does under them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from tests.ordinary import ROOT

from pilotfish.agent.capture import Capture, cleanup, render
from pilotfish.agent.options import AgentError


def chain(script: str, name: str) -> list[str]:
    """The rules of one chain, without counters."""
    body = script.split(f"chain {name} {{\n")[1].split("  }", maxsplit=1)[0]
    return [line.strip().replace(" counter", "") for line in body.splitlines() if line.strip()]


def test_order_of_inbound_rules() -> None:
    """The tunnel port first, then the excluded ports, then everything to the proxy."""
    script = render(Capture(excluded_inbound_ports=("15090", "15021", "15020", "22")))
    assert chain(script, "istio-inbound") == [
        "tcp dport 15008 return",
        "tcp dport { 15090, 15021, 15020, 22 } return",
        "meta l4proto tcp jump istio-in-redirect",
    ]


def test_listed_inbound_ports_only() -> None:
    """With a list, only those ports are captured; with none, nothing is."""
    assert chain(render(Capture(inbound_ports=("80", "81"))), "istio-inbound")[-1].startswith("tcp dport { 80, 81 }")
    assert "jump istio-inbound" not in render(Capture(inbound_ports=()))


def test_order_of_outbound_rules() -> None:
    """Excluded ports first, the proxy's own traffic before any redirect, excluded ranges before the last rule."""
    rules = chain(render(Capture(excluded_outbound_ports=("25",), excluded_cidrs=("10.1.0.0/16",))), "istio-output")
    order = ["tcp dport 25", "meta skuid 1337", "ip daddr 127.0.0.1", "ip daddr 10.1.0.0/16"]
    order = [f"{match} return" for match in order]
    assert [rules.index(rule) for rule in order] == sorted(rules.index(rule) for rule in order)
    assert rules[-1] == "meta l4proto tcp jump istio-redirect"


def test_no_outbound_range_means_no_outbound_capture() -> None:
    """An empty include list captures nothing outbound."""
    assert "jump istio-redirect" not in render(Capture(outbound_cidrs=()))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"mode": "TPROXY"}, "interceptionMode"),
        ({"outbound_cidrs": ("nonsense",)}, "not an address range"),
        ({"inbound_ports": ("http",)}, "'http' is not a port"),
        ({"excluded_outbound_ports": ("70000",)}, "'70000' is not a port"),
    ],
)
def test_bad_settings_are_named(arguments: dict[str, object], text: str) -> None:
    """What cannot be done is refused before any rule is set."""
    with pytest.raises(AgentError, match=text):
        Capture(**arguments)  # type: ignore[arg-type]  # wrong on purpose


PROBE = textwrap.dedent(
    """
    import os, socket, subprocess, sys
    from pilotfish.agent.capture import Capture, render
    run = lambda *words, text=None: subprocess.run(words, input=text, text=True, check=True)
    run("ip", "link", "set", "lo", "up")
    run("ip", "addr", "add", "10.9.9.1/32", "dev", "lo")
    run("ip", "link", "add", "out", "type", "veth", "peer", "name", "nowhere")
    run("ip", "link", "set", "out", "up")
    run("ip", "link", "set", "nowhere", "up")
    run("ip", "route", "add", "10.96.0.0/16", "dev", "out", "src", "10.9.9.1")
    for _ in range(2):  # setting them again replaces them
        run("nft", "-f", "-", text=render(Capture(excluded_cidrs=("10.96.7.0/24",), excluded_outbound_ports=("2525",))))
    servers = {}
    for port in (15001, 15006, 8080):
        servers[port] = socket.create_server(("0.0.0.0", port))
        servers[port].settimeout(0.3)
    def lands(address, port, mark=0, source=None):
        with socket.socket() as one:
            one.settimeout(0.3)
            if mark: one.setsockopt(socket.SOL_SOCKET, 36, mark)
            if source: one.bind((source, 0))
            try: one.connect((address, port))
            except OSError: return None
            for number, server in servers.items():
                try: server.accept()[0].close(); return number
                except TimeoutError: pass
    print(lands("10.96.0.1", 80), lands("10.96.7.1", 8080), lands("127.0.0.1", 8080), lands("10.9.9.1", 8080),
          lands("10.96.0.1", 80, mark=1337), lands("10.9.9.1", 8080, mark=1337),
          lands("10.9.9.1", 8080, mark=1337, source="127.0.0.6"), lands("10.96.0.1", 2525))
    """
)


def test_connections_land_where_the_rules_say() -> None:
    """In a namespace of its own: the application's calls go to the outbound port, its loopback stays direct, and the
    proxy's go through the inbound port only towards the pod itself."""
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    command = [*unshare, sys.executable, "-c", PROBE]
    # Where an ordinary user finds ip and nft: scripts/setup unpacks what cannot be installed.
    path = f"{ROOT}/.tools/wrapped:{os.environ['PATH']}:/usr/sbin:/sbin"
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    service, excluded, loopback, own, *proxy = done.stdout.split()
    assert (service, loopback, own) == ("15001", "8080", "8080")
    assert excluded == "None"
    assert proxy == ["None", "15006", "8080", "None"]


def test_cleanup_can_be_repeated() -> None:
    """Removing rules that are not there is no error."""
    assert cleanup().count("delete table") == 2
