"""WasmPlugin and TrafficExtension."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pilotfish.api.config import Config
from pilotfish.api.extensions import EnvValueSource, TrafficExtension, TrafficSelector, WasmConfig, WasmPlugin
from pilotfish.api.urls import scheme_of
from pilotfish.api.validation.report import Report, duplicates

_SCHEMES = {"", "http", "https", "file", "oci"}


def check_wasm_plugin(report: Report, config: Config[WasmPlugin]) -> None:
    spec = config.spec
    report.target_refs(spec.selector, spec.target_ref, spec.target_refs)
    _check_wasm(report, "spec", spec)
    _check_traffic(report, "spec.match", spec.match)


def check_traffic_extension(report: Report, config: Config[TrafficExtension]) -> None:
    spec = config.spec
    report.target_refs(spec.selector, None, spec.target_refs)
    if (spec.wasm is None) == (spec.lua is None):
        report.error("spec", "exactly one of wasm and lua must be set")
    if spec.wasm is not None:
        _check_wasm(report, "spec.wasm", spec.wasm)
    if spec.lua is not None:
        size = len(spec.lua.inline_code.encode("utf-8", "replace"))
        if not size:
            report.error("spec.lua.inlineCode", "inlineCode is required")
        elif size > 65536:
            report.error("spec.lua.inlineCode", f"the script has {size} bytes; at most 64 KiB are allowed")
    _check_traffic(report, "spec.match", spec.match)


def _check_wasm(report: Report, path: str, wasm: WasmConfig) -> None:
    if not wasm.url:
        report.error(f"{path}.url", "url is required")
    else:
        _check_url(report, f"{path}.url", wasm.url)
    if wasm.sha256 and not re.fullmatch(r"[0-9a-f]{64}", wasm.sha256):
        report.error(f"{path}.sha256", "must be a SHA-256 hash in lower-case hex, 64 digits")
    if len(wasm.image_pull_secret) > 253:
        report.error(f"{path}.imagePullSecret", "the name of a secret has at most 253 characters")
    if len(wasm.plugin_name) > 256:
        report.error(f"{path}.pluginName", "at most 256 characters are allowed")
    environment = wasm.vm_config.env if wasm.vm_config is not None else ()
    for index, variable in enumerate(environment):
        where = f"{path}.vmConfig.env[{index}]"
        if not variable.name:
            report.error(f"{where}.name", "name is required")
        if variable.value_from is EnvValueSource.HOST and variable.value:
            report.error(f"{where}.value", "value may only be set when valueFrom is INLINE")
        if len(variable.name) > 256:
            report.error(f"{where}.name", "at most 256 characters are allowed")
    for index, name in duplicates(variable.name for variable in environment):
        report.error(f"{path}.vmConfig.env[{index}].name", f"duplicate variable {name!r}")


def _check_url(report: Report, path: str, url: str) -> None:
    """A URL, or one without its scheme: an image's name."""
    try:
        scheme = scheme_of(url)
    except ValueError as error:
        try:
            scheme = scheme_of(f"http://{url}")
        except ValueError:
            report.error(path, f"url {url!r} is none: {error}")
            return
    if scheme not in _SCHEMES:
        report.error(path, f"url {url!r} must begin with oci://, http://, https:// or file://")


def _check_traffic(report: Report, path: str, selectors: Sequence[TrafficSelector]) -> None:
    for index, selector in enumerate(selectors):
        for number, port in enumerate(selector.ports):
            report.port(f"{path}[{index}].ports[{number}].number", port.number)
