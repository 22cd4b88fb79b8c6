"""`pilotfishd`: the commands and flags of `pilot-discovery`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pilotfish import __version__

MONITORING = "http://127.0.0.1:15014/"


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit code 0 after SIGTERM, 1 with one line on stderr when it cannot start, 2 for wrong arguments."""
    parser = _parser()
    given, unknown = parser.parse_known_args(arguments)
    if given.command == "version":
        print(__version__)
        return
    if given.command == "request":
        sys.exit(_request(given.method, given.path, given.body))
    if unknown:
        # Charts for other releases pass flags we do not have; refusing them would stop the control plane.
        print(f"pilotfishd: ignored: {' '.join(unknown)}", file=sys.stderr)
    sys.exit(_discovery(given))


def _request(method: str, path: str, body: str) -> int:
    """Ask the control plane of this pod, as tools do with `pilot-discovery request GET /debug/syncz`."""
    asked = urllib.request.Request(MONITORING + path.lstrip("/"), body.encode() or None, method=method.upper())  # noqa: S310  a constant address
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310  the same
            sys.stdout.buffer.write(answer.read())
    except urllib.error.HTTPError as error:
        print(f"pilotfishd: {path}: {error.code}: {error.read().decode(errors='replace').strip()}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"pilotfishd: the control plane does not answer at {MONITORING}: {error}", file=sys.stderr)
        return 1
    return 0


def _discovery(given: argparse.Namespace) -> int:
    from pilotfish.daemon import logs  # noqa: PLC0415
    from pilotfish.daemon.options import Address, OptionError, Options, read_environment  # noqa: PLC0415

    try:
        settings: dict[str, Any] = read_environment()
        for name, flag in _ADDRESSES.items():
            settings[name] = Address.parse(getattr(given, flag), f"--{flag}")
        for name in ("namespace", "domain"):
            if value := getattr(given, name):
                settings[name] = value
        if given.clusterID:
            settings["cluster_id"] = given.clusterID
        settings["kubeconfig"] = Path(given.kubeconfig) if given.kubeconfig else None
        settings["controlz"] = Address.parse(f"{given.ctrlz_address}:{given.ctrlz_port}", "--ctrlz_port")
        options = Options(**settings)
    except OptionError as error:
        print(f"pilotfishd: {error}", file=sys.stderr)
        return 2
    logs.configure(given.log_output_level, as_json=given.log_as_json)
    return _run(options)


def _run(options: Any) -> int:
    gc.disable()  # loading makes no garbage
    import uvloop  # noqa: PLC0415 (loaded when it is known that we run)

    from pilotfish.daemon.run import StartError, run  # noqa: PLC0415

    # What is loaded by now stays; collecting over it again and again is wasted.
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000, 20, 50)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(options))
    except StartError as error:
        print(f"pilotfishd: {error}", file=sys.stderr)
        return 1
    return 0


_ADDRESSES = {
    "http": "httpAddr",
    "https": "httpsAddr",
    "grpc": "grpcAddr",
    "secure_grpc": "secureGRPCAddr",
    "monitoring": "monitoringAddr",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pilotfishd", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("version", help="print the version")
    request = commands.add_parser("request", help="ask the control plane of this pod, on its port 15014")
    request.add_argument("method")
    request.add_argument("path")
    request.add_argument("body", nargs="?", default="")
    discovery = commands.add_parser("discovery", help="run the control plane")
    for flag, default in (
        ("httpAddr", ":8080"),
        ("httpsAddr", ":15017"),
        ("grpcAddr", ":15010"),
        ("secureGRPCAddr", ":15012"),
        ("monitoringAddr", ":15014"),
        ("domain", ""),
        ("kubeconfig", ""),
        ("clusterID", ""),
        ("log_output_level", "default:info"),
        ("keepaliveMaxServerConnectionAge", ""),
        ("ctrlz_address", "localhost"),
        ("ctrlz_port", "9876"),
    ):
        discovery.add_argument(f"--{flag}", default=default)
    discovery.add_argument("-n", "--namespace", default="")
    discovery.add_argument("--log_as_json", action="store_true")
    return parser
