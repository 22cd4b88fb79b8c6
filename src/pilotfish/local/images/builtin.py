"""The images that are built in: names mapped to the programs of this package and to tools of the machine."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from pilotfish.local import images as room
from pilotfish.local.images.image import Image, matches

_RUN = str(Path(__file__).parent / "programs" / "run.py")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")


def lookup(reference: str) -> Image | None:
    """What is built in under an image reference, None when nothing is."""
    for pattern, image in _table().items():
        if matches(pattern, reference):
            return image
    return None


def outside_system(paths: list[str]) -> list[str]:
    """Which of the absolute paths a container does not have anyway, sorted, without those inside another."""
    chosen: list[str] = []
    for path in sorted({str(place) for p in paths if p for place in (Path(p), Path(p).resolve())}):
        if not any(Path(path).is_relative_to(parent) for parent in (*_SYSTEM, *chosen)):
            chosen.append(path)
    return chosen


@cache
def _mounts() -> list[str]:
    """What our Python programs need: the environment, the interpreter it was made from, this package."""
    package = str(Path(room.__file__).parents[3])
    interpreter = str(Path(sys.executable).resolve().parent.parent)
    return outside_system([sys.prefix, sys.base_prefix, interpreter, package])


def _program(module: str, *args: str, libraries: bool = False, env: dict[str, str] | None = None) -> Image:
    """A program of ours. Without `libraries` it has the standard library only, which starts faster and smaller."""
    flags = ["-I", "-u", "-X", "utf8"] if libraries else ["-I", "-S", "-u", "-X", "utf8"]
    return Image(command=[sys.executable, *flags, _RUN, module], args=list(args), env=env or {}, mounts=_mounts())


# Sleeps until it is told to stop. A bare `sleep` would not do: process 1 ignores signals that it does not handle.
_IDLE = ["/bin/sh", "-c", "trap 'exit 0' TERM INT; sleep infinity & wait"]
# As in the image curlimages/curl: arguments that are no command are curl's.
_CURL = ["/bin/sh", "-c", 'command -v -- "$1" >/dev/null || set -- curl "$@"; exec "$@"', "curl"]


@cache
def _table() -> dict[str, Image]:
    """Patterns and what they mean; the first that fits is taken."""
    shell = Image(args=_IDLE)
    table = {
        "*/curlimages/curl": Image(command=_CURL, args=_IDLE),
        "*/pause": Image(command=_IDLE),
        "*/pilotfish/echo": _program("echo", libraries=True),
    }
    table |= {f"*/{name}": shell for name in ("curl-ssl", "curl", "sleep", "alpine", "busybox", "ubuntu", "debian")}
    return table
