"""The API server: writes of one client, a change seen by many watchers, memory.

    python benchmarks/apiserver.py

Every figure stands beside a baseline of the same run: a handler on the same HTTP and TLS stack that stores nothing.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import multiprocessing
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from aiohttp import web

OBJECTS = 1000
WATCHERS = 200
CHANGES = 20
BODY = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ""}, "data": {"key": "value" * 20}}


class Server:
    """A server process on a directory of its own."""

    def __init__(self, data: Path) -> None:
        state = data / "run" / "apiserver.json"
        command = [sys.executable, "-m", "pilotfish.local.apiserver", "--data", str(data), "--port", "0"]
        started = time.monotonic()
        self.process = subprocess.Popen(command)
        while not state.exists():
            if self.process.poll() is not None:
                raise SystemExit("the server did not start")
            time.sleep(0.01)
        self.start_seconds = time.monotonic() - started
        self.port = json.loads(state.read_text())["port"]
        user = json.loads((data / "kubeconfig").read_text())["users"][0]["user"]
        pem = data / "admin.pem"
        pem.write_bytes(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
        self.tls = ssl.create_default_context(cafile=data / "pki" / "ca.crt")
        self.tls.load_cert_chain(pem)
        self.server_pem = data / "pki" / "apiserver.pem"

    @property
    def memory(self) -> float:
        """Resident memory, MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    @property
    def cpu(self) -> float:
        """Processor time used so far, seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


def _baseline(pem: str, ready: Any) -> None:
    """Answers every request with its own body."""

    async def handle(request: web.BaseRequest) -> web.Response:
        return web.Response(body=await request.read(), content_type="application/json")

    async def run() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        server = await asyncio.get_running_loop().create_server(web.Server(handle), "127.0.0.1", 0, ssl=context)
        ready.send(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    uvloop.run(run())


def writes(port: int, tls: ssl.SSLContext, path: str) -> float:
    """Creations a second by one client on one connection."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=tls)
    headers = {"Content-Type": "application/json"}
    started = time.monotonic()
    for number in range(OBJECTS):
        body = json.dumps(BODY | {"metadata": {"name": f"c{number}"}})
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        response.read()
        if response.status not in (200, 201):
            raise SystemExit(f"{response.status} {response.reason}")
    rate = OBJECTS / (time.monotonic() - started)
    connection.close()
    return rate


async def fan_out(server: Server) -> list[float]:
    """Milliseconds from a write to its arrival at the last of many watchers, for some writes."""
    base = f"https://127.0.0.1:{server.port}/api/v1/namespaces/default/configmaps"
    connector = aiohttp.TCPConnector(ssl=server.tls, limit=0)
    out = []
    async with aiohttp.ClientSession(connector=connector) as session:
        seen: asyncio.Queue[float] = asyncio.Queue()
        version = (await (await session.get(base)).json())["metadata"]["resourceVersion"]
        joined = asyncio.Semaphore(0)

        async def watch() -> None:
            async with session.get(base, params={"watch": "1", "resourceVersion": version}) as response:
                joined.release()
                while await response.content.readline():
                    seen.put_nowait(time.monotonic())

        tasks = [asyncio.create_task(watch()) for _ in range(WATCHERS)]
        for _ in tasks:
            await joined.acquire()
        for number in range(CHANGES):
            patch = json.dumps({"data": {"n": str(number)}})
            started = time.monotonic()
            headers = {"Content-Type": "application/merge-patch+json"}
            (await session.patch(f"{base}/c0", data=patch, headers=headers)).raise_for_status()
            out.append(max([await seen.get() for _ in tasks]) - started)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [seconds * 1000 for seconds in out]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="pf-bench-") as directory:
        server = Server(Path(directory) / "data")
        try:
            print(f"start to ready: {server.start_seconds:.2f} s; memory when idle: {server.memory:.0f} MB")
            ours, theirs = multiprocessing.Pipe()
            baseline = multiprocessing.Process(target=_baseline, args=(str(server.server_pem), theirs), daemon=True)
            baseline.start()
            base = writes(ours.recv(), server.tls, "/")
            baseline.kill()
            rate = writes(server.port, server.tls, "/api/v1/namespaces/default/configmaps?fieldManager=bench")
            print(
                f"{OBJECTS} ConfigMaps by one client: {rate:.0f}/s, {rate / base:.2f} of a bare handler's {base:.0f}/s"
            )
            times = sorted(asyncio.run(fan_out(server)))
            middle, worst = times[len(times) // 2], times[-1]
            print(f"a change reaches {WATCHERS} watchers: median {middle:.0f} ms, worst {worst:.0f} ms of {CHANGES}")
            before, at = server.cpu, time.monotonic()
            time.sleep(5)
            share = (server.cpu - before) / (time.monotonic() - at) * 100
            print(f"memory afterwards: {server.memory:.0f} MB; idle: {share:.1f} % of a core")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
