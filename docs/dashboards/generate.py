"""Writes the Grafana dashboards beside this file: `python docs/dashboards/generate.py`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
RATE = "[$__rate_interval]"


class Panel(NamedTuple):
    """A chart: its title, unit (Grafana's), and queries with their legends."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]


class Dashboard(NamedTuple):
    """Rows of panels, and variables (label → the metric it is read from, with its matchers)."""

    name: str
    title: str
    rows: Sequence[tuple[str, Sequence[Panel]]]
    variables: Sequence[tuple[str, str]] = ()


def rate(metric: str, *matchers: str) -> str:
    return f"rate(istio_{metric}{{{','.join(matchers)}}}{RATE})"


def by(labels: str, expression: str) -> str:
    return f"sum by ({labels}) ({expression})"


def quantile(share: float, metric: str, labels: str, *matchers: str) -> str:
    return (
        f"histogram_quantile({share}, {by(f'le, {labels}' if labels else 'le', rate(f'{metric}_bucket', *matchers))})"
    )


def success(labels: str, *matchers: str) -> str:
    """The share of answers that are no server error."""
    good = by(labels, rate("requests_total", 'response_code!~"5.."', *matchers))
    return f"{good} / {by(labels, rate('requests_total', *matchers))}"


def golden(labels: str, legend: str, *matchers: str) -> list[Panel]:
    """Traffic, errors and latency of requests."""
    return [
        Panel(
            "Requests",
            "reqps",
            [(by(f"{labels}, response_code", rate("requests_total", *matchers)), f"{legend} {{{{response_code}}}}")],
        ),
        Panel("Success", "percentunit", [(success(labels, *matchers), legend)]),
        Panel(
            "Duration",
            "ms",
            [
                (quantile(share, "request_duration_milliseconds", labels, *matchers), f"{legend} p{round(share * 100)}")
                for share in (0.5, 0.9, 0.99)
            ],
        ),
        Panel(
            "Sizes",
            "bytes",
            [
                (quantile(0.9, f"{one}_bytes", labels, *matchers), f"{legend} {one} p90")
                for one in ("request", "response")
            ],
        ),
    ]


def tcp(labels: str, legend: str, *matchers: str) -> list[Panel]:
    """Connections and bytes."""
    return [
        Panel(
            "TCP connections",
            "cps",
            [
                (by(labels, rate(f"tcp_connections_{one}_total", *matchers)), f"{legend} {one}")
                for one in ("opened", "closed")
            ],
        ),
        Panel(
            "TCP bytes",
            "Bps",
            [
                (by(labels, rate(f"tcp_{one}_bytes_total", *matchers)), f"{legend} {one}")
                for one in ("sent", "received")
            ],
        ),
    ]


SOURCE, DESTINATION = 'reporter="source"', 'reporter="destination"'
SERVICE = 'destination_service=~"$service"'
WORKLOAD = ('{0}_workload_namespace=~"$namespace"', '{0}_workload=~"$workload"')
TO, FROM = ([one.format(side) for one in WORKLOAD] for side in ("destination", "source"))
PEERS = "source_workload, source_workload_namespace"

# fmt: off
# ruff: noqa: E501  (a chart is a line)
DASHBOARDS = [
    Dashboard(
        "mesh",
        "Mesh",
        [
            ("All traffic", golden("reporter", "{{reporter}}")),
            (
                "Services",
                [
                    Panel("Requests by service", "reqps", [(by("destination_service", rate("requests_total", SOURCE)), "{{destination_service}}")]),
                    Panel("Success by service", "percentunit", [(success("destination_service", SOURCE), "{{destination_service}}")]),
                    Panel("p99 by service", "ms", [(quantile(0.99, "request_duration_milliseconds", "destination_service", SOURCE), "{{destination_service}}")]),
                    Panel("Mutual TLS", "percentunit", [(f'{by("destination_workload", rate("requests_total", DESTINATION, "connection_security_policy=" + chr(34) + "mutual_tls" + chr(34)))} / {by("destination_workload", rate("requests_total", DESTINATION))}', "{{destination_workload}}")]),
                ],
            ),
            ("TCP", tcp("destination_service", "{{destination_service}}", SOURCE)),
        ],
    ),
    Dashboard(
        "service",
        "Service",
        [
            ("As clients see it", golden(PEERS, "{{source_workload}}", SOURCE, SERVICE)),
            ("As the service sees it", golden("destination_workload", "{{destination_workload}}", DESTINATION, SERVICE)),
            ("TCP", tcp(PEERS, "{{source_workload}}", DESTINATION, SERVICE)),
        ],
        [("service", "istio_requests_total")],
    ),
    Dashboard(
        "workload",
        "Workload",
        [
            ("In", golden(PEERS, "{{source_workload}}", DESTINATION, *TO)),
            ("Out", golden("destination_service", "{{destination_service}}", SOURCE, *FROM)),
            ("TCP", [*tcp(PEERS, "in {{source_workload}}", DESTINATION, *TO), *tcp("destination_service", "out {{destination_service}}", SOURCE, *FROM)]),
            (
                "gRPC messages",
                [Panel("In", "ops", [(by(PEERS, rate(f"{one}_messages_total", DESTINATION, *TO)), f"{{{{source_workload}}}} {one}s") for one in ("request", "response")])],
            ),
        ],
        [("namespace", "istio_requests_total"), ("workload", "istio_requests_total")],
    ),
    Dashboard(
        "control-plane",
        "Control plane",
        [
            (
                "Configuration",
                [
                    Panel("Proxies", "short", [("sum(pilot_xds)", "connected")]),
                    Panel("Pushes", "ops", [(f"sum by (type) (rate(pilot_xds_pushes{RATE}))", "{{type}}")]),
                    Panel("Causes of pushes", "ops", [(f"sum by (type) (rate(pilot_push_triggers{RATE}))", "{{type}}")]),
                    Panel("Change to acknowledgement", "s", [(f"histogram_quantile({share}, sum by (le) (rate(pilot_proxy_convergence_time_bucket{RATE})))", f"p{round(share * 100)}") for share in (0.5, 0.99)]),
                    Panel("Services", "short", [("pilot_services", "services"), ("pilot_virt_services", "virtual services")]),
                ],
            ),
            (
                "Certificates and injection",
                [
                    Panel("Certificates issued", "ops", [(f"sum(rate(citadel_server_success_cert_issuance_count{RATE}))", "issued")]),
                    Panel("Root certificate ends in", "s", [("citadel_server_root_cert_expiry_timestamp - time()", "root")]),
                    Panel("Pods injected", "ops", [(f"sum(rate(sidecar_injection_success_total{RATE}))", "injected")]),
                ],
            ),
        ],
    ),
    Dashboard(
        "performance",
        "Performance",
        [
            (
                "Control plane",
                [
                    Panel("Memory", "bytes", [('process_resident_memory_bytes{job="istiod"}', "{{instance}}")]),
                    Panel("CPU", "short", [(f'rate(process_cpu_seconds_total{{job="istiod"}}{RATE})', "{{instance}}")]),
                ],
            ),
            (
                "Proxies",
                [
                    Panel("Memory of Envoy's heap", "bytes", [("sum by (namespace, pod_name) (envoy_server_memory_allocated)", "{{namespace}}/{{pod_name}}")]),
                    Panel("Connections of proxies", "short", [("sum by (namespace, pod_name) (envoy_server_total_connections)", "{{namespace}}/{{pod_name}}")]),
                    Panel("Uptime", "s", [("max by (namespace, pod_name) (envoy_server_uptime)", "{{namespace}}/{{pod_name}}")]),
                    Panel("Duration of scrapes", "s", [("max by (job) (scrape_duration_seconds)", "{{job}}")]),
                    Panel("Series per scrape", "short", [("max by (job) (scrape_samples_scraped)", "{{job}}")]),
                ],
            ),
        ],
    ),
]  # fmt: skip
LABELS = {
    "namespace": "destination_workload_namespace",
    "workload": "destination_workload",
    "service": "destination_service",
}


def rendered(dashboard: Dashboard) -> dict[str, Any]:
    """As Grafana imports it: rows of charts, four to a row."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, charts in dashboard.rows:
        panels.append({"type": "row", "title": row, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "panels": []})
        y += 1
        for index, panel in enumerate(charts):
            place = {"x": 6 * (index % 4), "y": y + 8 * (index // 4), "w": 6, "h": 8}
            targets = [
                {"refId": chr(ord("A") + n), "expr": expression, "legendFormat": legend, "datasource": DATASOURCE}
                for n, (expression, legend) in enumerate(panel.queries)
            ]
            panels.append(
                {
                    "type": "timeseries",
                    "title": panel.title,
                    "gridPos": place,
                    "datasource": DATASOURCE,
                    "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
                    "targets": targets,
                }
            )
        y += 8 * -(-len(charts) // 4)
    for number, panel_ in enumerate(panels, 1):
        panel_["id"] = number
    variables: list[dict[str, Any]] = [{"name": "datasource", "type": "datasource", "query": "prometheus"}]
    variables += [
        {
            "name": name,
            "type": "query",
            "datasource": DATASOURCE,
            "query": f"label_values({metric}, {LABELS[name]})",
            "refresh": 2,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }
        for name, metric in dashboard.variables
    ]
    return {
        "uid": f"pilotfish-{dashboard.name}",
        "title": f"Pilotfish: {dashboard.title}",
        "tags": ["pilotfish"],
        "schemaVersion": 39,
        "time": {"from": "now-30m", "to": "now"},
        "refresh": "15s",
        "templating": {"list": variables},
        "panels": panels,
    }


def main() -> None:
    for dashboard in DASHBOARDS:
        path = Path(__file__).parent / f"{dashboard.name}.json"
        path.write_text(json.dumps(rendered(dashboard), indent=1) + "\n")


if __name__ == "__main__":
    main()
