"""Where the API server is and who we are: a kubeconfig file, or the service account of the pod we run in."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml

from pilotfish.kube.errors import ConfigError
from pilotfish.tls import load_key_pair

SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_FILE_SECONDS = 60.0  # as client-go: a projected token is renewed long before it ends


@dataclass(frozen=True, slots=True)
class ExecPlugin:
    """A program that prints an `ExecCredential` with a token (client.authentication.k8s.io)."""

    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    api_version: str = "client.authentication.k8s.io/v1"


@dataclass(frozen=True, slots=True)
class Config:
    """A server and a user. Certificates and keys are PEM."""

    server: str
    """`https://host:port`, with a path when the server is behind one."""
    namespace: str = "default"
    ca: bytes | None = None
    insecure: bool = False
    """Do not verify the server's certificate."""
    tls_server_name: str | None = None
    client_certificate: bytes | None = field(default=None, repr=False)
    client_key: bytes | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    exec_plugin: ExecPlugin | None = None
    impersonate: str | None = None

    def ssl_context(self) -> ssl.SSLContext | None:
        """None for a plain `http://` server."""
        if not self.server.startswith("https:"):
            return None
        try:
            # With our own roots the system's are not loaded: they cost megabytes and would be trusted too.
            context = ssl.create_default_context(cadata=self.ca.decode("ascii") if self.ca else None)
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise ConfigError(f"the certificate authority of {self.server} is not a PEM certificate") from error
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.client_certificate and self.client_key:
            _load_pair(context, self.client_certificate, self.client_key, self.server)
        return context


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes, server: str) -> None:
    try:
        load_key_pair(context, certificate, key)
    except ssl.SSLError as error:
        raise ConfigError(f"the client certificate and key for {server} do not load or do not match") from error


def default_kubeconfig() -> Path:
    """The first file of `$KUBECONFIG`, else `~/.kube/config`."""
    first = next((part for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part), "")
    return Path(first) if first else Path.home() / ".kube" / "config"


def load_kubeconfig(path: Path, context: str | None = None) -> Config:
    """Read one kubeconfig file. Relative paths in it are relative to the file. Raises ConfigError."""
    try:
        document = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"kubeconfig {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"kubeconfig {path} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"kubeconfig {path} is not a kubeconfig: it holds no mapping")
    return _Reader(path, document).config(context)


class _Reader:
    def __init__(self, path: Path, document: Mapping[str, Any]) -> None:
        self.path = path
        self.document = document

    def config(self, context_name: str | None) -> Config:
        name = context_name or self.document.get("current-context")
        if not name:
            raise ConfigError(f"kubeconfig {self.path} has no current-context: name a context")
        context = self._named("contexts", "context", str(name))
        cluster = self._named("clusters", "cluster", str(context.get("cluster", "")))
        user = self._named("users", "user", str(context["user"])) if context.get("user") else {}
        server = str(cluster.get("server") or "")
        if not server.startswith(("https://", "http://")):
            raise ConfigError(f"kubeconfig {self.path}: cluster {context.get('cluster')} has no server URL")
        if user.get("username"):
            raise ConfigError(f"kubeconfig {self.path}: user {context.get('user')} has a password: no server takes it")
        token_file = user.get("tokenFile")
        return Config(
            server=server.rstrip("/"),
            namespace=str(context.get("namespace") or "default"),
            ca=self._bytes(cluster, "certificate-authority"),
            insecure=bool(cluster.get("insecure-skip-tls-verify")),
            tls_server_name=cluster.get("tls-server-name"),
            client_certificate=self._bytes(user, "client-certificate"),
            client_key=self._bytes(user, "client-key"),
            token=user.get("token"),
            token_file=self._file(token_file) if token_file else None,
            exec_plugin=self._exec(user.get("exec")),
            impersonate=user.get("as"),
        )

    def _named(self, section: str, inner: str, name: str) -> Mapping[str, Any]:
        for entry in self.document.get(section) or []:
            if isinstance(entry, dict) and entry.get("name") == name:
                return entry.get(inner) or {}
        raise ConfigError(f"kubeconfig {self.path}: {section} has no entry named {name!r}")

    def _file(self, name: str) -> Path:
        return self.path.parent / Path(name).expanduser()

    def _bytes(self, entry: Mapping[str, Any], key: str) -> bytes | None:
        if data := entry.get(f"{key}-data"):
            try:
                return base64.b64decode(data, validate=True)
            except (binascii.Error, ValueError, TypeError) as error:
                raise ConfigError(f"kubeconfig {self.path}: {key}-data is not base64") from error
        if name := entry.get(key):
            try:
                return self._file(str(name)).read_bytes()
            except OSError as error:
                raise ConfigError(f"kubeconfig {self.path}: {key} {name}: {error.strerror}") from error
        return None

    def _exec(self, plugin: Mapping[str, Any] | None) -> ExecPlugin | None:
        if not plugin:
            return None
        command = str(plugin.get("command") or "")
        if not command:
            raise ConfigError(f"kubeconfig {self.path}: exec names no command")
        return ExecPlugin(
            command=str(self._file(command)) if "/" in command else command,
            args=tuple(str(arg) for arg in plugin.get("args") or []),
            env={str(one["name"]): str(one["value"]) for one in plugin.get("env") or []},
            api_version=str(plugin.get("apiVersion") or "client.authentication.k8s.io/v1"),
        )


def in_cluster(directory: Path = SERVICE_ACCOUNT_DIR) -> Config:
    """The configuration of a pod, from its service account and environment. Raises ConfigError outside a pod."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise ConfigError("not in a cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
    token_file = directory / "token"
    if not token_file.exists():
        raise ConfigError(f"this pod has no service account token: {token_file} does not exist")
    try:
        ca = (directory / "ca.crt").read_bytes()
    except OSError as error:
        raise ConfigError(f"{directory / 'ca.crt'}: {error.strerror}") from error
    try:
        namespace = (directory / "namespace").read_text().strip()
    except OSError:
        namespace = ""
    host = f"[{host}]" if ":" in host else host
    return Config(f"https://{host}:{port}", namespace or "default", ca=ca, token_file=token_file)


def load(kubeconfig: Path | None = None, context: str | None = None) -> Config:
    """The named file; else `$KUBECONFIG`; else this pod's service account; else `~/.kube/config`."""
    if kubeconfig is None and not os.environ.get("KUBECONFIG") and os.environ.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster()
    return load_kubeconfig(kubeconfig or default_kubeconfig(), context)


class TokenSource:
    """The bearer token of a Config: fixed, from a file that is read again, or from an exec plugin."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._token = config.token
        self._until = 0.0 if config.token_file or config.exec_plugin else float("inf")
        self._lock = asyncio.Lock()

    @property
    def renewable(self) -> bool:
        return bool(self._config.token_file or self._config.exec_plugin)

    def expire(self) -> None:
        """The server did not take the token: get a new one next time."""
        if self.renewable:
            self._until = 0.0

    async def token(self) -> str | None:
        if time.monotonic() < self._until:
            return self._token
        async with self._lock:
            if time.monotonic() >= self._until:
                if self._config.token_file:
                    self._read(self._config.token_file)
                elif self._config.exec_plugin:
                    await self._run(self._config.exec_plugin)
        return self._token

    def _read(self, path: Path) -> None:
        try:
            self._token = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            if self._token is None:
                raise ConfigError(f"token file {path} cannot be read: {error}") from error
        self._until = time.monotonic() + _TOKEN_FILE_SECONDS

    async def _run(self, plugin: ExecPlugin) -> None:
        info = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": {"interactive": False}}
        env = {**os.environ, **plugin.env, "KUBERNETES_EXEC_INFO": msgspec.json.encode(info).decode()}
        try:
            process = await asyncio.create_subprocess_exec(
                plugin.command, *plugin.args, env=env, stdout=asyncio.subprocess.PIPE
            )
        except OSError as error:
            raise ConfigError(f"credential plugin {plugin.command} does not start: {error.strerror}") from error
        output, _ = await process.communicate()
        if process.returncode:
            raise ConfigError(f"credential plugin {plugin.command} failed with exit code {process.returncode}")
        try:
            status = msgspec.json.decode(output)["status"]
            self._token = str(status["token"])
            expires = status.get("expirationTimestamp")
            left = datetime.fromisoformat(expires).timestamp() - time.time() if expires else float("inf")
        except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"credential plugin {plugin.command} printed no ExecCredential with a token") from error
        self._until = time.monotonic() + left
