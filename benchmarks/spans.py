"""What the console's collector costs for every request with spans, by protocol and size.

python benchmarks/spans.py
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
from grpclib.client import Channel, UnaryUnaryMethod
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pilotfish.grpc import BytesCodec
from pilotfish.telemetry.otlp import EXPORT

TAGS = {f"http.some.tag{number}": "some value of it" for number in range(14)}
SIZES = ((1000, 5), (20, 500))
"""Requests, and spans in each: Envoy sends five at once."""
PARALLEL = 8


class Console(NamedTuple):
    pid: int
    api: int
    http: int
    grpc: int

    def cpu(self) -> float:
        """Seconds of the process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def megabytes(self) -> float:
        return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())[0]) / 1024

    async def written(self, session: aiohttp.ClientSession, count: int) -> None:
        while True:
            async with session.get(f"http://127.0.0.1:{self.api}/api/health") as answer:
                if (await answer.json())["received"]["spans"] >= count:
                    break
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)


def otlp(size: int) -> bytes:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "page.shop"
    scope = group.scope_spans.add()
    for _ in range(size):
        now = time.time_ns()
        span = scope.spans.add(name="page:80/*", kind=2, start_time_unix_nano=now, end_time_unix_nano=now + 5_000_000)
        span.trace_id, span.span_id = os.urandom(16), os.urandom(8)
        for key, value in TAGS.items():
            span.attributes.add(key=key).value.string_value = value
    return bytes(request.SerializeToString())


def zipkin(size: int) -> bytes:
    common: dict[str, Any] = {"name": "page:80/*", "kind": "SERVER", "duration": 5000, "tags": TAGS}
    common["localEndpoint"] = {"serviceName": "page.shop"}
    now = time.time_ns() // 1000
    return msgspec.json.encode(
        [{"traceId": os.urandom(16).hex(), "id": os.urandom(8).hex(), "timestamp": now, **common} for _ in range(size)]
    )


async def measure(console: Console) -> None:
    async with (
        aiohttp.ClientSession() as session,
        Channel("127.0.0.1", console.grpc, codec=BytesCodec()) as channel,
    ):
        export = UnaryUnaryMethod[bytes, bytes](channel, EXPORT, bytes, bytes)

        async def post(path: str, body: bytes, kind: str) -> None:
            url = f"http://127.0.0.1:{console.http}{path}"
            async with session.post(url, data=body, headers={"Content-Type": kind}) as answer:
                assert answer.status in (200, 202)

        ways: dict[str, tuple[Callable[[int], bytes], Callable[[bytes], Awaitable[Any]]]] = {
            "OTLP over gRPC": (otlp, export),
            "OTLP over HTTP": (otlp, lambda body: post("/v1/traces", body, "application/x-protobuf")),
            "Zipkin's JSON": (zipkin, lambda body: post("/api/v2/spans", body, "application/json")),
        }
        sent = 0
        gate = asyncio.Semaphore(PARALLEL)
        for name, (make, send) in ways.items():
            for count, size in SIZES:
                bodies = [make(size) for _ in range(count)]

                async def one(body: bytes, send: Callable[[bytes], Awaitable[Any]] = send) -> None:
                    async with gate:
                        await send(body)

                before = console.cpu()
                await asyncio.gather(*map(one, bodies))
                sent += count * size
                await console.written(session, sent)
                spent = console.cpu() - before
                print(
                    f"{name:15} {count:5} requests of {size:3} spans: {spent / count * 1e3:6.2f} ms of CPU a request, "
                    f"{spent / count / size * 1e6:4.0f} µs a span, {console.megabytes():.0f} MB"
                )


def main() -> None:
    command = [sys.executable, "-m", "pilotfish.console", "--no-cluster", "--address", "127.0.0.1"]
    command += [word for flag in ("--port", "--receive-port", "--otlp-port") for word in (flag, "0")]
    with tempfile.TemporaryDirectory() as data:
        process = subprocess.Popen([*command, "--data", data], stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            ports = next(found for line in process.stderr if len(found := re.findall(r"(\d+) \(|and (\d+)", line)) >= 3)
            asyncio.run(measure(Console(process.pid, *(int(one or other) for one, other in ports[:3]))))
        finally:
            process.terminate()
            process.wait(60)


if __name__ == "__main__":
    main()
