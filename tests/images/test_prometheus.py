"""The program that gives the machine's Prometheus discovery of Kubernetes objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pilotfish.local.images.programs.prometheus import endpoints, nodes, pods, rewritten, services

META = "__meta_kubernetes_"
POD: dict[str, Any] = {
    "metadata": {
        "namespace": "shop",
        "name": "web-1",
        "labels": {"app.kubernetes.io/name": "web"},
        "annotations": {"prometheus.io/scrape": "true"},
    },
    "spec": {
        "containers": [
            {"name": "app", "ports": [{"name": "http", "containerPort": 80}, {"containerPort": 81}]},
            {"name": "helper"},
        ],
        "initContainers": [{"name": "proxy", "ports": [{"name": "http-envoy-prom", "containerPort": 15090}]}],
    },
    "status": {"podIP": "10.0.0.1", "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
}
SERVICE: dict[str, Any] = {
    "metadata": {"namespace": "shop", "name": "web"},
    "spec": {"type": "ClusterIP", "clusterIP": "10.1.0.1", "ports": [{"name": "http", "port": 8080}]},
}


def test_pods() -> None:
    """One target for each port, init containers' too, and one without a port where a container has none."""
    groups = list(pods(POD))
    assert [g["targets"] for g in groups] == [["10.0.0.1:15090"], ["10.0.0.1:80"], ["10.0.0.1:81"], ["10.0.0.1"]]
    labels = groups[0]["labels"]
    assert labels[f"{META}pod_container_port_name"] == "http-envoy-prom"
    assert labels[f"{META}pod_container_init"] == "true"
    assert labels[f"{META}pod_label_app_kubernetes_io_name"] == "web"
    assert labels[f"{META}pod_annotation_prometheus_io_scrape"] == "true"
    assert (labels[f"{META}namespace"], labels[f"{META}pod_ready"]) == ("shop", "true")
    assert list(pods({**POD, "status": {}})) == []


def test_endpoints() -> None:
    """Ready and unready addresses, each with what is known of its Service, Pod and container."""
    found = {
        "metadata": {"namespace": "shop", "name": "web"},
        "subsets": [
            {
                "addresses": [{"ip": "10.0.0.1", "targetRef": {"kind": "Pod", "name": "web-1"}}],
                "notReadyAddresses": [{"ip": "10.0.0.2"}],
                "ports": [{"name": "http", "port": 80}],
            }
        ],
    }
    ready, unready = endpoints(found, SERVICE, lambda *_: POD)
    assert ready["targets"] == ["10.0.0.1:80"]
    assert ready["labels"][f"{META}service_name"] == "web"
    assert ready["labels"][f"{META}pod_container_name"] == "app"
    assert (ready["labels"][f"{META}endpoint_ready"], unready["labels"][f"{META}endpoint_ready"]) == ("true", "false")
    assert f"{META}pod_name" not in unready["labels"]


def test_services_and_nodes() -> None:
    """A Service is its name and port, a node its kubelet."""
    assert [g["targets"] for g in services(SERVICE)] == [["web.shop.svc:8080"]]
    node = {"metadata": {"name": "one"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.9.0.1"}]}}
    assert [g["targets"] for g in nodes(node)] == [["10.9.0.1:10250"]]


def test_configuration() -> None:
    """Kubernetes discovery becomes files, one for each section; all else stays; unknown roles are refused."""
    document: dict[str, Any] = {
        "global": {"scrape_interval": "5s"},
        "scrape_configs": [
            {"job_name": "a", "kubernetes_sd_configs": [{"role": "pod"}], "relabel_configs": [{"action": "keep"}]},
            {"job_name": "b", "static_configs": [{"targets": ["x:1"]}]},
        ],
        "alerting": {"alertmanagers": [{"kubernetes_sd_configs": [{"role": "endpoints"}]}]},
    }
    made, wanted = rewritten(document, Path("/f"))
    assert made["global"] == document["global"]
    assert made["scrape_configs"][0] == {
        "job_name": "a",
        "relabel_configs": [{"action": "keep"}],
        "file_sd_configs": [{"files": ["/f/targets-0.json"]}],
    }
    assert made["scrape_configs"][1] == document["scrape_configs"][1]
    assert made["alerting"]["alertmanagers"] == [{"file_sd_configs": [{"files": ["/f/targets-1.json"]}]}]
    assert list(wanted.values()) == [{"role": "pod"}, {"role": "endpoints"}]
    with pytest.raises(ValueError, match="role 'ingress'"):
        rewritten({"scrape_configs": [{"kubernetes_sd_configs": [{"role": "ingress"}]}]}, Path("/f"))
