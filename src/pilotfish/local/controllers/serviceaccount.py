"""Service accounts: `default` in every namespace, and the token Secrets that users ask for."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from pilotfish.kube.errors import KubeError, is_already_exists, is_not_found
from pilotfish.kube.informer import Change
from pilotfish.kube.meta import Key, annotations_of, is_deleting, key_of
from pilotfish.kube.resources import NAMESPACES, SECRETS, SERVICE_ACCOUNTS, Object
from pilotfish.local.controllers.base import Cluster, Controller

TOKEN_TYPE = "kubernetes.io/service-account-token"  # noqa: S105 - the type of a Secret
_NAME = "kubernetes.io/service-account.name"
_UID = "kubernetes.io/service-account.uid"
_FOREVER = 1 << 32  # seconds, the longest a TokenRequest may ask for


class ServiceAccountController(Controller):
    """Keeps the account `default` in every namespace that is not ending."""

    name = "service-account-controller"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._namespaces = self.watch(NAMESPACES, self._namespace_changed).store
        self._accounts = self.watch(SERVICE_ACCOUNTS, self._account_changed).store

    def _namespace_changed(self, change: Change) -> None:
        if change.new is not None:
            self.queue.add((change.new["metadata"]["name"], "default"))

    def _account_changed(self, change: Change) -> None:
        if change.new is None and change.object["metadata"]["name"] == "default":
            self.enqueue(change)

    async def sync(self, key: Key) -> None:
        namespace = self._namespaces.get("", key[0])
        if namespace is None or is_deleting(namespace) or self._accounts.get(*key) is not None:
            return
        account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"namespace": key[0], "name": key[1]},
        }
        try:
            await self.cluster.create(SERVICE_ACCOUNTS, account)
        except KubeError as error:
            if not is_already_exists(error) and not await _is_ending(self.cluster, key[0]):
                raise


async def _is_ending(cluster: Cluster, namespace: str) -> bool:
    try:
        return is_deleting(await cluster.client.get(NAMESPACES, namespace))
    except KubeError as error:
        if is_not_found(error):
            return True
        raise


def token_data(secret: Mapping[str, Any], account: Mapping[str, Any], ca: bytes) -> tuple[Object, bool]:
    """What of the Secret's data is missing or wrong (base64), and whether it needs a token."""
    data = secret.get("data") or {}
    wanted = {
        "ca.crt": base64.b64encode(ca).decode(),
        "namespace": base64.b64encode(account["metadata"]["namespace"].encode()).decode(),
    }
    return {key: value for key, value in wanted.items() if data.get(key) != value}, not data.get("token")


class TokenController(Controller):
    """Fills Secrets of type kubernetes.io/service-account-token, and removes them with their account."""

    name = "tokens-controller"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._ca = cluster.client.config.ca or b""
        self._accounts = self.watch(SERVICE_ACCOUNTS, self._account_changed).store
        informer = cluster.informers.get(SECRETS, fields=f"type={TOKEN_TYPE}")
        informer.add_handler(self.enqueue)
        self._secrets = informer.store
        self._secrets.add_index("account", lambda secret: [f"{key_of(secret)[0]}/{annotations_of(secret).get(_NAME)}"])

    def _account_changed(self, change: Change) -> None:
        for secret in self._secrets.by_index("account", "/".join(key_of(change.object))):
            self.queue.add(key_of(secret))

    async def sync(self, key: Key) -> None:
        secret = self._secrets.get(*key)
        if secret is None or is_deleting(secret):
            return
        name, uid = annotations_of(secret).get(_NAME, ""), annotations_of(secret).get(_UID, "")
        if not name:
            return
        account = self._accounts.get(key[0], name) or await self._fresh(key[0], name)
        if account is None or (uid and account["metadata"]["uid"] != uid):
            await self.cluster.delete(SECRETS, secret)
            return
        data, needs_token = token_data(secret, account, self._ca)
        patch: Object = {"metadata": {"resourceVersion": secret["metadata"]["resourceVersion"]}}
        if not uid:
            patch["metadata"]["annotations"] = {_UID: account["metadata"]["uid"]}
        if needs_token:
            data["token"] = base64.b64encode((await self._token(secret, account)).encode()).decode()
        if data or not uid:
            await self.client.patch(SECRETS, key[1], {**patch, "data": data}, key[0])

    async def _fresh(self, namespace: str, name: str) -> Object | None:
        try:
            return await self.client.get(SERVICE_ACCOUNTS, name, namespace)
        except KubeError as error:
            if is_not_found(error):
                return None
            raise

    async def _token(self, secret: Object, account: Object) -> str:
        """A token that lives as long as the Secret."""
        reference = {"apiVersion": "v1", "kind": "Secret", "name": secret["metadata"]["name"]}
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [],
                "expirationSeconds": _FOREVER,
                "boundObjectRef": {**reference, "uid": secret["metadata"]["uid"]},
            },
        }
        namespace, name = key_of(account)
        answer = await self.client.create(SERVICE_ACCOUNTS, request, namespace, name=name, subresource="token")
        return str(answer["status"]["token"])
