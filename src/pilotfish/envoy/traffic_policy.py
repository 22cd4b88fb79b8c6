"""What a DestinationRule's traffic policy means for a cluster: connection pool, outlier detection, load balancing."""

from __future__ import annotations

from typing import Any

from pilotfish.api.mesh import MeshConfig
from pilotfish.api.networking.destination_rule import (
    ConnectionPoolSettings,
    LoadBalancerSettings,
    OutlierDetection,
    SimpleLB,
    TcpKeepalive,
    TrafficPolicy,
)
from pilotfish.envoy.proto import Fields
from pilotfish.envoy.values import UNLIMITED, duration, number


def circuit_breakers(policy: TrafficPolicy) -> Fields:
    """Envoy's defaults (1,024 connections) are never meant: without settings all limits are off."""
    pool = policy.connection_pool or ConnectionPoolSettings()
    limits: dict[str, Any] = dict.fromkeys(
        ("max_connections", "max_pending_requests", "max_requests", "max_retries"), number(UNLIMITED)
    )
    if pool.tcp is not None and pool.tcp.max_connections > 0:
        limits["max_connections"] = number(pool.tcp.max_connections)
    if pool.http is not None:
        for field, value in (
            ("max_pending_requests", pool.http.http1_max_pending_requests),
            ("max_requests", pool.http.http2_max_requests),
            ("max_retries", pool.http.max_retries),
        ):
            if value > 0:
                limits[field] = number(value)
    budget = policy.retry_budget
    if budget is not None:
        limits["retry_budget"] = {
            "budget_percent": number(20.0 if budget.percent is None else budget.percent),
            "min_retry_concurrency": number(budget.min_retry_concurrency or 3),
        }
        if budget.budget_interval is not None:
            limits["retry_budget"]["budget_interval"] = duration(budget.budget_interval)
    return {"thresholds": [limits]}


def connection(policy: TrafficPolicy, mesh: MeshConfig) -> Fields:
    """Connect timeout and keepalive."""
    tcp = policy.connection_pool.tcp if policy.connection_pool is not None else None
    timeout = tcp.connect_timeout if tcp is not None else None
    fields: Fields = {"connect_timeout": duration(timeout if timeout is not None else mesh.connect_timeout)}
    keepalive = (tcp.tcp_keepalive if tcp is not None else None) or mesh.tcp_keepalive
    if keepalive is not None:
        fields["upstream_connection_options"] = {"tcp_keepalive": _keepalive(keepalive)}
    return fields


def _keepalive(settings: TcpKeepalive) -> Fields:
    fields: Fields = {}
    if settings.probes:
        fields["keepalive_probes"] = number(settings.probes)
    if settings.time is not None:
        fields["keepalive_time"] = number(int(settings.time.seconds))
    if settings.interval is not None:
        fields["keepalive_interval"] = number(int(settings.interval.seconds))
    return fields


def common_http(policy: TrafficPolicy) -> Fields:
    """Limits on the life of upstream connections (HttpProtocolOptions)."""
    pool = policy.connection_pool
    fields: Fields = {}
    if pool is None:
        return fields
    http, tcp = pool.http, pool.tcp
    if http is not None and http.max_requests_per_connection > 0:
        fields["max_requests_per_connection"] = number(http.max_requests_per_connection)
    idle = http.idle_timeout if http is not None and http.idle_timeout is not None else None
    idle = idle if idle is not None else tcp.idle_timeout if tcp is not None else None
    if idle is not None:
        fields["idle_timeout"] = duration(idle)
    if tcp is not None and tcp.max_connection_duration is not None:
        fields["max_connection_duration"] = duration(tcp.max_connection_duration)
    return fields


def http2(policy: TrafficPolicy) -> Fields:
    http = policy.connection_pool.http if policy.connection_pool is not None else None
    fields: Fields = {}
    if http is not None and http.max_concurrent_streams > 0:
        fields["max_concurrent_streams"] = number(http.max_concurrent_streams)
    if http is not None and http.http2_keep_alive is not None:
        keep = http.http2_keep_alive
        if keep.interval is not None and keep.timeout is not None:
            fields["connection_keepalive"] = {"interval": duration(keep.interval), "timeout": duration(keep.timeout)}
    return fields


def outlier_detection(settings: OutlierDetection | None) -> Fields | None:
    """Ejection of failing endpoints. Success-rate ejection is never on."""
    if settings is None:
        return None
    fields: Fields = {"enforcing_success_rate": number(0)}
    five = settings.consecutive_5xx_errors
    if five is None and settings.consecutive_errors:
        five = settings.consecutive_errors
    if five is not None:
        fields |= _threshold("consecutive_5xx", five)
    if settings.consecutive_gateway_errors is not None:
        fields |= _threshold("consecutive_gateway_failure", settings.consecutive_gateway_errors)
    if settings.interval is not None:
        fields["interval"] = duration(settings.interval)
    if settings.base_ejection_time is not None:
        fields["base_ejection_time"] = duration(settings.base_ejection_time)
    if settings.max_ejection_percent > 0:
        fields["max_ejection_percent"] = number(settings.max_ejection_percent)
    if settings.split_external_local_origin_errors:
        fields["split_external_local_origin_errors"] = True
        if settings.consecutive_local_origin_failures is not None:
            fields["consecutive_local_origin_failure"] = number(settings.consecutive_local_origin_failures)
            fields["enforcing_consecutive_local_origin_failure"] = number(100)
        fields["enforcing_local_origin_success_rate"] = number(0)
    return fields


def _threshold(name: str, count: int) -> Fields:
    return {name: number(count), f"enforcing_{name}": number(100 if count else 0)}


def error_matcher(settings: OutlierDetection | None) -> Fields | None:
    """Which response codes count as errors (HttpProtocolOptions.outlier_detection)."""
    if settings is None or not settings.outlier_detection_http_error_codes:
        return None
    codes = [
        {"http_response_headers_match": {"headers": [{"name": ":status", "string_match": {"exact": str(code)}}]}}
        for code in settings.outlier_detection_http_error_codes
    ]
    return {"error_matcher": codes[0] if len(codes) == 1 else {"or_match": {"rules": codes}}}


def min_health_percent(settings: OutlierDetection | None) -> int:
    return settings.min_health_percent if settings is not None else 0


def load_balancer(settings: LoadBalancerSettings | None) -> Fields:
    """Policy and its parameters. PASSTHROUGH and ORIGINAL_DST are the cluster's own affair."""
    if settings is None:
        return {"lb_policy": "LEAST_REQUEST"}
    hashed = settings.consistent_hash
    if hashed is not None:
        if hashed.maglev is not None:
            fields: Fields = {"lb_policy": "MAGLEV"}
            if hashed.maglev.table_size:
                fields["maglev_lb_config"] = {"table_size": number(hashed.maglev.table_size)}
            return fields
        size = hashed.ring_hash.minimum_ring_size if hashed.ring_hash is not None else hashed.minimum_ring_size
        return {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": number(size or 1024)}}
    simple = settings.simple
    if simple is SimpleLB.RANDOM:
        return {"lb_policy": "RANDOM"}
    name = "ROUND_ROBIN" if simple is SimpleLB.ROUND_ROBIN else "LEAST_REQUEST"
    fields = {"lb_policy": name}
    if (warm := _slow_start(settings)) is not None:
        fields[f"{name.lower()}_lb_config"] = {"slow_start_config": warm}
    return fields


def _slow_start(settings: LoadBalancerSettings) -> Fields | None:
    if settings.warmup is not None and settings.warmup.duration is not None:
        warm = settings.warmup
        return {
            "slow_start_window": duration(warm.duration or 0),
            "aggression": {
                "default_value": 1.0 if warm.aggression is None else warm.aggression,
                "runtime_key": "slow_start.aggression",
            },
            "min_weight_percent": number(10.0 if warm.minimum_percent is None else warm.minimum_percent),
        }
    if settings.warmup_duration_secs is not None:
        return {"slow_start_window": duration(settings.warmup_duration_secs)}
    return None
