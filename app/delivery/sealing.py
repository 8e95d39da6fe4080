"""
Secrets of destinations at rest: AES-256-GCM under a key made from ``VYX_SECRET_KEY``.

What is sealed is bound to its destination: moved to another row it does not open. ``VYX_SECRET_KEY=new,old`` opens both and seals with
the first; a job seals the rest again (``destinations.seal_again``), then ``old`` can go.
"""

from __future__ import annotations

import hashlib
import secrets as random
from collections.abc import Sequence
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.delivery.rules.channels import Secrets

NONCE_BYTES = 12
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Secrets).decode


class Unopenable(Exception):
    """No key of VYX_SECRET_KEY opens it."""


class Sealer:
    """
    Args:
        keys: Texts of VYX_SECRET_KEY, the newest first; at least one.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._ciphers = {_key_id(key): AESGCM(_derive(key)) for key in keys}
        self.key_id = _key_id(keys[0])

    def seal(self, destination_id: UUID, secrets: Secrets) -> bytes:
        """Sealed with the newest key."""
        nonce = random.token_bytes(NONCE_BYTES)
        return nonce + self._ciphers[self.key_id].encrypt(nonce, _encode(secrets), destination_id.bytes)

    def open(self, destination_id: UUID, key_id: str, sealed: bytes) -> Secrets:
        """
        Raises:
            Unopenable: its key is not one of ours, or it was changed or moved.
        """
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise Unopenable(f"it was sealed with key {key_id}, which VYX_SECRET_KEY does not hold")
        try:
            return _decode(cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], destination_id.bytes))
        except InvalidTag:
            raise Unopenable(
                "it was changed after it was sealed, or belongs to another destination"
            ) from None


def _derive(key: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"vyx destinations 1").derive(key.encode())


def _key_id(key: str) -> str:
    """A name for a key; made from what is derived from it, so that it says nothing about the key."""
    return hashlib.sha256(b"id" + _derive(key)).hexdigest()[:12]
