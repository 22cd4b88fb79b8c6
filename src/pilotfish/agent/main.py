"""The command line: `proxy`, `istio-iptables`, `istio-clean-iptables`, `wait`, `request`, `drain`, `version`."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import logging
import os
import pwd
import sys
import time
from collections.abc import Sequence

from pilotfish import __version__
from pilotfish.agent.options import PROXY_ID, AgentError

CONTROL_PLANE_PORT = "15012"
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit codes: 0 done, 1 failed with one line on stderr, 2 wrong arguments, 126 rules that do not hold."""
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        # Templates written for other releases pass flags we do not have; refusing them would stop the pod.
        print(f"pilotfish-agent: ignored: {' '.join(unknown)}", file=sys.stderr)
    _log(options.log_output_level)
    try:
        sys.exit(options.run(options))
    except AgentError as error:
        print(f"pilotfish-agent: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--log_output_level", default="default:info")
    parser = argparse.ArgumentParser(prog="pilotfish-agent", description=__doc__, parents=[common])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    proxy = commands.add_parser("proxy", parents=[common], help="run Envoy beside a workload, or as a gateway")
    proxy.add_argument("kind", choices=["sidecar", "router"], nargs="?", default="sidecar")
    proxy.add_argument("--domain", default="")
    proxy.add_argument("--proxyLogLevel", default="warning")
    proxy.add_argument("--proxyComponentLogLevel", default="misc:error")
    proxy.add_argument("--concurrency", type=int)
    proxy.set_defaults(run=_proxy)

    rules = commands.add_parser("istio-iptables", parents=[common], help="set the capture rules of this pod")
    _rule_flags(rules)
    rules.set_defaults(run=_rules)
    clean = commands.add_parser("istio-clean-iptables", parents=[common], help="remove the capture rules")
    clean.set_defaults(run=_clean)

    wait = commands.add_parser("wait", parents=[common], help="wait until the proxy is ready")
    wait.add_argument("--url", default="http://localhost:15021/healthz/ready")
    wait.add_argument("--timeoutSeconds", type=float, default=60)
    wait.add_argument("--periodMillis", type=float, default=500)
    wait.set_defaults(run=_wait)
    request = commands.add_parser("request", parents=[common], help="ask Envoy's admin interface")
    request.add_argument("method")
    request.add_argument("path")
    request.add_argument("--debug-port", type=int, default=15000)
    request.set_defaults(run=_request)
    drain = commands.add_parser("drain", parents=[common], help="start draining the proxy of this pod")
    drain.set_defaults(run=_drain)
    version = commands.add_parser("version", parents=[common], help="print the version")
    version.set_defaults(run=_version)
    return parser


def _rule_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of istio-iptables, by their names there."""
    flags = {
        ("-p", "--envoy-port"): "15001",
        ("-z", "--inbound-capture-port"): "15006",
        ("-u", "--proxy-uid"): "",
        ("-g", "--proxy-gid"): "",
        ("-m", "--istio-inbound-interception-mode"): "REDIRECT",
        ("-i", "--istio-service-cidr"): "",
        ("-x", "--istio-service-exclude-cidr"): "",
        ("-b", "--istio-inbound-ports"): "",
        ("-d", "--istio-local-exclude-ports"): "",
        ("-q", "--istio-outbound-ports"): "",
        ("-o", "--istio-local-outbound-ports-exclude"): "",
        ("-k", "--kube-virt-interfaces"): "",
        ("-c", "--istio-exclude-interfaces"): "",
    }
    for names, default in flags.items():
        parser.add_argument(*names, default=default)
    for name in ("--redirect-dns", "--capture-all-dns", "--drop-invalid", "--dry-run", "--run-validation"):
        parser.add_argument(name, action="store_true")
    for name in ("--cleanup-only", "--native-nftables", "--force-apply", "--skip-rule-apply"):
        parser.add_argument(name, action="store_true")


def _log(level: str) -> None:
    """`default:info`, `all:debug` or a plain level, as Istio writes it; scopes are not told apart."""
    word = level.split(",", maxsplit=1)[0].rpartition(":")[2]
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=LEVELS.get(word, logging.INFO),
        format="%(asctime)s.%(msecs)03dZ\t%(levelname)s\t%(name)s\t%(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        stream=sys.stdout,
    )


def _proxy(arguments: argparse.Namespace) -> int:
    from pilotfish.agent import options as settings  # noqa: PLC0415 (commands load only what they use)
    from pilotfish.agent.run import run  # noqa: PLC0415

    options = settings.read(arguments.kind, arguments.domain)
    options = dataclasses.replace(
        options,
        log_level=arguments.proxyLogLevel,
        component_log_level=arguments.proxyComponentLogLevel,
        concurrency=options.concurrency if arguments.concurrency is None else arguments.concurrency,
    )
    return asyncio.run(run(options, mark=_shared_user()))


def _shared_user() -> bool:
    """Whether the proxy shares its user with the application, so that only a socket mark tells them apart."""
    return os.environ.get("PILOTFISH_SHARED_USER", "") == "true"


def _rules(arguments: argparse.Namespace) -> int:
    from pilotfish.agent import capture  # noqa: PLC0415

    def number(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in capture.split(text) if part.isdigit()) or (_proxy_user(),)

    split = capture.split
    not_outbound = split(arguments.istio_local_outbound_ports_exclude)
    if _shared_user():
        # The agent has no user of its own either: its calls to the control plane must not be captured.
        not_outbound = (*not_outbound, CONTROL_PLANE_PORT)
    wanted = capture.Capture(
        outbound_port=int(arguments.envoy_port),
        inbound_port=int(arguments.inbound_capture_port),
        uids=number(arguments.proxy_uid),
        gids=number(arguments.proxy_gid or arguments.proxy_uid),
        mode=arguments.istio_inbound_interception_mode or "REDIRECT",
        outbound_cidrs=split(arguments.istio_service_cidr),
        excluded_cidrs=split(arguments.istio_service_exclude_cidr),
        inbound_ports=split(arguments.istio_inbound_ports),
        excluded_inbound_ports=split(arguments.istio_local_exclude_ports),
        outbound_ports=split(arguments.istio_outbound_ports),
        excluded_outbound_ports=not_outbound,
        excluded_interfaces=split(arguments.istio_exclude_interfaces),
        rerouted_interfaces=split(arguments.kube_virt_interfaces),
        redirect_dns=arguments.redirect_dns or os.environ.get("ISTIO_META_DNS_CAPTURE", "").lower() == "true",
        capture_all_dns=arguments.capture_all_dns,
        drop_invalid=arguments.drop_invalid or os.environ.get("INVALID_DROP", "").lower() == "true",
        nameservers=capture.nameservers(),
    )
    script = capture.cleanup() if arguments.cleanup_only else capture.render(wanted)
    print(script)
    if arguments.dry_run or arguments.skip_rule_apply:
        return 0
    asyncio.run(capture.apply(script))
    if wanted.mode == "REDIRECT" and not arguments.cleanup_only:
        try:
            asyncio.run(capture.check())
        except AgentError as error:
            print(f"pilotfish-agent: {error}", file=sys.stderr)
            return 126
    return 0


def _proxy_user() -> int:
    try:
        return pwd.getpwnam("istio-proxy").pw_uid
    except KeyError:
        return PROXY_ID


def _clean(_: argparse.Namespace) -> int:
    from pilotfish.agent import capture  # noqa: PLC0415

    asyncio.run(capture.apply(capture.cleanup()))
    return 0


def _wait(arguments: argparse.Namespace) -> int:
    return asyncio.run(_until_ready(arguments.url, arguments.timeoutSeconds, arguments.periodMillis / 1000))


async def _until_ready(url: str, limit: float, period: float) -> int:
    from pilotfish.agent.http import TooLargeError, fetch  # noqa: PLC0415

    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        try:
            if (await fetch(url, timeout=period or 1)).status == 200:
                return 0
        except (OSError, TimeoutError, TooLargeError):
            pass  # not up yet
        await asyncio.sleep(period)
    raise AgentError(f"the proxy is not ready after {limit:g} s ({url}); see the log of container istio-proxy")


def _request(arguments: argparse.Namespace) -> int:
    return asyncio.run(_ask(arguments.method, f"http://127.0.0.1:{arguments.debug_port}/{arguments.path.lstrip('/')}"))


def _drain(_: argparse.Namespace) -> int:
    return asyncio.run(_ask("POST", "http://127.0.0.1:15020/drain"))


async def _ask(method: str, url: str) -> int:
    from pilotfish.agent.http import TooLargeError, fetch  # noqa: PLC0415

    try:
        answer = await fetch(url, method=method, timeout=30, limit=512 * 1024 * 1024)
    except (OSError, TimeoutError, TooLargeError) as error:
        raise AgentError(f"{url}: {type(error).__name__}: {error}") from error
    sys.stdout.write(answer.body.decode(errors="replace"))
    return 0 if answer.status < 400 else 1


def _version(_: argparse.Namespace) -> int:
    print(__version__)
    return 0
