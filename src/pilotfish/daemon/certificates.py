"""The certificate that the control plane itself serves with, renewed in time and when the authority changes."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import datetime, timedelta

from pilotfish.ca.authority import Authority, utc_now
from pilotfish.tls import load_key_pair

LIFETIME = timedelta(days=365)
RENEW_EARLIER = timedelta(days=30)


class ServingCertificate:
    """TLS contexts of our listeners. Reloading changes them in place: connections that stand are not touched."""

    def __init__(self, authority: Callable[[], Authority], names: list[str]) -> None:
        self._authority = authority
        self._names = names
        self._signer: Authority | None = None
        self._until: datetime = utc_now()
        self.grpc = self._context(["h2"])
        """Client certificates are asked for and verified against the mesh roots, not required."""
        self.grpc.verify_mode = ssl.CERT_OPTIONAL
        self.https = self._context(["http/1.1"])
        self.refresh()

    @staticmethod
    def _context(protocols: list[str]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(protocols)
        return context

    def refresh(self) -> bool:
        """Issue a new certificate when the authority changed or the present one nears its end. True when it did."""
        authority = self._authority()
        if authority is self._signer and utc_now() < self._until - RENEW_EARLIER:
            return False
        key, chain = authority.sign_server(self._names, LIFETIME, utc_now())
        for context in (self.grpc, self.https):
            load_key_pair(context, chain, key)
        self.grpc.load_verify_locations(cadata=authority.root_pem.decode())
        self._signer = authority
        self._until = min(utc_now() + LIFETIME, authority.certificate.not_valid_after_utc)
        return True
