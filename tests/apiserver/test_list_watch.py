"""Lists, pages, tables and watches."""

from __future__ import annotations

import gzip
import json

from tests.apiserver.conftest import ApiServer

MERGE = "application/merge-patch+json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


def maps(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps"


def fill(server: ApiServer, namespace: str, count: int) -> list[str]:
    names = [f"m{number:03}" for number in range(count)]
    for name in names:
        server.create(maps(namespace), {"metadata": {"name": name, "labels": {"mine": "yes"}}})
    return names


def test_pages_show_one_moment(server: ApiServer, namespace: str) -> None:
    """Pages together are the list as it was at the first page, whatever is written in between."""
    names = fill(server, namespace, 5)
    first = server.call("GET", maps(namespace), limit=2, labelSelector="mine").json
    server.call("DELETE", maps(namespace) + "/m003")
    server.create(maps(namespace), {"metadata": {"name": "m0025", "labels": {"mine": "yes"}}})
    seen = [item["metadata"]["name"] for item in first["items"]]
    token = first["metadata"]["continue"]
    while token:
        page = server.call("GET", maps(namespace), **{"limit": 2, "continue": token, "labelSelector": "mine"}).json
        assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        seen += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue", "")
    assert seen == names


def test_versions_of_a_list(server: ApiServer, namespace: str) -> None:
    """An exact version shows the past; one from the future is a 504; contradictions are refused."""
    fill(server, namespace, 1)
    then = server.call("GET", maps(namespace)).json["metadata"]["resourceVersion"]
    server.create(maps(namespace), {"metadata": {"name": "later", "labels": {"mine": "yes"}}})
    past = server.call("GET", maps(namespace), resourceVersion=then, resourceVersionMatch="Exact", labelSelector="mine")
    assert [item["metadata"]["name"] for item in past.json["items"]] == ["m000"]
    assert server.call("GET", maps(namespace), resourceVersion="900000000000").code == 504
    assert server.call("GET", maps(namespace), resourceVersion="x").code == 400
    assert server.call("GET", maps(namespace), resourceVersionMatch="Exact").code == 422


def test_forms_of_a_list(server: ApiServer, namespace: str) -> None:
    """Table, PartialObjectMetadata and YAML are given to who asks; large answers are compressed."""
    server.create(maps(namespace), {"metadata": {"name": "big"}, "data": {"x": "y" * 200_000}})
    one = "fieldSelector=metadata.name%3Dbig"
    table = server.call("GET", f"{maps(namespace)}?{one}", headers={"Accept": TABLE}).json
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert table["rows"][0]["cells"][:2] == ["big", 1]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
    listed = server.call("GET", f"{maps(namespace)}?{one}", headers={"Accept": partial}).json
    assert listed["kind"] == "PartialObjectMetadataList"
    assert "data" not in listed["items"][0]
    assert server.call("GET", maps(namespace), headers={"Accept": "application/yaml"}).raw.startswith(b"kind:")
    packed = server.call("GET", maps(namespace), headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert b'"big"' in gzip.decompress(packed.raw)


def test_a_watch_sees_what_happens(server: ApiServer, namespace: str) -> None:
    """Every change once and in order; objects that come to be selected are ADDED, those that cease to be DELETED."""
    version = server.call("GET", maps(namespace)).json["metadata"]["resourceVersion"]
    path = maps(namespace) + "/w"
    with (
        server.watch(maps(namespace), resourceVersion=version, labelSelector="on=yes") as selected,
        server.watch(maps(namespace), resourceVersion=version, fieldSelector="metadata.name=w") as all_of_it,
    ):
        server.create(maps(namespace), {"metadata": {"name": "w"}})
        server.call("PATCH", path, {"metadata": {"labels": {"on": "yes"}}}, content_type=MERGE)
        server.call("PATCH", path, {"metadata": {"labels": {"on": "no"}}}, content_type=MERGE)
        server.call("DELETE", path)
        assert [all_of_it.next()["type"] for _ in range(4)] == ["ADDED", "MODIFIED", "MODIFIED", "DELETED"]
        entered, left = selected.next(), selected.next()
        assert (entered["type"], left["type"]) == ("ADDED", "DELETED")
        assert left["object"]["metadata"]["labels"] == {"on": "yes"}
        assert int(left["object"]["metadata"]["resourceVersion"]) > int(
            entered["object"]["metadata"]["resourceVersion"]
        )


def test_watch_of_the_past_and_of_now(server: ApiServer, namespace: str) -> None:
    """From a version: what came after it. Without one: what there is, then what comes. Too old: an ERROR event, 410."""
    fill(server, namespace, 3)
    version = server.call("GET", maps(namespace) + "/m001").json["metadata"]["resourceVersion"]
    with server.watch(maps(namespace), resourceVersion=version, labelSelector="mine") as after:
        assert after.next()["object"]["metadata"]["name"] == "m002"
    with server.watch(maps(namespace), labelSelector="mine") as now:
        assert [now.next()["object"]["metadata"]["name"] for _ in range(3)] == ["m000", "m001", "m002"]
    with server.watch("/api/v1/nodes", resourceVersion="1", allowWatchBookmarks="true", timeoutSeconds=1) as old:
        event = old.next()
        assert event is None or event["type"] in ("BOOKMARK", "ERROR")


def test_streaming_lists_end_with_a_bookmark(server: ApiServer, namespace: str) -> None:
    """sendInitialEvents gives the state as events, then a bookmark that says so; a timeout ends the watch."""
    fill(server, namespace, 2)
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    with server.watch(maps(namespace), labelSelector="mine", timeoutSeconds=1, **query) as stream:
        events = [stream.next() for _ in range(3)]
        assert [event["type"] for event in events] == ["ADDED", "ADDED", "BOOKMARK"]
        assert events[2]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        while event := stream.next():
            assert event["type"] == "BOOKMARK"


def test_tables_are_watched_too(server: ApiServer, namespace: str) -> None:
    """`kubectl get -w` asks for tables: columns come with the first event only."""
    version = server.call("GET", maps(namespace)).json["metadata"]["resourceVersion"]
    connection = server.connect()
    connection.request("GET", f"{maps(namespace)}?watch=1&resourceVersion={version}", headers={"Accept": TABLE})
    response = connection.getresponse()
    server.create(maps(namespace), {"metadata": {"name": "a"}})
    server.create(maps(namespace), {"metadata": {"name": "b"}})
    first, second = (json.loads(response.readline())["object"] for _ in range(2))
    assert first["columnDefinitions"]
    assert first["rows"][0]["cells"][0] == "a"
    assert not second["columnDefinitions"]
    assert second["rows"][0]["cells"][0] == "b"
    connection.close()


def test_a_client_that_hangs_up_leaves_nothing(server: ApiServer, namespace: str) -> None:
    """Ended watches do not stay with the server: many in a row do no harm to the next."""
    for _ in range(30):
        stream = server.watch(maps(namespace))
        stream.close()
    with server.watch(maps(namespace), fieldSelector="metadata.name=last") as stream:
        server.create(maps(namespace), {"metadata": {"name": "last"}})
        assert stream.next()["object"]["metadata"]["name"] == "last"


def test_field_selectors_a_kind_does_not_have(server: ApiServer, namespace: str) -> None:
    """An unknown field is a 400, and so is the namespace of a kind without one."""
    assert server.call("GET", maps(namespace), fieldSelector="data.x=y").code == 400
    for plural in ("namespaces", "nodes"):
        assert server.call("GET", f"/api/v1/{plural}", fieldSelector="metadata.namespace=x").code == 400


def test_a_watch_from_the_future_waits(server: ApiServer, namespace: str) -> None:
    """A watch from a version that is not reached yet is no error, and shows nothing from before it."""
    version = int(server.create(maps(namespace), {"metadata": {"name": "now"}})["metadata"]["resourceVersion"])
    later = str(version + 1_000_000)
    with server.watch(maps(namespace), resourceVersion=later, timeoutSeconds=1) as watch:
        assert watch.response.status == 200
        server.create(maps(namespace), {"metadata": {"name": "early"}})
        assert watch.response.read() == b""
