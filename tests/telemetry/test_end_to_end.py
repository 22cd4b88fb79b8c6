"""The collector in a running mesh: what Bookinfo does is what the command line shows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.conftest import skip_unless_possible
from tests.e2e.harness import SAMPLES, Cluster, fresh, wait_until

from pilotfish.install.charts import render

pytestmark = [pytest.mark.xdist_group("collector")]

BOOKS = "book-demo"
TRACING = "meshConfig.defaultConfig.tracing"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Mesh, console and Bookinfo, every request traced."""
    skip_unless_possible("rootful")
    with fresh("rootful") as one:
        one.up()
        settings = [f"{TRACING}.zipkin.address=zipkin.istio-system:9411", f"{TRACING}.sampling=100"]
        settings += ["profile=minimal", "meshConfig.enableTracing=true"]
        one.pilotfish("install", "-y", *(word for setting in settings for word in ("--set", setting)))
        console = render("console", "console", "istio-system", {"scrapeInterval": 1, "auth": {"strategy": "anonymous"}})
        one.apply("\n---\n".join(map(json.dumps, console)), "istio-system")
        one.kubectl("create", "namespace", BOOKS)
        one.kubectl("label", "namespace", BOOKS, "istio-injection=enabled")
        one.kubectl("apply", "-n", BOOKS, "-f", str(SAMPLES / "bookinfo" / "bookinfo.yaml"))
        one.ready(BOOKS)
        one.ready("istio-system")
        yield one


def ask(cluster: Cluster, *arguments: str) -> Any:
    return json.loads(cluster.pilotfish(*arguments, "-o", "json").stdout)


def requests(cluster: Cluster, count: int) -> None:
    """To the product page, from inside the mesh."""
    pod = cluster.get("pods", "-n", BOOKS, "-l", "app=ratings")["items"][0]["metadata"]["name"]
    script = f"for i in $(seq {count}); do curl -sS -o /dev/null http://productpage:9080/productpage; done"
    cluster.kubectl("exec", "-n", BOOKS, pod, "-c", "ratings", "--", "sh", "-c", script)


def api(cluster: Cluster, path: str) -> Any:
    root = "/api/v1/namespaces/istio-system/services/pilotfish-console:20001/proxy/api/"
    return json.loads(cluster.kubectl("get", "--raw", root + path))


def health(cluster: Cluster) -> Any:
    return api(cluster, "health")


def test_requests_are_in_metrics_and_traces(cluster: Cluster) -> None:
    """Every request is counted once, with its latency; one request is one trace, from page to ratings."""
    pods = len(cluster.get("pods", "-n", BOOKS)["items"])
    up = wait_until(
        lambda: sum(one["up"] for one in health(cluster)["targets"]) >= pods + 1 and health(cluster),
        "all proxies and the control plane are scraped",
        20,
    )
    assert {one["job"] for one in up["targets"]} == {"envoy-stats", "istiod"}
    requests(cluster, 30)

    def counted() -> dict[str, Any] | None:
        rows = {
            row["labels"]["destination_workload"]: row for row in ask(cluster, "metrics", "-n", BOOKS, "--window", "2m")
        }
        sums: Counter[str] = Counter()
        for name, row in rows.items():
            sums[name.partition("-")[0]] += round(row["requests"] * 120)
        # Proxies are scraped at different moments, and Envoy shows its histograms only every few seconds.
        complete = all(sums[name] >= 30 for name in ("productpage", "details", "reviews"))
        return {**rows, "sums": sums} if complete and rows["productpage-v1"]["p50"] is not None else None

    found = wait_until(counted, "the requests are counted", 60)
    assert [found["sums"][name] for name in ("productpage", "details", "reviews")] == [30, 30, 30]
    page = found["productpage-v1"]
    assert page["codes"] == {"200": page["requests"]}
    assert page["errors"] == 0
    assert 0 < page["p50"] <= page["p90"] <= page["p99"]
    table = cluster.pilotfish("metrics", f"reviews.{BOOKS}", "--window", "2m").stdout.splitlines()
    assert table[0].startswith("SERVICE")
    assert table[1].split()[:4] == ["reviews", BOOKS, "0.25", "100.0%"]

    calls = {("ratings", "productpage"), ("productpage", "details"), ("productpage", "reviews"), ("reviews", "ratings")}

    def graph() -> dict[tuple[str, str], int] | None:
        sums: Counter[tuple[str, str]] = Counter()
        for one in api(cluster, f"metrics/graph?window=120&namespace={BOOKS}")["edges"]:
            sums[one["labels"]["source_app"], one["labels"]["destination_app"]] += round(one["requests"] * 120)
        return sums if sums.keys() == calls and sums["productpage", "reviews"] >= 30 else None

    edges = wait_until(graph, "the graph is whole", 60)
    assert [edges[one] for one in sorted(calls)[:2]] == [30, 30]

    def trace() -> list[dict[str, Any]] | None:
        traces = ask(cluster, "traces", "--service", f"ratings.{BOOKS}", "--limit", "5")
        return max(traces, key=len) if traces and len(max(traces, key=len)) >= 8 else None

    spans = wait_until(trace, "a trace from the page to the ratings", 60)
    services = {span["localEndpoint"]["serviceName"] for span in spans}
    assert services == {f"{name}.{BOOKS}" for name in ("productpage", "details", "reviews", "ratings")}
    shown = cluster.pilotfish("traces", spans[0]["traceId"]).stdout
    assert shown.count("\n") == len(spans) + 3
    assert f"└─ productpage.{BOOKS}" in shown
    state = health(cluster)
    assert state["problem"] == ""
    assert state["received"]["refused"] == state["received"]["dropped"] == 0


def test_kind_errors(cluster: Cluster) -> None:
    """Unknown names, ids, a console that is not there, and a Prometheus that does not answer: a line each."""
    none = cluster.pilotfish("metrics", "nobody", "-n", BOOKS)
    assert "No traffic of nobody" in none.stderr
    assert "targets" in none.stderr
    for arguments, words in (
        (("traces", "--service", "nobody"), "no service nobody has reported spans"),
        (("traces", "xyz"), "'xyz' is no trace id"),
        (("traces", "abc123"), "is not known"),
        (("metrics", "-i", "elsewhere"), "is not installed"),
        (("metrics", "--prometheus", "http://127.0.0.1:1"), "cannot be reached"),
    ):
        done = cluster.pilotfish(*arguments, check=False)
        assert done.returncode == 1, arguments
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1
