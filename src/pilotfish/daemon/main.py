"""`pilotfishd`: the commands and flags of `pilot-discovery`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pilotfish import __version__

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit code 0 after SIGTERM, 1 with one line on stderr when it cannot start, 2 for wrong arguments."""
    parser = _parser()
    given, unknown = parser.parse_known_args(arguments)
    if given.command == "version":
        print(__version__)
        return
    if unknown:
        # Charts for other releases pass flags we do not have; refusing them would stop the control plane.
        print(f"pilotfishd: ignored: {' '.join(unknown)}", file=sys.stderr)
    sys.exit(_discovery(given))


def _discovery(given: argparse.Namespace) -> int:
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
        options = Options(**settings)
    except OptionError as error:
        print(f"pilotfishd: {error}", file=sys.stderr)
        return 2
    _log(given.log_output_level, as_json=given.log_as_json)
    return _run(options)


def _run(options: Any) -> int:
    import uvloop  # noqa: PLC0415 (loaded when it is known that we run)

    from pilotfish.daemon.run import StartError, run  # noqa: PLC0415

    # What is loaded by now stays; collecting over it again and again is wasted.
    gc.freeze()
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
    ):
        discovery.add_argument(f"--{flag}", default=default)
    discovery.add_argument("-n", "--namespace", default="")
    discovery.add_argument("--log_as_json", action="store_true")
    return parser


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "level": record.levelname.lower(),
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "scope": record.name,
            "msg": record.getMessage(),
        }
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _log(level: str, *, as_json: bool) -> None:
    word = level.split(",", maxsplit=1)[0].rpartition(":")[2]
    handler = logging.StreamHandler(sys.stdout)
    plain = logging.Formatter("%(asctime)s.%(msecs)03dZ\t%(levelname)s\t%(name)s\t%(message)s", "%Y-%m-%dT%H:%M:%S")
    plain.converter = time.gmtime
    handler.setFormatter(_JsonLines() if as_json else plain)
    logging.basicConfig(level=LEVELS.get(word, logging.INFO), handlers=[handler])
