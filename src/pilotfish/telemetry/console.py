"""The console's JSON API from outside the cluster: through the API server, as its proxy of Services allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec

from pilotfish.errors import UserError
from pilotfish.kube.client import Client
from pilotfish.kube.errors import ApiStatusError, UnreachableError

SERVICE, PORT = "pilotfish-console", 20001
_INSTALL = "helm template console charts/console -n {namespace} | kubectl apply -n {namespace} -f -"


class ConsoleError(UserError):
    """The console does not answer or refuses; the text says why and what to do."""


class Console:
    """The console of one cluster."""

    def __init__(self, client: Client, namespace: str = "istio-system") -> None:
        self._client = client
        self._namespace = namespace

    async def get(self, path: str, params: Sequence[tuple[str, str]] = ()) -> Any:
        """The JSON answer of `/api/PATH`. Raises ConsoleError."""
        # A query with a name given twice goes into the path: the client's parameters are a mapping.
        where = f"/api/v1/namespaces/{self._namespace}/services/{SERVICE}:{PORT}/proxy/api/{path}"
        try:
            return await self._client.request("GET", f"{where}?{urlencode(params)}" if params else where)
        except ApiStatusError as error:
            raise ConsoleError(self._told(error)) from error
        except UnreachableError as error:
            raise ConsoleError(f"the API server cannot be asked: {error}") from error
        except msgspec.DecodeError as error:
            raise ConsoleError(f"{SERVICE} in namespace {self._namespace} gives no JSON: is it our console?") from error

    def _told(self, error: ApiStatusError) -> str:
        name = f"{SERVICE} in namespace {self._namespace}"
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
        try:
            text = msgspec.json.decode(str(error)).get("error")
        except (msgspec.DecodeError, AttributeError):
            text = None
        return f"{name}: {text or error}"
