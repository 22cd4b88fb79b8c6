"""The images that are built in: names mapped to the programs of this package and to tools of the machine."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

from pilotfish.local.images.image import Image, ImageError, matches

_PACKAGE = Path(__file__).parent
_RUN = str(_PACKAGE / "programs" / "run.py")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")


def lookup(reference: str) -> Image | None:
    """What is built in under an image reference, None when nothing is. Raises `ImageError` for what is left out."""
    for pattern in _DATABASES:
        if matches(pattern, reference):
            raise ImageError(
                f"{reference}: Bookinfo's databases are not built in; use examples-bookinfo-ratings-v1, which needs "
                "none, or map the image to a database of yours with `pilotfish image add`"
            )
    for pattern, image in _table().items():
        if matches(pattern, reference):
            if wrapped := _unpacked():  # curl is expected in every image
                tools = str(Path(wrapped).parent)
                return replace(image, mounts=outside_system([*image.mounts, tools]), path=[*image.path, wrapped])
            return image
    return None


def outside_system(paths: list[str]) -> list[str]:
    """Which of the absolute paths a container does not have anyway, sorted, without those inside another."""
    chosen: list[str] = []
    for path in sorted({str(place) for p in paths if p for place in (Path(p), Path(p).resolve())}):
        if not any(Path(path).is_relative_to(parent) for parent in (*_SYSTEM, *chosen)):
            chosen.append(path)
    return chosen


def names() -> list[str]:
    """The patterns of the built-in images."""
    return list(_table())


@cache
def _unpacked() -> str:
    """Where scripts/setup put programs that it could not install, empty if it could."""
    place = Path(os.environ.get("PILOTFISH_TOOLS", "/nonexistent")) / "wrapped"
    return str(place) if place.is_dir() else ""


@cache
def _mounts() -> list[str]:
    """What our Python programs need: the environment, the interpreter it was made from, this package."""
    interpreter = str(Path(sys.executable).resolve().parent.parent)
    return outside_system([sys.prefix, sys.base_prefix, interpreter, str(_PACKAGE.parents[2])])


def _program(module: str, *args: str, libraries: bool = False, env: dict[str, str] | None = None) -> Image:
    """A program of ours. Without `libraries` it has the standard library only, which starts faster and smaller."""
    flags = ["-I", "-u", "-X", "utf8"] if libraries else ["-I", "-S", "-u", "-X", "utf8"]
    return Image(command=[sys.executable, *flags, _RUN, module], args=list(args), env=env or {}, mounts=_mounts())


# Sleeps until it is told to stop. A bare `sleep` would not do: process 1 ignores signals that it does not handle.
_IDLE = ["/bin/sh", "-c", "trap 'exit 0' TERM INT; sleep infinity & wait"]
# As in the image curlimages/curl: arguments that are no command are curl's.
_CURL = ["/bin/sh", "-c", 'command -v -- "$1" >/dev/null || set -- curl "$@"; exec "$@"', "curl"]

_RATINGS_FAULTS = ("v-faulty", "v-delayed", "v-unavailable", "v-unhealthy")
_DATABASES = ("*/examples-bookinfo-mysqldb", "*/examples-bookinfo-mongodb")


def _mesh() -> dict[str, Image]:
    """The mesh's own programs, the control plane and the agent with its Envoy, under Istio's image names too."""
    env = {"PILOTFISH_PYTHON": sys.executable}
    path = [str(_PACKAGE / "bin"), str(Path(sys.prefix) / "bin")]

    def image(module: str) -> Image:
        return Image(command=[sys.executable, "-I", "-u", "-m", module], env=env, mounts=_mounts(), path=path)

    agent, daemon = image("pilotfish.agent"), image("pilotfish.daemon")
    console = {"*/pilotfish-console": image("pilotfish.console")}
    return {"*/proxyv2": agent, "*/pilotfish-agent": agent, "*/pilot": daemon, "*/pilotfishd": daemon, **console}


def _prometheus() -> Image:
    """The machine's Prometheus, with the arguments of its usual image."""
    image = _program("prometheus", "--config.file=/etc/prometheus/prometheus.yml", libraries=True)
    return replace(image, args=[*image.args, "--storage.tsdb.path=/prometheus"])


def _bookinfo() -> dict[str, Image]:
    def service(name: str, **env: str) -> Image:
        return _program(f"bookinfo.{name}", "9080", env=env)

    catalogue = _program("bookinfo.details", "9080", libraries=True, env={"ENABLE_EXTERNAL_BOOK_SERVICE": "true"})
    services = {
        "productpage-v1": service("productpage"),
        "productpage-v-flooding": service("productpage"),
        "details-v1": service("details"),
        "details-v2": catalogue,
        "reviews-v1": service("reviews", ENABLE_RATINGS="false"),
        "reviews-v2": service("reviews", ENABLE_RATINGS="true"),
        "reviews-v3": service("reviews", ENABLE_RATINGS="true", STAR_COLOR="red"),
        "ratings-v1": service("ratings", SERVICE_VERSION="v1"),
        "ratings-v2": service("ratings", SERVICE_VERSION="v2"),
    }
    services |= {f"ratings-{fault}": service("ratings", SERVICE_VERSION=fault) for fault in _RATINGS_FAULTS}
    return {f"*/examples-bookinfo-{name}": image for name, image in services.items()}


@cache
def _table() -> dict[str, Image]:
    """Patterns and what they mean; the first that fits is taken."""
    # Istio's mirroring task starts httpbin with gunicorn's command line.
    httpbin = replace(_program("httpbin", "80"), path=[str(_PACKAGE / "bin")], env={"PILOTFISH_PYTHON": sys.executable})
    table = {
        **_bookinfo(),
        **_mesh(),
        "*/prometheus": _prometheus(),
        "*/calculating": _program("calculating"),
        "*/greeting": _program("greeting"),
        "*/examples-helloworld-v1": _program("helloworld", env={"SERVICE_VERSION": "v1"}),
        "*/examples-helloworld-v2": _program("helloworld", env={"SERVICE_VERSION": "v2"}),
        "*/tcp-echo-server": _program("tcp_echo", "9000", "hello"),
        "*/mccutchen/go-httpbin": _program("httpbin", "8080", "lists"),
        "*/httpbin": httpbin,
        "*/nginx": _program("welcome", "80"),
        "*/pilotfish/echo": _program("echo.server", libraries=True),
        "*/fake-service": _program("echo.server", libraries=True, env={"PORT": "9090"}),
        "*/curlimages/curl": Image(command=_CURL, args=_IDLE),
        "*/pause": Image(command=_IDLE),
    }
    shell = Image(args=_IDLE)
    return table | {
        f"*/{name}": shell for name in ("curl-ssl", "curl", "sleep", "alpine", "busybox", "ubuntu", "debian")
    }
