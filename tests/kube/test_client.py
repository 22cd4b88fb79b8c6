from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import unused_port
from tests.kube.scripted_server import serving, status

from pilotfish.kube.client import Client, PatchType, Propagation
from pilotfish.kube.config import Config, ExecPlugin, TokenSource, in_cluster, load_kubeconfig
from pilotfish.kube.errors import ApiStatusError, ConfigError, UnreachableError, is_conflict
from pilotfish.kube.resources import CONFIG_MAPS, DEPLOYMENTS, NODES, PODS


async def echo(request: web.Request) -> web.Response:
    body = await request.text()
    return web.json_response(
        {
            "method": request.method,
            "url": request.path_qs,
            "type": request.headers.get("Content-Type", ""),
            "body": json.loads(body) if body else None,
        }
    )


async def test_urls_and_bodies() -> None:
    """Every verb has the method, path, query and content type the API conventions give it."""
    async with serving(echo) as client:
        got = await client.patch(DEPLOYMENTS, "d", {"a": 1}, "ns", patch_type=PatchType.STRATEGIC, subresource="status")
        assert (got["method"], got["url"]) == ("PATCH", "/apis/apps/v1/namespaces/ns/deployments/d/status")
        assert got["type"] == "application/strategic-merge-patch+json"
        got = await client.create(PODS, {"target": {}}, "ns", name="p", subresource="binding")
        assert (got["method"], got["url"]) == ("POST", "/api/v1/namespaces/ns/pods/p/binding")
        got = await client.delete(NODES, "n", propagation=Propagation.ORPHAN, uid="u")
        assert (got["method"], got["url"]) == ("DELETE", "/api/v1/nodes/n")
        assert got["body"]["propagationPolicy"] == "Orphan"
        assert got["body"]["preconditions"] == {"uid": "u"}
        obj = {"metadata": {"name": "c"}}
        got = await client.apply(obj, "me", force=True, resource=CONFIG_MAPS)
        assert got["url"] == "/api/v1/namespaces/default/configmaps/c?fieldManager=me&force=true"
        assert got["type"] == "application/apply-patch+yaml"
        got = await client.update(CONFIG_MAPS, {"metadata": {"name": "a/b", "namespace": "ns"}})
        assert got["url"] == "/api/v1/namespaces/ns/configmaps/a%2Fb"


async def test_refusal_carries_the_status() -> None:
    """A refusal has code, reason, message and causes of the Status; an answer without one still has its text."""

    async def refuse(request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.Response(status=502, text="bad gateway")
        cause = {"reason": "FieldValueInvalid", "message": "no", "field": "spec.x"}
        return web.json_response(status(409, "Conflict") | {"details": {"causes": [cause]}}, status=409)

    async with serving(refuse) as client:
        with pytest.raises(ApiStatusError, match="no") as refused:
            await client.create(CONFIG_MAPS, {"metadata": {}}, "ns")
        assert is_conflict(refused.value)
        assert [cause["field"] for cause in refused.value.causes] == ["spec.x"]
        with pytest.raises(ApiStatusError, match="bad gateway") as refused:
            await client.get(NODES, "n")
        assert refused.value.code == 502


async def test_throttled_requests_are_tried_again() -> None:
    """429 with Retry-After is waited out, for writes too; without it the refusal is the caller's."""
    answers = [
        web.json_response(status(429, "TooManyRequests"), status=429, headers={"Retry-After": "0"}) for _ in "12"
    ]
    answers += [web.json_response({"ok": True}), web.json_response(status(429, "TooManyRequests"), status=429)]

    async def handle(request: web.Request) -> web.Response:
        return answers.pop(0)

    async with serving(handle) as client:
        assert await client.create(CONFIG_MAPS, {"metadata": {}}, "ns") == {"ok": True}
        with pytest.raises(ApiStatusError):
            await client.create(CONFIG_MAPS, {"metadata": {}}, "ns")


async def test_server_that_is_not_up_yet() -> None:
    """A refused connection is tried again, also for a write; when time is up the error says where and why."""
    port = unused_port()
    async with Client(Config(f"http://127.0.0.1:{port}"), retry_seconds=5.0) as client:
        write = asyncio.create_task(client.create(CONFIG_MAPS, {"metadata": {}}, "ns"))
        await asyncio.sleep(0)  # lets it begin
        async with serving(echo, port=port):
            assert (await write)["method"] == "POST"
    async with Client(Config(f"http://127.0.0.1:{port}"), retry_seconds=0.1) as client:
        with pytest.raises(UnreachableError, match=rf"127.0.0.1:{port}.*[Cc]onnect"):
            await client.get(NODES, "n")


async def test_cut_off_reads_are_tried_again_and_writes_are_not() -> None:
    """A write whose answer was lost may have happened: it is the caller's to decide."""
    seen: list[str] = []

    async def cut(request: web.Request) -> web.Response:
        seen.append(request.method)
        if len([one for one in seen if one == request.method]) == 1:
            assert request.transport is not None
            request.transport.close()
        return web.json_response({"ok": True})

    async with serving(cut) as client:
        assert await client.get(NODES, "n") == {"ok": True}
        with pytest.raises(UnreachableError):
            await client.create(CONFIG_MAPS, {"metadata": {}}, "ns")
    assert seen.count("POST") == 1


async def test_pages_are_joined_and_an_expired_page_starts_over() -> None:
    """All pages make one list with types on every item; a token that expired between pages gives one whole list."""
    calls: list[dict[str, str]] = []

    async def handle(request: web.Request) -> web.Response:
        calls.append(dict(request.query))
        meta = {"resourceVersion": "7"}
        if request.query.get("continue") == "expired":
            return web.json_response(status(410, "Expired"), status=410)
        names = ["a"] if "limit" in request.query else ["a", "b"]
        if "limit" in request.query:
            meta["continue"] = "expired"
        items = [{"metadata": {"name": name}} for name in names]
        return web.json_response({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": meta, "items": items})

    async with serving(handle) as client:
        listed = await client.list(CONFIG_MAPS, labels="x=y")
    assert [(one["kind"], one["metadata"]["name"]) for one in listed.items] == [("ConfigMap", "a"), ("ConfigMap", "b")]
    assert listed.resource_version == "7"
    assert all(call["labelSelector"] == "x=y" for call in calls)


def kubeconfig(path: Path, user: dict[str, object], **cluster: object) -> Path:
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "main",
                "contexts": [
                    {"name": "main", "context": {"cluster": "c", "user": "u"}},
                    {"name": "other", "context": {"cluster": "c", "user": "u", "namespace": "elsewhere"}},
                ],
                "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1/", **cluster}}],
                "users": [{"name": "u", "user": user}],
            }
        )
    )
    return path


def test_kubeconfig(tmp_path: Path) -> None:
    """Contexts, inline data and files relative to the kubeconfig are read."""
    (tmp_path / "ca.pem").write_bytes(b"CA")
    data = base64.b64encode(b"CERT").decode()
    path = kubeconfig(
        tmp_path / "config", {"client-certificate-data": data, "token": "t"}, **{"certificate-authority": "ca.pem"}
    )
    config = load_kubeconfig(path)
    assert (config.server, config.namespace, config.ca, config.client_certificate, config.token) == (
        "https://127.0.0.1:1",
        "default",
        b"CA",
        b"CERT",
        "t",
    )
    assert load_kubeconfig(path, "other").namespace == "elsewhere"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [", "is not YAML"),
        ("- 1", "holds no mapping"),
        ("{}", "no current-context"),
        ("current-context: gone", "no entry named 'gone'"),
    ],
)
def test_bad_kubeconfig_is_explained(tmp_path: Path, text: str, why: str) -> None:
    """Each mistake names the file and what is wrong in it."""
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError, match=why) as refused:
        load_kubeconfig(path)
    assert str(path) in str(refused.value)


def test_in_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod finds the server by environment and mounted files."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="not in a cluster"):
        in_cluster(tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    for name, text in (("token", "t"), ("ca.crt", "CA"), ("namespace", "apps\n")):
        (tmp_path / name).write_text(text)
    config = in_cluster(tmp_path)
    assert (config.server, config.namespace, config.ca) == ("https://[fd00::1]:443", "apps", b"CA")


async def test_rotated_token_file_is_read_when_refused(tmp_path: Path) -> None:
    """A 401 makes the client read the token file again at once."""
    token = tmp_path / "token"
    token.write_text("first")

    async def handle(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {token.read_text()}":
            return web.json_response(status(401, "Unauthorized"), status=401)
        return web.json_response({"ok": True})

    async with serving(handle) as plain, Client(Config(plain.config.server, token_file=token)) as client:
        assert await client.get(NODES, "n") == {"ok": True}
        token.write_text("second")
        assert await client.get(NODES, "n") == {"ok": True}


async def test_exec_plugin_prints_the_token() -> None:
    """The plugin's token is used; one that fails is named."""
    credential = json.dumps({"status": {"token": "secret"}})
    plugin = ExecPlugin("sh", ("-c", 'printf %s "$CREDENTIAL"'), {"CREDENTIAL": credential})
    assert await TokenSource(Config("https://x", exec_plugin=plugin)).token() == "secret"
    with pytest.raises(ConfigError, match="false failed with exit code 1"):
        await TokenSource(Config("https://x", exec_plugin=ExecPlugin("false"))).token()
