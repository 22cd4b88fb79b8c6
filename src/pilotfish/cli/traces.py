"""`pilotfish traces`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from pilotfish.cli import mesh_options, telemetry_options
from pilotfish.cli.telemetry_options import table
from pilotfish.errors import UserError
from pilotfish.kube.client import Client
from pilotfish.telemetry.console import Console, ConsoleError
from pilotfish.telemetry.spans import Span, Trace, trace_key


@click.command("traces")
@click.argument("trace_id", required=False)
@click.option("--service", default="", metavar="NAME[.NAMESPACE]", help="Traces with a span of this service.")
@click.option("--since", default="10m", show_default=True, callback=telemetry_options.seconds, metavar="TIME")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE", help="A tag of a span; without =VALUE any value.")
@click.option("--min-duration", callback=telemetry_options.seconds, metavar="TIME", help="A span lasted this long.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@telemetry_options.istio_namespace
@telemetry_options.output
@mesh_options.kubeconfig
@mesh_options.context
def command(
    trace_id: str | None,
    service: str,
    since: float,
    tags: tuple[str, ...],
    min_duration: float | None,
    limit: int,
    istio_namespace: str,
    output: str,
    kubeconfig: Path | None,
    context: str | None,
) -> None:
    """List traces, the latest first, or show the one with TRACE_ID as a tree."""

    async def work(client: Client) -> Any:
        console = Console(client, istio_namespace)
        if trace_id:
            return (await console.get(f"traces/{trace_key(trace_id)}"))["trace"]
        params = [("since", str(since)), ("limit", str(limit)), *(("tag", one) for one in tags)]
        if min_duration is not None:
            params.append(("min_duration", str(min_duration)))
        if service:
            known = (await console.get("traces/services"))["services"]
            params.append(("service", _known(service, known, client.config.namespace)))
        return (await console.get("traces", params))["traces"]

    try:
        found = mesh_options.with_client(kubeconfig, context, work)
        if output == "json":
            click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        elif trace_id:
            click.echo("\n".join(tree(msgspec.convert(found, Trace))))
        else:
            _list(msgspec.convert(found, list[Trace]), since)
    except msgspec.ValidationError as error:
        raise ConsoleError(f"the console's answer is not understood: is it of another version? ({error})") from error
    except ValueError as error:
        raise UserError(str(error)) from error


def _known(service: str, services: Sequence[str], namespace: str) -> str:
    """The name under which a service reports; proxies report as NAME.NAMESPACE. Raises UserError."""
    candidates = (service, f"{service}.{namespace}", *(one for one in services if one.startswith(f"{service}.")))
    for one in candidates:
        if one in services:
            return one
    told = f"those that have: {', '.join(services[:20])}" if services else "nobody has, so look at the sampling"
    raise UserError(f"no service {service} has reported spans; {told}")


def _list(traces: Sequence[Trace], since: float) -> None:
    if not traces:
        click.echo(
            f"No traces within the last {since:g} s. Are requests sampled, and is the collector's address set "
            "(meshConfig.defaultConfig.tracing)?",
            err=True,
        )
        return
    head = ("TRACE ID", "STARTED", "REQUEST", "DURATION", "SPANS", "SERVICES", "ERRORS")
    click.echo(table(head, [_line(trace) for trace in traces if trace], left=3))


def _line(trace: Trace) -> tuple[str, ...]:
    first = min(trace, key=lambda span: span.start)
    end = max(span.start + (span.duration or 0) for span in trace)
    return (
        first.trace_id,
        datetime.fromtimestamp(first.start / 1e6).astimezone().strftime("%H:%M:%S.%f")[:-3],
        f"{first.service}: {first.name or '-'}",
        _duration(end - first.start),
        str(len(trace)),
        str(len({span.service for span in trace})),
        str(sum(span.failed for span in trace)),
    )


def tree(trace: Trace) -> list[str]:
    """A trace as lines of text. Whatever its parents say, every span is in it once."""
    begin = min((span.start for span in trace), default=0)
    rows = [(f"{indent}{span.service or '-'}", span, depth) for indent, span, depth in _walk(trace)]
    cells = [
        (
            label,
            f"{(span.kind or 'internal').lower()} {span.name or ''}".strip(),
            _duration(span.duration or 0),
            f"+{_duration(span.start - begin)}",
            _status(span),
        )
        for label, span, _ in rows
    ]
    text = table(("SERVICE", "SPAN", "DURATION", "START", "STATUS"), cells, left=2)
    return [f"Trace {trace[0].trace_id}, {len(trace)} spans", "", *text.split("\n")]


def _walk(trace: Trace) -> Iterator[tuple[str, Span, int]]:
    """Indentation, span and depth, parents before children, in order of time. No recursion: traces may be deep."""
    children: dict[int, list[Span]] = {}
    by_id: dict[str, list[Span]] = {}
    for span in trace:
        by_id.setdefault(span.id, []).append(span)
    roots: list[Span] = []
    for span in trace:
        parent = _parent(span, by_id)
        (roots if parent is None else children.setdefault(id(parent), [])).append(span)
    seen: set[int] = set()
    # Spans that are one another's parents hang on no root: each that is left begins a tree of its own.
    for root in (*roots, *trace):
        waiting = [(root, "", "", 0)]
        while waiting:
            span, indent, below, depth = waiting.pop()
            if id(span) in seen:
                continue
            seen.add(id(span))
            yield indent, span, depth
            own = sorted(children.get(id(span), ()), key=lambda one: one.start)
            for number, child in reversed(list(enumerate(own))):
                last = number == len(own) - 1
                waiting.append(
                    (child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "), depth + 1)
                )


def _parent(span: Span, by_id: Mapping[str, Sequence[Span]]) -> Span | None:
    """A server's side may share the id of its client's (B3); then that is its parent."""
    if span.kind == "SERVER":
        client = next((one for one in by_id[span.id] if one.kind == "CLIENT"), None)
        if client is not None:
            return client
    candidates = by_id.get(span.parent_id or "", ())
    # Of two sides with one id the server's is what did the work.
    return next((one for one in candidates if one.kind == "SERVER"), next(iter(candidates), None))


def _status(span: Span) -> str:
    code = span.tags.get("http.status_code") or span.tags.get("grpc.status_code") or ""
    flags = span.tags.get("response_flags", "-")
    words = [code, *([flags] if flags not in ("-", "") else []), *(["error"] if span.failed else [])]
    return " ".join(word for word in words if word) or "-"


def _duration(microseconds: int) -> str:
    if abs(microseconds) < 1000:
        return f"{microseconds}us"
    return f"{microseconds / 1e3:.1f}ms" if microseconds < 1e6 else f"{microseconds / 1e6:.2f}s"
