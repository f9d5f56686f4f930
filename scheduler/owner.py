"""Who a job is for: a short digest of an API key. The key itself is kept nowhere."""

from __future__ import annotations

import hashlib
import re
from typing import Final

OWNER_DIGITS: Final = 16

OWNER: Final = re.compile(f"(?:[0-9a-f]{{{OWNER_DIGITS}}})?")
"""The first 16 hexadecimal digits of a key's SHA-256, or '' for those without a key, who are one owner."""


def token_of(authorization: str | None) -> str | None:
    """The bearer token in a request's ``Authorization`` header (RFC 6750); None where it has none."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def token_digest(token: str) -> str:
    """A token's SHA-256, hexadecimal."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


def owner_of(authorization: str | None) -> str:
    """Who a request is for: the owner that its bearer token names; '' where it has none.

    Args:
        authorization: the request's ``Authorization`` header.
    """
    token = token_of(authorization)
    return token_digest(token)[:OWNER_DIGITS] if token else ""
