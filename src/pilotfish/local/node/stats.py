"""What the containers use, for `kubectl top`: read from /proc when somebody asks, nothing is sampled in between."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotfish.kube.meta import format_time, now
from pilotfish.local.network import NODE_NAME
from pilotfish.local.node.container import ContainerWorker
from pilotfish.local.node.pod import PodWorker

_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Usage:
    """Processor time, nanoseconds, and memory, bytes."""

    cpu: int = 0
    memory: int = 0


def by_namespace(proc: Path = Path("/proc")) -> dict[str, Usage]:
    """What the processes of each PID namespace use, by the namespace's name."""
    found: dict[str, Usage] = defaultdict(Usage)
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            usage = found[str((entry / "ns/pid").readlink())]
            fields = (entry / "stat").read_text().rpartition(") ")[2].split()
            pages = (entry / "statm").read_text().split()
        except OSError:
            continue
        # utime, stime and those of reaped children; resident pages without those shared with files.
        usage.cpu += sum(int(fields[i]) for i in (11, 12, 13, 14)) * _TICK
        usage.memory += (int(pages[1]) - int(pages[2])) * _PAGE
    return found


class Stats:
    """Computes rates between two requests."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, int]] = {}

    def summary(self, pods: Iterable[PodWorker]) -> dict[str, Any]:
        """The answer of /stats/summary."""
        usage = by_namespace()
        moment, stamp = time.monotonic(), format_time(now())
        seen: dict[str, tuple[float, int]] = {}
        entries = []
        for pod in pods:
            meta = pod.object["metadata"]
            containers = [
                self._container(one, usage, moment, stamp, seen) for one in pod.containers if one.running is not None
            ]
            if containers:
                entries.append(
                    {
                        "podRef": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
                        "startTime": meta.get("creationTimestamp"),
                        "containers": containers,
                        "cpu": _sum_cpu(containers, stamp),
                        "memory": {
                            "time": stamp,
                            "workingSetBytes": sum(one["memory"]["workingSetBytes"] for one in containers),
                        },
                    }
                )
        total = Usage(sum(u.cpu for u in usage.values()), sum(u.memory for u in usage.values()))
        node = self._measure(NODE_NAME, total, moment, stamp, seen)
        self._last = seen
        return {"node": {"nodeName": NODE_NAME, **node}, "pods": entries}

    def _container(
        self,
        worker: ContainerWorker,
        usage: dict[str, Usage],
        moment: float,
        stamp: str,
        seen: dict[str, tuple[float, int]],
    ) -> dict[str, Any]:
        running = worker.running
        assert running is not None  # noqa: S101 - the caller chose running ones
        try:
            own = usage.get(str(Path(f"/proc/{running.pid}/ns/pid").readlink()), Usage())
        except OSError:
            own = Usage()
        measured = self._measure(running.id, own, moment, stamp, seen)
        return {"name": worker.name, "startTime": worker.view.state.get("running", {}).get("startedAt"), **measured}

    def _measure(
        self, key: str, own: Usage, moment: float, stamp: str, seen: dict[str, tuple[float, int]]
    ) -> dict[str, Any]:
        seen[key] = (moment, own.cpu)
        before = self._last.get(key)
        rate = 0
        if before is not None and moment > before[0]:
            rate = max(0, int((own.cpu - before[1]) / (moment - before[0])))
        return {
            "cpu": {"time": stamp, "usageNanoCores": rate, "usageCoreNanoSeconds": own.cpu},
            "memory": {"time": stamp, "usageBytes": own.memory, "workingSetBytes": own.memory, "rssBytes": own.memory},
        }


def _sum_cpu(containers: list[dict[str, Any]], stamp: str) -> dict[str, Any]:
    return {
        "time": stamp,
        "usageNanoCores": sum(one["cpu"]["usageNanoCores"] for one in containers),
        "usageCoreNanoSeconds": sum(one["cpu"]["usageCoreNanoSeconds"] for one in containers),
    }
