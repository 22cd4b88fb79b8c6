"""The signing service that agents call: `istio.v1.auth.IstioCertificateService`.

Messages are bytes on the server (it has one identity codec for everything), so they are decoded here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from google.protobuf.message import DecodeError
from grpclib import GRPCError, Status
from grpclib.const import Cardinality, Handler
from grpclib.server import Stream

from pilotfish.ca.authority import (
    DEFAULT_WORKLOAD_LIFETIME,
    Authority,
    AuthorityError,
    InvalidRequestError,
    utc_now,
)
from pilotfish.ca.caller import Authenticator, Caller, UnauthenticatedError
from pilotfish.ca.messages import PATH, CertificateRequest, CertificateResponse
from pilotfish.grpc import receive

log = logging.getLogger(__name__)

MAX_REQUEST = 256 * 1024
"""Bytes of a signing request; it comes before the caller is known."""


@dataclass
class Counts:
    """What happened to signing requests, as the `citadel_server_*` metrics report it."""

    csr: int = 0
    authentication_failure: int = 0
    parsing_error: int = 0
    signing_error: int = 0
    success: int = 0


@dataclass
class CertificateService:
    """Answers CreateCertificate. `authority` is asked at each call, so that a rotated one is used at once."""

    authority: Callable[[], Authority]
    authenticate: Authenticator
    default_lifetime: timedelta = DEFAULT_WORKLOAD_LIFETIME
    describe: Callable[[Caller], Awaitable[str]] | None = None
    """Which workload a caller is, for its certificate; see `Authority.sign_workload`."""
    counts: Counts = field(default_factory=Counts)

    def __mapping__(self) -> Mapping[str, Handler]:
        return {PATH: Handler(self._serve, Cardinality.UNARY_UNARY, bytes, bytes)}

    async def _serve(self, stream: Stream[bytes, bytes]) -> None:
        body = await receive(stream, MAX_REQUEST)
        if body is None:
            raise GRPCError(Status.INVALID_ARGUMENT, "no request")
        certificate = stream.peer.cert()
        await stream.send_message(await self.create(body, certificate, stream.metadata or {}))

    async def create(self, body: bytes, certificate: Mapping[str, Any] | None, headers: Mapping[str, Any]) -> bytes:
        """One request to one response, as bytes. Raises GRPCError with the code and text that Istio's agents expect."""
        self.counts.csr += 1
        try:
            caller = await self.authenticate(certificate, headers)
        except UnauthenticatedError as error:
            self.counts.authentication_failure += 1
            log.warning("signing request refused: %s", error)
            raise GRPCError(Status.UNAUTHENTICATED, "request authenticate failure") from error
        try:
            request = CertificateRequest.FromString(body)
        except DecodeError as error:
            self.counts.parsing_error += 1
            raise GRPCError(Status.INVALID_ARGUMENT, "the request is not an IstioCertificateRequest") from error
        if request.metadata.fields["ImpersonatedIdentity"].string_value:
            # Only node agents of an ambient mesh ask for others' identities; there is none here.
            raise GRPCError(Status.UNAUTHENTICATED, "request impersonation authentication failure")
        seconds = request.validity_duration
        lifetime = timedelta(seconds=seconds) if 0 < seconds < 10**10 else self.default_lifetime
        if seconds >= 10**10:
            raise GRPCError(Status.INVALID_ARGUMENT, f"validity_duration of {seconds} seconds is above the maximum")
        identities = [str(one) for one in caller.identities]
        try:
            description = caller.description or (await self.describe(caller) if self.describe else "")
            chain = self.authority().sign_workload(request.csr, identities, lifetime, utc_now(), description)
        except InvalidRequestError as error:
            self.counts.parsing_error += 1
            raise GRPCError(Status.INVALID_ARGUMENT, f"CSR signing error ({error})") from error
        except AuthorityError as error:
            self.counts.signing_error += 1
            log.error("cannot sign: %s", error)
            raise GRPCError(Status.INTERNAL, f"CSR signing error ({error})") from error
        self.counts.success += 1
        return bytes(CertificateResponse(cert_chain=chain).SerializeToString())
