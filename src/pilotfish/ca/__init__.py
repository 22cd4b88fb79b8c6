"""The certificate authority: roots, identities, signing, and who may ask for what.

Keys of workloads are made beside the workload and never come here. What is signed is the identity that the caller
proved (by a token or an earlier certificate), never what its request claims.
"""

from pilotfish.ca.authority import Authority, AuthorityError, InvalidRequestError
from pilotfish.ca.identity import SpiffeId

__all__ = ["Authority", "AuthorityError", "InvalidRequestError", "SpiffeId"]
