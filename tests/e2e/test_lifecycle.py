"""up, down, reset and crashes: what resumes, what is said, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.ordinary import MODES

from pilotfish.local.process import tree

from .conftest import CLUSTERS, skip_unless_possible
from .harness import Cluster, curl, fresh, wait_until

WORKLOAD = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: web, image: nginx}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80}]}
"""


@pytest.fixture(params=[pytest.param(m, marks=pytest.mark.xdist_group(f"lifecycle-{m}")) for m in CLUSTERS])
def stopped(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster that is not started."""
    skip_unless_possible(request.param)
    with fresh(request.param) as cluster:
        yield cluster


def _processes(cluster: Cluster) -> list[str]:
    """Processes that have to do with the cluster's data directory, by command line or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(cluster.data) in text:
            found.append(f"{entry.name}: {(entry / 'cmdline').read_bytes()[:200]!r}")
    return found


def _namespaces(pids: list[int]) -> set[str]:
    """The namespaces of processes, without those of this process."""
    own = {str(link.readlink()) for link in Path("/proc/self/ns").iterdir()}
    found: set[str] = set()
    for pid in pids:
        for kind in ("net", "mnt", "pid", "user", "ipc", "uts", "cgroup"):
            try:
                found.add(str(Path(f"/proc/{pid}/ns/{kind}").readlink()))
            except OSError:
                continue
    return found - own


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _host() -> dict[str, set[str]]:
    """Interfaces, mounts and rules of the machine's own namespaces."""

    def lines(*command: str) -> set[str]:
        return set(subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines())

    return {
        "interfaces": {line.split(": ")[1] for line in lines("ip", "-o", "link")},
        "mounts": {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()},
        "rules": lines("nft", "list", "tables") if os.geteuid() == 0 else set(),
    }


def test_nothing_is_left_behind(stopped: Cluster) -> None:
    """After down no process, namespace, interface, mount, rule or socket is left; after reset no object."""
    cluster = stopped
    host = _host()
    cluster.up()
    cluster.apply(WORKLOAD)
    cluster.ready("default")
    pids = [pid for part in cluster.state()["parts"] for pid in tree(part["pid"])]
    namespaces = _namespaces(pids)
    assert len(pids) >= 5
    assert any(name.startswith("net:") for name in namespaces)
    assert "stopped" in cluster.pilotfish("down").stdout
    wait_until(lambda: not _processes(cluster), "no process of the cluster", 60)
    wait_until(lambda: not namespaces & _namespaces(_all_pids()), "no namespace of the cluster", 60)
    for what, before in host.items():
        wait_until(lambda what=what, before=before: _host()[what] <= before, f"no new {what}", 60)  # type: ignore[misc]
    assert not (cluster.data / "run").exists()
    assert not [path for path in cluster.data.rglob("*") if path.is_socket()]
    assert "does not run" in cluster.pilotfish("down").stdout
    cluster.up()
    assert cluster.get("deploy", "web")["spec"]["replicas"] == 2
    cluster.ready("default")
    cluster.pilotfish("reset")
    assert sorted(path.name for path in cluster.data.iterdir()) == ["pilotfish-data"]
    cluster.up()
    assert "NotFound" in cluster.kubectl("get", "deploy", "web", check=False)


def test_second_up(stopped: Cluster) -> None:
    """A second up changes nothing and says so; another port is refused; status tells what runs.

    Neither minds what the user has done to the kubeconfig, and a cluster that was stopped comes back at its place.
    """
    cluster = stopped
    cluster.up()
    cluster.kubectl("config", "set-context", "--current", "--namespace=default")
    before = cluster.state()
    assert "runs already" in cluster.pilotfish("up").stdout
    refused = cluster.pilotfish("up", "--port", "1", check=False)
    assert refused.returncode == 1
    assert "pilotfish down" in refused.stderr
    after = cluster.state()
    assert [part["pid"] for part in after["parts"]] == [part["pid"] for part in before["parts"]]
    assert after["node_ready"]
    assert after["counts"]["namespaces"] >= 4
    assert cluster.pilotfish("status").returncode == 0
    assert cluster.pilotfish("kubeconfig").stdout.strip() == str(cluster.data / "kubeconfig")
    cluster.pilotfish("down")
    cluster.pilotfish("up")
    assert cluster.state()["server"] == before["server"]


@pytest.mark.parametrize("parts", [("apiserver",), ("node",), ("apiserver", "node")], ids="+".join)
def test_crash(stopped: Cluster, parts: tuple[str, ...]) -> None:
    """After kill -9, up starts only what died, at its place, with all objects, and no stray process is left."""
    cluster = stopped
    cluster.up()
    cluster.apply(WORKLOAD)
    cluster.ready("default")
    cluster.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    before = {part["name"]: part["pid"] for part in cluster.state()["parts"]}
    server = cluster.state()["server"]
    node_tree = tree(before["node"])
    for part in parts:
        os.kill(before[part], signal.SIGKILL)
    assert cluster.pilotfish("status", check=False).returncode == 3
    cluster.pilotfish("up")
    state = cluster.state()
    after = {part["name"]: part["pid"] for part in state["parts"]}
    assert state["server"] == server
    for part, pid in before.items():
        assert (after[part] != pid) == (part in parts)
    assert cluster.get("configmap", "kept")["data"] == {"a": "b"}
    cluster.ready("default")
    if "node" in parts:
        wait_until(lambda: not set(node_tree) & set(_all_pids()), "the old node's processes are gone", 60)

    def running() -> bool:
        pods = cluster.get("pods", "-l", "app=web")["items"]
        return [c["ready"] for pod in pods for c in pod["status"].get("containerStatuses", [])] == [True, True]

    wait_until(running, "both pods run")
    port = cluster.get("service", "web")["spec"]["ports"][0]["nodePort"]
    wait_until(
        lambda: "Welcome to nginx!" in curl(f"http://{cluster.address}:{port}/")[1], "the NodePort answers again"
    )
    assert len([line for line in _processes(cluster) if "-m\\x00pilotfish.local.apiserver" in line]) == 1


def test_two_at_once(stopped: Cluster) -> None:
    """Of two ups at the same time one starts the cluster, the other finds it running; both succeed."""
    with ThreadPoolExecutor(2) as pool:
        said = [
            future.result().stdout for future in [pool.submit(stopped.pilotfish, "up", "--port", "0") for _ in "ab"]
        ]
    assert sorted("runs already" in text for text in said) == [False, True]
    assert stopped.pilotfish("status").returncode == 0


def test_interrupted_up(stopped: Cluster) -> None:
    """Ctrl-C while the cluster starts stops what was started."""
    up = subprocess.Popen(
        [*stopped.prefix(), sys.executable, "-c", "from pilotfish.cli import main; main()", "up", "--port", "0"],
        env=stopped.env(),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until((stopped.data / "run/cluster.json").exists, "the first part is started", 60)
    up.send_signal(signal.SIGINT)
    _, said = up.communicate(timeout=60)
    assert up.returncode == 1
    assert "Traceback" not in said
    wait_until(lambda: not _processes(stopped), "nothing runs", 60)
    assert not (stopped.data / "run").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a disk that is full")
def test_full_disk() -> None:
    """On a full disk up says so, and nothing is left running."""
    with fresh("rootful") as cluster:
        script = 'mount -t tmpfs -o size=64k none "$0" && exec "$@" up --port 0'
        command = ["unshare", "-m", "sh", "-c", script, str(cluster.data)]
        main = [sys.executable, "-c", "from pilotfish.cli import main; main()"]
        done = subprocess.run([*command, *main], env=cluster.env(), capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "space" in done.stderr
        assert done.stderr.count("\n") == 1
        assert not _processes(cluster)


FILES_OF_OTHERS = """
apiVersion: v1
kind: Pod
metadata: {name: files}
spec:
  restartPolicy: Never
  volumes: [{name: v, hostPath: {path: /x}}]
  containers:
  - name: c
    image: alpine
    command: [sh, -c, "mkdir -m 700 /v/d && touch /v/d/f && (chown -R 1234 /v/d || true)"]
    volumeMounts: [{name: v, mountPath: /v}]
"""


@pytest.mark.parametrize("mode", MODES)
def test_user_ids(mode: str) -> None:
    """A container runs as the user it asks for; where only one user is mapped, an event says that it does not.

    Whoever the files of pods belong to, `reset` removes them.
    """
    skip_unless_possible(mode)
    with fresh(mode) as cluster:
        cluster.up()
        overrides = '{"spec": {"securityContext": {"runAsUser": 1234, "runAsGroup": 5678}}}'
        command = ("--command", "--", "sh", "-c", "id -u; id -g; sleep 600")
        cluster.kubectl("run", "who", "--image=alpine", f"--overrides={overrides}", *command)
        cluster.kubectl("wait", "--for=condition=Ready", "pod/who", "--timeout=60s")
        expected = "0\n0\n" if mode == "rootless" else "1234\n5678\n"
        wait_until(lambda: cluster.kubectl("logs", "who") == expected, f"the log says {expected!r}", 60)
        if mode == "rootless":
            wait_until(lambda: "1234" in cluster.kubectl("events", "--for=pod/who", "--types=Warning"), "a warning", 60)
        cluster.apply(FILES_OF_OTHERS)
        cluster.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/files", "--timeout=60s")
        if mode == "rootless-ids" and os.geteuid() == 0:
            assert (cluster.data / "hostpath/x/d/f").stat().st_uid > 65536
        cluster.pilotfish("reset")
        assert [path.name for path in cluster.data.iterdir()] == ["pilotfish-data"]
