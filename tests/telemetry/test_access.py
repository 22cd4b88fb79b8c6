"""Who may ask the console: tokens of a real API server, in every way they can come, with more and fewer rights."""

from __future__ import annotations

import http.cookies
import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from tests.apiserver.conftest import ApiServer, data_directory, wait
from tests.telemetry.test_process import COMMAND, Process, running

from pilotfish.telemetry.console import AUDIENCE, TOKEN_HEADER

pytestmark = [pytest.mark.xdist_group("console-access")]

SHARED, FOREIGN = "5" * 32, "6" * 32
"""A trace through two namespaces, and one in another only."""


class Answer(NamedTuple):
    status: int
    headers: Message
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def ask(url: str, data: bytes | None = None, **headers: str) -> Answer:
    request = urllib.request.Request(url, data, {key.replace("_", "-"): value for key, value in headers.items()})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - our own
            return Answer(response.status, response.headers, response.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read().decode())


class Site(NamedTuple):
    """A console beside an API server, with two namespaces."""

    server: ApiServer
    console: Process
    shop: str
    other: str

    def token(self, *rules: dict[str, Any], name: str = "", **spec: Any) -> str:
        """Of a new account in `shop`: with rules of its own for all of the cluster."""
        name = name or f"user-{time.monotonic_ns()}"
        path = f"/api/v1/namespaces/{self.shop}/serviceaccounts"
        self.server.create(path, {"metadata": {"name": name}})
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        if rules:
            self.server.create(f"{rbac}/clusterroles", {"metadata": {"name": name}, "rules": list(rules)})
            self.bind(name, f"{rbac}/clusterrolebindings", name)
        return str(self.server.create(f"{path}/{name}/token", {"spec": spec})["status"]["token"])

    def bind(self, account: str, path: str, role: str) -> None:
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
        subject = {"kind": "ServiceAccount", "name": account, "namespace": self.shop}
        self.server.create(path, {"metadata": {"name": account}, "roleRef": reference, "subjects": [subject]})

    def viewer(self) -> str:
        """Of somebody who may see `shop` and no other namespace, as a RoleBinding to `view` gives it."""
        name = f"viewer-{time.monotonic_ns()}"
        token = self.token(name=name)
        self.bind(name, f"/apis/rbac.authorization.k8s.io/v1/namespaces/{self.shop}/rolebindings", "view")
        return token

    def get(self, path: str, token: str = "", **headers: str) -> Answer:
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return ask(self.console.api + path, None, **headers)


ALL = {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with data_directory() as data:
        server = ApiServer(data)
        data.mkdir()
        server.start()
        try:
            shop, other = server.namespace(), server.namespace()
            wait(
                lambda: server.call("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/view").code == 200, "roles"
            )
            arguments = ["--kubeconfig", str(server.kubeconfig), "--auth-strategy", "token"]
            with running(*arguments, "--data", str(tmp_path_factory.mktemp("data"))) as console:
                now = int(time.time() * 1e6)
                spans = [
                    {"traceId": trace, "id": f"{number}" * 16, "timestamp": now, "duration": 9, "name": "x"}
                    | {"localEndpoint": {"serviceName": service}}
                    for number, (trace, service) in enumerate(
                        [
                            *((SHARED, f"page.{shop}"), (SHARED, f"books.{other}"), (SHARED, "database")),
                            (FOREIGN, f"books.{other}"),
                        ],
                        1,
                    )
                ]
                assert console.post("/api/v2/spans", spans) == 202
                one = Site(server, console, shop, other)
                token = one.token(ALL)
                wait(lambda: one.get("/api/health", token).json["store"]["spans"] == len(spans), "spans are written")
                yield one
        finally:
            server.stop()


PATHS = [
    *("/api/health", "/api/metrics", "/api/metrics/graph", "/api/metrics/range?metric=istio_requests_total"),
    *("/api/traces", "/api/traces/services", f"/api/traces/{SHARED}"),
]
ZIPKIN = ["/api/v2/services", "/api/v2/traces", f"/api/v2/trace/{SHARED}", "/api/v2/spans?serviceName=x"]


def test_without_login_nothing_is_told(site: Site) -> None:
    """Every question is answered by 401, Zipkin's too; not so the probe, how to log in, and the sending of spans."""
    for path in PATHS:
        answer = site.get(path)
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), path
        assert "token" in answer.json["error"]
    for path in ZIPKIN:
        assert ask(site.console.receive + path).status == 401, path
    assert site.get("/healthz")[::2] == (200, "")
    assert site.get("/api/auth/info").json == {"strategy": "token", "sessionInfo": {}}
    assert ask(site.console.receive + "/health").json["status"] == "UP"
    assert ask(site.console.receive + "/v1/traces", b"{}", Content_Type="application/json").status == 200


def test_tokens_that_are_none(site: Site) -> None:
    """Nonsense, a token for others, and one whose account is gone: 401, and the token is not repeated."""
    removed = site.token(ALL, name="removed")
    site.server.call("DELETE", f"/api/v1/namespaces/{site.shop}/serviceaccounts/removed")
    other = site.token(ALL, audiences=["istio-ca"])
    mine = site.token(ALL)
    forged = mine[:-6] + ("AAAAAA" if not mine.endswith("AAAAAA") else "BBBBBB")
    for token in ("nonsense", "a.b.c", removed, other, forged):
        answer = site.get("/api/health", token)
        assert answer.status == 401, token
        assert token not in answer.text
    assert "Traceback" not in site.console.log


def test_a_token_of_the_cluster_sees_everything_it_may(site: Site) -> None:
    """Whoever may get all namespaces has all answers, by either header, also with a token made for the console only."""
    for token in (site.token(ALL), site.token(ALL, audiences=[AUDIENCE])):
        for path in PATHS:
            assert site.get(path, token).status == 200, path
        for path in ZIPKIN:
            assert ask(site.console.receive + path, Authorization=f"Bearer {token}").status == 200, path
        assert len(site.get(f"/api/traces/{SHARED}", **{TOKEN_HEADER: token}).json["trace"]) == 3


def test_a_token_for_the_console_is_good_for_nothing_else(site: Site) -> None:
    """The API server does not take it: whoever gets hold of it cannot use it there."""
    token = site.token(ALL, audiences=[AUDIENCE])
    assert site.server.call("GET", f"/api/v1/namespaces/{site.shop}", token=token).code == 401


def test_who_sees_one_namespace(site: Site) -> None:
    """Questions must be limited to it, and what is told of a trace are the spans in it."""
    token = site.viewer()
    shop, other = site.shop, site.other
    for path in (
        f"/api/metrics?where=destination_workload_namespace={shop}",
        f"/api/metrics?where=source_workload_namespace={shop}&where=destination_workload_namespace={other}",
        f"/api/metrics/graph?namespace={shop}",
        f"/api/metrics/range?metric=istio_requests_total&where=destination_service_namespace={shop}",
        f"/api/traces?service=page.{shop}",
    ):
        assert site.get(path, token).status == 200, path
    for path in (
        *("/api/metrics", "/api/metrics/graph", "/api/metrics/range?metric=x", "/api/traces"),
        f"/api/metrics?where=destination_workload_namespace={other}",
        f"/api/metrics?where=destination_workload_namespace={shop}&where=destination_workload_namespace={other}",
        "/api/metrics?where=destination_workload_namespace=",
        f"/api/metrics?where=destination_workload={shop}",
        f"/api/metrics/graph?namespace={shop}&namespace={other}",
        *(f"/api/traces?service=books.{other}", "/api/traces?service=database", f"/api/traces?service={shop}"),
    ):
        answer = site.get(path, token)
        assert answer.status == 403, path
        assert "limit the question" in answer.json["error"]
    assert site.get("/api/traces/services", token).json == {"services": [f"page.{shop}"]}
    (found,) = site.get(f"/api/traces?service=page.{shop}", token).json["traces"]
    for trace in (found, site.get(f"/api/traces/{SHARED}", token).json["trace"]):
        assert [span["localEndpoint"]["serviceName"] for span in trace] == [f"page.{shop}"]
    assert site.get(f"/api/traces/{FOREIGN}", token).status == 404
    assert site.get("/api/health", token).json["targets"] == []
    for path in ZIPKIN:
        assert ask(site.console.receive + path, Authorization=f"Bearer {token}").status == 403, path


def test_rights_that_come_later_count(site: Site) -> None:
    """A refusal is not remembered for long."""
    name = "later"
    token = site.token(name=name)
    path = f"/api/metrics/graph?namespace={site.other}"
    answer = site.get(path, token)
    assert (answer.status, "later may not get" in answer.text) == (403, True)
    site.bind(name, f"/apis/rbac.authorization.k8s.io/v1/namespaces/{site.other}/rolebindings", "view")
    wait(lambda: site.get(path, token).status == 200, "the new right counts", 30)


def login(site: Site, token: str, **headers: str) -> Answer:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    return ask(site.console.api + "/api/authenticate", urlencode({"token": token}).encode(), **kind, **headers)


def test_sessions_of_browsers(site: Site) -> None:
    """A form with a token gives a cookie that scripts cannot read, without the token in it; a changed one is none."""
    token = site.viewer()
    answer = login(site, token)
    assert answer.status == 200
    assert re.fullmatch(rf"system:serviceaccount:{site.shop}:viewer-\d+", answer.json["username"])
    text = answer.headers["Set-Cookie"]
    assert "HttpOnly" in text
    assert "SameSite=Strict" in text
    assert "Secure" not in text
    assert "Secure" in login(site, token, X_Forwarded_Proto="https").headers["Set-Cookie"]
    assert not any(part in text for part in token.split("."))
    ((name, morsel),) = http.cookies.SimpleCookie(text).items()
    cookie = f"{name}={morsel.value}"
    assert site.get("/api/traces/services", Cookie=cookie).json == {"services": [f"page.{site.shop}"]}
    session = site.get("/api/auth/info", Cookie=cookie).json["sessionInfo"]
    assert session == {key: answer.json[key] for key in ("username", "expiresOn")}
    changed = cookie[:-6] + "AAAA" + cookie[-2:]
    refused = site.get("/api/health", Cookie=changed)
    assert refused.status == 401
    assert f'{name}=""' in refused.headers["Set-Cookie"]
    out = site.get("/api/logout", Cookie=cookie)
    assert (out.status, f'{name}=""' in out.headers["Set-Cookie"]) == (204, True)


def test_logins_that_fail(site: Site) -> None:
    """No token, a wrong one, one that shows nothing, and the form of another page."""
    assert login(site, "").status == 401
    assert login(site, "wrong").status == 401
    nothing = login(site, site.token(name="nothing"))
    assert (nothing.status, "nothing may not get any namespace" in nothing.text) == (401, True)
    token = site.viewer()
    assert login(site, token, Origin="http://evil.example").status == 403
    host = site.console.api.removeprefix("http://")
    assert login(site, token, Origin=f"http://{host}").status == 200


def test_nobody_who_could_be_asked(tmp_path: Path) -> None:
    """Without an API server nobody gets in, and it is not the caller's fault: 503."""
    with data_directory() as data:
        server = ApiServer(data)
        data.mkdir()
        server.start()
        text = server.kubeconfig.read_text()
        server.stop()
    config = tmp_path / "kubeconfig"
    config.write_text(text)
    arguments = ("--kubeconfig", str(config), "--auth-strategy", "token", "--data", str(tmp_path / "data"))
    with running(*arguments) as console:
        answer = ask(console.api + "/api/health", Authorization="Bearer a.b.c")
        assert answer.status == 503
        assert "API server could not be asked" in answer.json["error"]


def test_on_loopback_there_is_no_login_unless_asked(tmp_path: Path) -> None:
    """Any other address needs one, and says so when there is no cluster to know tokens."""
    with running("--no-cluster", "--data", str(tmp_path)) as console:
        assert console.get("/api/auth/info") == {"strategy": "anonymous", "sessionInfo": {}}
        assert console.get("/api/traces/services") == {"services": []}
    command = [*COMMAND, "--no-cluster", "--data", str(tmp_path)]
    for more in (["--address", "0.0.0.0"], ["--auth-strategy", "token"], ["--auth-strategy", "openid"]):
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 2, more
        assert "anonymous" in done.stderr
