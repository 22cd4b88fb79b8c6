"""The calculating and greeting services."""

from __future__ import annotations

import aiohttp
import pytest

from pilotfish.local.images.programs import calculating, greeting, spring

from .conftest import Serve


async def test_calculating(serve: Serve, client: aiohttp.ClientSession) -> None:
    """The sum is answered as a number; what is no number is a bad request, another path is not found."""
    base = f"http://127.0.0.1:{await serve(calculating.answer)}"
    async with client.get(f"{base}/calculating/2/40") as answer:
        assert (answer.status, await answer.json()) == (200, 42)
    async with client.get(f"{base}/calculating/2/x") as answer:
        assert answer.status == 400
    async with client.get(f"{base}/other") as answer:
        assert answer.status == 404
        assert (await answer.json())["path"] == "/other"


async def test_poison(serve: Serve, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """With IS_POISON every sum is an error in Spring's shape, and greeting fails with it under its own path."""
    monkeypatch.setenv("IS_POISON", "true")
    port = await serve(calculating.answer)
    async with client.get(f"http://127.0.0.1:{port}/calculating/1/2") as answer:
        assert answer.status == 500
        error = await answer.json()
    assert list(error) == ["timestamp", "status", "error", "path"]
    assert error | {"timestamp": ""} == {
        "timestamp": "",
        "status": 500,
        "error": "Internal Server Error",
        "path": "/calculating/1/2",
    }
    monkeypatch.setenv("CALC_SERVICE_HOSTNAME", "127.0.0.1")
    monkeypatch.setattr(spring, "PORT", port)
    async with client.get(f"http://127.0.0.1:{await serve(greeting.answer)}/greeting/1/2") as answer:
        assert (answer.status, (await answer.json())["path"]) == (500, "/greeting/1/2")


async def test_greeting(serve: Serve, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greeting passes the sum on; without calc-service it is an error."""
    monkeypatch.setenv("CALC_SERVICE_HOSTNAME", "127.0.0.1")
    monkeypatch.setattr(spring, "PORT", await serve(calculating.answer))
    base = f"http://127.0.0.1:{await serve(greeting.answer)}"
    async with client.get(f"{base}/greeting/1/2") as answer:
        assert (answer.status, await answer.text()) == (200, "3")
    monkeypatch.setattr(spring, "PORT", 1)
    async with client.get(f"{base}/greeting/1/2") as answer:
        assert answer.status == 500


async def test_management(serve: Serve, client: aiohttp.ClientSession) -> None:
    """The management port has the probes that the manifests name."""
    base = f"http://127.0.0.1:{await serve(spring._management)}"
    for probe in ("liveness", "readiness"):
        async with client.get(f"{base}/actuator/health/{probe}") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "UP"})
