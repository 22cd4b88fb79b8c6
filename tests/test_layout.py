"""The rooms of ARCHITECTURE.md and the arrows between them, read from the import statements."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pilotfish

ROOT = Path(pilotfish.__file__).parent

CHAIN = ("api", "kube", "mesh", "envoy", "xds", "daemon")
"""Each may import those before it."""
TOPS = {"local", "console", "cli", "agent"}
"""Nobody imports them, except the command line, which starts everything."""
ALONE = {"engine"}
"""They know nothing of the other rooms."""
SHARED = {"errors", ""}
"""Modules everybody may import ("" is the package itself)."""

INSIDE_LOCAL = {
    "images": {"data"},
    "node": {"images", "network", "data"},
    "controllers": {"network", "data"},
    "apiserver": {"controllers", "network", "data"},
}
"""Of the local cluster: which modules beside it a part may import. The parts meet through the API and two sockets."""


def _modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def _imports(path: Path) -> set[tuple[str, ...]]:
    """The modules of this package that a file imports, as paths below it; imports for type checking count too."""
    package = path.relative_to(ROOT.parent).parts[:-1]
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module or "") if part)
            names = [f"{source}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {tuple(name.split(".")[1:]) for name in names if name.split(".")[0] == ROOT.name}
    return found


@cache
def _graph() -> dict[str, dict[str, set[str]]]:
    """Room → rooms it imports → the files that do."""
    graph: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in _modules():
        relative = path.relative_to(ROOT)
        room = relative.parts[0].removesuffix(".py").replace("__init__", "")
        for target in _imports(path):
            other = target[0] if target else ""
            if not (ROOT / other).exists() and not (ROOT / f"{other}.py").exists():
                other = ""  # a name of the package itself, such as __version__
            if other != room and other not in SHARED:
                graph[room][other].add(str(relative))
    return graph


def test_rooms_exist() -> None:
    """The rooms this test speaks of are there, so that a rename cannot switch it off."""
    for room in {*CHAIN, *TOPS, *ALONE} - {"daemon", "console"}:
        assert (ROOT / room).is_dir(), room


def test_the_chain_points_one_way() -> None:
    """In api ← kube ← mesh ← envoy ← xds ← daemon nothing imports what stands right of it."""
    wrong = {
        f"{file}: {room} imports {other}"
        for number, room in enumerate(CHAIN)
        for other, files in _graph()[room].items()
        for file in files
        if other in CHAIN[number:]
    }
    assert not wrong


def test_nobody_imports_the_tops() -> None:
    """local, console, cli and agent are used by nobody but the command line."""
    wrong = {
        f"{file}: {room} imports {other}"
        for room, others in _graph().items()
        for other, files in others.items()
        for file in files
        if other in TOPS and room != "cli"
    }
    assert not wrong


def test_the_engine_stands_alone() -> None:
    """The engine knows nothing of meshes."""
    assert {room: dict(_graph()[room]) for room in ALONE if _graph()[room]} == {}


def test_no_circles_between_rooms() -> None:
    """Rooms can be put in an order in which each uses only earlier ones."""
    list(TopologicalSorter({room: set(others) for room, others in _graph().items()}).static_order())


def test_parts_of_the_local_cluster_meet_through_the_api() -> None:
    """API server, controllers, node and images do not reach into one another."""
    wrong = set()
    for part, allowed in INSIDE_LOCAL.items():
        for path in _modules():
            relative = path.relative_to(ROOT)
            if relative.parts[:2] != ("local", part):
                continue
            for target in _imports(path):
                other = target[1] if len(target) > 1 and target[0] == "local" else part
                if other != part and other not in allowed:
                    wrong.add(f"{relative}: local.{part} imports local.{other}")
    assert not wrong


def test_built_in_programs_need_nothing_else() -> None:
    """The built-in programs import only one another, so that they start fast and small. What runs Prometheus is no
    application and talks to the Kubernetes API."""
    programs = ("local", "images", "programs")
    client = ("prometheus.py", "kube")
    wrong = {
        f"{path.relative_to(ROOT)}: imports {'.'.join(target)}"
        for path in _modules()
        if path.relative_to(ROOT).parts[:3] == programs
        for target in _imports(path)
        if target[:3] != programs and (path.name, target[0]) != client
    }
    assert not wrong
