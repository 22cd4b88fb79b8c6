"""Starting and stopping the local cluster: two processes, known through `DATA/run/cluster.json`.

All of it is idempotent: `up` starts what does not run, `down` stops what does. A lock on the data directory lets one
of them work at a time.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import http.client
import json
import os
import shutil
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilotfish.errors import UserError
from pilotfish.local import prerequisites
from pilotfish.local.network import DNS_SERVICE_IP, NODE_NAME
from pilotfish.local.node.erase import erase
from pilotfish.local.process import Process, memory, tree

DEFAULT_PORT = 6443
DEFAULT_ADDRESS = "127.0.0.1"
PARTS = ("apiserver", "node")
"""The processes, in the order of their start; they end in the opposite order."""

_PATIENCE = 60.0
"""Seconds that a part gets to become ready."""
_GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL."""
_POLL = 0.02
_LITTLE_SPACE = 1024 * 1024
_MAX_LOG = 10 * 1024 * 1024
_USERS = {"images.yaml"}
"""Of the data directory, what `reset` keeps."""
_MARK = "pilotfish-data"
"""A file that says whose directory this is, so that `reset` never empties another, and where the cluster last was."""

Say = Callable[[str], None]


@dataclass
class State:
    """What `DATA/run/cluster.json` says."""

    port: int
    address: str
    parts: dict[str, Process] = field(default_factory=dict)

    def running(self, part: str) -> bool:
        """Whether a part runs."""
        return part in self.parts and self.parts[part].alive()


@dataclass(frozen=True)
class Part:
    """A part as `status` reports it; memory in bytes (PSS), with all its children."""

    name: str
    pid: int | None
    memory: int
    processes: int


@dataclass(frozen=True)
class Status:
    """What runs. `server` is the API server's URL, empty when it does not answer."""

    data: Path
    server: str
    version: str
    node_ready: bool
    parts: list[Part]
    counts: dict[str, int]


def kubeconfig(data: Path) -> Path:
    """The path of the administrator's kubeconfig."""
    return data / "kubeconfig"


def up(data: Path, port: int | None, address: str | None, say: Say) -> None:
    """Start what does not run and wait until the cluster is ready.

    `port` and `address` None mean those of last time, or the defaults; port 0 any free port. On failure what was
    started is stopped again and `UserError` says why, with the end of the log.
    """
    with _locked(data, create=True):
        state = _load(data)
        if state and state.running("apiserver"):
            _refuse_other_place(state, port, address)
        else:
            state = _place(data, port, address, state)
        missing = [part for part in PARTS if not state.running(part)]
        if not missing:
            say(f"The cluster runs already: {_url(state)}")
            return
        unpacked = Path(sys.prefix).parent / ".tools"
        if unpacked.is_dir():  # made by scripts/setup where packages could not be installed
            os.environ.setdefault("PILOTFISH_TOOLS", str(unpacked))
        prerequisites.check(data)
        started: list[str] = []
        try:
            for part in PARTS:
                begun = time.monotonic()
                if part in missing:
                    state.parts[part] = _start(part, data, state)
                    started.append(part)
                    _save(data, state)
                _READY[part](data, state)
                if part in missing:
                    say(f"{_TITLES[part]} ready ({time.monotonic() - begun:.1f} s)")
        except BaseException as error:
            for part in reversed(started):
                state.parts.pop(part).stop(_GRACE)
            with contextlib.suppress(OSError):  # a full disk, say: what matters is that nothing runs
                _save(data, state)
            _tidy(data, state)
            if isinstance(error, OSError):
                raise UserError(f"cannot start the cluster in {data}: {error.strerror}") from error
            raise
        with contextlib.suppress(OSError):  # a full disk: then the next start does not know the place
            (data / _MARK).write_text(json.dumps({"address": state.address, "port": state.port}) + "\n")
        say(f"The cluster is ready: {_url(state)}")


def down(data: Path, say: Say) -> None:
    """Stop everything and remove what belongs to the run. Objects stay."""
    if not data.is_dir():
        say("The cluster does not run.")
        return
    with _locked(data):
        _down(data, say)


def reset(data: Path, say: Say) -> None:
    """Stop everything and forget all objects. The user's `images.yaml` stays."""
    if not data.is_dir():
        say("There is nothing to forget.")
        return
    with _locked(data):
        if not (data / _MARK).exists() and not {entry.name for entry in data.iterdir()} <= _USERS:
            raise UserError(f"{data} was not made by `pilotfish up`; nothing is removed")
        _down(data, say)
        for entry in data.iterdir():
            if entry.name in {*_USERS, _MARK}:
                continue
            if entry.is_dir() and not entry.is_symlink():
                erase(entry)
            else:
                entry.unlink()
        say("All objects are forgotten.")


def status(data: Path) -> Status:
    """What runs, where, and what it uses."""
    state = _load(data) if data.is_dir() else None
    parts = [_part(name, state) for name in PARTS]
    server = version = ""
    ready = False
    counts: dict[str, int] = {}
    if state and state.running("apiserver"):
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, LookupError, UserError):
            api = _Api(data)
            version = api.get("/version")["gitVersion"]
            server = _url(state)
            ready = state.running("node") and _node_ready(api)
            counts = {name: api.count(path) for name, path in _COUNTED.items()}
    return Status(data, server, version, ready, parts, counts)


_COUNTED = {
    "namespaces": "/api/v1/namespaces",
    "pods": "/api/v1/pods",
    "services": "/api/v1/services",
    "deployments": "/apis/apps/v1/deployments",
}


def _part(name: str, state: State | None) -> Part:
    if state is None or not state.running(name):
        return Part(name, None, 0, 0)
    pids = tree(state.parts[name].pid)
    return Part(name, state.parts[name].pid, sum(memory(pid) for pid in pids), len(pids))


# -- the run directory -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(data: Path, *, create: bool = False) -> Iterator[None]:
    try:
        if create:
            data.mkdir(mode=0o700, parents=True, exist_ok=True)
            if {entry.name for entry in data.iterdir()} <= _USERS:
                (data / _MARK).touch()
            (data / "logs").mkdir(mode=0o700, exist_ok=True)
            (data / "run").mkdir(mode=0o700, exist_ok=True)
            (data / "run").chmod(0o700)
        directory = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UserError(f"cannot use {data}: {error.strerror}; choose another place with --data DIR") from error
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _load(data: Path) -> State | None:
    try:
        stored = json.loads((data / "run" / "cluster.json").read_text())
        parts = {name: Process(**process) for name, process in stored["parts"].items()}
        return State(stored["port"], stored["address"], parts)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise UserError(f"cannot read {error.filename}: it belongs to another user; choose another --data") from error
    except (ValueError, LookupError, TypeError):
        return None  # written by a power cut: nothing of that run lives


def _save(data: Path, state: State) -> None:
    parts = {name: {"pid": process.pid, "started": process.started} for name, process in state.parts.items()}
    text = json.dumps({"port": state.port, "address": state.address, "parts": parts})
    path = data / "run" / "cluster.json"
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)


def _tidy(data: Path, state: State | None) -> None:
    """Remove the run directory when nothing runs."""
    if state is None or not any(state.running(part) for part in PARTS):
        shutil.rmtree(data / "run", ignore_errors=True)


def _down(data: Path, say: Say) -> None:
    state = _load(data)
    running = [part for part in reversed(PARTS) if state and state.running(part)]
    for part in running:
        assert state is not None  # noqa: S101  # tells the type checker
        state.parts[part].stop(_GRACE)
    _tidy(data, state)
    say("The cluster is stopped." if running else "The cluster does not run.")


# -- starting ----------------------------------------------------------------------------------------------------------


def _refuse_other_place(state: State, port: int | None, address: str | None) -> None:
    if (port or state.port) != state.port or (address or state.address) != state.address:
        raise UserError(f"the cluster runs on {state.address}:{state.port}; run `pilotfish down` first to move it")


def _place(data: Path, port: int | None, address: str | None, last: State | None) -> State:
    """Where the API server is to listen; clients keep working when a dead one comes back at its place."""
    before = (last.address, last.port) if last else _place_of_last_time(data)
    address = address or before[0]
    if port is None:
        port = before[1]
    if port == 0:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, 0))
            port = probe.getsockname()[1]
    try:
        prerequisites.check_port(address, port)
    except UserError:
        _tidy(data, last)
        raise
    return State(port, address, last.parts if last else {})


def _place_of_last_time(data: Path) -> tuple[str, int]:
    """Address and port of a cluster that was stopped; the defaults when there was none."""
    try:
        stored = json.loads((data / _MARK).read_text())
        return str(stored["address"]), int(stored["port"])
    except (OSError, ValueError, LookupError, TypeError):
        return DEFAULT_ADDRESS, DEFAULT_PORT


def _credentials(data: Path) -> Path:
    """An administrator's kubeconfig that is not the user's to edit, so it is always JSON."""
    return data / "pki" / "controllers.kubeconfig"


def _start(part: str, data: Path, state: State) -> Process:
    log = data / "logs" / f"{part}.log"
    if log.exists() and log.stat().st_size > _MAX_LOG:
        log.replace(log.with_suffix(".log.old"))
    arguments = [sys.executable, "-P", "-m", f"pilotfish.local.{part}", "--data", str(data)]
    if part == "apiserver":
        arguments += ["--port", str(state.port), "--address", state.address]
    (data / "run" / f"{part}.json").unlink(missing_ok=True)  # a crash leaves what says that it is ready
    return Process.start(arguments, log, os.environ)


def _wait(part: str, data: Path, state: State, ready: Callable[[], bool]) -> None:
    process = state.parts[part]
    end = time.monotonic() + _PATIENCE
    while True:
        alive = process.alive()
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, LookupError):
            if alive and ready():
                return
        if not alive:
            raise UserError(f"{_TITLES[part]} ended. {_log_end(data, part)}")
        if time.monotonic() > end:
            raise UserError(f"{_TITLES[part]} is not ready after {_PATIENCE:.0f} s. {_log_end(data, part)}")
        time.sleep(_POLL)


def _log_end(data: Path, part: str) -> str:
    log = data / "logs" / f"{part}.log"
    if shutil.disk_usage(data).free < _LITTLE_SPACE:  # then its reason is not in the log either
        return f"No space is left on the disk of {data}; make some, or choose another place with --data DIR"
    lines = log.read_text(errors="replace").splitlines()[-12:]
    return f"The end of {log}:\n" + "\n".join(f"  {line}" for line in lines)


def _wait_for_apiserver(data: Path, state: State) -> None:
    _wait("apiserver", data, state, lambda: _Api(data).ready())


def _wait_for_node(data: Path, state: State) -> None:
    api = _Api(data)
    _wait("node", data, state, lambda: (data / "run" / "node.json").exists() and _node_ready(api) and _dns(data))


def _node_ready(api: _Api) -> bool:
    conditions = api.get(f"/api/v1/nodes/{NODE_NAME}")["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _dns(data: Path) -> bool:
    """Whether the cluster's name server accepts connections, asked through the node."""
    with socket.socket(socket.AF_UNIX) as dial:
        dial.settimeout(2)
        dial.connect(str(data / "run" / "dial.sock"))
        dial.sendall(json.dumps({"host": str(DNS_SERVICE_IP), "port": 53}).encode() + b"\n")
        answer, descriptors, _, _ = socket.recv_fds(dial, 4096, 1)
        for descriptor in descriptors:
            os.close(descriptor)
        return bool(descriptors) and "error" not in json.loads(answer)


_READY = {"apiserver": _wait_for_apiserver, "node": _wait_for_node}
_TITLES = {"apiserver": "The API server", "node": "The node"}


def _url(state: State) -> str:
    host = f"[{state.address}]" if ":" in state.address else state.address
    return f"https://{host}:{state.port}"


class _Api:
    """The API server as the administrator, one connection."""

    def __init__(self, data: Path) -> None:
        config: dict[str, Any] = json.loads(_credentials(data).read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        # The ssl module reads keys from files only; this one is in memory, so a full disk does not matter.
        with os.fdopen(os.memfd_create("pair"), "wb") as pair:
            pair.write(base64.b64decode(user["client-certificate-data"]))
            pair.write(base64.b64decode(user["client-key-data"]))
            pair.flush()
            context.load_cert_chain(f"/proc/self/fd/{pair.fileno()}")
        place = cluster["server"].removeprefix("https://")
        self._connection = http.client.HTTPSConnection(place, timeout=5, context=context)

    def ready(self) -> bool:
        """Whether /readyz says so."""
        self._connection.request("GET", "/readyz")
        answer = self._connection.getresponse()
        answer.read()
        return answer.status == 200

    def get(self, path: str) -> Any:
        """A JSON document. Raises LookupError when the answer is not 200."""
        try:
            self._connection.request("GET", path)
            answer = self._connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        if answer.status != 200:
            raise LookupError(f"{path}: {answer.status}")
        return json.loads(body)

    def count(self, path: str) -> int:
        """How many objects a collection has."""
        page = self.get(f"{path}?limit=1")
        return len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0))
