"""OpenTelemetry's gRPC service over real connections: what it takes, what it refuses and with which code."""

from __future__ import annotations

import asyncio
import gzip
import random
import socket
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpclib import GRPCError, Status
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Cardinality
from grpclib.server import Server
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Status as OtlpStatus

from pilotfish.grpc import BytesCodec
from pilotfish.telemetry import receive
from pilotfish.telemetry.otlp import EXPORT
from pilotfish.telemetry.receive import MAX_BODY, Receiver
from pilotfish.telemetry.store import Store

TRACE = "463ac35c9f6413ad48485a3953bb6124"


class Collector:
    """A store with the service in front of it, and a client."""

    def __init__(self, store: Store, receiver: Receiver, channel: Channel) -> None:
        self.store, self.receiver, self.channel = store, receiver, channel

    async def export(self, request: ExportTraceServiceRequest) -> ExportTraceServiceResponse:
        method = UnaryUnaryMethod[bytes, bytes](self.channel, EXPORT, bytes, bytes)
        return ExportTraceServiceResponse.FromString(await method(request.SerializeToString(), timeout=10))

    async def raw(self, frame: bytes) -> bytes:
        """The answer to a message with its head as it is sent. Raises GRPCError."""
        async with self.channel.request(EXPORT, Cardinality.UNARY_UNARY, bytes, bytes, timeout=10) as stream:
            await stream.send_request()
            await stream._stream.send_data(frame, end_stream=True)
            stream._end_done = True
            answer = await stream.recv_message()
        assert isinstance(answer, bytes)
        return answer

    async def written(self, count: int) -> None:
        async with asyncio.timeout(60):
            while self.store.counts.spans < count:
                await asyncio.sleep(0.01)


@pytest.fixture
async def collector(tmp_path: Path) -> AsyncIterator[Collector]:
    store = await Store.open(tmp_path / "t.db")
    receiver = Receiver(store)
    task = asyncio.create_task(receiver.run())
    server = Server([receiver.trace_service()], codec=BytesCodec())
    listener = socket.create_server(("127.0.0.1", 0))
    await server.start(sock=listener)
    port = listener.getsockname()[1]
    async with Channel("127.0.0.1", port, codec=BytesCodec()) as channel:
        yield Collector(store, receiver, channel)
    server.close()
    await server.wait_closed()
    task.cancel()
    await store.close()


def request(spans: int = 1, *, bad: int = 0) -> ExportTraceServiceRequest:
    """Spans of one trace; bad ones have no id."""
    message = ExportTraceServiceRequest()
    group = message.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "page.shop"
    scope = group.scope_spans.add()
    now = time.time_ns()
    for number in range(1, spans + bad + 1):
        span = scope.spans.add(name="get", kind=2, trace_id=bytes.fromhex(TRACE))
        span.span_id = number.to_bytes(8, "big") if number <= spans else b""
        span.start_time_unix_nano, span.end_time_unix_nano = now, now + 5_000_000
        span.attributes.add(key="http.status_code").value.string_value = "200"
    return message


def framed(body: bytes, *, packed: bool = False, size: int | None = None) -> bytes:
    return bytes([packed]) + (len(body) if size is None else size).to_bytes(4, "big") + body


async def test_spans_are_kept_and_partial_success_is_told(collector: Collector) -> None:
    """A good request is answered by nothing; of a mixed one the number of spans that were rejected, and why."""
    assert not (await collector.export(request(3))).HasField("partial_success")
    answer = await collector.export(request(2, bad=2))
    assert answer.partial_success.rejected_spans == 2
    assert answer.partial_success.error_message
    assert not (await collector.export(ExportTraceServiceRequest())).HasField("partial_success")
    await collector.written(5)
    trace = await collector.store.trace(TRACE)
    assert {one.service for one in trace} == {"page.shop"}
    assert trace[0].duration == 5000
    assert collector.receiver.counts.refused == 2


async def test_values_of_all_types(collector: Collector) -> None:
    """Tags are text: numbers and booleans as JSON writes them, lists and maps as JSON, bytes in base64."""
    message = request()
    span = message.resource_spans[0].scope_spans[0].spans[0]
    add = span.attributes.add
    add(key="int").value.int_value = 3
    add(key="double").value.double_value = 0.5
    add(key="no").value.bool_value = False
    add(key="bytes").value.bytes_value = b"\x00\xff"
    add(key="list").value.array_value.values.add().string_value = "a"
    add(key="map").value.kvlist_value.values.add(key="k").value.int_value = 1
    add(key="none")
    span.events.add(name="retry", time_unix_nano=span.start_time_unix_nano)
    span.status.CopyFrom(OtlpStatus(code=OtlpStatus.STATUS_CODE_ERROR, message="gone"))
    await collector.export(message)
    await collector.written(1)
    (found,) = await collector.store.trace(TRACE)
    assert found.tags == {
        "http.status_code": "200",
        "int": "3",
        "double": "0.5",
        "no": "false",
        "bytes": "AP8=",
        "list": '["a"]',
        "map": '{"k":1}',
        "none": "",
        "error": "gone",
    }
    assert [one.value for one in found.annotations] == ["retry"]


async def test_compressed_messages(collector: Collector) -> None:
    """gzip and deflate are unpacked, up to the limit of what comes unpacked."""
    body = request(2).SerializeToString()
    assert await collector.raw(framed(gzip.compress(body), packed=True)) == b""
    assert await collector.raw(framed(zlib.compress(body), packed=True)) == b""
    await collector.written(2)
    bomb = gzip.compress(bytes(MAX_BODY + 1))
    for frame, status in (
        (framed(bomb, packed=True), Status.RESOURCE_EXHAUSTED),
        (framed(gzip.compress(body)[:-9], packed=True), Status.INTERNAL),
        (framed(b"no archive", packed=True), Status.UNIMPLEMENTED),
    ):
        with pytest.raises(GRPCError) as caught:
            await collector.raw(frame)
        assert caught.value.status is status, frame[:20]


async def test_refusals(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can never be taken is an invalid argument, what is too large is refused by its announced size, and when the
    disk is behind the sender may try again. The connection goes on."""
    for frame, status in (
        (framed(b"\xff\xff"), Status.INVALID_ARGUMENT),
        (framed(b"", size=MAX_BODY + 1), Status.RESOURCE_EXHAUSTED),
        (framed(b"abc", size=10), Status.INTERNAL),
        (b"\0\0", Status.INTERNAL),
        (b"", Status.INTERNAL),
    ):
        with pytest.raises(GRPCError) as caught:
            await collector.raw(frame)
        assert caught.value.status is status, frame[:20]
        assert caught.value.message
    assert collector.receiver.counts.refused == 1
    with monkeypatch.context() as patch:
        patch.setattr(receive, "MAX_QUEUE", 2)
        with pytest.raises(GRPCError) as caught:
            await collector.export(request(3))
    assert caught.value.status is Status.UNAVAILABLE
    assert collector.receiver.counts.dropped == 3
    await collector.export(request(1))
    await collector.written(1)


async def test_any_bytes_are_no_crash(collector: Collector) -> None:
    """Requests with flipped bytes are taken, in part, or an invalid argument; never anything else."""
    good = request(3).SerializeToString()
    for seed in range(100):
        noise = random.Random(seed).randbytes(3)  # noqa: S311 - the same each time
        at = seed * len(good) // 100
        body = good[:at] + noise + good[at + 3 :]
        try:
            await collector.raw(framed(body))
        except GRPCError as error:
            assert error.status is Status.INVALID_ARGUMENT, (body, error)  # noqa: PT017 - either is right
