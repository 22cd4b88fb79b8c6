"""Load balancing, connection pools, outlier detection and client TLS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pilotfish.api.networking.destination_rule import (
    ClientTLSMode,
    ClientTLSSettings,
    ConnectionPoolSettings,
    ConsistentHashLB,
    H2UpgradePolicy,
    LoadBalancerSettings,
    LocalityLbSetting,
    OutlierDetection,
    PortTrafficPolicy,
    SimpleLB,
    TrafficPolicy,
    TunnelSettings,
    ZoneAwareLbSetting,
)
from pilotfish.api.validation.report import Report, duplicates, is_ip

_TOPOLOGY = {
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
}


def check_traffic_policy(report: Report, path: str, policy: TrafficPolicy) -> None:
    if policy == TrafficPolicy():
        report.error(path, "a traffic policy must have at least one field")
    _check_policy(report, path, policy)
    for index, level in enumerate(policy.port_level_settings):
        where = f"{path}.portLevelSettings[{index}]"
        if level.port is None:
            report.error(f"{where}.port", "port is required")
        elif not 1 <= level.port.number <= 65535:
            report.warn(f"{where}.port.number", f"there is no port {level.port.number}; this has no effect")
        if level == PortTrafficPolicy(port=level.port):
            report.error(where, "the traffic policy of a port must have at least one field")
        _check_policy(report, where, level)
    if policy.tunnel is not None:
        _check_tunnel(report, f"{path}.tunnel", policy.tunnel)
        if policy.proxy_protocol is not None:
            report.error(path, "tunnel and proxyProtocol cannot both be set")
    if policy.retry_budget is not None:
        report.percent(f"{path}.retryBudget.percent", policy.retry_budget.percent)


def _check_policy(report: Report, path: str, policy: TrafficPolicy | PortTrafficPolicy) -> None:
    if policy.load_balancer is not None:
        _check_load_balancer(report, f"{path}.loadBalancer", policy.load_balancer, policy.outlier_detection)
    if policy.connection_pool is not None:
        check_connection_pool(report, f"{path}.connectionPool", policy.connection_pool)
    if policy.outlier_detection is not None:
        check_outlier_detection(report, f"{path}.outlierDetection", policy.outlier_detection)
    if policy.tls is not None:
        check_client_tls(report, f"{path}.tls", policy.tls)


def _check_load_balancer(
    report: Report, path: str, balancer: LoadBalancerSettings, outlier: OutlierDetection | None
) -> None:
    if balancer.simple is SimpleLB.LEAST_CONN:
        report.warn(f"{path}.simple", "LEAST_CONN is deprecated; use LEAST_REQUEST")
    if balancer.consistent_hash is not None:
        _check_hash(report, f"{path}.consistentHash", balancer.consistent_hash)
    if balancer.locality_lb_setting is not None:
        if balancer.zone_aware_lb_setting is not None:
            report.error(path, "localityLbSetting and zoneAwareLbSetting cannot both be set")
        check_locality(report, f"{path}.localityLbSetting", balancer.locality_lb_setting, outlier)
    if balancer.zone_aware_lb_setting is not None:
        zones = balancer.zone_aware_lb_setting
        check_zone_aware(report, f"{path}.zoneAwareLbSetting", zones)
        failover = bool(zones.failover or zones.failover_priority)
        _warn_no_outliers(report, f"{path}.zoneAwareLbSetting", failover, outlier)
    if balancer.warmup_duration_secs is not None and balancer.warmup is not None:
        report.warn(f"{path}.warmupDurationSecs", "this has no effect beside warmup")
    warmup = balancer.warmup
    if warmup is not None:
        if warmup.duration is None:
            report.error(f"{path}.warmup.duration", "duration is required")
        report.duration(f"{path}.warmup.duration", warmup.duration)
        report.percent(f"{path}.warmup.minimumPercent", warmup.minimum_percent)
        if warmup.aggression is not None and warmup.aggression <= 0:
            report.error(f"{path}.warmup.aggression", "aggression must be greater than 0")


def _check_hash(report: Report, path: str, consistent: ConsistentHashLB) -> None:
    if consistent.minimum_ring_size:
        report.warn(f"{path}.minimumRingSize", "minimumRingSize is deprecated; use ringHash.minimumRingSize")
        if consistent.ring_hash is not None or consistent.maglev is not None:
            report.error(path, "only one of minimumRingSize, ringHash and maglev can be set")
    cookie = consistent.http_cookie
    if cookie is not None:
        if not cookie.name:
            report.error(f"{path}.httpCookie.name", "name is required")
        if cookie.ttl is not None and cookie.ttl < 0:
            report.error(f"{path}.httpCookie.ttl", f"duration {cookie.ttl} must not be negative")
        for index, attribute in enumerate(cookie.attributes):
            if not attribute.name:
                report.error(f"{path}.httpCookie.attributes[{index}].name", "name is required")
        for index, name in duplicates(attribute.name for attribute in cookie.attributes):
            report.error(f"{path}.httpCookie.attributes[{index}].name", f"duplicate attribute {name!r}")
    keys = (cookie, consistent.http_header_name, consistent.use_source_ip, consistent.http_query_parameter_name)
    if not any(keys):
        report.warn(path, "no hash key is set, so requests are not kept on one endpoint")
    if consistent.maglev is not None:
        size = consistent.maglev.table_size
        if not size:
            report.error(f"{path}.maglev.tableSize", "tableSize is required; 65537 is a good one")
        elif size >= 5_000_011:
            report.error(f"{path}.maglev.tableSize", f"{size} must be less than 5000011")
        elif not _is_prime(size):
            report.error(f"{path}.maglev.tableSize", f"{size} must be a prime number")


def _is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def check_locality(
    report: Report, path: str, setting: LocalityLbSetting, outlier: OutlierDetection | None, *, mesh_wide: bool = False
) -> None:
    if setting.distribute and setting.failover:
        report.error(path, "distribute cannot stand beside failover")
    elif setting.distribute and setting.failover_priority:
        report.warn(f"{path}.failoverPriority", "failoverPriority has no effect beside distribute")
    if setting.failover:
        for label in setting.failover_priority:
            if label in _TOPOLOGY:
                report.error(path, f"failover cannot stand beside the topology label {label!r} in failoverPriority")
    for index, share in enumerate(setting.distribute):
        where = f"{path}.distribute[{index}]"
        _check_locality_name(report, f"{where}.from", share.from_)
        for locality, weight in share.to.items():
            _check_locality_name(report, f"{where}.to[{locality}]", locality)
            if not 1 <= weight <= 100:
                report.error(f"{where}.to[{locality}]", f"locality weight {weight} must be in the range 1 to 100")
        _check_apart(report, f"{where}.to", list(share.to))
        if sum(share.to.values()) != 100:
            report.error(f"{where}.to", f"total locality weight is {sum(share.to.values())}, not 100")
    _check_apart(report, f"{path}.distribute", [share.from_ for share in setting.distribute])
    _check_failover(report, f"{path}.failover", [(failover.from_, failover.to) for failover in setting.failover])
    if not mesh_wide:
        _warn_no_outliers(report, path, bool(setting.failover or setting.failover_priority), outlier)


def check_zone_aware(report: Report, path: str, setting: ZoneAwareLbSetting) -> None:
    for label in setting.failover_priority:
        if label in _TOPOLOGY:
            report.error(f"{path}.failoverPriority", f"the topology label {label!r} is taken into account anyway")
    _check_failover(report, f"{path}.failover", [(failover.from_, failover.to) for failover in setting.failover])


def _warn_no_outliers(report: Report, path: str, failover: bool, outlier: OutlierDetection | None) -> None:
    if failover and outlier is None:
        report.warn(
            path, "outlierDetection must be provided for failover; without it failing endpoints are not noticed"
        )


def _check_failover(report: Report, path: str, failovers: Sequence[tuple[str, str]]) -> None:
    for index, (origin, target) in enumerate(failovers):
        where = f"{path}[{index}]"
        if origin == target:
            report.error(where, f"failover must name different regions, not {origin!r} twice")
        for name in (origin, target):
            if "/" in name or "*" in name:
                report.error(where, f"failover names regions only, not {name!r}")


def _check_locality_name(report: Report, path: str, locality: str) -> None:
    if not locality:
        report.error(path, "locality must not be empty")
        return
    parts = locality.split("/")
    if "*" in locality and (locality.count("*") > 1 or parts[-1] != "*"):
        report.error(path, f"locality {locality!r}: the wildcard `*` can only be the last part")
    if len(parts) > 3 or not all(parts):
        report.error(path, f"locality {locality!r} must be region, region/zone or region/zone/subzone")


def _check_apart(report: Report, path: str, localities: Sequence[str]) -> None:
    for index, one in enumerate(localities):
        for other in localities[index + 1 :]:
            first, second = one.rstrip("*").rstrip("/"), other.rstrip("*").rstrip("/")
            if not first or not second or f"{first}/".startswith(f"{second}/") or f"{second}/".startswith(f"{first}/"):
                report.error(path, f"localities {one!r} and {other!r} overlap")


def check_connection_pool(report: Report, path: str, pool: ConnectionPoolSettings) -> None:
    if pool.http is None and pool.tcp is None:
        report.error(path, "a connection pool must have at least one of http and tcp")
    tcp, http = pool.tcp, pool.http
    if tcp is not None:
        report.not_negative(f"{path}.tcp.maxConnections", tcp.max_connections)
        report.duration(f"{path}.tcp.connectTimeout", tcp.connect_timeout)
        report.duration(f"{path}.tcp.maxConnectionDuration", tcp.max_connection_duration)
        report.duration(f"{path}.tcp.idleTimeout", tcp.idle_timeout, zero=True)
        if tcp.tcp_keepalive is not None:
            report.duration(f"{path}.tcp.tcpKeepalive.time", tcp.tcp_keepalive.time)
            report.duration(f"{path}.tcp.tcpKeepalive.interval", tcp.tcp_keepalive.interval)
    if http is not None:
        counts: Mapping[str, int] = {
            "http1MaxPendingRequests": http.http1_max_pending_requests,
            "http2MaxRequests": http.http2_max_requests,
            "maxRequestsPerConnection": http.max_requests_per_connection,
            "maxRetries": http.max_retries,
            "maxConcurrentStreams": http.max_concurrent_streams,
        }
        for name, value in counts.items():
            report.not_negative(f"{path}.http.{name}", value)
        report.duration(f"{path}.http.idleTimeout", http.idle_timeout)
        if http.use_client_protocol and http.h2_upgrade_policy is H2UpgradePolicy.UPGRADE:
            report.error(f"{path}.http", "useClientProtocol must not be true when h2UpgradePolicy is UPGRADE")
        if http.http2_keep_alive is not None:
            for name, interval in (
                ("interval", http.http2_keep_alive.interval),
                ("timeout", http.http2_keep_alive.timeout),
            ):
                if interval is None:
                    report.error(f"{path}.http.http2KeepAlive.{name}", f"{name} is required")
                report.duration(f"{path}.http.http2KeepAlive.{name}", interval)


def check_outlier_detection(report: Report, path: str, outlier: OutlierDetection) -> None:
    if outlier.consecutive_errors:
        report.warn(
            f"{path}.consecutiveErrors",
            "consecutiveErrors is deprecated and has no effect; use consecutive5xxErrors or consecutiveGatewayErrors",
        )
    report.duration(f"{path}.interval", outlier.interval)
    report.duration(f"{path}.baseEjectionTime", outlier.base_ejection_time)
    report.percent(f"{path}.maxEjectionPercent", outlier.max_ejection_percent)
    report.percent(f"{path}.minHealthPercent", outlier.min_health_percent)
    if not outlier.split_external_local_origin_errors and outlier.consecutive_local_origin_failures:
        report.error(
            f"{path}.consecutiveLocalOriginFailures",
            "this has an effect only with splitExternalLocalOriginErrors: true",
        )
    for index, code in enumerate(outlier.outlier_detection_http_error_codes):
        if not 100 <= code <= 599:
            report.warn(f"{path}.outlierDetectionHttpErrorCodes[{index}]", f"there is no HTTP status {code}")


_OWN_FILES = {ClientTLSMode.SIMPLE, ClientTLSMode.MUTUAL}


def check_client_tls(report: Report, path: str, tls: ClientTLSSettings) -> None:
    certificate = {"clientCertificate": tls.client_certificate, "privateKey": tls.private_key}
    files = {**certificate, "caCertificates": tls.ca_certificates, "caCrl": tls.ca_crl}
    if tls.insecure_skip_verify:
        _check_no_verification(report, path, tls)
    if tls.mode in _OWN_FILES and tls.credential_name:
        if given := [name for name, value in files.items() if value]:
            report.error(path, f"with credentialName, {', '.join(given)} cannot be set")
    elif tls.mode is ClientTLSMode.MUTUAL:
        for name, value in certificate.items():
            if not value:
                report.error(f"{path}.{name}", "mode MUTUAL needs credentialName, or clientCertificate and privateKey")
    elif tls.mode is ClientTLSMode.ISTIO_MUTUAL:
        for name, value in (files | {"credentialName": tls.credential_name}).items():
            if value:
                report.warn(f"{path}.{name}", "this has no effect: mode ISTIO_MUTUAL uses the mesh's own certificates")


def _check_no_verification(report: Report, path: str, tls: ClientTLSSettings) -> None:
    if tls.mode not in _OWN_FILES:
        report.warn(f"{path}.insecureSkipVerify", f"this has no effect with mode {tls.mode}")
        return
    against = {"caCertificates": tls.ca_certificates, "subjectAltNames": tls.subject_alt_names}
    if tls.mode is ClientTLSMode.SIMPLE:
        against["credentialName"] = tls.credential_name
    for name, value in against.items():
        if value:
            report.error(f"{path}.{name}", "this has no meaning with insecureSkipVerify; leave one of them out")


def _check_tunnel(report: Report, path: str, tunnel: TunnelSettings) -> None:
    if tunnel.protocol not in {"", "CONNECT", "POST"}:
        report.error(f"{path}.protocol", f"protocol {tunnel.protocol!r} must be CONNECT or POST")
    if not tunnel.target_host:
        report.error(f"{path}.targetHost", "targetHost is required")
    elif not is_ip(tunnel.target_host):
        report.domain(f"{path}.targetHost", tunnel.target_host, wildcard=False)
    report.port(f"{path}.targetPort", tunnel.target_port)
