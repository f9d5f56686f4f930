"""Who a job is for: a short digest of an API key. The key itself is kept nowhere."""

from __future__ import annotations

import hashlib
import re
from typing import Final

OWNER: Final = re.compile("(?:[0-9a-f]{16})?")
"""The first 16 hexadecimal digits of a key's SHA-256, or '' for those without a key, who are one owner."""


def owner_of(authorization: str | None) -> str:
    """Who a request is for: the owner that its bearer token names; '' where it has none.

    Args:
        authorization: the request's ``Authorization`` header (RFC 6750).
    """
    scheme, _, token = (authorization or "").strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        return ""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()[:16]
