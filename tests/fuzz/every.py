"""Every target, by its name."""

from __future__ import annotations

from typing import Final

from tests.fuzz import folders, http_requests, pipes, sockets, store_contents, stored
from tests.fuzz.target import Target

TARGETS: Final[tuple[Target, ...]] = (
    *stored.targets(),
    *pipes.targets(),
    *folders.targets(),
    *store_contents.targets(),
    *http_requests.targets(),
    *sockets.targets(),
)
