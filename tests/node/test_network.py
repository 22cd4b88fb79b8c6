"""The service network and its names on a real node."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from pilotfish.kube.resources import ENDPOINT_SLICES, SERVICES, Object

from .harness import World

# Says its pod's name, where the connection came from and what it was sent; on TCP and UDP port 8080.
ECHO = """
import os, socket, threading
name = os.environ["HOSTNAME"]
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("", 8080))
def udp():
    while True:
        data, peer = u.recvfrom(1000)
        u.sendto(f"{name} {peer[0]} {data.decode()}".encode(), peer)
threading.Thread(target=udp, daemon=True).start()
s = socket.create_server(("", 8080), backlog=64)
while True:
    c, peer = s.accept()
    data = c.recv(1000)
    body = f"{name} {peer[0]} {len(data)}".encode()
    c.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
    c.close()
"""
# Connects N times: prints what was answered, or the error.
ASK = """
import socket, sys
kind, host, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for _ in range(count):
    try:
        if kind == "udp":
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3); s.connect((host, port))
            s.send(b"x"); print(s.recv(1000).decode())
        else:
            s = socket.create_connection((host, port), 3); s.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
            print(s.makefile().read().splitlines()[-1])
    except OSError as error:
        print(type(error).__name__)
"""
RESOLVE = """
import socket, sys
for name in sys.argv[1:]:
    try:
        print(name, *sorted({i[4][0] for i in socket.getaddrinfo(name, 1, socket.AF_INET, socket.SOCK_STREAM)}))
    except socket.gaierror as error:
        print(name, error.errno == socket.EAI_NONAME and "unknown" or error)
"""
IDLE = ("sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait")


async def echo(world: World, name: str, **spec: Any) -> str:
    """A pod of the label app=echo; returns its address."""
    await world.pod(
        name,
        "python3",
        "-I",
        "-c",
        ECHO,
        metadata={"labels": {"app": "echo"}},
        container={"readinessProbe": {"tcpSocket": {"port": 8080}}, "ports": [{"containerPort": 8080}]},
        terminationGracePeriodSeconds=0,
        **spec,
    )
    return str((await world.ready(name))["status"]["podIP"])


async def service(world: World, name: str, **spec: Any) -> Object:
    ports = [
        {"name": "tcp", "port": 80, "targetPort": 8080, "protocol": "TCP"},
        {"name": "udp", "port": 80, "targetPort": 8080, "protocol": "UDP"},
    ]
    return await world.create(SERVICES, name, spec={"ports": ports, "selector": {"app": "echo"}, **spec})


async def endpoints(world: World, name: str, *ips: str) -> None:
    """The EndpointSlice of a Service, as its controller would write it; waits until there are so many addresses."""
    async with asyncio.timeout(60):
        while True:
            found = await world.client.list(
                ENDPOINT_SLICES, world.namespace, labels=f"kubernetes.io/service-name={name}"
            )
            present = {
                ip
                for one in found.items
                for e in one.get("endpoints") or ()
                if e["conditions"].get("ready")
                for ip in e["addresses"]
            }
            if present == set(ips):
                return
            await asyncio.sleep(0.05)


async def ask(world: World, pod: str, kind: str, host: str, port: int = 80, count: int = 1) -> list[str]:
    """What a pod is answered."""
    return (await world.output(pod, "python3", "-I", "-c", ASK, kind, host, str(port), str(count))).splitlines()


async def settled(world: World, pod: str, host: str, wanted: set[str], port: int = 80) -> list[str]:
    """Ask until exactly these pods answer; the rules follow the EndpointSlice within milliseconds."""
    async with asyncio.timeout(60):
        while True:
            answers = await ask(world, pod, "tcp", host, port, 16)
            if {answer.split()[0] for answer in answers} == wanted:
                return answers
            await asyncio.sleep(0.05)


async def test_cluster_ip(world: World) -> None:
    """Connections are spread over the ready pods with the client's address kept; ends of nothing are refused."""
    one, two = await asyncio.gather(echo(world, "one"), echo(world, "two"))
    await world.pod("client", *IDLE)
    client = (await world.ready("client"))["status"]["podIP"]
    ip = (await service(world, "web"))["spec"]["clusterIP"]
    await endpoints(world, "web", one, two)
    answers = await settled(world, "client", ip, {"one", "two"})
    assert {answer.split()[1] for answer in answers} == {client}
    assert (await ask(world, "client", "udp", ip))[0].split()[1:] == [client, "x"]
    # A pod reaches itself through the Service.
    assert {a.split()[0] for a in await settled(world, "one", ip, {"one", "two"})} == {"one", "two"}
    # Another port, an address of no Service, a pod that is not there: refused at once.
    assert await ask(world, "client", "tcp", ip, 81) == ["ConnectionRefusedError"]
    assert await ask(world, "client", "tcp", "10.96.250.250", 80) == ["ConnectionRefusedError"]
    assert await ask(world, "client", "udp", "10.96.250.250", 80) == ["ConnectionRefusedError"]
    assert await ask(world, "client", "tcp", "10.244.250.250", 80) == ["OSError"]
    assert await ask(world, "client", "tcp", "192.0.2.1", 80) == ["OSError"]
    # Without endpoints the port is refused, too.
    await world.delete("one")
    await settled(world, "client", ip, {"two"})
    await world.delete("two")
    await settled(world, "client", ip, {"ConnectionRefusedError"})


async def test_session_affinity(world: World) -> None:
    """With ClientIP a client stays with its pod, also when others come."""
    first = await echo(world, "one"), await echo(world, "two")
    await world.pod("client", *IDLE)
    await world.ready("client")
    ip = (await service(world, "web", sessionAffinity="ClientIP"))["spec"]["clusterIP"]
    await endpoints(world, "web", *first)
    async with asyncio.timeout(60):
        while "Error" in (answer := (await ask(world, "client", "tcp", ip))[0]):
            await asyncio.sleep(0.05)
    assert set(await ask(world, "client", "tcp", ip, count=16)) == {answer}
    third = await echo(world, "three")
    await endpoints(world, "web", *first, third)
    assert set(await ask(world, "client", "tcp", ip, count=16)) == {answer}


async def test_names(world: World) -> None:
    """Services, headless endpoints, pods and ExternalName, by short and long names; nothing else exists."""
    ip = await echo(world, "one", hostname="zero", subdomain="head")
    await service(world, "head", clusterIP="None")
    web = (await service(world, "web"))["spec"]["clusterIP"]
    await world.create(
        SERVICES,
        "alias",
        spec={"type": "ExternalName", "externalName": f"web.{world.namespace}.svc.cluster.local"},
    )
    await endpoints(world, "head", ip)
    await world.pod("client", *IDLE)
    await world.ready("client")
    ns = world.namespace
    names = {
        "web": web,
        f"web.{ns}": web,
        f"web.{ns}.svc": web,
        f"web.{ns}.svc.cluster.local": web,
        f"web.{ns}.svc.cluster.local.": web,
        "alias": web,
        "head": ip,
        f"zero.head.{ns}.svc": ip,
        f"{ip.replace('.', '-')}.{ns}.pod.cluster.local": ip,
        "kubernetes.default": "10.96.0.1",
        "nothing": "unknown",
        "example.com": "unknown",
    }
    found = await world.output("client", "python3", "-I", "-c", RESOLVE, *names)
    assert dict(line.split(" ", 1) for line in found.splitlines()) == names


def fetch(address: str, port: int) -> str:
    """What answers on the machine's loopback."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


async def until_answered(address: str, port: int, name: str) -> str:
    async with asyncio.timeout(60):
        while not (answer := await asyncio.to_thread(fetch, address, port)).startswith(name):
            await asyncio.sleep(0.05)
    return answer


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


async def test_node_port_and_load_balancer(world: World) -> None:
    """Both answer on the machine's loopback, a NodePort inside the cluster too; a taken port is told and retried."""
    one = await echo(world, "one")
    address = world.cluster.address
    free, taken = free_port(address), socket.create_server((address, 0))
    busy = taken.getsockname()[1]
    ports = [{"name": f"p{p}", "port": p, "targetPort": 8080, "protocol": "TCP"} for p in (free, busy)]
    created = await service(world, "web", type="LoadBalancer", ports=ports)
    node_port = created["spec"]["ports"][0]["nodePort"]
    await endpoints(world, "web", one)
    assert await until_answered(address, free, "one")
    assert await until_answered(address, node_port, "one")
    await world.pod("client", *IDLE)
    await world.ready("client")
    assert (await ask(world, "client", "tcp", "10.244.0.1", node_port))[0].startswith("one")
    async with asyncio.timeout(60):
        while True:
            status = (await world.client.get(SERVICES, "web", world.namespace)).get("status") or {}
            if [e["ip"] for e in (status.get("loadBalancer") or {}).get("ingress") or ()] == [address]:
                break
            await asyncio.sleep(0.05)
    events = await world.client.request("GET", f"/api/v1/namespaces/{world.namespace}/events")
    messages = [e["message"] for e in events["items"] if e["reason"] == "PortNotPublished"]
    assert len(messages) == 1
    assert f"port {busy}" in messages[0]
    taken.close()
    assert await until_answered(address, busy, "one")
    await world.client.delete(SERVICES, "web", world.namespace)
    async with asyncio.timeout(60):
        while await asyncio.to_thread(fetch, address, free) != "ConnectionRefusedError":
            await asyncio.sleep(0.05)


async def test_dial(world: World) -> None:
    """dial.sock hands out connections to a Service by name, to a pod's loopback, and says why it cannot."""
    one = await echo(world, "one")
    await service(world, "web")
    await endpoints(world, "web", one)
    uid = (await world.get("one"))["metadata"]["uid"]
    path = str(world.cluster.data / "run/dial.sock")

    def dial(**request: Any) -> str:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.connect(path)
            link.sendall(json.dumps(request).encode() + b"\n")
            answer, fds, _, _ = socket.recv_fds(link, 1000, 1)
        if not fds:
            return str(json.loads(answer)["error"])
        with socket.socket(fileno=fds[0]) as made:
            made.setblocking(True)
            made.sendall(b"GET / HTTP/1.1\r\n\r\n")
            return made.makefile().read().splitlines()[-1]

    host = f"web.{world.namespace}.svc"
    async with asyncio.timeout(60):
        while not (await asyncio.to_thread(dial, host=f"{host}.cluster.local", port=80)).startswith("one"):
            await asyncio.sleep(0.05)
    assert (await asyncio.to_thread(dial, pod=uid, port=8080)).split()[:2] == ["one", "127.0.0.1"]
    assert await asyncio.to_thread(dial, pod="none", port=1) == "the pod has no network: it is not running on this node"
    assert "connection refused" in await asyncio.to_thread(dial, pod=uid, port=81)
    assert "no such host" in await asyncio.to_thread(dial, host="none.example", port=80)


async def test_nothing_is_left_of_a_pod(world: World) -> None:
    """After a pod is gone its interface, route, files and logs are gone; its address is not used at once."""
    pid = world.cluster.node_pid

    def links() -> int:
        return Path(f"/proc/{pid}/net/dev").read_text().count(" pod")

    def descriptors() -> int:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))

    if os.geteuid() != 0:
        pytest.skip("only root can look into the node's network from outside")
    before, fds = links(), descriptors()
    ips = set()
    for number in range(3):
        ips.add(await echo(world, f"p{number}"))
        await world.delete(f"p{number}")
    async with asyncio.timeout(60):
        # Those of other tests may go meanwhile, and connections come and go.
        while links() > before or descriptors() > fds + 2:
            await asyncio.sleep(0.05)
    assert len(ips) == 3
    async with asyncio.timeout(60):
        while any((world.cluster.data / "logs").glob(f"{world.namespace}_*")):
            await asyncio.sleep(0.05)
