"""Who calls: whose share a request's jobs count against, and which jobs it may see."""

from __future__ import annotations

from dataclasses import dataclass

from flask import g, request

from api.services import Services
from scheduler.errors import ClientError
from scheduler.keys import Key
from scheduler.owner import owner_of
from scheduler.record import JobRecord


@dataclass(frozen=True, slots=True)
class Caller:
    """A request's sender.

    Args:
        owner: whose share its jobs count against, as :func:`scheduler.owner.owner_of` names it.
        key: its API key; None where the API asks for none, and any bearer token names a share.
    """

    owner: str
    key: Key | None = None

    @property
    def sees(self) -> str | None:
        """The owner whose jobs alone it may see; None: everybody's."""
        return None if self.key is None or self.key.sees_all else self.owner

    @property
    def sees_stored(self) -> str | None:
        """The owner whose files and batches alone it may see; None: everybody's.

        Where there are no keys a token tells apart whose they are, though it keeps nobody out: lists stay short.
        """
        return None if self.key is not None and self.key.sees_all else self.owner

    def may_see(self, owner: str) -> bool:
        """Whether it may see an owner's jobs."""
        return self.sees in {None, owner}

    def may_use(self, model: str) -> bool:
        """Whether it may use a model."""
        return self.key is None or self.key.may_use(model)


def caller() -> Caller:
    """The present request's, as :mod:`api.gate` let it in."""
    found: Caller | None = g.get("caller")
    return found or Caller(owner_of(request.headers.get("Authorization")))


def find(here: Services, job_id: str) -> JobRecord:
    """A job that the present request may see.

    Raises:
        ClientError: ``not_found``; there is none, or it is another's: which of both is not told.
    """
    rec = here.lifecycle.get(job_id)
    if not caller().may_see(rec.meta.owner):
        raise ClientError("not_found", f"no job {job_id}", param="id")
    return rec
