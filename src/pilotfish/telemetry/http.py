"""GET requests to the query API of another program, with errors that say what is wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec

from pilotfish.telemetry.query import SourceError

_LIMIT = 64 * 2**20
_decode = msgspec.json.Decoder().decode


def why(error: BaseException) -> str:
    """A failed request in a few words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the name is not known"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return os.strerror(number) if number else str(error.os_error)
    return str(error) or type(error).__name__


class HttpApi:
    """One server. `kind` is its name in messages. Close it, or use it as a context manager."""

    def __init__(self, kind: str, url: str, *, seconds: float = 15.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SourceError(f"{url!r} is no URL of {kind}: write for example http://HOST:PORT")
        self.kind = kind
        self.url = url.rstrip("/")
        self._seconds = seconds
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, path: str, params: Mapping[str, str] | None = None, *, missing: Any = None) -> Any:
        """The JSON answer; `missing` for a 404 unless that is None. Raises SourceError."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self._seconds)
            self._session = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        where = f"{self.kind} at {self.url}"
        try:
            headers = {"Accept": "application/json"}
            async with self._session.get(self.url + path, params=params, headers=headers) as response:
                if response.status == 404 and missing is not None:
                    return missing
                body = await response.content.read(_LIMIT + 1)
                while len(body) <= _LIMIT and (piece := await response.content.read(_LIMIT)):
                    body += piece
                status = response.status
        except TimeoutError as error:
            raise SourceError(f"{where} does not answer within {self._seconds:g} s") from error
        except aiohttp.ClientResponseError as error:
            raise SourceError(f"{where} does not speak HTTP: is this the port of its query API?") from error
        except (aiohttp.ClientError, OSError) as error:
            raise SourceError(f"{where} cannot be reached: {why(error)}") from error
        if len(body) > _LIMIT:
            raise SourceError(f"{where} answers with more than {_LIMIT // 2**20} MB: ask for less")
        text = body[:200].decode(errors="replace").strip()
        try:
            answer = _decode(body)
        except msgspec.DecodeError as error:
            if status >= 300:
                raise SourceError(f"{where} refuses ({status}): {text}") from error
            raise SourceError(f"{where} answers {status}, which is no JSON: {text!r}") from error
        if status >= 300:
            message = answer.get("error") if isinstance(answer, dict) else None
            raise SourceError(f"{where} refuses ({status}): {message or text}")
        return answer

    def malformed(self, what: object) -> SourceError:
        return SourceError(f"{self.kind} at {self.url} answers in a form that is not its API's: {what}")
