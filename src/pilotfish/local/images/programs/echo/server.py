"""The echo's command line and its servers.

Every port of `--port` and `--tls` speaks HTTP/1.1, HTTP/2 (prior knowledge or ALPN) and WebSocket.
"""

from __future__ import annotations

import argparse
import os
import ssl

from pilotfish.local.images.programs.echo import grpc, http2, websocket
from pilotfish.local.images.programs.echo.report import answer
from pilotfish.local.images.programs.http1 import Connection, listen, log, port_of, run
from pilotfish.local.images.programs.tcp_echo import Lines

_NAME = "pilotfish-echo"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="echo", description=__doc__)
    parser.add_argument("--port", type=int, action="append", help="HTTP port; default $PORT or 8080")
    parser.add_argument("--tls", type=int, action="append", default=[], help="HTTPS port")
    parser.add_argument(
        "--tcp", type=int, action="append", default=[], help="port that repeats lines; default $TCP_PORT"
    )
    parser.add_argument("--grpc", type=int, action="append", default=[], help="gRPC port; default $GRPC_PORT")
    parser.add_argument("--crt", default=os.environ.get("TLS_CERT", ""), help="certificate file for --tls (PEM)")
    parser.add_argument("--key", default=os.environ.get("TLS_KEY", ""), help="key file for --tls (PEM)")
    options = parser.parse_args()
    for name, variable in (("port", "PORT"), ("tls", "TLS_PORT"), ("tcp", "TCP_PORT"), ("grpc", "GRPC_PORT")):
        if not getattr(options, name) and os.environ.get(variable):
            setattr(options, name, [int(os.environ[variable])])
    if options.tls and not (options.crt and options.key):
        parser.error("--tls needs --crt and --key")
    options.port = options.port or [8080]
    return options


async def _start(options: argparse.Namespace) -> None:
    serve = Connection(answer, name=_NAME, upgrade=websocket.serve, http2=http2.Connection(answer))
    for port in options.port:
        log(f"http listens on port {port_of(await listen(port, serve))}")
    if options.tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options.crt, options.key)
        context.set_alpn_protocols(["h2", "http/1.1"])
        for port in options.tls:
            log(f"https listens on port {port_of(await listen(port, serve, context))}")
    for port in options.tcp:
        log(f"tcp listens on port {port_of(await listen(port, Lines('')))}")
    for port in options.grpc:
        log(f"grpc listens on port {await grpc.listen(port)}")


def main() -> None:
    """Serve."""
    options = _options()
    run(lambda: _start(options))
