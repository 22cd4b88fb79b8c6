"""exec, attach, logs and port-forward between real clients and a stand-in for the node's two sockets.

The stand-in runs commands of this machine instead of containers and dials its loopback; what the node itself does is
tested with the node.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from kubernetes import client, config
from kubernetes.stream import portforward, stream
from tests.apiserver.conftest import KUBECTL, ApiServer, wait

PODS = "/api/v1/namespaces/default/pods"


class StandIn:
    """Serves node.sock and dial.sock in a thread of its own."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.stopped = asyncio.Event()
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(self._serve(),))

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        app.router.add_get("/exec/{namespace}/{pod}/{container}", self._exec)
        app.router.add_get("/stats/summary", self._stats)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.UnixSite(runner, str(self.run / "node.sock")).start()
        dialer = socket.socket(socket.AF_UNIX)
        dialer.bind(str(self.run / "dial.sock"))
        dialer.listen()
        threading.Thread(target=self._dial, args=(dialer,), daemon=True).start()
        self.ready.set()
        await self.stopped.wait()
        dialer.shutdown(socket.SHUT_RDWR)
        dialer.close()
        await runner.cleanup()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.stopped.set)
        self.thread.join()

    @staticmethod
    def _dial(dialer: socket.socket) -> None:
        while True:
            try:
                link, _ = dialer.accept()
            except OSError:
                return
            with link:
                wanted = json.loads(link.recv(4096))
                try:
                    made = socket.create_connection(("127.0.0.1", wanted["port"]), 5)
                except OSError as error:
                    link.sendall(json.dumps({"error": str(error)}).encode() + b"\n")
                    continue
                with made:
                    socket.send_fds(link, [b"{}\n"], [made.fileno()])

    @staticmethod
    async def _logs(request: web.Request) -> web.Response:
        if request.query.get("previous"):
            return web.Response(status=400, text="previous terminated container not found")
        return web.Response(text=f"log of {request.match_info['container']} tail={request.query.get('tailLines')}\n")

    @staticmethod
    async def _stats(_: web.Request) -> web.Response:
        usage = {"cpu": {"usageNanoCores": 250_000_000}, "memory": {"workingSetBytes": 64 << 20}}
        pod = {"podRef": {"namespace": "default", "name": "p"}, "containers": [{"name": "c", **usage}]}
        return web.json_response({"node": {"nodeName": "pilotfish", **usage}, "pods": [pod]})

    @staticmethod
    async def _exec(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"))
        await ws.prepare(request)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *request.query.getall("command"), stdin=pipe, stdout=pipe, stderr=pipe
        )
        assert process.stdin is not None

        async def out(channel: int, source: asyncio.StreamReader | None) -> None:
            while source is not None and (data := await source.read(4096)):
                await ws.send_bytes(bytes([channel]) + data)

        async def inwards() -> None:
            async for message in ws:
                if message.type is WSMsgType.BINARY and message.data[0] == 0 and process.stdin:
                    process.stdin.write(message.data[1:])
                elif message.type is WSMsgType.BINARY and message.data[0] == 255 and process.stdin:
                    process.stdin.close()

        if not request.query.get("stdin"):
            process.stdin.close()
        reader = asyncio.ensure_future(inwards())
        await asyncio.gather(out(1, process.stdout), out(2, process.stderr))
        code = await process.wait()
        status: dict[str, Any] = {"metadata": {}, "status": "Success"}
        if code:
            causes = [{"reason": "ExitCode", "message": str(code)}]
            status = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}
            status["message"] = f"command terminated with non-zero exit code: exit status {code}"
        await ws.send_bytes(b"\x03" + json.dumps(status).encode())
        await ws.close()
        reader.cancel()
        return ws


@pytest.fixture(scope="module")
def node(server: ApiServer) -> Iterator[ApiServer]:
    """A pod `p` with the containers c and d on a node, and the stand-in."""
    made = StandIn(server.data / "run")
    made.thread.start()
    made.ready.wait(10)
    spec = {"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}], "nodeName": "pilotfish"}
    server.create(PODS, {"metadata": {"name": "p"}, "spec": spec})
    running = {"status": {"phase": "Running"}}
    server.call("PATCH", f"{PODS}/p/status", running, content_type="application/merge-patch+json")
    yield server
    server.call("DELETE", f"{PODS}/p", gracePeriodSeconds=0)
    made.stop()


@pytest.mark.parametrize("websockets", ["true", "false"])
def test_kubectl_exec(node: ApiServer, websockets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output, errors, input with its end, and exit codes travel, over WebSocket and over SPDY."""
    monkeypatch.setenv("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
    done = node.kubectl("exec", "p", "-c", "c", "--", "sh", "-c", "echo out; echo err >&2; exit 7", ok=False)
    assert done.returncode == 7
    assert done.stdout == "out\n"
    assert "err\n" in done.stderr
    text = "line\n" * 20_000
    assert node.kubectl("exec", "-i", "p", "-c", "d", "--", "cat", stdin=text).stdout == text


def test_exec_needs_a_container_that_is_there(node: ApiServer) -> None:
    """An unknown container, none of several named, a pod without a node: 400, before anything is upgraded."""
    for query in ("container=x&command=true", "command=true&stdout=1"):
        answer = node.call("GET", f"{PODS}/p/exec?{query}", headers={"Upgrade": "websocket", "Connection": "Upgrade"})
        assert answer.code == 400
    assert "choose one of: [c d]" in answer.json["message"]


def test_the_python_client_executes(node: ApiServer) -> None:
    """The client's v4 WebSocket channels."""
    api = client.CoreV1Api(config.new_client_from_config(str(node.kubeconfig)))
    call = api.connect_get_namespaced_pod_exec
    shown = stream(call, "p", "default", container="c", command=["echo", "hello"], stdout=True, stderr=True)
    assert shown == "hello\n"


def test_logs(node: ApiServer) -> None:
    """The node's text comes through with the options; its refusals become Status objects."""
    assert node.kubectl("logs", "p", "-c", "d", "--tail=3").stdout == "log of d tail=3\n"
    done = node.kubectl("logs", "p", "-c", "d", "--previous", ok=False)
    assert "previous terminated container not found" in done.stderr


def test_top(node: ApiServer) -> None:
    """`kubectl top` shows what the node measured."""
    assert node.kubectl("top", "pod", "p").stdout.split()[-3:] == ["p", "250m", "64Mi"]


@pytest.fixture
def echo() -> Iterator[int]:
    """A TCP server that sends back what it gets, in capitals."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(4096):
                    connection.sendall(data.upper())

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


@pytest.mark.parametrize("websockets", ["true", "false"])
def test_kubectl_port_forward(
    node: ApiServer, echo: int, websockets: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Several connections one after another, tunnelled in a WebSocket and over plain SPDY."""
    monkeypatch.setenv("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)
    log = tmp_path / "log"
    with log.open("w") as out:
        command = [str(KUBECTL), "--kubeconfig", str(node.kubeconfig), "port-forward", "pod/p", f":{echo}"]
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        wait(lambda: "Forwarding from 127.0.0.1:" in log.read_text(), "the port-forward")
        port = int(log.read_text().split("127.0.0.1:")[1].split()[0])
        for text in (b"hello", b"again"):
            with socket.create_connection(("127.0.0.1", port), 5) as connection:
                connection.sendall(text)
                assert connection.recv(100) == text.upper()
    finally:
        process.terminate()
        process.wait()


def test_the_python_client_forwards_ports(node: ApiServer, echo: int) -> None:
    """The client's v4 WebSocket channels of port-forward."""
    api = client.CoreV1Api(config.new_client_from_config(str(node.kubeconfig)))
    forward = portforward(api.connect_get_namespaced_pod_portforward, "p", "default", ports=str(echo))
    connection = forward.socket(echo)
    connection.settimeout(5)
    connection.sendall(b"hello")
    assert connection.recv(100) == b"HELLO"
    connection.close()


def test_proxies_reach_into_the_pod(node: ApiServer) -> None:
    """An HTTP server in a pod answers under the pod's proxy address."""

    class Hello(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"GET {self.path}".encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        answer = node.call("GET", f"{PODS}/p:{serving.server_address[1]}/proxy/a/b?c=d")
        assert (answer.code, answer.raw) == (200, b"GET /a/b?c=d")
        serving.shutdown()


def test_the_node_lends_and_borrows_listeners(server: ApiServer) -> None:
    """A socket handed over is served with the API; one asked for listens on this machine; a taken port is refused."""
    lent = socket.create_server(("127.0.0.1", 0))
    port = lent.getsockname()[1]
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(server.data / "run" / "hostlink.sock"))
        socket.send_fds(link, [b'{"op": "serve"}\n'], [lent.fileno()])
        lent.close()
        url = f"https://127.0.0.1:{port}/readyz"
        deadline = time.monotonic() + 5
        while True:
            try:
                with urllib.request.urlopen(url, context=server.tls(), timeout=5) as answer:
                    assert answer.read() == b"ok"
                break
            except OSError:
                assert time.monotonic() < deadline
        link.sendall(b'{"op": "listen", "id": 1, "port": 0}\n')
        data, descriptors, _, _ = socket.recv_fds(link, 4096, 1)
        assert json.loads(data)["id"] == 1
        with socket.socket(fileno=descriptors[0]) as listener:
            host, taken = listener.getsockname()
            assert host == "127.0.0.1"
            link.sendall(json.dumps({"op": "listen", "id": 2, "port": taken}).encode() + b"\n")
            refused = json.loads(link.recv(4096))
        assert refused["id"] == 2
        assert "taken" in refused["error"]


def test_log_options_that_make_no_sense(server: ApiServer, namespace: str) -> None:
    """Numbers are checked before anything else: 400 for what is none, 422 for what makes no sense."""
    path = f"/api/v1/namespaces/{namespace}/pods/none/log"
    cases: list[tuple[dict[str, Any], int]] = [
        ({"tailLines": "x"}, 400),
        ({"tailLines": "-1"}, 422),
        ({"limitBytes": "0"}, 422),
        ({"sinceSeconds": "5", "sinceTime": "2026-01-01T00:00:00Z"}, 422),
        ({"tailLines": "1"}, 404),
    ]
    for query, code in cases:
        assert server.call("GET", path, **query).code == code, query
