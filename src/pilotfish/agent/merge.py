"""One page of metrics: the agent's own, Envoy's and the application's."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pilotfish.agent.http import Request, Response, TooLargeError, fetch
from pilotfish.agent.stats import Pages, Workload

log = logging.getLogger(__name__)

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text"
EOF = b"# EOF"
MAX_PAGE = 256 * 1024 * 1024
TIMEOUT_HEADER = "x-prometheus-scrape-timeout-seconds"


class Metrics:
    """The agent's counters, by Istio's names."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.startup_seconds = 0.0

    def add(self, name: str, labels: str = "") -> None:
        self.counts[name, labels] += 1

    def render(self) -> bytes:
        lines = [
            "# TYPE istio_agent_startup_duration_seconds gauge",
            f"istio_agent_startup_duration_seconds {self.startup_seconds:.3f}",
        ]
        for (name, labels), value in sorted(self.counts.items()):
            kind = f"# TYPE istio_agent_{name} counter"
            if kind not in lines:
                lines.append(kind)
            lines.append(f"istio_agent_{name}{labels} {value}")
        return ("\n".join(lines) + "\n").encode()


class EnvoyMetrics:
    """Envoy's page as Istio's users know it; answers port 15090."""

    def __init__(self, admin_port: int, own: Workload) -> None:
        self._admin = f"http://127.0.0.1:{admin_port}/stats/prometheus"
        self._pages = Pages(own)
        self._turn = asyncio.Lock()

    async def page(self, query: str, timeout: float) -> bytes | None:  # noqa: ASYNC109
        """None when Envoy does not answer."""
        url = self._admin + (f"?{query}" if query else "")
        try:
            async with asyncio.timeout(timeout):
                await self._turn.acquire()
        except TimeoutError:
            return None
        try:  # one at a time: pages have to come in order
            answer = await fetch(url, timeout=timeout, limit=MAX_PAGE)
            if answer.status != 200:
                return None
            # A page at the limits takes seconds, in which probes want their answers.
            return await asyncio.to_thread(self._pages.rewrite, answer.body.decode(errors="replace"), whole=not query)
        except (OSError, TimeoutError, TooLargeError) as error:
            log.debug("no metrics from Envoy: %s", error)
            return None
        finally:
            self._turn.release()

    async def __call__(self, request: Request) -> Response:
        if not request.path.startswith("/stats/prometheus"):
            return Response(404, b"not found\n")
        page = await self.page(request.query, _timeout(request))
        return (
            Response(503, b"Envoy does not answer\n") if page is None else Response(200, page, {"content-type": TEXT})
        )


class MergedMetrics:
    """Answers `/stats/prometheus`: a part that cannot be had is left out and counted, the answer is always 200."""

    def __init__(self, envoy: EnvoyMetrics, scrape: Mapping[str, Any], own: Metrics) -> None:
        """`scrape` is `ISTIO_PROMETHEUS_ANNOTATIONS`: `{scrape, path, port[, targets: [{port, path}]]}`."""
        self._envoy = envoy
        self._targets = _targets(scrape)
        self._own = own

    async def __call__(self, request: Request) -> Response:
        self._own.add("scrapes_total")
        timeout = _timeout(request)
        passed = {k: v for k, v in request.headers.items() if k in ("user-agent", TIMEOUT_HEADER)}
        app_headers = passed | {"accept": request.headers.get("accept", TEXT)}
        envoy, *apps = await asyncio.gather(
            self._from_envoy(request, timeout),
            *(self._part("application", url, app_headers, timeout) for url in self._targets),
        )
        kind = next((one.headers["content-type"] for one in apps if one and one.headers.get("content-type")), TEXT)
        bodies = [self._own.render(), *(_without_eof(one.body) for one in (envoy, *apps) if one is not None)]
        body = b"".join(part if part.endswith(b"\n") else part + b"\n" for part in bodies if part)
        if kind.startswith(OPEN_METRICS):
            body += EOF + b"\n"
        return Response(200, body, {"content-type": kind})

    async def _from_envoy(self, request: Request, timeout: float) -> Response | None:  # noqa: ASYNC109
        page = await self._envoy.page(request.query, timeout)
        if page is None:
            self._own.add("scrape_failures_total", '{type="envoy"}')
        return None if page is None else Response(200, page)

    async def _part(self, name: str, url: str, headers: Mapping[str, str], timeout: float) -> Response | None:  # noqa: ASYNC109
        try:
            answer = await fetch(url, headers=headers, timeout=timeout)
        except (OSError, TimeoutError, TooLargeError) as error:
            log.debug("no metrics from %s: %s", url, error)
            answer = Response(0)
        if answer.status == 200:
            return answer
        self._own.add("scrape_failures_total", f'{{type="{name}"}}')
        return None


def _targets(scrape: Mapping[str, Any]) -> list[str]:
    if not scrape or str(scrape.get("scrape", "true")).lower() == "false":
        return []
    targets = []
    for one in scrape.get("targets") or [scrape]:
        path = str(one.get("path") or "/metrics").lstrip("/")
        targets.append(f"http://127.0.0.1:{one.get('port') or 80}/{path}")
    return targets


def _timeout(request: Request) -> float:
    try:
        return max(0.1, float(request.headers[TIMEOUT_HEADER]))
    except (KeyError, ValueError):
        return 10.0


def _without_eof(body: bytes) -> bytes:
    stripped = body.rstrip()
    return stripped.removesuffix(EOF).rstrip() + b"\n" if stripped.endswith(EOF) else body
