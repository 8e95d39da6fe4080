"""
Standard Webhooks 1.0 signatures: the specification's library for HMAC, ed25519 (``v1a``), which the library lacks, here.

Secrets: ``whsec_`` + base64 of 24 bytes. Keys: ``whsk_`` + base64 of the private key, of which the receiver gets ``whpk_`` + base64 of
the public one. While a secret is being replaced a message carries a signature of each.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from standardwebhooks.webhooks import Webhook

SECRET_PREFIX, PRIVATE_PREFIX, PUBLIC_PREFIX = "whsec_", "whsk_", "whpk_"
SECRET_BYTES = 24  # the specification asks for 24 to 64


def new_secret() -> str:
    """A secret for HMAC signatures."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def new_private_key() -> str:
    """A key for ed25519 signatures; ours alone."""
    return PRIVATE_PREFIX + base64.b64encode(Ed25519PrivateKey.generate().private_bytes_raw()).decode()


def public_key(private_key: str) -> str:
    """What the receiver checks signatures of *private_key* with."""
    return PUBLIC_PREFIX + base64.b64encode(_key(private_key).public_key().public_bytes_raw()).decode()


def headers(message_id: str, at: datetime, body: bytes, keys: Sequence[str]) -> dict[str, str]:
    """
    The three headers of a message; *keys* are secrets or private keys, each of which signs.

    *at* is the instant of this attempt (aware), not of the first: receivers refuse a timestamp that is more than 5 minutes off.
    """
    timestamp = str(int(at.timestamp()))
    signed = [_sign(key, message_id, at, timestamp, body) for key in keys]
    return {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": " ".join(signed)}


def fingerprint(token: str) -> str:
    """A name for a token from which the token does not follow."""
    return hashlib.sha256(b"vyx service key " + token.encode()).hexdigest()[:32]


def _sign(key: str, message_id: str, at: datetime, timestamp: str, body: bytes) -> str:
    if key.startswith(PRIVATE_PREFIX):
        content = f"{message_id}.{timestamp}.".encode() + body
        return "v1a," + base64.b64encode(_key(key).sign(content)).decode()
    return str(Webhook(key).sign(message_id, at, body.decode()))


def _key(private_key: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(base64.b64decode(private_key.removeprefix(PRIVATE_PREFIX)))
