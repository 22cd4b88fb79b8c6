"""ResourceQuotas: counted at once, and refused when they are spent."""

from __future__ import annotations

from typing import Any

from tests.apiserver.conftest import ApiServer


def pod(name: str, **resources: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "i", "resources": resources}
    return {"metadata": {"name": name}, "spec": {"schedulerName": "nobody", "containers": [container]}}


def test_a_spent_quota_refuses(server: ApiServer, namespace: str) -> None:
    """Each object counts from the moment it is there until it is gone; what would be too much is a 403."""
    root = f"/api/v1/namespaces/{namespace}"
    hard = {"pods": "2", "requests.memory": "100Mi", "services.nodeports": "0", "count/configmaps": "9"}
    server.create(f"{root}/resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": hard}})

    def used() -> Any:
        return server.call("GET", f"{root}/resourcequotas/q").json["status"]["used"]

    assert used()["pods"] == "0"
    silent = server.call("POST", f"{root}/pods", pod("a"))
    assert (silent.code, silent.json["reason"]) == (403, "Forbidden")
    assert "failed quota: q: must specify requests.memory for: c" in silent.json["message"]
    server.create(f"{root}/pods", pod("a", requests={"memory": "64Mi"}))
    assert (used()["pods"], used()["requests.memory"]) == ("1", "64Mi")
    over = server.call("POST", f"{root}/pods", pod("b", requests={"memory": "64Mi"}))
    assert over.code == 403
    said = "exceeded quota: q, requested: requests.memory=64Mi, used: requests.memory=64Mi, limited: requests.memory="
    assert said in over.json["message"]
    service = {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
    server.create(f"{root}/services", service)
    merge = "application/merge-patch+json"
    changed = server.call("PATCH", f"{root}/services/s", {"spec": {"type": "NodePort"}}, content_type=merge)
    assert changed.code == 403
    server.call("DELETE", f"{root}/pods/a", {"gracePeriodSeconds": 0})
    assert (used()["pods"], used()["requests.memory"]) == ("0", "0")


def test_scopes_choose_the_pods_that_count(server: ApiServer, namespace: str) -> None:
    """A quota for best-effort pods does not mind the others, and a finished pod counts for none."""
    root = f"/api/v1/namespaces/{namespace}"
    spec = {"hard": {"pods": "1"}, "scopes": ["BestEffort"]}
    server.create(f"{root}/resourcequotas", {"metadata": {"name": "q"}, "spec": spec})
    server.create(f"{root}/pods", pod("burstable", requests={"cpu": "1"}))
    server.create(f"{root}/pods", pod("first"))
    assert server.call("POST", f"{root}/pods", pod("second")).code == 403
    merge = "application/merge-patch+json"
    server.call("PATCH", f"{root}/pods/first/status", {"status": {"phase": "Succeeded"}}, content_type=merge)
    server.create(f"{root}/pods", pod("second"))
