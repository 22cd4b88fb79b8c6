"""The read-only JSON API.

| request | answer |
|---|---|
| `GET /api/health` | what is collected and what goes wrong |
| `GET /api/metrics?by=LABEL&…&where=LABEL=VALUE&…&window=60` | `{"traffic": [Traffic]}`; a label twice: any value |
| `GET /api/metrics/graph?window=60&namespace=NS` | `{"edges": [Traffic]}`, every edge once |
| `GET /api/metrics/range?metric=NAME&by=…&since=600&step=15` | `{"series": [{"labels", "points"}]}`, per second |
| `GET /api/traces?service=S&since=600&tag=K=V&min_duration=0.1&limit=20` | `{"traces": [[Span]]}`, the latest first |
| `GET /api/traces/services` | `{"services": [name]}` |
| `GET /api/traces/ID` | `{"trace": [Span]}` |

Errors are `{"error": text}`: 400 for a wrong question, 404 for an unknown trace, 502 when the source fails; 401 and 403
for who may not ask (`pilotfish.console.access`). Who may see some namespaces only has to name one of them: by `where`
and a label of a namespace, by `namespace`, by `service=NAME.NAMESPACE`; of traces such a reader sees the spans in
these. `GET /healthz` answers everybody, with nothing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, is_dataclass
from typing import Any

import msgspec
from aiohttp import web

from pilotfish import __version__
from pilotfish.console.access import (
    Access,
    AccessError,
    Reader,
    all_readable,
    namespace_of,
    namespaces_asked,
    refusal,
)
from pilotfish.console.main import Options
from pilotfish.errors import UserError
from pilotfish.telemetry.query import MetricsSource, TraceSource
from pilotfish.telemetry.receive import Receiver
from pilotfish.telemetry.scrape import Scraper
from pilotfish.telemetry.spans import Trace
from pilotfish.telemetry.store import Store
from pilotfish.telemetry.traffic import EDGE, edges, traffic

_encode = msgspec.json.Encoder().encode
_MAX_POINTS = 1000
_MAX_TRACES = 1000
_BY_LABEL = "where=destination_workload_namespace=NAME, or another label of a namespace"
_Handler = Callable[[web.Request, Reader], Awaitable[Any]]


class _QuestionError(Exception):
    """The request is wrong; the text says what."""


class Api:
    """The handlers; each gives what is to be JSON."""

    def __init__(
        self,
        metrics: MetricsSource,
        traces: TraceSource,
        store: Store,
        receiver: Receiver,
        scraper: Scraper | None,
        options: Options,
        access: Access,
    ) -> None:
        self._metrics = metrics
        self._traces = traces
        self._store = store
        self._receiver = receiver
        self._scraper = scraper
        self._options = options
        self._access = access

    def routes(self) -> list[web.RouteDef]:
        table: dict[str, _Handler] = {
            "/api/health": self._health,
            "/api/metrics": self._traffic,
            "/api/metrics/graph": self._graph,
            "/api/metrics/range": self._range,
            "/api/traces": self._find,
            "/api/traces/services": self._services,
            "/api/traces/{id}": self._trace,
        }
        routes = [web.get(path, self._answered(handler)) for path, handler in table.items()]
        return [web.get("/healthz", _alive), *self._access.routes(), *routes]

    def _answered(self, handler: _Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            try:
                return _json(await handler(request, await self._access.reader(request)))
            except AccessError as error:
                return refusal(error)
            except _QuestionError as error:
                return _json({"error": str(error)}, 400)
            except web.HTTPNotFound as error:
                return _json({"error": error.text}, 404)
            except UserError as error:
                return _json({"error": str(error)}, 502)

        return answer

    async def _health(self, _: web.Request, reader: Reader) -> Any:
        states = list(self._scraper.states.values()) if self._scraper is not None else []
        states = [one for one in states if await _shown(reader, dict(one.target.labels).get("namespace", ""))]
        return {
            "version": __version__,
            "problem": self._store.problem,
            "sources": {
                "metrics": self._options.prometheus or "embedded",
                "traces": self._options.traces or "embedded",
            },
            "store": {
                "path": str(self._store.path),
                "bytes": await self._store.size(),
                "limit": self._store.size_limit,
                "window": self._store.window,
                **_fields(self._store.counts),
            },
            "received": _fields(self._receiver.counts),
            "targets": [
                {
                    "url": state.target.url,
                    "job": state.target.job,
                    "labels": dict(state.target.labels),
                    "up": state.up,
                    "error": state.error,
                    "scrapes": state.scrapes,
                    "failures": state.failures,
                    "series": state.series,
                    "seconds": state.seconds,
                }
                for state in states
            ],
        }

    async def _traffic(self, request: web.Request, reader: Reader) -> Any:
        by = request.query.getall("by", list(EDGE))
        where = _where(request)
        await _limited(reader, namespaces_asked(where), _BY_LABEL)
        found = await traffic(
            self._metrics,
            by=by,
            where=where,
            window=_positive(request, "window", 60.0),
            latency=request.query.get("latency", "true") == "true",
        )
        return {"traffic": found}

    async def _graph(self, request: web.Request, reader: Reader) -> Any:
        namespaces = set(request.query.getall("namespace", []))
        await _limited(reader, [namespaces], "namespace=NAME")
        found = await edges(
            self._metrics,
            window=_positive(request, "window", 60.0),
            latency=request.query.get("latency", "true") == "true",
        )
        if namespaces:
            names = ("source_workload_namespace", "destination_workload_namespace", "destination_service_namespace")
            found = [one for one in found if not namespaces.isdisjoint(one.labels[name] for name in names)]
        return {"edges": found}

    async def _range(self, request: web.Request, reader: Reader) -> Any:
        metric = request.query.get("metric", "")
        if not metric:
            raise _QuestionError("name a metric: ?metric=istio_requests_total")
        where = _where(request)
        await _limited(reader, namespaces_asked(where), _BY_LABEL)
        since, step = _positive(request, "since", 600.0), _positive(request, "step", 15.0)
        if since / step > _MAX_POINTS:
            raise _QuestionError(f"more than {_MAX_POINTS} points: ask for a longer step or less time")
        now = time.time()
        found = await self._metrics.ranges(
            metric, by=request.query.getall("by", []), where=where, start=now - since, end=now, step=step
        )
        return {"series": [{"labels": labels, "points": points} for labels, points in found]}

    async def _find(self, request: web.Request, reader: Reader) -> Any:
        query, now = request.query, time.time()
        service = query.get("service", "")
        await _limited(reader, [[namespace_of(service)]], "service=NAME.NAMESPACE")
        found = await self._traces.find(
            service=service,
            since=now - _positive(request, "since", 600.0),
            until=now + 1,
            tags=dict(_pair(text, "tag") for text in query.getall("tag", [])),
            min_duration=_positive(request, "min_duration", 0.0),
            max_duration=_positive(request, "max_duration", 0.0) or None,
            limit=min(int(_positive(request, "limit", 20)), _MAX_TRACES),
        )
        return {"traces": [await _readable(reader, trace) for trace in found]}

    async def _services(self, _: web.Request, reader: Reader) -> Any:
        found = await self._traces.services()
        return {"services": [one for one in found if await _shown(reader, namespace_of(one))]}

    async def _trace(self, request: web.Request, reader: Reader) -> Any:
        try:
            found = await _readable(reader, await self._traces.trace(request.match_info["id"]))
        except ValueError as error:
            raise _QuestionError(str(error)) from error
        if not found:
            raise web.HTTPNotFound(text=f"trace {request.match_info['id']} is not known: too old, or never sampled")
        return {"trace": found}


async def _alive(_: web.Request) -> web.Response:
    return web.Response()


async def _shown(reader: Reader, namespace: str) -> bool:
    """Whether something of this namespace may be shown; with "" something of none."""
    return await reader.may("") or (bool(namespace) and await reader.may(namespace))


async def _limited(reader: Reader, asked: Iterable[Iterable[str]], how: str) -> None:
    """Raises AccessError unless one list of namespaces that the question is limited to may be shown."""
    if await reader.may(""):
        return
    for namespaces in asked:
        if await all_readable(reader, namespaces):
            return
    raise AccessError(403, f"{reader.username} may not get all namespaces: limit the question to yours by {how}")


async def _readable(reader: Reader, trace: Trace) -> Trace:
    """The spans of a trace that may be shown."""
    names = {namespace_of(span.service) for span in trace}
    shown = {name for name in names if await _shown(reader, name)}
    return [span for span in trace if namespace_of(span.service) in shown]


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=_encode(value), status=status, content_type="application/json")


def _fields(counts: object) -> dict[str, int]:
    return asdict(counts) if is_dataclass(counts) and not isinstance(counts, type) else {}


def _where(request: web.Request) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in request.query.getall("where", []):
        name, value = _pair(text, "where")
        found.setdefault(name, []).append(value)
    return found


def _pair(text: str, parameter: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not name or (not sign and parameter == "where"):
        raise _QuestionError(f"{parameter}={text[:60]!r}: write {parameter}=NAME=VALUE")
    return name, value


def _positive(request: web.Request, name: str, default: float) -> float:
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e8:
        raise _QuestionError(f"{name}={text[:40]!r}: write a number above 0")
    return value
