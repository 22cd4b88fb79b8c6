"""`pilotfish kube-inject`: the sidecar into manifests, without a webhook."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pilotfish.api.errors import DecodeError
from pilotfish.api.files import load_one
from pilotfish.errors import UserError
from pilotfish.inject import InjectionError, InjectorSettings, native
from pilotfish.inject.context import Context
from pilotfish.inject.manifest import inject_all, read
from pilotfish.install.charts import render
from pilotfish.install.operator import plan
from pilotfish.kube.client import Client
from pilotfish.kube.errors import KubeError
from pilotfish.kube.resources import CONFIG_MAPS, NODES

INJECTOR, MESH = "istio-sidecar-injector", "istio"
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class _Given:
    """The data of the two ConfigMaps, and whether the nodes have native sidecars."""

    injector: Mapping[str, str]
    mesh: Mapping[str, str]
    native: bool = False


@click.command("kube-inject")
@click.option("-f", "--filename", required=True, type=click.File("r"), help="Manifest to read; - for standard input.")
@click.option("-o", "--output", type=click.File("w"), default="-", help="Where to write. [default: standard output]")
@click.option("-n", "--namespace", default="default", help="Namespace of objects that name none.")
@click.option("-i", "--istioNamespace", "system", default="istio-system", help="Namespace of the control plane.")
@click.option("-r", "--revision", default="", help="Revision of the control plane.")
@click.option("--kubeconfig", type=_FILE, help="Cluster to take the settings from.")
@click.option("--injectConfigMapName", "inject_map", default=INJECTOR, help=f"Instead of {INJECTOR}.")
@click.option("--meshConfigMapName", "mesh_map", default=MESH, help=f"Instead of {MESH}.")
@click.option("--injectConfigFile", "inject_config", type=_FILE, help=f"Key config of {INJECTOR}.")
@click.option("--valuesFile", "values", type=_FILE, help=f"Key values of {INJECTOR}.")
@click.option("--meshConfigFile", "mesh_config", type=_FILE, help=f"Key mesh of {MESH}.")
@click.option("--operatorFileName", "operator", type=_FILE, help="IstioOperator to take the settings from.")
def command(
    filename: Any,
    output: Any,
    namespace: str,
    system: str,
    revision: str,
    kubeconfig: Path | None,
    inject_map: str,
    mesh_map: str,
    inject_config: Path | None,
    values: Path | None,
    mesh_config: Path | None,
    operator: Path | None,
) -> None:
    """Inject the sidecar into the workloads of a manifest.

    Settings come from the cluster's ConfigMaps, from an IstioOperator, or from files: with --operatorFileName,
    --injectConfigFile, --valuesFile or --meshConfigFile no cluster is asked.
    """
    mode = os.environ.get("ENABLE_NATIVE_SIDECARS", "").lower()
    if operator:
        given = _from_operator(operator, revision)
    elif inject_config or values or mesh_config:
        files = {"config": _text(inject_config), "values": _text(values)}
        given = _Given(files, {"mesh": _text(mesh_config)})
    else:
        suffix = f"-{revision}" if revision not in ("", "default") else ""
        given = asyncio.run(_from_cluster(kubeconfig, system, inject_map + suffix, mesh_map + suffix))
    try:
        settings = InjectorSettings.read(given.injector, revision, system)
        mesh = load_one(given.mesh.get("mesh", "")) or {}

        def context(pod: dict[str, Any], space: str) -> Context:
            natively = native.wanted(mode, pod, lambda: given.native)
            return Context(pod, space, settings, mesh, native_sidecars=natively)

        documents = read(filename.read(), filename.name)
        made = list(inject_all(documents, context, namespace, lambda text: click.echo(text, err=True)))
    except (InjectionError, DecodeError) as error:
        raise UserError(str(error)) from error
    output.write("---\n".join(made))


def _text(path: Path | None) -> str:
    return path.read_text() if path else ""


def _from_operator(path: Path, revision: str) -> _Given:
    """What our charts make of an IstioOperator."""
    chosen = plan([(str(path), path.read_text())], (), revision)
    found = next((one for one in chosen.components if one.chart == "istiod"), None)
    if found is None:
        raise UserError(f"{path}: this IstioOperator has no control plane (components.pilot)")
    objects = render(found.chart, found.release, found.namespace, found.values)
    maps = {one["metadata"]["name"]: one.get("data") or {} for one in objects if one["kind"] == "ConfigMap"}
    suffix = f"-{chosen.revision}" if chosen.revision not in ("", "default") else ""
    return _Given(maps.get(INJECTOR + suffix, {}), maps.get(MESH + suffix, {}))


async def _from_cluster(kubeconfig: Path | None, system: str, inject_map: str, mesh_map: str) -> _Given:
    try:
        async with Client.from_file(kubeconfig) as client:
            injector, mesh = [await client.get(CONFIG_MAPS, name, system) for name in (inject_map, mesh_map)]
            return _Given(injector.get("data") or {}, mesh.get("data") or {}, await _native(client))
    except KubeError as error:
        raise UserError(f"the injector's settings cannot be read: {error}; is the mesh installed?") from error


async def _native(client: Client) -> bool:
    try:
        return native.nodes_allow((await client.list(NODES)).items)
    except KubeError:
        return False  # whoever may not see nodes gets the form that all of them take
