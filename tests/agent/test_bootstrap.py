"""The bootstrap is one that Envoy accepts, for every kind of proxy and setting."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from pilotfish.agent.bootstrap import bootstrap
from pilotfish.agent.options import AgentError, read
from pilotfish.envoy import proto

WHO = {"POD_NAME": "a-1", "POD_NAMESPACE": "book", "INSTANCE_IP": "10.0.0.1", "SERVICE_ACCOUNT": "a"}


@pytest.mark.parametrize(
    ("kind", "environment", "mark"),
    [
        ("sidecar", {}, False),
        ("router", {"ISTIO_META_DNS_CAPTURE": "true"}, False),
        ("sidecar", {"INSTANCE_IP": "fd00::1"}, True),
        ("sidecar", {"PROXY_CONFIG": '{"concurrency": 2, "runtimeValues": {"a.b": "1"}}'}, False),
        ("sidecar", {"PROXY_CONFIG": '{"proxyStatsMatcher": {"inclusionRegexps": ["a.*"]}}'}, False),
        ("sidecar", {"PROXY_CONFIG": '{"controlPlaneAuthPolicy": "NONE"}'}, False),
    ],
)
async def test_envoy_accepts_it(tmp_path: Path, kind: str, environment: dict[str, str], *, mark: bool) -> None:
    """`envoy --mode validate` has nothing to say."""
    sds = {"PILOTFISH_SDS_SOCKET": str(tmp_path / "sds")}
    options = read(kind, environment={**WHO, **sds, **environment}, podinfo=tmp_path)
    (tmp_path / "envoy.json").write_text(json.dumps(bootstrap(options, mark=mark)))
    envoy = await asyncio.create_subprocess_exec(
        str(proto.envoy_binary()),
        *("--mode", "validate", "-c", str(tmp_path / "envoy.json"), "-l", "error"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await envoy.communicate()
    assert envoy.returncode == 0, out.decode()


@pytest.mark.parametrize(
    ("settings", "limit", "workers"),
    [({}, "", 0), ({}, "2", 2), ({"concurrency": 3}, "2", 3), ({"concurrency": 0}, "2", 0)],
)
def test_workers(tmp_path: Path, settings: dict[str, int], limit: str, workers: int) -> None:
    """Envoy's workers: what ProxyConfig says, else the CPU limit, else as many as there are cores (0)."""
    environment = {**WHO, "PROXY_CONFIG": json.dumps(settings), "ISTIO_CPU_LIMIT": limit}
    assert read("sidecar", environment=environment, podinfo=tmp_path).concurrency == workers


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "shop.book"),
        ({"serviceCluster": "mine"}, "mine"),
        ({"tracingServiceName": "APP_LABEL_AND_NAMESPACE"}, "shop.book"),
        ({"tracingServiceName": "CANONICAL_NAME_ONLY"}, "store"),
        ({"tracingServiceName": "CANONICAL_NAME_AND_NAMESPACE"}, "store.book"),
    ],
)
def test_name_in_traces(tmp_path: Path, settings: dict[str, str], name: str) -> None:
    """The node's cluster, which tracers take for the service's name, follows ProxyConfig."""
    (tmp_path / "labels").write_text('app="shop"\nservice.istio.io/canonical-name="store"\n')
    options = read("sidecar", environment={**WHO, "PROXY_CONFIG": json.dumps(settings)}, podinfo=tmp_path)
    assert bootstrap(options)["node"]["cluster"] == name


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"POD_NAME": ""}, "POD_NAME"),
        ({"PROXY_CONFIG": "{nonsense"}, "PROXY_CONFIG"),
        ({"SECRET_TTL": "soon"}, "SECRET_TTL"),
        ({"ISTIO_CPU_LIMIT": "two"}, "ISTIO_CPU_LIMIT"),
    ],
)
def test_bad_environment_is_named(tmp_path: Path, environment: dict[str, str], text: str) -> None:
    """What is missing or malformed is named, with the variable."""
    with pytest.raises(AgentError, match=text):
        read("sidecar", environment={**WHO, **environment}, podinfo=tmp_path)


@pytest.mark.parametrize(
    ("annotations", "flush", "eviction", "told"),
    [
        ({}, "5s", "3600s", ""),
        ({"statsEvictionInterval": "10m"}, "5s", "600s", ""),
        ({"statsFlushInterval": "10s", "statsEvictionInterval": "20s"}, "10s", "20s", ""),
        ({"statsFlushInterval": "7s"}, "7s", "3605s", ""),
        ({"statsEvictionInterval": "0s"}, "5s", None, ""),
        ({"statsEvictionInterval": "11s"}, "5s", "15s", "must be a multiple"),
        ({"statsEvictionInterval": "soon", "statsFlushInterval": "0s"}, "5s", "3600s", "'soon' is not a duration"),
    ],
)
def test_expiry_of_series(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    annotations: dict[str, str],
    flush: str,
    eviction: str | None,
    told: str,
) -> None:
    """Series expire after an hour, or as Istio's annotations say; what Envoy would not take is told."""
    text = "".join(f'sidecar.istio.io/{name}="{value}"\n' for name, value in annotations.items())
    (tmp_path / "annotations").write_text(text)
    made = bootstrap(read("sidecar", environment=WHO, podinfo=tmp_path))
    assert (made["stats_flush_interval"], made.get("stats_eviction_interval")) == (flush, eviction)
    assert told in caplog.text
    assert bool(told) == bool(caplog.text)


async def test_buckets_of_histograms(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Istio's annotation, by the names that metrics have with Istio, is what Envoy takes; other text is told."""
    folder = tmp_path / "pod"
    folder.mkdir()
    for text, made in (
        ('{"istiocustom": [50, 1, 5], "cluster.a": [1]}', {"cluster.a": [1.0], "istio": [1.0, 5.0, 50.0]}),
        ("[1]", {}),
        ('{"a": ["x"]}', {}),
    ):
        (folder / "annotations").write_text(f"sidecar.istio.io/statsHistogramBuckets={json.dumps(text)}\n")
        found = bootstrap(read("sidecar", environment=WHO, podinfo=folder))["stats_config"]["histogram_bucket_settings"]
        assert {one["match"]["prefix"]: one["buckets"] for one in found} == made
        assert bool(caplog.records) != bool(made)


def test_statistics_of_this_pod(tmp_path: Path) -> None:
    """`{pod_ip}` stands for the pod's address in what a user wants to see of Envoy's statistics."""
    (tmp_path / "annotations").write_text('sidecar.istio.io/statsInclusionPrefixes="http.{pod_ip}_,other"\n')
    made = bootstrap(read("sidecar", environment=WHO, podinfo=tmp_path))
    patterns = made["stats_config"]["stats_matcher"]["inclusion_list"]["patterns"]
    assert {"prefix": "http.10.0.0.1_"} in patterns
    assert {"prefix": "other"} in patterns
