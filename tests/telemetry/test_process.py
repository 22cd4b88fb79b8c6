"""The console as a process of its own, over loopback: spans in, answers out, bad flags and a bad disk."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "pilotfish.console", "--address", "127.0.0.1"]
COMMAND += [word for flag in ("--port", "--receive-port", "--otlp-port") for word in (flag, "0")]


class Process:
    """A started console and where it listens."""

    def __init__(self, *arguments: str) -> None:
        command = [*COMMAND, *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log = ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line
            if match := re.search(r"ports (\d+) \(API\), (\d+) .* and (\d+) \(spans by gRPC\)", line):
                self.api, self.receive = (f"http://127.0.0.1:{port}" for port in match.groups()[:2])
                self.otlp = int(match[3])
                return
        raise AssertionError(f"it did not start: {self.log}")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.api + path, timeout=10) as response:  # noqa: S310 - our own
            return json.load(response)

    def post(self, path: str, body: Any) -> int:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.receive + path, data, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - our own
            return int(response.status)

    def megabytes(self) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stderr is not None
        self.log += self.process.stderr.read()
        return self.process.wait(60)


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[Process]:
    one = Process(*arguments)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait()


def spans(count: int) -> list[dict[str, Any]]:
    now = int(time.time() * 1e6)
    local = {"serviceName": "page.shop"}
    common = {"duration": 10, "localEndpoint": local, "tags": {"http.url": "http://page/" + "x" * 60}}
    return [{"traceId": f"{i:x}", "id": f"{i:x}", "timestamp": now, **common} for i in range(1, count + 1)]


def test_spans_survive_a_restart(tmp_path: Path) -> None:
    """What was posted is answered, also by the next process; it ends with 0 on SIGTERM and stays small."""
    arguments = ("--no-cluster", "--data", str(tmp_path))
    with running(*arguments) as one:
        for _ in range(5):
            assert one.post("/api/v2/spans", spans(1000)) == 202
        end = time.monotonic() + 10
        while one.get("/api/health")["store"]["spans"] < 5000:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert len(one.get("/api/traces?service=page.shop&limit=7")["traces"]) == 7
        assert one.megabytes() < 60
        assert one.stop() == 0
        assert "Traceback" not in one.log
    with running(*arguments) as one:
        assert one.get("/api/traces/services") == {"services": ["page.shop"]}
        (span,) = one.get("/api/traces/3e8")["trace"]
        assert span["traceId"].endswith("3e8")


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/traces/xyz", 400, "no trace id"),
        ("/api/traces/abc", 404, "is not known"),
        ("/api/metrics?window=x", 400, "window="),
        ("/api/metrics?where=x", 400, "where=NAME=VALUE"),
        ("/api/metrics/range", 400, "name a metric"),
        ("/api/metrics/range?metric=a&step=0.001", 400, "points"),
        ("/api/metrics", 502, "Prometheus at http://127.0.0.1:1 cannot be reached"),
    ],
)
def test_wrong_questions(console: Process, path: str, status: int, words: str) -> None:
    """Each has a status and one sentence; a dead Prometheus is told by its address."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        console.get(path)
    assert caught.value.code == status
    assert words in json.load(caught.value)["error"]


def test_nothing_can_be_changed(console: Process) -> None:
    """The API answers GET only."""
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        request = urllib.request.Request(console.api + "/api/traces", b"{}", method=method)  # noqa: S310 - our own
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)  # noqa: S310 - our own
        assert caught.value.code == 405
        caught.value.close()


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One that asks a Prometheus which is not there."""
    with running("--prometheus", "http://127.0.0.1:1", "--data", str(tmp_path_factory.mktemp("data"))) as one:
        yield one


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--window", "-5"], 2, "no number of seconds above 0"),
        (["--window", "10"], 2, "ten times --scrape-interval"),
        (["--size-limit", "lots"], 2, "write for example 256Mi"),
        (["--no-cluster", "--traces", "x=http://y"], 1, "SYSTEM is one of zipkin, jaeger, tempo"),
        (["--no-cluster", "--prometheus", "here"], 1, "is no URL of Prometheus"),
        (["--no-cluster", "--data", "/dev/null/x"], 1, "/dev/null/x"),
        (["--kubeconfig", "/nonexistent"], 1, "kubeconfig /nonexistent"),
    ],
)
def test_it_says_why_it_does_not_start(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    """A line, an exit code, no traceback."""
    command = [*COMMAND, "--data", str(tmp_path), *arguments]
    env = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=env)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
