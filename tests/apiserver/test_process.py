"""The process: crashes, refusals to start, files it leaves."""

from __future__ import annotations

import base64
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.apiserver.conftest import KUBECTL, ApiServer

MAPS = "/api/v1/namespaces/default/configmaps"


def start(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start a server that is expected to refuse."""
    command = [sys.executable, "-m", "pilotfish.local.apiserver", "--data", str(data), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_acknowledged_writes_survive_a_kill(own_server: ApiServer) -> None:
    """kill -9 amid writes: every object that was acknowledged is there after the next start, and versions go on."""
    acknowledged: list[int] = []

    def write() -> None:
        connection = own_server.connect()
        for number in range(100_000):
            body = json.dumps({"metadata": {"name": f"c{number}"}})
            try:
                connection.request("POST", MAPS, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException):
                return
            if response.status == 201:
                acknowledged.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    deadline = time.monotonic() + 60
    while len(acknowledged) < 50 and time.monotonic() < deadline:
        time.sleep(0.01)
    own_server.stop(signal.SIGKILL)
    writer.join()
    assert len(acknowledged) >= 50
    own_server.start()
    listed = own_server.call("GET", MAPS).json
    names = {item["metadata"]["name"] for item in listed["items"]}
    assert {f"c{number}" for number in acknowledged} <= names
    newest = max(int(item["metadata"]["resourceVersion"]) for item in listed["items"])
    made = own_server.create(MAPS, {"metadata": {"name": "after"}})
    assert int(made["metadata"]["resourceVersion"]) > newest


def test_credentials_survive_a_restart(own_server: ApiServer) -> None:
    """The same authority, old kubeconfig files and tokens are good after a restart; SIGTERM ends with code 0."""
    authority = (own_server.data / "pki" / "ca.crt").read_bytes()
    context = own_server.tls()
    token = own_server.account_token("default")
    assert own_server.stop() == 0
    assert not (own_server.data / "run" / "apiserver.json").exists()
    own_server.start()
    assert (own_server.data / "pki" / "ca.crt").read_bytes() == authority
    old = http.client.HTTPSConnection("127.0.0.1", own_server.port, context=context)
    old.request("GET", MAPS)
    assert old.getresponse().status == 200
    old.close()
    assert own_server.call("GET", "/api/v1/namespaces/default/pods", token=token).code == 403


def test_secrets_are_private(own_server: ApiServer) -> None:
    """Keys and kubeconfig files can be read by their owner only."""
    private = [own_server.kubeconfig, *(own_server.data / "pki").glob("*")]
    assert len(private) >= 6
    assert {path.stat().st_mode & 0o077 for path in private} == {0}


def test_kubeconfigs_are_whole(own_server: ApiServer) -> None:
    """The node's and the controllers' files name their users."""
    for name, group in (("node", "system:nodes"), ("controllers", "system:masters")):
        config = json.loads((own_server.data / "pki" / f"{name}.kubeconfig").read_text())
        pem = base64.b64decode(config["users"][0]["user"]["client-certificate-data"])
        shown = subprocess.run(
            ["openssl", "x509", "-noout", "-subject"], input=pem, capture_output=True, check=True
        ).stdout.decode()
        assert group in shown


def test_the_chosen_namespace_survives_a_restart(own_server: ApiServer) -> None:
    """The default namespace that a user gave to kubectl is kept when the kubeconfig is written anew."""
    config = ["--kubeconfig", str(own_server.kubeconfig)]
    subprocess.run([KUBECTL, *config, "config", "set-context", "--current", "--namespace=mine"], check=True)
    own_server.stop()
    own_server.start()
    shown = [str(KUBECTL), *config, "config", "view", "--minify", "-o", "jsonpath={..namespace}"]
    assert subprocess.run(shown, check=True, capture_output=True, text=True).stdout == "mine"


def test_a_second_server_on_the_same_directory_is_refused(own_server: ApiServer) -> None:
    """One clear line, exit code 1, and the first goes on."""
    done = start(own_server.data, "--port", "0")
    assert done.returncode == 1
    assert "another API server runs on" in done.stderr
    assert done.stderr.count("\n") == 1
    assert own_server.call("GET", "/readyz").raw == b"ok"


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    """One clear line that names the port."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = start(tmp_path / "data", "--port", str(port))
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "taken" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("what", ["file", "database"])
def test_an_unusable_directory_is_refused(tmp_path: Path, what: str) -> None:
    """A data directory that is none, or whose database is none: one line, no traceback."""
    data = tmp_path / "data"
    if what == "file":
        data.write_text("")
    else:
        data.mkdir()
        (data / "objects.db").write_bytes(b"not a database, but long enough to be mistaken for one" * 50)
    done = start(data, "--port", "0")
    assert done.returncode == 1
    assert str(data) in done.stderr
    assert "Traceback" not in done.stderr
