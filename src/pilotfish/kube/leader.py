"""One of several replicas leads: a Lease, held and renewed as client-go's leader election does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pilotfish.kube.client import Client
from pilotfish.kube.errors import KubeError, is_not_found
from pilotfish.kube.meta import format_micro_time, now
from pilotfish.kube.resources import LEASES, Object

_log = logging.getLogger(__name__)


class LeaderElection:
    """Takes and keeps the Lease `namespace/name` in the name of `identity`, which must be unique to the process.

    Clocks of different machines are not compared: another's lease has run out when we have seen it unchanged for
    `lease_seconds` (https://pkg.go.dev/k8s.io/client-go/tools/leaderelection).
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        *,
        lease_seconds: float = 15.0,
        renew_seconds: float = 10.0,
        retry_seconds: float = 2.0,
    ) -> None:
        if not lease_seconds > renew_seconds > retry_seconds:
            raise ValueError("leader election needs lease_seconds > renew_seconds > retry_seconds")
        self.identity = identity
        self.leader = ""
        """Who holds the lease, as last seen."""
        self._client = client
        self._namespace = namespace
        self._name = name
        self._lease_seconds = lease_seconds
        self._renew_seconds = renew_seconds
        self._retry_seconds = retry_seconds
        self._observed: Any = None
        self._observed_at = 0.0

    @property
    def is_leader(self) -> bool:
        return self.leader == self.identity

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lease, then run `lead` while we hold it. Returns when `lead` does, or when the lease is lost.

        `lead` is cancelled on loss. On the way out the lease is given up, so that another need not wait.
        """
        held = await self._try()
        while not held:
            await asyncio.sleep(self._retry_seconds * random.uniform(1.0, 2.2))  # noqa: S311 - jitter, as client-go's
            held = await self._try()
        _log.info("leading %s/%s as %s", self._namespace, self._name, self.identity)
        work = asyncio.ensure_future(lead())
        renewal = asyncio.ensure_future(self._renew())
        try:
            await asyncio.wait({work, renewal}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, renewal):
                task.cancel()
            await asyncio.gather(work, renewal, return_exceptions=True)
            await self._release()
        if not work.cancelled():
            work.result()

    async def _renew(self) -> None:
        """Returns when the lease could not be renewed for `renew_seconds`."""
        renewed = time.monotonic()
        while True:
            await asyncio.sleep(self._retry_seconds)
            left = renewed + self._renew_seconds - time.monotonic()
            held = False
            with contextlib.suppress(TimeoutError):
                held = await asyncio.wait_for(self._try(), max(left, 0.001))
            if held:
                renewed = time.monotonic()
            elif left <= 0 or (self.leader and not self.is_leader):
                _log.warning("lost the lease %s/%s", self._namespace, self._name)
                self.leader = "" if self.is_leader else self.leader
                return

    async def _try(self) -> bool:
        """Create, take or renew the lease; whether we hold it now."""
        try:
            lease = await self._client.get(LEASES, self._name, self._namespace)
        except KubeError as error:
            if not is_not_found(error):
                _log.info("cannot read the lease %s/%s: %s", self._namespace, self._name, error)
                return False
            lease = {
                "apiVersion": LEASES.api_version,
                "kind": LEASES.kind,
                "metadata": {"name": self._name, "namespace": self._namespace},
            }
        spec = lease.get("spec") or {}
        if spec != self._observed:
            self._observed, self._observed_at = spec, time.monotonic()
        holder = spec.get("holderIdentity") or ""
        seconds = float(spec.get("leaseDurationSeconds") or self._lease_seconds)
        if holder not in {"", self.identity} and time.monotonic() < self._observed_at + seconds:
            self.leader = holder
            return False
        return await self._write(lease, self._spec(spec, holder))

    def _spec(self, old: Object, holder: str) -> Object:
        moment = format_micro_time(now())
        changed = holder != self.identity
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._lease_seconds)),
            "acquireTime": moment if changed or not old.get("acquireTime") else old["acquireTime"],
            "renewTime": moment,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (1 if changed and old else 0),
        }

    async def _write(self, lease: Object, spec: Object) -> bool:
        body = {**lease, "spec": spec}
        try:
            if lease["metadata"].get("resourceVersion"):
                written = await self._client.update(LEASES, body)
            else:
                written = await self._client.create(LEASES, body)
        except KubeError as error:
            _log.info("cannot write the lease %s/%s: %s", self._namespace, self._name, error)
            return False
        self._observed, self._observed_at = written.get("spec"), time.monotonic()
        self.leader = self.identity
        return True

    async def _release(self) -> None:
        if not self.is_leader:
            return
        self.leader = ""
        try:
            lease = await self._client.get(LEASES, self._name, self._namespace)
            spec = lease.get("spec") or {}
            if spec.get("holderIdentity") == self.identity:
                moment = format_micro_time(now())
                lease["spec"] = {**spec, "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": moment}
                await self._client.update(LEASES, lease)
        except KubeError as error:
            _log.info("cannot give up the lease %s/%s: %s", self._namespace, self._name, error)
