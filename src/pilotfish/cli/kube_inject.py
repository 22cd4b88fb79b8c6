"""`pilotfish kube-inject`: the sidecar into manifests, without a webhook."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from pilotfish.errors import UserError
from pilotfish.inject import InjectionError, InjectorSettings
from pilotfish.inject.context import Context
from pilotfish.inject.manifest import inject_all, read
from pilotfish.kube.client import Client
from pilotfish.kube.errors import KubeError
from pilotfish.kube.resources import CONFIG_MAPS

Data = Mapping[str, str]


@click.command("kube-inject")
@click.option("-f", "--filename", required=True, type=click.File("r"), help="Manifest to read; - for standard input.")
@click.option("-o", "--output", type=click.File("w"), default="-", help="Where to write. [default: standard output]")
@click.option("-n", "--namespace", default="default", help="Namespace of objects that name none.")
@click.option("-i", "--istioNamespace", "system", default="istio-system", help="Namespace of the control plane.")
@click.option("-r", "--revision", default="", help="Revision of the control plane.")
@click.option("--kubeconfig", type=click.Path(exists=True, path_type=Path), help="Cluster to take the settings from.")
@click.option("--injectConfigFile", "inject_config", type=click.Path(exists=True, path_type=Path))
@click.option("--valuesFile", "values", type=click.Path(exists=True, path_type=Path))
@click.option("--meshConfigFile", "mesh_config", type=click.Path(exists=True, path_type=Path))
def command(
    filename: Any,
    output: Any,
    namespace: str,
    system: str,
    revision: str,
    kubeconfig: Path | None,
    inject_config: Path | None,
    values: Path | None,
    mesh_config: Path | None,
) -> None:
    """Inject the sidecar into the workloads of a manifest.

    Settings come from the cluster's ConfigMaps, or from files: with --injectConfigFile, --valuesFile or
    --meshConfigFile no cluster is asked.
    """
    if inject_config or values or mesh_config:
        data: Data = {"config": _text(inject_config), "values": _text(values)}
        mesh: Data = {"mesh": _text(mesh_config)}
    else:
        data, mesh = asyncio.run(_from_cluster(kubeconfig, system, revision))
    try:
        settings = InjectorSettings.read(data, revision, system)
        mesh_json = yaml.load(mesh.get("mesh", ""), Loader=yaml.CSafeLoader) or {}
        documents = read(filename.read(), filename.name)

        def context(pod: dict[str, Any], space: str) -> Context:
            return Context(pod, space, settings, mesh_json)

        made = list(inject_all(documents, context, namespace, lambda text: click.echo(text, err=True)))
    except (InjectionError, yaml.YAMLError) as error:
        raise UserError(str(error)) from error
    output.write("---\n".join(made))


def _text(path: Path | None) -> str:
    return path.read_text() if path else ""


async def _from_cluster(kubeconfig: Path | None, system: str, revision: str) -> tuple[Data, Data]:
    suffix = f"-{revision}" if revision not in ("", "default") else ""
    try:
        async with Client.from_file(kubeconfig) as client:
            found = [
                await client.get(CONFIG_MAPS, name + suffix, system) for name in ("istio-sidecar-injector", "istio")
            ]
    except KubeError as error:
        raise UserError(f"the injector's settings cannot be read: {error}; is the mesh installed?") from error
    injector, mesh = (one.get("data") or {} for one in found)
    return injector, mesh
