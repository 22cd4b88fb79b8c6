"""The control plane's own metrics, by Istio's names."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from pilotfish import __version__
from pilotfish.ca.service import Counts

disable_created_metrics()  # type: ignore[no-untyped-call]  # the library does not say

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 3, 5, 10, 20, 30)
_BYTES = (1e3, 1e4, 1e5, 1e6, 4e6, 1e7, 4e7)


class Metrics:
    """One registry a process. Counters end in `_total` only where Istio's do: dashboards are written against them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.connected = self._gauge("pilot_xds", "Proxies connected over xDS.", "version")
        self.pushes = _Count(self.registry, "pilot_xds_pushes", "Responses sent, by type.", "type")
        self.push_triggers = _Count(self.registry, "pilot_push_triggers", "Why pushes were made.", "type")
        self.send_time = self._seconds("pilot_xds_send_time", "Time to hand a response to the transport.")
        self.push_time = self._seconds("pilot_xds_push_time", "Time to compile and send, by type.", "type")
        self.convergence = self._seconds(
            "pilot_proxy_convergence_time", "From a change to the acknowledgement of the last response it caused."
        )
        self.size = Histogram(
            "pilot_xds_config_size_bytes",
            "Size of responses.",
            ("type",),
            buckets=_BYTES,
            registry=self.registry,
        )
        self.rejects = _Count(self.registry, "pilot_total_xds_rejects", "Responses that proxies refused.", "type")
        self.internal_errors = _Count(
            self.registry, "pilot_total_xds_internal_errors", "Configurations that could not be compiled."
        )
        self.inbound_updates = _Count(self.registry, "pilot_inbound_updates", "Changes taken in.", "type")
        self.config_events = _Count(self.registry, "pilot_k8s_cfg_events", "Changes of Istio objects.", "type", "event")
        self.registry_events = _Count(
            self.registry, "pilot_k8s_reg_events", "Changes of Kubernetes objects.", "type", "event"
        )
        self.rejected_configs = _Count(
            self.registry, "pilot_total_rejected_configs", "Objects that were not accepted.", "type", "name"
        )
        self.services = self._gauge("pilot_services", "Services known.")
        self.virtual_services = self._gauge("pilot_virt_services", "VirtualServices known.")
        self.injections = Counter(
            "sidecar_injection_requests", "Pods that were to be injected.", registry=self.registry
        )
        self.injection_success = Counter(
            "sidecar_injection_success", "Pods that were injected.", registry=self.registry
        )
        self.injection_failure = Counter(
            "sidecar_injection_failure", "Pods that could not be injected.", registry=self.registry
        )
        self.injection_skip = Counter("sidecar_injection_skip", "Pods left as they were.", registry=self.registry)
        self.injection_time = self._seconds("sidecar_injection_time_seconds", "Time to inject a pod.")
        self.validation_passed = _Count(
            self.registry, "galley_validation_passed", "Objects accepted.", "group", "version", "resource"
        )
        self.validation_failed = _Count(
            self.registry, "galley_validation_failed", "Objects refused.", "group", "version", "resource", "reason"
        )
        self._gauge("pilot_info", "Version of the control plane.", "version").labels(__version__).set(1)
        self._gauge("istio_build", "Version of the component.", "component", "tag").labels("pilot", __version__).set(1)
        started = time.monotonic()
        self._gauge("istiod_uptime_seconds", "Seconds since the start.").set_function(
            lambda: time.monotonic() - started
        )

    def root_expires(self, when: Callable[[], datetime]) -> None:
        """Export when the root ends."""
        gauge = self._gauge("citadel_server_root_cert_expiry_timestamp", "When the root ends, seconds since the epoch.")
        gauge.set_function(lambda: when().timestamp())

    def signing(self, counts: Counts) -> None:
        """Export what the signing service counts."""

        def export(name: str, text: str, field: str) -> None:
            self._gauge(name, text).set_function(lambda: getattr(counts, field))

        export("citadel_server_csr_count", "Signing requests.", "csr")
        export(
            "citadel_server_authentication_failure_count",
            "Signing requests of unproved callers.",
            "authentication_failure",
        )
        export("citadel_server_csr_parsing_err_count", "Signing requests that could not be read.", "parsing_error")
        export("citadel_server_success_cert_issuance_count", "Certificates issued.", "success")
        failed = self._gauge("citadel_server_csr_sign_err_count", "Requests that could not be signed.", "error")
        failed.labels("CERT_GEN_ERROR").set_function(lambda: counts.signing_error)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _seconds(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=_SECONDS, registry=self.registry)


class _Count:
    """A counter whose name does not end in `_total`: the text format of the library would add it."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str, *labels: str) -> None:
        self._gauge = Gauge(name, text, labels, registry=registry)
        self._plain = not labels

    def inc(self, *labels: str, amount: float = 1) -> None:
        (self._gauge if self._plain else self._gauge.labels(*labels)).inc(amount)
