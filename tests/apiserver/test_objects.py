"""Writing objects: what is stored, what is refused and how, as seen by raw HTTP, kubectl and the Python client."""

from __future__ import annotations

import json

import pytest
from kubernetes import client, config
from tests.apiserver.conftest import ApiServer, wait

MERGE = "application/merge-patch+json"


def maps(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps"


def test_life_of_an_object(server: ApiServer, namespace: str) -> None:
    """Create, read, replace, patch, delete: each answers what is stored, versions only grow, uids stay."""
    made = server.create(maps(namespace), {"metadata": {"name": "c"}, "data": {"a": "1"}})
    assert made["kind"] == "ConfigMap"
    path = maps(namespace) + "/c"
    assert server.call("GET", path).json == made
    replaced = server.call("PUT", path, made | {"data": {"a": "2"}}).json
    assert replaced["metadata"]["uid"] == made["metadata"]["uid"]
    assert int(replaced["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    stale = server.call("PUT", path, made | {"data": {"a": "3"}})
    assert (stale.code, stale.json["reason"]) == (409, "Conflict")
    patched = server.call("PATCH", path, {"data": {"a": None, "b": "1"}}, content_type=MERGE).json
    assert patched["data"] == {"b": "1"}
    same = server.call("PATCH", path, {"data": {"b": "1"}}, content_type=MERGE).json
    assert same["metadata"]["resourceVersion"] == patched["metadata"]["resourceVersion"]
    gone = server.call("DELETE", path)
    assert gone.json["status"] == "Success"
    assert gone.json["details"]["uid"] == made["metadata"]["uid"]
    assert server.call("GET", path).code == 404


def test_generated_names_and_dry_run(server: ApiServer, namespace: str) -> None:
    """generateName makes names of its own; a dry run answers like the write and stores nothing."""
    names = {server.create(maps(namespace), {"metadata": {"generateName": "g-"}})["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("g-") for name in names)
    answer = server.call("POST", maps(namespace), {"metadata": {"name": "dry"}}, dryRun="All")
    assert (answer.code, answer.json["metadata"]["name"]) == (201, "dry")
    assert "resourceVersion" not in answer.json["metadata"]
    assert server.call("GET", maps(namespace) + "/dry").code == 404


def test_unknown_and_repeated_fields(server: ApiServer, namespace: str) -> None:
    """Ignore drops them, Warn drops and says so, Strict refuses with 400."""
    body = b'{"metadata":{"name":"f"},"dta":{},"data":{"a":"1","a":"2"}}'
    for mode, code, warnings in (("Ignore", 201, 0), ("Warn", 201, 2), ("Strict", 400, 0)):
        answer = server.call("POST", maps(namespace), body, fieldValidation=mode, dryRun="All")
        assert answer.code == code
        assert len(answer.headers.get_all("Warning") or []) == warnings
    message = server.call("POST", maps(namespace), body, fieldValidation="Strict").json["message"]
    assert 'unknown field "dta"' in message
    assert 'duplicate field "data.a"' in message


def test_refusals_name_the_field(server: ApiServer, namespace: str) -> None:
    """Wrong metadata is 422 with a cause a field; a wrong type, a broken body, another kind are 400."""
    wrong = server.call("POST", maps(namespace), {"metadata": {"name": "A_b", "labels": {"x y": "1"}}})
    assert wrong.code == 422
    assert {c["field"] for c in wrong.json["details"]["causes"]} == {"metadata.name", "metadata.labels"}
    for body in (
        b"{",
        b"[]",
        b'{"metadata":{"name":"x"},"data":{"a":1}}',
        b'{"kind":"Secret","metadata":{"name":"x"}}',
    ):
        assert server.call("POST", maps(namespace), body).code == 400
    assert server.call("POST", maps(namespace), {}, content_type="application/cbor").code == 415
    assert server.call("GET", maps(namespace), headers={"Accept": "image/png"}).code == 406
    assert server.call("PUT", maps(namespace), {}).code == 405
    large = server.call("POST", maps(namespace), {"metadata": {"name": "x"}, "data": {"a": "x" * (4 << 20)}})
    assert large.code == 413


def test_finalizers_hold_an_object_back(server: ApiServer, namespace: str) -> None:
    """A deletion waits until the last finalizer is gone; the last update deletes."""
    path = maps(namespace) + "/held"
    server.create(maps(namespace), {"metadata": {"name": "held", "finalizers": ["example.com/x"]}})
    marked = server.call("DELETE", path).json
    assert marked["metadata"]["deletionTimestamp"]
    assert server.call("GET", path).code == 200
    assert server.call("PATCH", path, {"metadata": {"finalizers": None}}, content_type=MERGE).code == 200
    assert server.call("GET", path).code == 404


def test_preconditions_of_a_deletion(server: ApiServer, namespace: str) -> None:
    """A deletion for another uid or version is a conflict."""
    made = server.create(maps(namespace), {"metadata": {"name": "p"}})
    path = maps(namespace) + "/p"
    assert server.call("DELETE", path, {"preconditions": {"uid": "other"}}).code == 409
    assert server.call("DELETE", path, {"preconditions": {"resourceVersion": "1"}}).code == 409
    assert server.call("DELETE", path, {"preconditions": {"uid": made["metadata"]["uid"]}}).code == 200


def test_pods_are_given_time_to_end(server: ApiServer, namespace: str) -> None:
    """A pod on a node is marked with its grace period; one without a node, or with none left, goes at once."""
    pods = f"/api/v1/namespaces/{namespace}/pods"
    spec = {"containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": 7, "schedulerName": "nobody"}
    server.create(pods, {"metadata": {"name": "free"}, "spec": spec})
    assert server.call("DELETE", pods + "/free").code == 200
    assert server.call("GET", pods + "/free").code == 404
    server.create(pods, {"metadata": {"name": "bound"}, "spec": spec | {"nodeName": "elsewhere"}})
    marked = server.call("DELETE", pods + "/bound").json
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 7
    assert server.call("GET", pods + "/bound").code == 200
    assert server.call("DELETE", pods + "/bound", gracePeriodSeconds=0).code == 200
    assert server.call("GET", pods + "/bound").code == 404


def test_delete_collection_takes_what_is_selected(server: ApiServer, namespace: str) -> None:
    """Only the objects of the selector go."""
    for name, label in (("a", "x"), ("b", "x"), ("c", "y")):
        server.create(maps(namespace), {"metadata": {"name": name, "labels": {"l": label}}})
    answer = server.call("DELETE", maps(namespace), labelSelector="l=x")
    assert sorted(item["metadata"]["name"] for item in answer.json["items"]) == ["a", "b"]
    left = server.call("GET", maps(namespace), labelSelector="l").json["items"]
    assert [item["metadata"]["name"] for item in left] == ["c"]


def test_services_get_addresses_of_their_own(server: ApiServer, namespace: str) -> None:
    """Addresses and node ports are unique, kept by updates, refused when taken, and free after the deletion."""
    services = f"/api/v1/namespaces/{namespace}/services"
    port = {"ports": [{"port": 80}], "type": "NodePort"}
    first = server.create(services, {"metadata": {"name": "a"}, "spec": port})["spec"]
    second = server.create(services, {"metadata": {"name": "b"}, "spec": port})["spec"]
    assert first["clusterIP"] != second["clusterIP"]
    assert first["ports"][0]["nodePort"] != second["ports"][0]["nodePort"]
    taken = {"metadata": {"name": "c"}, "spec": {"ports": [{"port": 80}], "clusterIP": first["clusterIP"]}}
    assert server.call("POST", services, taken).json["details"]["causes"][0]["field"] == "spec.clusterIPs"
    updated = server.call("PATCH", services + "/a", {"metadata": {"labels": {"x": "y"}}}, content_type=MERGE).json
    assert updated["spec"]["clusterIP"] == first["clusterIP"]
    assert updated["spec"]["ports"] == first["ports"]
    server.call("DELETE", services + "/a")
    assert server.call("POST", services, taken).code == 201


def test_events_have_two_addresses(server: ApiServer, namespace: str) -> None:
    """An Event written to the core group is read from events.k8s.io, in its form."""
    involved = {"kind": "Pod", "name": "p", "namespace": namespace}
    body = {"metadata": {"name": "e"}, "involvedObject": involved, "message": "hello", "reason": "Because"}
    server.create(f"/api/v1/namespaces/{namespace}/events", body)
    found = server.call("GET", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events/e").json
    assert found["apiVersion"] == "events.k8s.io/v1"
    assert (found["note"], found["regarding"]["name"]) == ("hello", "p")


def test_kubectl_creates_in_protobuf(server: ApiServer, namespace: str) -> None:
    """What typed kubectl commands send arrives whole: numbers, maps, optional zeros, quantities, ports."""
    run = server.kubectl
    run("create", "configmap", "c", "-n", namespace, "--from-literal=a=b")
    run("create", "deployment", "d", "-n", namespace, "--image=example.com/i", "--replicas=0", "--port=8080")
    run("create", "service", "nodeport", "s", "-n", namespace, "--tcp=80:http")
    run("create", "quota", "q", "-n", namespace, "--hard=cpu=1500m,pods=2", ok=False)
    run("create", "role", "r", "-n", namespace, "--verb=get,list", "--resource=pods", "--resource-name=x")
    found = json.loads(run("get", "cm/c", "deploy/d", "svc/s", "role/r", "-n", namespace, "-o", "json").stdout)
    config_map, deployment, service, role = found["items"]
    assert config_map["data"] == {"a": "b"}
    assert deployment["spec"]["replicas"] == 0
    assert deployment["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] == 8080
    assert service["spec"]["ports"][0]["targetPort"] == "http"
    assert role["rules"] == [
        {"apiGroups": [""], "resourceNames": ["x"], "resources": ["pods"], "verbs": ["get", "list"]}
    ]


def test_kubectl_apply_and_explain(server: ApiServer, namespace: str) -> None:
    """apply (both kinds), diff and explain work against discovery and OpenAPI; typos are refused."""
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}}
    run = server.kubectl
    assert "created" in run("apply", "-n", namespace, "-f", "-", stdin=json.dumps(manifest)).stdout
    assert "unchanged" in run("apply", "-n", namespace, "-f", "-", stdin=json.dumps(manifest)).stdout
    done = run("apply", "--server-side", "-n", namespace, "-f", "-", stdin=json.dumps(manifest | {"data": {"b": "2"}}))
    assert "serverside-applied" in done.stdout
    typo = run("apply", "-n", namespace, "-f", "-", stdin=json.dumps(manifest | {"dat": {}}), ok=False)
    assert 'unknown field "dat"' in typo.stderr
    assert "ENUM" in run("explain", "pod.spec.restartPolicy").stdout


def test_the_python_client(server: ApiServer, namespace: str) -> None:
    """Typed models go there and come back; a missing object raises its 404."""
    api = client.CoreV1Api(config.new_client_from_config(str(server.kubeconfig)))
    made = api.create_namespaced_secret(
        namespace, client.V1Secret(metadata=client.V1ObjectMeta(name="s"), string_data={"a": "b"})
    )
    assert made.data == {"a": "Yg=="}
    made.metadata.labels = {"x": "y"}
    assert api.replace_namespaced_secret("s", namespace, made).metadata.labels == {"x": "y"}
    with pytest.raises(client.ApiException) as refused:
        api.read_namespaced_secret("nope", namespace)
    assert refused.value.status == 404


def test_a_namespace_ends_with_all_that_is_in_it(server: ApiServer) -> None:
    """New content is refused while it terminates; in the end it is gone."""
    name = server.namespace()
    server.create(maps(name), {"metadata": {"name": "held", "finalizers": ["example.com/x"]}})
    server.call("DELETE", f"/api/v1/namespaces/{name}")
    refused = server.call("POST", maps(name), {"metadata": {"name": "late"}})
    assert refused.json["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    server.call("PATCH", maps(name) + "/held", {"metadata": {"finalizers": None}}, content_type=MERGE)
    wait(lambda: server.call("GET", f"/api/v1/namespaces/{name}").code == 404, "the end of the namespace")


def test_repeated_keys_in_yaml(server: ApiServer, namespace: str) -> None:
    """A key that comes twice in YAML is refused or warned about, as in JSON."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    text = b"metadata:\n  name: twice\ndata:\n  a: one\n  a: two\n"
    strict = server.call("POST", path, text, content_type="application/yaml", fieldValidation="Strict")
    assert (strict.code, 'line 5: key "a" already set in map' in strict.json["message"]) == (400, True)
    made = server.call("POST", path, text, content_type="application/yaml")
    assert (made.code, "already set in map" in made.headers["Warning"]) == (201, True)


def test_a_scale_can_be_applied(server: ApiServer, namespace: str) -> None:
    """Server-side apply of a scale conflicts with who owns the replicas; forced, it takes them over."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/d"
    labels = {"app": "d"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"schedulerName": "nobody", "containers": [{"name": "c", "image": "i"}]},
    }
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    mine = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec}
    apply = "application/apply-patch+yaml"
    assert server.call("PATCH", path, mine, content_type=apply, fieldManager="me").code == 201
    scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 0}}
    refused = server.call("PATCH", f"{path}/scale", scale, content_type=apply, fieldManager="other")
    assert (refused.code, refused.json["details"]["causes"][0]["field"]) == (409, ".spec.replicas")
    forced = server.call("PATCH", f"{path}/scale", scale, content_type=apply, fieldManager="other", force="true")
    assert forced.code == 200
    found = server.call("GET", path).json
    assert found["spec"]["replicas"] == 0
    owners = [
        (entry["manager"], entry["operation"], entry.get("subresource"))
        for entry in found["metadata"]["managedFields"]
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    ]
    assert owners == [("other", "Apply", "scale")]


def test_apply_says_what_it_applies(server: ApiServer, namespace: str) -> None:
    """A configuration without apiVersion is a 400; without kind it has no type, a 500 as from the real server."""
    path = f"/api/v1/namespaces/{namespace}/configmaps/c"
    apply = "application/apply-patch+yaml"
    for body, code in (({"kind": "ConfigMap"}, 400), ({"apiVersion": "v1"}, 500)):
        assert server.call("PATCH", path, body, content_type=apply, fieldManager="m").code == code


def test_endpoints_written_right_after_their_service(server: ApiServer, namespace: str) -> None:
    """Who writes the Endpoints of a new Service updates what the controller makes, however fast it is."""
    root = f"/api/v1/namespaces/{namespace}"
    spec = {"selector": {"app": "x"}, "ports": [{"port": 80}]}
    for name in ("one", "two", "three"):
        server.create(f"{root}/services", {"metadata": {"name": name}, "spec": spec})
        assert server.call("PUT", f"{root}/endpoints/{name}", {"metadata": {"name": name}}).code == 200
