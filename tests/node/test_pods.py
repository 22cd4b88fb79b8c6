"""Pods on a real node: rootful, rootless, and rootless with a range of user ids."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from pilotfish.kube.client import PatchType
from pilotfish.kube.resources import CONFIG_MAPS, PERSISTENT_VOLUME_CLAIMS, PODS, SECRETS

from .harness import World, conditions, container_state

# A shell that ends at SIGTERM; process 1 ignores signals that it does not handle.
FOREVER = ("sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait")


def shell(text: str) -> tuple[str, ...]:
    return ("sh", "-c", text)


def container(name: str, text: str, **rest: Any) -> dict[str, Any]:
    return {"name": name, "image": "curlimages/curl", "command": ["sh", "-c", text], **rest}


async def events(world: World, name: str) -> dict[str, str]:
    """Reason → messages of the events about a pod, as one text."""
    path = f"/api/v1/namespaces/{world.namespace}/events"
    found = await world.client.request("GET", path)
    told: dict[str, list[str]] = {}
    for event in found["items"]:
        if event["involvedObject"]["name"] == name:
            told.setdefault(event["reason"], []).append(event["message"])
    return {reason: "\n".join(messages) for reason, messages in told.items()}


async def until_event(world: World, name: str, reason: str) -> str:
    async with asyncio.timeout(60):
        while True:
            found = await events(world, name)
            if reason in found:
                return found[reason]
            await asyncio.sleep(0.05)


async def test_a_pod_runs_and_goes(world: World) -> None:
    """Ready within a second, with address and log; a graceful deletion lets it end by itself."""
    begin = time.monotonic()
    await world.pod("p", *shell("echo hello; trap 'echo bye; exit 0' TERM; sleep 100000 & wait"))
    pod = await world.ready("p")
    assert time.monotonic() - begin < 5
    status = pod["status"]
    assert status["phase"] == "Running"
    assert status["podIP"].startswith("10.244.")
    assert status["hostIP"] == "10.244.0.1"
    assert container_state(pod)["containerID"].startswith("crun://")
    assert await world.logs("p") == "hello\n"
    async with world.session() as session:
        follow = asyncio.create_task(_text(session, world, "p"))
        await asyncio.sleep(0)
        await world.delete("p")
        assert "hello\n" in await asyncio.wait_for(follow, 60)


async def _text(session: Any, world: World, name: str, container: str = "c") -> str:
    async with session.get(f"/containerLogs/{world.namespace}/{name}/{container}", params={"follow": "true"}) as answer:
        return str(await answer.text())


async def test_exit_codes_and_messages(world: World) -> None:
    """Phases, reasons and termination messages of pods that end."""
    await world.pod("ok", *shell("echo done > /dev/termination-log"), restartPolicy="Never")
    await world.pod("bad", *shell("exit 7"), restartPolicy="Never")
    await world.pod(
        "talks",
        *shell("echo last words; exit 1"),
        restartPolicy="Never",
        container={"terminationMessagePolicy": "FallbackToLogsOnError"},
    )
    ended = container_state(await world.phase("ok", "Succeeded"))["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (0, "Completed", "done\n")
    ended = container_state(await world.phase("bad", "Failed"))["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (7, "Error")
    ended = container_state(await world.phase("talks", "Failed"))["state"]["terminated"]
    assert ended["message"] == "last words"
    assert await world.logs("talks") == "last words\n"


async def test_crash_loop(world: World) -> None:
    """A failing container is restarted at once, then waits; the log of the run before can be had."""
    await world.pod("p", *shell("echo run; exit 3"))
    pod = await world.until(
        "p", lambda p: container_state(p)["state"]["waiting"]["reason"] == "CrashLoopBackOff", "back-off"
    )
    state = container_state(pod)
    assert state["restartCount"] == 1
    assert state["lastState"]["terminated"]["exitCode"] == 3
    assert pod["status"]["phase"] == "Running"
    assert "restarting failed container" in await until_event(world, "p", "BackOff")
    assert await world.logs("p", previous="true") == "run\n"


async def test_programs_that_do_not_exist(world: World) -> None:
    """A command that cannot be started is StartError with the runtime's message."""
    await world.pod("p", "no-such-program", restartPolicy="Never")
    ended = container_state(await world.phase("p", "Failed"))["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert "no-such-program" in ended["message"]


async def test_unknown_images(world: World) -> None:
    """ErrImagePull and its event say how to map the image; once it is mapped the pod starts without delay."""
    image = f"example.com/{world.namespace}/app:v1"
    await world.pod("p", container={"image": image, "command": None})
    pod = await world.until(
        "p",
        lambda p: container_state(p)["state"]["waiting"]["reason"] in {"ErrImagePull", "ImagePullBackOff"},
        "the image is missing",
    )
    assert f"pilotfish image add {image} -- COMMAND" in container_state(pod)["state"]["waiting"]["message"]
    await world.until("p", lambda p: container_state(p)["state"]["waiting"]["reason"] == "ImagePullBackOff", "back-off")
    await world.delete("p")


async def test_init_containers_and_sidecars(world: World) -> None:
    """Init containers run in order; a sidecar starts in its turn, stays, restarts, and ends after the others."""
    volume = {"volumes": [{"name": "e", "emptyDir": {}}]}
    mounts = {"volumeMounts": [{"name": "e", "mountPath": "/e"}]}
    await world.pod(
        "p",
        initContainers=[
            container("first", "echo 1 >> /e/order", **mounts),
            container(
                "side",
                "echo side >> /e/order; trap 'echo side ends; exit 0' TERM; sleep 100000 & wait",
                restartPolicy="Always",
                startupProbe={"exec": {"command": ["test", "-e", "/e/order"]}, "periodSeconds": 1},
                **mounts,
            ),
            container("last", "echo 2 >> /e/order", **mounts),
        ],
        containers=[container("c", "echo main >> /e/order; trap 'exit 0' TERM; sleep 100000 & wait", **mounts)],
        **volume,
    )
    pod = await world.ready("p")
    assert (await world.output("p", "cat", "/e/order")).split() == ["1", "side", "2", "main"]
    assert container_state(pod, "first")["state"]["terminated"]["reason"] == "Completed"
    assert container_state(pod, "side")["state"]["running"]
    await world.run("p", "sh", "-c", "kill -TERM 1", container="side")
    await world.until("p", lambda p: container_state(p, "side")["restartCount"] == 1, "the sidecar restarts")
    await world.ready("p")


async def test_a_job_s_sidecar_ends_with_it(world: World) -> None:
    """When the containers are done, the sidecar is ended and the pod succeeds."""
    await world.pod(
        "p",
        restartPolicy="Never",
        initContainers=[container("side", FOREVER[2], restartPolicy="Always")],
        containers=[container("c", "exit 0")],
    )
    pod = await world.phase("p", "Succeeded")
    assert "terminated" in container_state(pod, "side")["state"]


async def test_a_failing_init_container(world: World) -> None:
    """With restart policy Never the pod fails, and the containers never start."""
    await world.pod(
        "p", restartPolicy="Never", initContainers=[container("i", "exit 4")], containers=[container("c", "true")]
    )
    pod = await world.phase("p", "Failed")
    assert container_state(pod, "i")["state"]["terminated"]["exitCode"] == 4
    assert container_state(pod)["state"]["waiting"]["reason"] == "PodInitializing"
    assert {c["type"]: c["status"] for c in conditions(pod)}["Initialized"] == "False"


async def test_hooks(world: World) -> None:
    """postStart runs before the next container starts; preStop runs before the signal, within the grace period."""
    volume = {"volumes": [{"name": "e", "emptyDir": {}}]}
    mounts = {"volumeMounts": [{"name": "e", "mountPath": "/e"}]}
    await world.pod(
        "p",
        terminationGracePeriodSeconds=10,
        containers=[
            container(
                "c",
                "trap 'echo TERM seen after $(cat /e/stop); exit 0' TERM; sleep 100000 & wait",
                lifecycle={
                    "postStart": {"exec": {"command": ["sh", "-c", "sleep 0.3; echo post > /e/start"]}},
                    "preStop": {"exec": {"command": ["sh", "-c", "echo pre > /e/stop"]}},
                },
                **mounts,
            ),
            container("d", "cat /e/start; " + FOREVER[2], **mounts),
        ],
        **volume,
    )
    await world.ready("p")
    assert await world.logs("p", "d") == "post\n"
    async with world.session() as session:
        follow = asyncio.create_task(_text(session, world, "p"))
        await asyncio.sleep(0.1)
        await world.delete("p")
        assert await asyncio.wait_for(follow, 60) == "TERM seen after pre\n"


async def test_sidecars_end_in_turn_but_hear_of_it_at_once(world: World) -> None:
    """The preStop hook of a sidecar runs while the application is still ending; its signal comes after that."""
    volume = {"volumes": [{"name": "e", "emptyDir": {}}]}
    mounts = {"volumeMounts": [{"name": "e", "mountPath": "/e"}]}
    wait = "for i in $(seq 100); do [ -e /e/hook ] && break; sleep 0.1; done"
    await world.pod(
        "p",
        terminationGracePeriodSeconds=20,
        initContainers=[
            container(
                "side",
                "trap 'cat /e/hook /e/main; exit 0' TERM; sleep 100000 & wait",
                restartPolicy="Always",
                lifecycle={"preStop": {"exec": {"command": ["sh", "-c", "echo hook > /e/hook"]}}},
                **mounts,
            )
        ],
        containers=[
            container("c", f"trap '{wait}; echo main ended > /e/main; exit 0' TERM; sleep 100000 & wait", **mounts)
        ],
        **volume,
    )
    await world.ready("p")
    async with world.session() as session:
        follow = asyncio.create_task(_text(session, world, "p", "side"))
        await asyncio.sleep(0.1)
        await world.delete("p")
        assert await asyncio.wait_for(follow, 60) == "hook\nmain ended\n"


async def test_probes_restart_and_gate(world: World) -> None:
    """A failing liveness probe restarts the container; readiness follows its probe."""
    await world.pod(
        "p",
        *shell("touch /run/ready; " + FOREVER[2]),
        container={
            "readinessProbe": {"exec": {"command": ["test", "-e", "/run/ready"]}, "periodSeconds": 1},
            "livenessProbe": {
                "exec": {"command": ["test", "!", "-e", "/run/dead"]},
                "periodSeconds": 1,
                "failureThreshold": 1,
            },
        },
    )
    await world.ready("p")
    await world.output("p", "rm", "/run/ready")
    await world.until("p", lambda p: not container_state(p)["ready"], "unready")
    await world.output("p", "touch", "/run/dead")
    pod = await world.until("p", lambda p: container_state(p)["restartCount"] == 1, "restarted")
    assert container_state(pod)["lastState"]["terminated"]["exitCode"] == 0
    assert "failed liveness probe, will be restarted" in await until_event(world, "p", "Killing")
    await world.ready("p")


async def test_grace_period_and_force(world: World) -> None:
    """A process that ignores SIGTERM is killed when the period ends, and at once when deletion is forced."""
    stubborn = shell("trap '' TERM; while :; do sleep 1; done")
    await world.pod("p", *stubborn, terminationGracePeriodSeconds=1)
    await world.pod("q", *stubborn, terminationGracePeriodSeconds=100)
    await world.ready("p")
    await world.ready("q")
    begin = time.monotonic()
    await world.delete("p")
    assert 0.8 < time.monotonic() - begin < 10
    await world.client.delete(PODS, "q", world.namespace)
    begin = time.monotonic()
    await world.delete("q", grace=0)
    assert time.monotonic() - begin < 10


async def test_environment_and_volumes(world: World) -> None:
    """Values from ConfigMaps, Secrets and the pod; files of every kind of volume; mounts in read-only trees."""
    await world.create(CONFIG_MAPS, "cm", data={"k": "v1", "file.txt": "text"})
    await world.create(SECRETS, "sec", stringData={"p": "s3cret"})
    await world.pod(
        "p",
        *FOREVER,
        metadata={"annotations": {"note": "n1"}},
        container={
            "env": [
                {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
                {"name": "P", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "p"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "BOTH", "value": "$(K)-$(P)"},
            ],
            "volumeMounts": [
                {"name": "cm", "mountPath": "/usr/share/pilotfish-test/html"},
                {"name": "cm", "mountPath": "/etc/one.txt", "subPath": "file.txt"},
                {"name": "all", "mountPath": "/all"},
                {"name": "host", "mountPath": "/host"},
                {"name": "claim", "mountPath": "/claim"},
            ],
        },
        volumes=[
            {"name": "cm", "configMap": {"name": "cm"}},
            {"name": "host", "hostPath": {"path": "/var/lib/test", "type": "DirectoryOrCreate"}},
            {"name": "claim", "persistentVolumeClaim": {"claimName": "claim"}},
            {
                "name": "all",
                "projected": {
                    "sources": [
                        {"secret": {"name": "sec"}},
                        {"serviceAccountToken": {"path": "token", "audience": "istio-ca", "expirationSeconds": 600}},
                        {
                            "downwardAPI": {
                                "items": [{"path": "notes", "fieldRef": {"fieldPath": "metadata.annotations"}}]
                            }
                        },
                    ]
                },
            },
        ],
    )
    assert 'persistentvolumeclaim "claim" not found' in await until_event(world, "p", "FailedMount")
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    await world.create(PERSISTENT_VOLUME_CLAIMS, "claim", spec=spec)
    pod = await world.ready("p")
    assert await world.output("p", "sh", "-c", "echo $K $P $IP $BOTH") == (
        f"v1 s3cret {pod['status']['podIP']} v1-s3cret"
    )
    assert (
        await world.output("p", "cat", "/usr/share/pilotfish-test/html/k", "/etc/one.txt", "/all/p") == "v1texts3cret"
    )
    assert (await world.output("p", "cat", "/all/token")).count(".") == 2
    assert await world.output("p", "cat", "/all/notes") == 'note="n1"'
    code, text = await world.run("p", "touch", "/usr/share/pilotfish-test/html/x")
    assert (code, "Read-only" in text) == (1, True)
    await world.output("p", "touch", "/host/x", "/claim/y")
    # Changes appear in the files.
    await world.client.patch(CONFIG_MAPS, "cm", {"data": {"k": "v2"}}, world.namespace)
    await world.client.patch(PODS, "p", {"metadata": {"annotations": {"note": "n2"}}}, world.namespace)
    async with asyncio.timeout(60):
        while await world.output("p", "cat", "/usr/share/pilotfish-test/html/k", "/all/notes") != 'v2note="n2"':
            await asyncio.sleep(0.05)


async def test_missing_sources_are_waited_for(world: World) -> None:
    """A pod whose Secret or ConfigMap is missing waits with a clear reason, and starts at once when it appears."""
    await world.pod(
        "env", *FOREVER, container={"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}
    )
    await world.pod(
        "vol",
        *FOREVER,
        container={"volumeMounts": [{"name": "v", "mountPath": "/v"}]},
        volumes=[{"name": "v", "configMap": {"name": "c"}}],
    )
    pod = await world.until(
        "env",
        lambda p: container_state(p)["state"]["waiting"]["reason"] == "CreateContainerConfigError",
        "configuration error",
    )
    assert container_state(pod)["state"]["waiting"]["message"] == 'secret "s" not found'
    assert await until_event(world, "vol", "FailedMount") == (
        'MountVolume.SetUp failed for volume "v" : configmap "c" not found'
    )
    await world.create(SECRETS, "s", stringData={"k": "1"})
    await world.create(CONFIG_MAPS, "c", data={"k": "1"})
    await world.ready("env", seconds=30)
    await world.ready("vol", seconds=30)


async def test_security(world: World) -> None:
    """Users, groups, capabilities and a read-only root, as far as the node has them; if not, an event says so."""
    await world.pod(
        "p",
        *FOREVER,
        securityContext={"fsGroup": 2000, "runAsUser": 1000, "runAsGroup": 3000},
        container={
            "securityContext": {
                "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
                "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False,
            },
            "volumeMounts": [{"name": "e", "mountPath": "/e"}],
        },
        volumes=[{"name": "e", "emptyDir": {}}],
    )
    await world.ready("p")
    single = world.cluster.mode == "rootless"
    expected = "uid=0(root) gid=0(root)" if single else "uid=1000(user1000) gid=3000"
    found = await world.output("p", "id")
    assert found.startswith(expected)
    if single:
        assert "instead of user 1000" in await until_event(world, "p", "SecurityContext")
    else:
        assert found.endswith("groups=3000,2000")
    status = await world.output("p", "cat", "/proc/self/status")
    assert "NoNewPrivs:\t1" in status
    assert "CapBnd:\t0000000000001000" in status
    assert "CapEff:\t0000000000000000" in status
    await world.output("p", "touch", "/e/x")
    code, _ = await world.run("p", "touch", "/x")
    assert code == 1
    await world.pod("r", *FOREVER, securityContext={"runAsNonRoot": True})
    pod = await world.until(
        "r", lambda p: container_state(p)["state"]["waiting"]["reason"] == "CreateContainerConfigError", "refused"
    )
    assert "runAsNonRoot" in container_state(pod)["state"]["waiting"]["message"]


async def test_what_a_container_cannot_see(world: World) -> None:
    """No home directories, nothing of the data directory, none of the machine's processes or devices."""
    await world.pod("p", *FOREVER)
    await world.ready("p")
    assert await world.output("p", "sh", "-c", "ls -A /home /root | grep -v : | tr -d '\\n'") == ""
    code, _ = await world.run("p", "ls", str(world.cluster.data))
    assert code != 0
    assert await world.output("p", "sh", "-c", "ls /proc | grep -c '^[0-9]'") in {"3", "4", "5"}
    devices = (await world.output("p", "ls", "/dev")).split()
    assert "null" in devices
    assert not [name for name in devices if name.startswith(("sd", "vd", "nvme", "kmsg", "mem"))]
    code, _ = await world.run("p", "sh", "-c", "echo x > /usr/bin/pilotfish-test")
    assert code != 0


async def test_shared_process_namespace(world: World) -> None:
    """With shareProcessNamespace containers see each other's processes, and their ends are still noticed."""
    await world.pod(
        "p",
        shareProcessNamespace=True,
        restartPolicy="Never",
        containers=[
            container("c", "sleep 0.5; while pgrep -f 'marker-of-othe[r]' >/dev/null; do sleep 0.05; done; exit 6"),
            container("d", "sh -c 'sleep 1.5; : marker-of-other'"),
        ],
    )
    pod = await world.phase("p", "Failed")
    assert container_state(pod)["state"]["terminated"]["exitCode"] == 6
    assert container_state(pod, "d")["state"]["terminated"]["exitCode"] == 0


async def test_host_network_and_names(world: World) -> None:
    """hostNetwork shares the node's address; hostname, subdomain, aliases and sysctls are the pod's."""
    await world.pod("host", *FOREVER, hostNetwork=True)
    await world.pod(
        "p",
        *FOREVER,
        hostname="me",
        subdomain="sub",
        hostAliases=[{"ip": "192.0.2.7", "hostnames": ["alias.example"]}],
        securityContext={"sysctls": [{"name": "net.core.somaxconn", "value": "777"}]},
    )
    assert (await world.ready("host"))["status"]["podIP"] == "10.244.0.1"
    await world.ready("p")
    assert await world.output("p", "hostname") == "me"
    assert await world.output("p", "hostname", "-f") == f"me.sub.{world.namespace}.svc.cluster.local"
    assert (await world.output("p", "getent", "hosts", "alias.example")).split()[0] == "192.0.2.7"
    assert await world.output("p", "cat", "/proc/sys/net/core/somaxconn") == "777"
    assert await world.output("host", "hostname") == "pilotfish"


async def test_deadline(world: World) -> None:
    """activeDeadlineSeconds ends the pod as Failed."""
    await world.pod("p", *FOREVER, activeDeadlineSeconds=1)
    pod = await world.phase("p", "Failed")
    assert pod["status"]["reason"] == "DeadlineExceeded"
    assert "running" not in container_state(pod)["state"]


async def test_memory_limit(world: World) -> None:
    """Beyond its memory limit a container is OOMKilled; without control groups the node's condition says so."""
    node = await world.client.request("GET", "/api/v1/nodes/pilotfish")
    (limits,) = [c for c in node["status"]["conditions"] if c["type"] == "MemoryLimits"]
    if limits["status"] == "False":
        assert "control group" in limits["message"]
        return
    await world.pod(
        "p",
        "python3",
        "-c",
        "x = bytearray(200_000_000)",
        restartPolicy="Never",
        container={"resources": {"limits": {"memory": "50Mi"}}},
    )
    ended = container_state(await world.phase("p", "Failed"))["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")


async def test_a_new_image_restarts_the_container(world: World) -> None:
    """Setting another image in a running pod restarts that container with it."""
    await world.pod("p", *FOREVER)
    await world.ready("p")
    patch = [{"op": "replace", "path": "/spec/containers/0/image", "value": "curlimages/curl:2"}]
    await world.client.patch(PODS, "p", patch, world.namespace, patch_type=PatchType.JSON)
    pod = await world.until("p", lambda p: container_state(p)["image"] == "curlimages/curl:2", "the new image")
    await world.until("p", lambda p: container_state(p)["restartCount"] == 1, "restarted")
    assert pod["metadata"]["uid"]


async def test_a_pod_with_a_finalizer(world: World) -> None:
    """Its containers end at deletion; the object stays until the finalizer is taken away, and tells how they ended."""
    await world.pod("p", *FOREVER, metadata={"finalizers": ["example.com/wait"]})
    await world.ready("p")
    await world.client.delete(PODS, "p", world.namespace)
    await world.until("p", lambda p: "terminated" in container_state(p)["state"], "ended")
    await world.client.patch(PODS, "p", {"metadata": {"labels": {"a": "b"}}}, world.namespace)
    pod = await world.get("p")
    assert container_state(pod)["state"]["terminated"]["exitCode"] == 0
    assert container_state(pod)["restartCount"] == 0
    await world.client.patch(PODS, "p", {"metadata": {"finalizers": None}}, world.namespace)
    await world.gone("p")


async def test_readiness_gates(world: World) -> None:
    """A condition of another controller gates readiness and is not overwritten."""
    await world.pod("p", *FOREVER, readinessGates=[{"conditionType": "example.com/gate"}])
    pod = await world.until(
        "p", lambda p: any(c.get("reason") == "ReadinessGatesNotReady" for c in conditions(p)), "gated"
    )
    condition = {"type": "example.com/gate", "status": "True"}
    patch = {"status": {"conditions": [*conditions(pod), condition]}}
    await world.client.patch(PODS, "p", patch, world.namespace, subresource="status")
    pod = await world.ready("p")
    assert any(c["type"] == "example.com/gate" for c in conditions(pod))


async def test_statistics(world: World) -> None:
    """/stats/summary tells processor time and memory of every container."""
    await world.pod("p", *shell("while :; do :; done"))
    await world.ready("p")

    async def mine(session: Any) -> dict[str, Any]:
        async with session.get("/stats/summary") as answer:
            pods = json.loads(await answer.text())["pods"]
        return next(p for p in pods if p["podRef"]["namespace"] == world.namespace)

    async with world.session() as session, asyncio.timeout(60):
        while (await mine(session))["containers"][0]["cpu"]["usageNanoCores"] < 50_000_000:
            await asyncio.sleep(0.1)
        assert (await mine(session))["memory"]["workingSetBytes"] > 10_000


@pytest.mark.parametrize("tty", [False, True])
async def test_exec_input(world: World, tty: bool) -> None:
    """Standard input arrives and its end is seen; with a terminal the size is set and the program is on it."""
    await world.pod("p", *FOREVER)
    await world.ready("p")
    program = "if test -t 0; then read x; echo terminal $(stty size); fi; cat; exit 5"
    query = [("command", word) for word in ("sh", "-c", program)]
    query += [("stdin", "true"), ("stdout", "true"), *([("tty", "true")] if tty else [])]
    output, status = b"", {}
    async with (
        world.session() as session,
        session.ws_connect(f"/exec/{world.namespace}/p/c", params=query, protocols=["v5.channel.k8s.io"]) as socket,
    ):
        await socket.send_bytes(b'\x04{"Width": 99, "Height": 42}')
        await socket.send_bytes(b"\x00go\nsome input\n")
        await (socket.send_bytes(b"\x00\x04") if tty else socket.send_bytes(b"\xff\x00"))
        async for message in socket:
            if message.data[0] == 3:
                status = json.loads(message.data[1:])
            else:
                output += message.data[1:]
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "5"}]
    assert b"some input" in output
    assert (b"terminal 42 99" in output) == tty


async def test_an_ephemeral_container_looks_into_another(world: World) -> None:
    """A container added to a running pod sees the processes of its target, runs once, and has status and log."""
    await world.pod("p", *shell("exec sleep 4321"))
    await world.ready("p")
    debugger = {
        "name": "debugger",
        "image": "curlimages/curl",
        "command": ["sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline"],
        "targetContainerName": "c",
    }
    patch = {"spec": {"ephemeralContainers": [debugger]}}
    await world.client.patch(
        PODS, "p", patch, world.namespace, patch_type=PatchType.STRATEGIC, subresource="ephemeralcontainers"
    )

    def over(pod: Any) -> bool:
        return any("terminated" in one["state"] for one in pod["status"].get("ephemeralContainerStatuses") or ())

    pod = await world.until("p", over, "the debugger ends")
    assert pod["status"]["phase"] == "Running"
    assert pod["status"]["ephemeralContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
    assert (await world.logs("p", "debugger")).strip() == "sleep 4321"


async def test_an_attached_program_sees_the_end_of_its_input(world: World) -> None:
    """With stdinOnce a program's input ends when the first client has no more, while it goes on listening."""
    container = {"name": "c", "image": "curlimages/curl", "command": ["cat"], "stdin": True, "stdinOnce": True}
    await world.pod("p", containers=[container], restartPolicy="Never")
    await world.ready("p")
    query = {"stdin": "true", "stdout": "true"}
    seen = b""
    async with (
        world.session() as session,
        session.ws_connect(f"/attach/{world.namespace}/p/c", params=query, protocols=["v5.channel.k8s.io"]) as socket,
    ):
        await socket.send_bytes(b"\x00hello")
        await socket.send_bytes(b"\xff\x00")
        async for message in socket:
            if message.data[0] == 1:
                seen += message.data[1:]
    assert seen == b"hello"
