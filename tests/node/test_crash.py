"""What happens when a process dies, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.ordinary import MODES, unable

from pilotfish.kube.resources import PODS

from .harness import NodeCluster, World, alive, container_state, fresh, wait_for
from .test_pods import FOREVER, shell


def skip_unless_possible(mode: str) -> None:
    if why := unable(mode):
        pytest.skip(why)


def processes_with(text: str) -> list[str]:
    """Command lines of living processes of the machine that contain a text."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and alive(int(entry.name)):
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if text in line:
                found.append(line)
    return found


def world_of(cluster: NodeCluster) -> World:
    return World(cluster, cluster.client(), "default")


def start_pods(cluster: NodeCluster, marker: str) -> None:
    async def work() -> None:
        async with world_of(cluster).client as client:
            world = World(cluster, client, "default")
            await wait_account(world)
            await world.pod("always", *shell(f": {marker}; {FOREVER[2]}"))
            await world.pod("never", *shell(f": {marker}; {FOREVER[2]}"), restartPolicy="Never")
            await world.pod("done", *shell("exit 0"), restartPolicy="Never")
            await world.ready("always")
            await world.ready("never")
            await world.phase("done", "Succeeded")

    asyncio.run(work())


async def wait_account(world: World) -> None:
    async with asyncio.timeout(60):
        while True:
            path = f"/api/v1/namespaces/{world.namespace}/serviceaccounts"
            if (await world.client.request("GET", path))["items"]:
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_node_takes_its_pods_along_and_starts_them_anew(mode: str) -> None:
    """kill -9 of the node leaves no process, interface, mount or control group; the next start runs the pods again."""
    skip_unless_possible(mode)
    with fresh(mode) as cluster:
        marker = f"marker-{cluster.data.parent.name}"
        start_pods(cluster, marker)
        before = Path("/proc/self/mountinfo").read_text()
        note = cluster.data / "run/node.cgroup"
        group = Path(note.read_text()) if note.exists() else None
        assert processes_with(marker)
        cluster.stop_node(signal.SIGKILL)
        assert processes_with(marker) == []
        assert str(cluster.data) not in Path("/proc/self/mountinfo").read_text()
        assert Path("/proc/self/mountinfo").read_text() == before
        (cluster.data / "run/node.json").unlink()
        cluster.start_node()

        async def check() -> None:
            async with cluster.client() as client:
                world = World(cluster, client, "default")
                pod = await world.until(
                    "always", lambda p: container_state(p)["restartCount"] == 1, "restarted after the crash"
                )
                assert container_state(pod)["lastState"]["terminated"]["reason"] == "Unknown"
                await world.ready("always")
                pod = await world.phase("never", "Failed")
                assert container_state(pod)["state"]["terminated"]["exitCode"] == 255
                assert (await world.get("done"))["status"]["phase"] == "Succeeded"
                await world.delete("always")

        asyncio.run(check())
        cluster.stop_node()
        assert not list((cluster.data / "run").glob("node.s*"))
        assert processes_with(str(cluster.data / "run" / "node")) == []
        assert group is None or not group.exists()


def test_killing_the_outer_process_ends_the_node_too() -> None:
    """The process that waits outside may be killed as well: the kernel then kills process 1."""
    mode = "rootful" if os.geteuid() == 0 else "rootless"
    skip_unless_possible(mode)
    with fresh(mode) as cluster:
        pid = cluster.node_pid
        assert cluster.node is not None
        cluster.node.kill()
        cluster.node.wait(60)
        wait_for(lambda: not alive(pid), "process 1 of the node ends")


def test_pods_survive_a_restart_of_the_api_server() -> None:
    """Pods run on while the API server is away; the node meets the new one and goes on working with it."""
    mode = "rootful" if os.geteuid() == 0 else "rootless"
    skip_unless_possible(mode)
    with fresh(mode) as cluster:
        marker = f"marker-{cluster.data.parent.name}"
        start_pods(cluster, marker)
        running = processes_with(marker)
        assert cluster.server is not None
        cluster.server.kill()
        cluster.server.wait(60)
        (cluster.data / "run/apiserver.json").unlink()
        assert processes_with(marker) == running
        cluster.start_server()

        async def check() -> None:
            async with cluster.client() as client:
                world = World(cluster, client, "default")
                await world.pod("later", *FOREVER)
                await world.ready("later")
                assert container_state(await world.get("always"))["restartCount"] == 0
                await client.delete(PODS, "always", "default")
                await world.gone("always")

        asyncio.run(check())


def test_a_second_node_is_refused() -> None:
    """One message, exit code 2, and the first goes on."""
    mode = "rootful" if os.geteuid() == 0 else "rootless"
    skip_unless_possible(mode)
    with fresh(mode) as cluster:
        command = [sys.executable, "-m", "pilotfish.local.node", "--data", str(cluster.data)]
        if mode == "rootless" and os.geteuid() == 0:
            pytest.skip("started by another user")
        second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert second.returncode == 2
        assert "another node runs on" in second.stderr
        assert alive(cluster.node_pid)


def test_no_api_server(tmp_path: Path) -> None:
    """Without an API server the message says what to start."""
    command = [sys.executable, "-m", "pilotfish.local.node", "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "pilotfish up" in done.stderr
    assert "Traceback" not in done.stderr
