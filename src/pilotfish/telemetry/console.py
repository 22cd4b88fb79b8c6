"""The console's JSON API from outside the cluster: through the API server, as its proxy of Services allows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec

from pilotfish.errors import UserError
from pilotfish.kube.client import Client
from pilotfish.kube.errors import ApiStatusError, UnreachableError

SERVICE, PORT = "pilotfish-console", 20001
TOKEN_HEADER = "X-Pilotfish-Token"  # noqa: S105 - the name of a header
"""Beside `Authorization`, which the API server's proxy takes for itself."""
AUDIENCE = "pilotfish-console"
"""Tokens made for it are good for nothing else: not for the API server."""
VIEWER = "pilotfish-console-viewer"
"""The service account as which the command line asks."""
TOKEN_VARIABLE = "PILOTFISH_CONSOLE_TOKEN"  # noqa: S105 - the name of a variable
_TOKEN_SECONDS = 600
_INSTALL = "helm template console charts/console -n {namespace} | kubectl apply -n {namespace} -f -"


class ConsoleError(UserError):
    """The console does not answer or refuses; the text says why and what to do."""


class Console:
    """The console of one cluster."""

    def __init__(self, client: Client, namespace: str = "istio-system") -> None:
        self._client = client
        self._namespace = namespace
        self._token = os.environ.get(TOKEN_VARIABLE, "")

    async def get(self, path: str, params: Sequence[tuple[str, str]] = ()) -> Any:
        """The JSON answer of `/api/PATH`. Raises ConsoleError."""
        # A query with a name given twice goes into the path: the client's parameters are a mapping.
        where = f"/api/v1/namespaces/{self._namespace}/services/{SERVICE}:{PORT}/proxy/api/{path}"
        path = f"{where}?{urlencode(params)}" if params else where
        try:
            try:
                return await self._get(path)
            except ApiStatusError as error:
                # A console without login is not asked as anybody; one with it says so.
                if error.code != 401 or error.reason or self._token:
                    raise
            self._token = await self._new_token()
            return await self._get(path)
        except ApiStatusError as error:
            raise ConsoleError(self._told(error)) from error
        except UnreachableError as error:
            raise ConsoleError(f"the API server cannot be asked: {error}") from error
        except msgspec.DecodeError as error:
            raise ConsoleError(f"{SERVICE} in namespace {self._namespace} gives no JSON: is it our console?") from error

    async def _get(self, path: str) -> Any:
        headers = {TOKEN_HEADER: self._token} if self._token else None
        return await self._client.request("GET", path, headers=headers)

    async def _new_token(self) -> str:
        """Never the user's own token, which a false console could use elsewhere."""
        path = f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{VIEWER}/token"
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [AUDIENCE], "expirationSeconds": _TOKEN_SECONDS},
        }
        try:
            answer = await self._client.request("POST", path, body=request)
        except ApiStatusError as error:
            raise ConsoleError(
                f"the console wants a login, and no token could be had for it: {error}. You need the right to create "
                f"serviceaccounts/token for {VIEWER} in namespace {self._namespace}, or a token of another account of "
                f"this cluster in the environment variable {TOKEN_VARIABLE}"
            ) from error
        return str(answer["status"]["token"])

    def _told(self, error: ApiStatusError) -> str:
        name = f"{SERVICE} in namespace {self._namespace}"
        try:
            return f"{name}: {msgspec.json.decode(str(error))['error']}"
        except (msgspec.DecodeError, LookupError, TypeError):
            pass  # not the console's words, but those of the API server
        if error.reason == "NotFound":
            install = _INSTALL.format(namespace=self._namespace)
            return (
                f"the console, which collects metrics and traces, is not installed (no Service {name}). "
                f"Install it with `{install}`, name its namespace with --istio-namespace, "
                "or ask a Prometheus with --prometheus URL (metrics only)"
            )
        if error.code == 503 or error.reason == "ServiceUnavailable":
            command = f"kubectl get pods -n {self._namespace} -l app={SERVICE}"
            return f"the console is not ready: {error}. `{command}` tells more"
        if error.code == 403:
            return f"you may not ask {name}: {error}. The verb get on services/proxy is needed"
        return f"{name}: {error}"
