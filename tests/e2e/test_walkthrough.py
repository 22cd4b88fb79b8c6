"""What a user does first: Bookinfo, and the commands of kubectl, on a rootful and on a rootless cluster."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from .harness import SAMPLES, Cluster, curl, wait_until

ECHO = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, labels: {app: echo}}
spec:
  replicas: 1
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: echo
        image: pilotfish/echo:v1
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  selector: {app: echo}
  ports: [{name: http, port: 80, targetPort: 8080}]
"""


def _pod(cluster: Cluster, namespace: str, selector: str) -> str:
    return cluster.kubectl("get", "pod", "-n", namespace, "-l", selector, "-o", "jsonpath={.items[0].metadata.name}")


def test_bookinfo(cluster: Cluster, namespace: str) -> None:
    """Bookinfo from its manifest: every pod becomes ready and the page is whole, asked from another pod."""
    cluster.kubectl("label", "namespace", namespace, "istio-injection=enabled")
    assert "istio-injection=enabled" in cluster.kubectl("describe", "ns", namespace)
    applied = cluster.kubectl("apply", "-n", namespace, "-f", str(SAMPLES / "bookinfo/bookinfo.yaml"))
    assert applied.count(" created") == 14
    cluster.ready(namespace)
    everything = cluster.kubectl("get", "all", "-n", namespace)
    for name in ("pod/productpage-v1-", "service/reviews", "deployment.apps/reviews-v3", "replicaset.apps/ratings-v1-"):
        assert name in everything
    wide = cluster.kubectl("get", "pods", "-n", namespace, "-o", "wide")
    assert wide.split()[:9] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED", "NODE"]
    assert len(re.findall(r" 1/1 +Running +0 .* 10\.244\.\d+\.\d+ +pilotfish ", wide)) == 6
    cluster.kubectl("get", "crd")
    ratings = _pod(cluster, namespace, "app=ratings")
    names = cluster.kubectl("get", f"pod/{ratings}", "-n", namespace, "-o=jsonpath={.spec.containers[*].name}")
    assert names == "ratings"
    ask = ("exec", "-n", namespace, ratings, "-c", "ratings", "--", "curl", "-sS", "--max-time", "10")
    page = cluster.kubectl(*ask, "productpage:9080/productpage")
    assert "<title>Simple Bookstore App</title>" in page
    assert "PublisherA" in page
    seen = "".join(cluster.kubectl(*ask, "reviews:9080/reviews/0") for _ in range(25))
    for version in ("reviews-v1-", "reviews-v2-", "reviews-v3-"):
        assert f'"podname": "{version}' in seen
    log = cluster.kubectl("logs", "-n", namespace, "-l", "app=productpage")
    assert '"GET /productpage HTTP/1.1" 200' in log


def test_calc_and_greeting(cluster: Cluster, namespace: str) -> None:
    """One of the two versions answers the sum, the other fails in Spring's shape; greeting passes both on."""
    cluster.kubectl("apply", "-n", namespace, "-f", str(SAMPLES / "calc-greeting/calc-greeting.yaml"))
    cluster.ready(namespace)
    greeting = ("exec", "-n", namespace, "deploy/greeting", "--", "curl", "-sS", "greeting-service:8080/greeting/1/2")
    answers = [cluster.kubectl(*greeting) for _ in range(20)]
    assert "3" in answers
    assert any('"status": 500' in answer and '"path": "/greeting/1/2"' in answer for answer in answers)


def test_rollouts(cluster: Cluster, namespace: str) -> None:
    """scale, rollout restart, set image to one that nobody mapped, status, undo, history."""
    cluster.apply(ECHO, namespace)
    n = ("-n", namespace)
    cluster.ready(namespace)
    cluster.kubectl("scale", *n, "deploy/echo", "--replicas=3")
    cluster.kubectl("rollout", "status", *n, "deploy/echo", "--timeout=60s")
    assert cluster.get("deploy", "echo", *n)["status"]["readyReplicas"] == 3
    before = set(cluster.kubectl("get", "pods", *n, "-o", "name").split())
    cluster.kubectl("rollout", "restart", *n, "deploy/echo")
    assert "successfully rolled out" in cluster.kubectl("rollout", "status", *n, "deploy/echo", "--timeout=60s")
    pods = cluster.get("pods", *n)["items"]
    staying = {f"pod/{pod['metadata']['name']}" for pod in pods if "deletionTimestamp" not in pod["metadata"]}
    assert len(staying) == 3
    assert not before & staying
    cluster.kubectl("set", "image", *n, "deploy/echo", "echo=docker.io/me/unknown:v2")
    wait_until(
        lambda: re.search("ErrImagePull|ImagePullBackOff", cluster.kubectl("get", "pods", *n)),
        "the new image is refused",
    )
    events = wait_until(
        lambda: (found := cluster.kubectl("events", *n)) and "pilotfish image add" in found and found,
        "the hint in events",
    )
    assert "docker.io/me/unknown:v2" in events
    cluster.kubectl("rollout", "undo", *n, "deploy/echo")
    cluster.kubectl("rollout", "status", *n, "deploy/echo", "--timeout=60s")
    assert "pilotfish/echo:v1" in cluster.kubectl("get", "deploy", *n, "-o", "wide")
    assert len(re.findall(r"^\d+ ", cluster.kubectl("rollout", "history", *n, "deploy/echo"), re.MULTILINE)) >= 3


def test_kubectl_verbs(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """edit, patch, diff, explain, api-resources, auth can-i, events, top, wait, delete."""
    n = ("-n", namespace)
    cluster.apply(ECHO, namespace)
    cluster.ready(namespace)
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/^  replicas: 1$/  replicas: 2/' \"$1\"\n")
    editor.chmod(0o755)
    cluster.environment["KUBE_EDITOR"] = str(editor)
    assert "edited" in cluster.kubectl("edit", *n, "deploy/echo")
    cluster.kubectl("rollout", "status", *n, "deploy/echo", "--timeout=60s")
    cluster.kubectl("patch", *n, "deploy/echo", "-p", '{"spec":{"replicas":1}}')
    cluster.kubectl(
        "patch", *n, "deploy/echo", "--type=json", "-p", '[{"op":"add","path":"/metadata/labels/x","value":"y"}]'
    )
    assert cluster.get("deploy", "echo", *n)["metadata"]["labels"] == {"app": "echo", "x": "y"}
    difference = cluster.kubectl("diff", *n, "-f", "-", input_=ECHO.replace("replicas: 1", "replicas: 5"), check=False)
    assert re.search(r"^\+ +replicas: 5$", difference, re.MULTILINE)
    assert "readinessProbe" in cluster.kubectl("explain", "deployment.spec.template.spec.containers")
    resources = cluster.kubectl("api-resources")
    assert re.search(r"^deployments +deploy +apps/v1 +true +Deployment$", resources, re.MULTILINE)
    assert cluster.kubectl("auth", "can-i", "create", "pods").strip() == "yes"
    account = f"--as=system:serviceaccount:{namespace}:default"
    assert cluster.kubectl("auth", "can-i", "list", "secrets", account, *n, check=False).startswith("no")
    assert "Started" in cluster.kubectl("events", *n)
    wait_until(lambda: "echo-" in cluster.kubectl("top", "pods", *n, check=False), "figures of the pod")
    assert "Containers:" in cluster.kubectl("describe", "pod", *n, "-l", "app=echo")
    cluster.kubectl("delete", *n, "deploy/echo", "service/echo")
    cluster.kubectl("wait", *n, "--for=delete", "pod", "-l", "app=echo", "--timeout=60s")
    assert "No resources found" in cluster.kubectl("get", "pods", *n, check=False)


def test_watch(cluster: Cluster, namespace: str) -> None:
    """get -w prints a line for every change of a pod."""
    watch = cluster.popen("get", "pods", "-n", namespace, "-w")
    try:
        cluster.apply(ECHO, namespace)
        assert watch.stdout is not None
        lines: list[str] = []
        while not lines or "1/1" not in lines[-1]:
            lines.append(watch.stdout.readline())
        assert any("0/1" in line for line in lines)
    finally:
        watch.send_signal(signal.SIGINT)
        watch.wait()


def test_port_forward(cluster: Cluster, namespace: str) -> None:
    """port-forward reaches a pod through the API server."""
    cluster.apply(ECHO, namespace)
    cluster.ready(namespace)
    forward = cluster.popen("port-forward", "-n", namespace, "service/echo", ":80")
    try:
        assert forward.stdout is not None
        port = re.search(r"127\.0\.0\.1:(\d+)", forward.stdout.readline())
        assert port
        code, answer = curl(f"http://127.0.0.1:{port[1]}/hello")
        assert code == 0
        assert '"path": "/hello"' in answer
    finally:
        forward.terminate()
        forward.wait()


def test_published_ports(cluster: Cluster, namespace: str) -> None:
    """A NodePort and the ports of a LoadBalancer answer on the machine's loopback, and end with their Service."""
    cluster.apply(ECHO, namespace)
    cluster.ready(namespace)
    n = ("-n", namespace)
    cluster.kubectl("expose", *n, "deploy/echo", "--name=outside", "--type=NodePort", "--port=8080")
    port = cluster.get("service", "outside", *n)["spec"]["ports"][0]["nodePort"]
    wait_until(lambda: curl(f"http://{cluster.address}:{port}/np")[0] == 0, "the NodePort answers")
    assert '"path": "/np"' in curl(f"http://{cluster.address}:{port}/np")[1]
    cluster.kubectl(
        "expose", *n, "deploy/echo", "--name=balanced", "--type=LoadBalancer", "--port=8080", "--target-port=8080"
    )
    address = wait_until(
        lambda: cluster.get("service", "balanced", *n)["status"].get("loadBalancer", {}).get("ingress"), "an address"
    )
    assert address[0]["ip"]
    wait_until(lambda: curl(f"http://{cluster.address}:8080/lb")[0] == 0, "the load balancer answers")
    assert '"path": "/lb"' in curl(f"http://{cluster.address}:8080/lb")[1]
    cluster.kubectl("delete", "service", *n, "outside", "balanced")
    wait_until(lambda: curl(f"http://{cluster.address}:{port}/np")[0] == 7, "the NodePort is closed")


def test_names_and_dead_addresses(cluster: Cluster, namespace: str) -> None:
    """A pod finds services by all their names; a Service without endpoints is refused at once."""
    cluster.apply(ECHO, namespace)
    cluster.kubectl("create", "service", "clusterip", "empty", "--tcp=80:80", "-n", namespace)
    cluster.kubectl("run", "caller", "--image=curlimages/curl", "-n", namespace, "--command", "--", "sleep", "infinity")
    cluster.ready(namespace)
    cluster.kubectl("wait", "-n", namespace, "--for=condition=Ready", "pod/caller", "--timeout=60s")
    ask = ("exec", "-n", namespace, "caller", "--", "curl", "-sS", "--max-time", "5")
    for name in ("echo", f"echo.{namespace}", f"echo.{namespace}.svc", f"echo.{namespace}.svc.cluster.local"):
        assert f'"host": "{name}"' in cluster.kubectl(*ask, f"http://{name}/")
    secret = "https://kubernetes.default.svc/api/v1/secrets"
    assert cluster.kubectl(*ask, "-k", "-o", "/dev/null", "-w", "%{http_code}", secret) in {"401", "403"}
    refused = cluster.kubectl(*ask, "http://empty/", check=False)
    assert "curl: (7)" in refused
    unknown = cluster.kubectl(*ask, "http://nothing-like-this/", check=False)
    assert "curl: (6)" in unknown


def test_own_image(cluster: Cluster, namespace: str) -> None:
    """A pod that waits for an unknown image goes on when the user maps it; its program sees its directory."""
    work = cluster.home / "work"
    work.mkdir(exist_ok=True)
    (work / "app.py").write_text(
        "import os, time\nprint('here:', os.environ['GREETING'], os.getcwd(), flush=True)\ntime.sleep(600)\n"
    )
    for path in (work, work / "app.py"):
        path.chmod(0o755)
    n = ("-n", namespace)
    cluster.kubectl("run", "mine", "--image=docker.io/me/app:v3", *n, "--env=GREETING=hello")
    wait_until(
        lambda: (
            "ErrImagePull" in cluster.kubectl("get", "pod", "mine", *n)
            or "BackOff" in cluster.kubectl("get", "pod", "mine", *n)
        ),
        "the image is unknown",
    )
    cluster.pilotfish("image", "add", "docker.io/me/app", "--workdir", str(work), "--", "python3", "app.py")
    cluster.kubectl("wait", *n, "--for=condition=Ready", "pod/mine", "--timeout=90s")
    assert cluster.kubectl("logs", "mine", *n) == f"here: hello {work}\n"
