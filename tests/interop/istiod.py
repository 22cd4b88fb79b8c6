"""Istio's own control plane in the local cluster, installed from its own charts with real Helm."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.charts import helm
from tests.e2e.harness import Cluster, CommandError

IMAGE = "docker.io/istio/pilot"
AGENT_IMAGE = "docker.io/istio/proxyv2"
BASE, DISCOVERY = Path("manifests/charts/base"), Path("manifests/charts/istio-control/istio-discovery")
STOCK = (
    "--set",
    "telemetry.enabled=false,pilot.env.PILOT_ENABLE_METADATA_EXCHANGE=false,pilot.env.PILOT_ENABLE_ALPN_FILTER=false",
)
"""Values without which istiod sends filters that only Istio's build of Envoy has."""


def add_images(cluster: Cluster, programs: Path, envoy: Path) -> None:
    """Make Istio's images run the programs built here."""
    common = ("image", "add", "--workdir", "/")
    cluster.pilotfish(*common, IMAGE, "--user", "1337", "--", str(programs / "pilot-discovery"))
    shown = ("--mount", str(envoy), "--mount", str(programs.parent / "src/istio/tools/packaging/common"))
    cluster.pilotfish(*common, *shown, AGENT_IMAGE, "--", str(programs / "pilot-agent"))


def values(source: Path, envoy: Path) -> tuple[str, ...]:
    """For Helm, of the chart of istiod: the images above, and where they find Envoy and its bootstrap."""
    # Istio's image of the proxy has both at fixed places; here they are where they were built.
    template = source / "tools/packaging/common/envoy_bootstrap.json"
    proxy = (
        f"meshConfig.defaultConfig.binaryPath={envoy},meshConfig.defaultConfig.proxyBootstrapTemplatePath={template}"
    )
    return ("--set", "global.hub=docker.io/istio,global.tag=interop", "--set", proxy)


def install_istiod(cluster: Cluster, programs: Path, source: Path, envoy: Path, *arguments: str) -> None:
    """The CRDs and istiod, ready. `arguments`: for `helm install` of the chart istiod, such as `--set`."""
    add_images(cluster, programs, envoy)
    new = ("-n", "istio-system", "--create-namespace")
    run_helm(cluster, "install", "istio-base", str(source / BASE), *new)
    run_helm(cluster, "install", "istiod", str(source / DISCOVERY), *new, *values(source, envoy), *arguments)
    cluster.ready("istio-system", "istiod", seconds=90)


def run_helm(cluster: Cluster, *arguments: str) -> str:
    """Real Helm against the cluster; what it printed."""
    program = helm.find()
    assert program is not None, "Helm was not built"
    done = subprocess.run(
        [program, *arguments], env=cluster.env(), capture_output=True, text=True, check=False, timeout=150, cwd="/"
    )
    if done.returncode:
        raise CommandError(f"helm {arguments} exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout
