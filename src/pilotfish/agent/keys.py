"""Making a key and a signing request, in a process of its own.

The cryptography library is larger than the whole rest of the agent and needed for a moment twice a day, so it is loaded
by a child that ends at once. The key passes through a pipe that only the two processes have.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from dataclasses import dataclass

from pilotfish.agent.options import AgentError


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A private key and the request that asks to certify it, both PEM. The key is never printed or logged."""

    key: bytes
    request: str

    def __repr__(self) -> str:
        return "KeyPair(...)"


async def new_key_pair(identity: str) -> KeyPair:
    """A fresh P-256 key and a request for `identity` (a SPIFFE URI)."""
    answer = await _run("new", identity.encode())
    return KeyPair(answer["key"].encode(), answer["request"])


async def expiry_of(chain_pem: bytes) -> float:
    """When the first certificate ends, seconds since the epoch."""
    return float((await _run("expiry", chain_pem))["until"])


async def _run(command: str, data: bytes) -> dict[str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pilotfish.agent.keys",
        command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, errors = await process.communicate(data)
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        raise
    if process.returncode != 0:
        last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise AgentError(f"cannot {'make a key' if command == 'new' else 'read the certificate'}: {last[0]}")
    found: dict[str, str] = json.loads(out)
    return found


def _child() -> None:
    from cryptography import x509  # noqa: PLC0415 (the reason for this process)
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    data = sys.stdin.buffer.read()
    if sys.argv[1] == "expiry":
        certificate = x509.load_pem_x509_certificate(data)
        answer = {"until": str(certificate.not_valid_after_utc.timestamp())}
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(data.decode())])
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        request = builder.add_extension(names, critical=True).sign(key, hashes.SHA256())
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        answer = {"key": secret.decode(), "request": request.public_bytes(serialization.Encoding.PEM).decode()}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    _child()
