"""Istio's own control plane in the local cluster, installed from its own charts with real Helm."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.charts import helm
from tests.e2e.harness import Cluster, CommandError

IMAGE = "docker.io/istio/pilot"
AGENT_IMAGE = "docker.io/istio/proxyv2"
CHARTS = Path("manifests/charts")


def add_images(cluster: Cluster, programs: Path, envoy: Path) -> None:
    """Make Istio's images run the programs built here."""
    common = ("image", "add", "--workdir", "/")
    cluster.pilotfish(*common, IMAGE, "--user", "1337", "--", str(programs / "pilot-discovery"))
    shown = ("--mount", str(envoy), "--mount", str(programs.parent / "src/istio/tools/packaging/common"))
    cluster.pilotfish(*common, *shown, AGENT_IMAGE, "--", str(programs / "pilot-agent"))


def install(cluster: Cluster, source: Path, chart: str, name: str, *arguments: str) -> None:
    """`helm install` of one of Istio's charts; its namespace is made."""
    program = helm.find()
    assert program is not None, "Helm was not built"
    command = [program, "install", name, str(source / CHARTS / chart), "-n", "istio-system", "--create-namespace"]
    _run([*command, *arguments], cluster.env())


def install_istiod(cluster: Cluster, programs: Path, source: Path, envoy: Path, *arguments: str) -> None:
    """The CRDs and istiod, ready. `arguments`: for `helm install` of the chart istiod, such as `--set`."""
    add_images(cluster, programs, envoy)
    install(cluster, source, "base", "istio-base")
    # Istio's image of the proxy has both at fixed places; here they are where they were built.
    template = source / "tools/packaging/common/envoy_bootstrap.json"
    proxy = (
        f"meshConfig.defaultConfig.binaryPath={envoy},meshConfig.defaultConfig.proxyBootstrapTemplatePath={template}"
    )
    values = ("--set", "global.hub=docker.io/istio,global.tag=interop", "--set", proxy)
    install(cluster, source, "istio-control/istio-discovery", "istiod", *values, *arguments)
    cluster.ready("istio-system", "istiod", seconds=90)


def _run(command: list[str], env: Mapping[str, str]) -> None:
    done = subprocess.run(command, env=dict(env), capture_output=True, text=True, check=False, timeout=120, cwd="/")
    if done.returncode:
        raise CommandError(f"{command} exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
