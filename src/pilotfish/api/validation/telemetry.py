"""Telemetry."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

from pilotfish.api.config import Config
from pilotfish.api.tag_expressions import RESERVED, value_format
from pilotfish.api.telemetry import AccessLogging, CustomTag, Metrics, ProviderRef, TagOperation, Telemetry, Tracing
from pilotfish.api.validation.report import Report


def check(report: Report, config: Config[Telemetry]) -> None:
    spec = config.spec
    report.target_refs(spec.selector, spec.target_ref, spec.target_refs)
    if len(spec.tracing) > 1:
        report.warn("spec.tracing", "only one tracing entry is supported; the others have no effect")
    for index, tracing in enumerate(spec.tracing):
        _check_tracing(report, f"spec.tracing[{index}]", tracing)
    for index, metrics in enumerate(spec.metrics):
        _check_metrics(report, f"spec.metrics[{index}]", metrics)
    for index, logging in enumerate(spec.access_logging):
        _check_logging(report, f"spec.accessLogging[{index}]", logging)


def _check_providers(report: Report, path: str, providers: Sequence[ProviderRef]) -> None:
    for index, provider in enumerate(providers):
        if not provider.name:
            report.error(f"{path}.providers[{index}].name", "name is required")


def _check_tracing(report: Report, path: str, tracing: Tracing) -> None:
    _check_providers(report, path, tracing.providers)
    if len(tracing.providers) > 1:
        report.warn(f"{path}.providers", "only one tracing provider is supported; the first is used")
    report.percent(f"{path}.randomSamplingPercentage", tracing.random_sampling_percentage)
    for name, tag in tracing.custom_tags.items():
        where = f"{path}.customTags[{name}]"
        if not name:
            report.error(where, "the name of a tag must not be empty")
        _check_tag(report, where, tag)


def _check_tag(report: Report, path: str, tag: CustomTag) -> None:
    if tag.literal is not None and not tag.literal.value:
        report.error(f"{path}.literal.value", "value is required")
    if tag.environment is not None and not tag.environment.name:
        report.error(f"{path}.environment.name", "name is required")
    if tag.header is not None and not tag.header.name:
        report.error(f"{path}.header.name", "name is required")
    if tag.formatter is not None and not tag.formatter.value:
        report.error(f"{path}.formatter.value", "value is required")
    if tag == CustomTag():
        report.warn(path, "one of literal, environment, header and formatter is required")


def _check_metrics(report: Report, path: str, metrics: Metrics) -> None:
    _check_providers(report, path, metrics.providers)
    for index, override in enumerate(metrics.overrides):
        where = f"{path}.overrides[{index}]"
        if override.match is not None and override.match.custom_metric == "":
            report.error(f"{where}.match.customMetric", "customMetric must not be empty")
        for name, tag in override.tag_overrides.items():
            place = f"{where}.tagOverrides[{name}]"
            if not name:
                report.warn(place, "the name of a tag must not be empty")
            if tag.operation is TagOperation.UPSERT and not tag.value:
                report.error(f"{place}.value", "value must be set when operation is UPSERT")
            if tag.operation is TagOperation.REMOVE and tag.value:
                report.error(f"{place}.value", "value must not be set when operation is REMOVE")
            if name in RESERVED:
                report.warn(place, f"tags named {name} have no effect: the proxy uses this name itself")
            elif tag.operation is TagOperation.UPSERT and tag.value and value_format(tag.value) is None:
                report.warn(
                    f"{place}.value",
                    f"expression {tag.value!r} has no effect: a tag can be a quoted text, an attribute such as "
                    "request.host, or a header such as request.headers['x-team']",
                )


def _check_logging(report: Report, path: str, logging: AccessLogging) -> None:
    _check_providers(report, path, logging.providers)
    if logging.filter is not None:
        if not logging.filter.expression:
            report.error(f"{path}.filter.expression", "expression must not be empty")
        _check_expression(report, f"{path}.filter.expression", logging.filter.expression)


def _check_expression(report: Report, path: str, expression: str) -> None:
    """Only the syntax: which attributes there are is Envoy's to know."""
    if expression and (problem := _syntax_problem(expression)):
        report.error(path, f"expression {expression!r} is not valid CEL: {problem}")


@lru_cache(maxsize=256)
def _syntax_problem(expression: str) -> str | None:
    try:
        _cel().compile(expression)
    except RuntimeError as error:
        found = re.search(r"<input>:(\d+):(\d+): (Syntax error: .*|.* must be a (?:field|simple) .*)", str(error))
        return f"{found[3]} (line {found[1]}, column {found[2]})" if found else None
    return None


@cache
def _cel() -> Any:
    from cel_expr_python import cel  # noqa: PLC0415 - takes megabytes, and few have expressions

    return cel.NewEnv(variables={})
