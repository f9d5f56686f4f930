"""How a webhook is signed, by the Standard Webhooks' symmetric scheme, version 1.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Final

_PREFIX: Final = "whsec_"

_KEY_BYTES: Final = range(24, 65)  # the standard's
_SCHEME: Final = "v1"


def read_secret(text: str) -> bytes:
    """The key in a secret: 24 to 64 bytes in base64 behind ``whsec_``.

    Raises:
        ValueError: it is not of that form; the message does not have it.
    """
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(_PREFIX) or len(key) not in _KEY_BYTES:
        raise ValueError(
            f"a secret is {_PREFIX} and 24 to 64 bytes in base64 (of random: openssl rand -base64 32)"
        )
    return key


def read_secrets(text: str) -> list[bytes]:
    """The keys in secrets with commas between them: while a secret is replaced, the old one signs beside the new.

    Raises:
        ValueError: there is none, or one is not of that form.
    """
    return [read_secret(each.strip()) for each in text.split(",")]


def sign(key: bytes, webhook_id: str, timestamp: int, body: bytes) -> str:
    """The ``webhook-signature`` header: HMAC-SHA256 over id, time and body, so that none can be put with others.

    Args:
        key: the secret's.
        webhook_id: the ``webhook-id`` header.
        timestamp: the ``webhook-timestamp`` header, Unix seconds.
        body: as it is sent, to the byte.
    """
    signed = b".".join((webhook_id.encode(), str(timestamp).encode(), body))
    return f"{_SCHEME},{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}"
