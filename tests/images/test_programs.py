"""The smaller programs, and what all of them have in common as processes."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path

import aiohttp
import pytest

from pilotfish.local.images import resolve
from pilotfish.local.images.programs import helloworld, httpbin, welcome

from .conftest import Serve, running


async def test_httpbin(serve: Serve, client: aiohttp.ClientSession) -> None:
    """What was received, and answers made to order."""
    base = f"http://127.0.0.1:{await serve(httpbin.answer)}"

    async def get(path: str, **headers: str) -> tuple[int, str]:
        async with client.get(base + path, headers=headers, allow_redirects=False) as answer:
            return answer.status, await answer.text()

    status, body = await get("/get?a=1", **{"x-one": "1"})
    received = json.loads(body)
    assert (status, received["args"], received["headers"]["X-One"]) == (200, {"a": "1"}, "1")
    assert received["url"] == f"{base}/get?a=1"
    assert json.loads((await get("/headers"))[1])["headers"]["Host"] == base.removeprefix("http://")
    assert json.loads((await get("/ip"))[1]) == {"origin": "127.0.0.1"}
    assert json.loads((await get("/user-agent", **{"user-agent": "me"}))[1]) == {"user-agent": "me"}
    assert (await get("/status/418"))[0] == 418
    assert (await get("/status/x"))[0] == 400
    assert (await get("/status/302"))[0] == 302
    assert {(await get("/status/200:0.5,503:0.5"))[0] for _ in range(40)} == {200, 503}
    assert (await get("/delay/0.01"))[0] == 200
    assert (await get("/nothing"))[0] == 404
    assert (await get("/post"))[0] == 405
    assert json.loads((await get("/anything/x"))[1])["method"] == "GET"
    async with client.get(f"{base}/bytes/1000") as answer:
        assert len(await answer.read()) == 1000
    async with client.get(f"{base}/response-headers?x-a=b") as answer:
        assert answer.headers["x-a"] == "b"
    async with client.post(f"{base}/post", json={"k": "v"}) as answer:
        assert (await answer.json())["json"] == {"k": "v"}
    async with client.post(f"{base}/post", data={"k": "v"}) as answer:
        assert (await answer.json())["form"] == {"k": "v"}
    async with client.get(f"{base}/basic-auth/u/p") as answer:
        assert answer.status == 401
    async with client.get(f"{base}/basic-auth/u/p", headers={"Authorization": "Basic dTpw"}) as answer:
        assert answer.status == 200


async def test_httpbin_as_gunicorn(client: aiohttp.ClientSession) -> None:
    """The command line that manifests give to gunicorn works: the command is found on the image's PATH."""
    found = resolve("docker.io/kennethreitz/httpbin", Path("/nonexistent"))
    assert found is not None
    process = await asyncio.create_subprocess_exec(
        *("/usr/bin/env", "gunicorn", "--access-logfile", "-", "-b", "0.0.0.0:0", "httpbin:app"),
        env=found.env | {"PATH": ":".join([*found.path, "/usr/bin", "/bin"])},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        async with client.get(f"http://127.0.0.1:{line.split()[-1]}/get") as answer:
            assert answer.status == 200
    finally:
        process.kill()
        await process.wait()


async def test_helloworld(serve: Serve, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says version and instance."""
    monkeypatch.setenv("SERVICE_VERSION", "v2")
    monkeypatch.setenv("HOSTNAME", "pod-1")
    async with client.get(f"http://127.0.0.1:{await serve(helloworld.answer)}/hello") as answer:
        assert await answer.text() == "Hello version: v2, instance: pod-1\n"


async def test_welcome(
    serve: Serve, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A page of its own, or the files of a mounted directory and nothing outside it."""
    base = f"http://127.0.0.1:{await serve(welcome.answer)}"
    async with client.get(base) as answer:
        assert "Welcome to nginx!" in await answer.text()
    root = tmp_path / "html"
    root.mkdir()
    (root / "index.html").write_text("mine")
    (tmp_path / "secret").write_text("secret")
    monkeypatch.setattr(welcome, "_ROOT", root)
    async with client.get(base) as answer:
        assert (await answer.text(), answer.content_type) == ("mine", "text/html")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(base.rpartition(":")[2]))
    writer.write(b"GET /../secret HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (await reader.read(-1)).startswith(b"HTTP/1.1 404")
    writer.close()


@pytest.mark.parametrize("image", ["examples-bookinfo-ratings-v1", "examples-bookinfo-details-v2", "nginx"])
async def test_life_of_a_program(image: str, client: aiohttp.ClientSession) -> None:
    """A program logs a line per request, is small, and ends at once with code 0 on SIGTERM."""
    async with running(f"docker.io/istio/{image}:1.20.2", "0") as (process, (port,)):
        async with client.get(f"http://127.0.0.1:{port}/health") as answer:
            await answer.read()
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        assert '"GET /health HTTP/1.1"' in line
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert await asyncio.wait_for(process.wait(), 60) == 0
        assert time.monotonic() - started < 2


async def test_requests_under_way_are_answered(client: aiohttp.ClientSession) -> None:
    """A program that is told to end while it is in use answers who waits, and who has not heard of it yet."""
    async with running("kong/httpbin", "0") as (process, (port,)):
        slow = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/delay/1.5"))
        async with client.get(f"http://127.0.0.1:{port}/get") as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        async with client.get(f"http://127.0.0.1:{port}/get") as answer:
            assert answer.status == 200
        assert (await slow).status == 200
        assert await asyncio.wait_for(process.wait(), 60) == 0


async def test_taken_port() -> None:
    """A port that is taken is one clear line and exit code 1."""
    async with running("istio/tcp-echo-server", "0") as (_, (port,)), running("istio/tcp-echo-server", "0") as (_, _):
        found = resolve("istio/tcp-echo-server", Path("/nonexistent"))
        assert found is not None
        process = await asyncio.create_subprocess_exec(*found.command, str(port), stderr=asyncio.subprocess.PIPE)
        _, output = await process.communicate()
        assert process.returncode == 1
        assert output.decode().startswith("cannot listen")
        assert output.count(b"\n") == 1
