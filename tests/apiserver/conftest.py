"""A real API server in a process of its own, and ways to talk to it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import pytest

KUBECTL = Path(sys.executable).with_name("kubectl")
START_SECONDS = 90


@dataclass
class Answer:
    code: int
    headers: http.client.HTTPMessage
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


class ApiServer:
    """One server process on a data directory."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self._names = itertools.count(1)
        self._local: dict[str, http.client.HTTPSConnection] = {}

    def start(self, *arguments: str) -> None:
        """Start and wait until it serves."""
        state = self.data / "run" / "apiserver.json"
        state.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "pilotfish.local.apiserver",
            "--data",
            str(self.data),
            "--port",
            str(self.port),
        ]
        with (self.data.parent / "apiserver.log").open("ab") as log:
            self.process = subprocess.Popen([*command, *arguments], stderr=log, stdout=log)
        deadline = time.monotonic() + START_SECONDS
        while not state.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.data.parent / "apiserver.log").read_text())
            time.sleep(0.02)
        self.port = json.loads(state.read_text())["port"]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the process; its exit code."""
        for connection in self._local.values():
            connection.close()
        self._local.clear()
        if self.process is None:
            return 0
        self.process.send_signal(number)
        return self.process.wait(60)

    @property
    def kubeconfig(self) -> Path:
        return self.data / "kubeconfig"

    def tls(self, *, admin: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.data / "pki" / "ca.crt")
        if admin:
            user = json.loads(self.kubeconfig.read_text())["users"][0]["user"]
            pem = self.data / "admin.pem"
            pem.write_bytes(
                base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"])
            )
            context.load_cert_chain(pem)
        return context

    def connect(self, *, admin: bool = True) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.tls(admin=admin))

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
        **query: Any,
    ) -> Answer:
        """One request: as the admin, or with a token ("" is nobody)."""
        who = "admin" if token is None else "token"
        connection = self._local.get(who)
        if connection is None:
            connection = self._local[who] = self.connect(admin=token is None)
        sent = {"Content-Type": content_type, **(headers or {})}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        full = path + ("?" + urlencode(query) if query else "")
        try:
            connection.request(method, full, data, sent)
            response = connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            del self._local[who]
            raise
        return Answer(response.status, response.headers, raw)

    def create(self, path: str, body: Any, **query: Any) -> Any:
        answer = self.call("POST", path, body, **query)
        assert answer.code == 201, answer.raw
        return answer.json

    def namespace(self) -> str:
        """A new namespace, in which the controllers have made what they make."""
        name = f"test-{os.getpid()}-{next(self._names)}"
        self.create("/api/v1/namespaces", {"metadata": {"name": name}})
        self.settle(name)
        return name

    def settle(self, namespace: str) -> None:
        """Wait for what controllers make in a namespace: its root certificate and its account."""
        path = f"/api/v1/namespaces/{namespace}"
        wait(lambda: self.call("GET", f"{path}/configmaps/kube-root-ca.crt").code == 200, "the root certificate")
        wait(lambda: self.call("GET", f"{path}/serviceaccounts/default").code == 200, "the default account")

    def account_token(self, namespace: str, name: str = "robot") -> str:
        """A service account and its token."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        self.create(path, {"metadata": {"name": name}})
        token: str = self.create(f"{path}/{name}/token", {"spec": {}})["status"]["token"]
        return token

    def kubectl(self, *arguments: str, stdin: str | None = None, ok: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [KUBECTL, "--kubeconfig", self.kubeconfig, "--cache-dir", self.data.parent / "kube-cache", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if ok:
            assert done.returncode == 0, done.stderr
        return done

    def watch(self, path: str, **query: Any) -> Watch:
        return Watch(self, path, query)


class Watch:
    """A watch that is read event by event."""

    def __init__(self, server: ApiServer, path: str, query: dict[str, Any]) -> None:
        self.connection = server.connect()
        self.connection.request("GET", path + "?" + urlencode({"watch": "1", **query}))
        self.response = self.connection.getresponse()

    def next(self) -> Any:
        """The next event; None at the end of the stream."""
        line = self.response.readline()
        return json.loads(line) if line else None

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wait(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Until the condition holds; its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)


@contextlib.contextmanager
def data_directory() -> Iterator[Path]:
    """A short path: Unix sockets live below it."""
    directory = Path(tempfile.mkdtemp(prefix="pf-"))
    try:
        yield directory / "data"
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def server() -> Iterator[ApiServer]:
    """A server that all tests of a worker share; each uses a namespace of its own."""
    with data_directory() as data:
        running = ApiServer(data)
        data.mkdir()
        running.start()
        yield running
        running.stop()


@pytest.fixture
def own_server() -> Iterator[ApiServer]:
    """A server, started, that a test may kill."""
    with data_directory() as data:
        running = ApiServer(data)
        data.mkdir()
        running.start()
        yield running
        running.stop(signal.SIGKILL)


@pytest.fixture
def namespace(server: ApiServer) -> str:
    return server.namespace()
