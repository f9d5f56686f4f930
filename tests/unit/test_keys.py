"""API keys: what is kept of one, what it may do, and who it is not."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from scheduler.errors import ClientError, SettingsInvalid
from scheduler.keys import SHOWN_CHARACTERS, Key, Keys, new_key, read_key
from scheduler.owner import owner_of

NOW = 1_700_000_000.0


def refused(keys: Keys, token: str | None, now: float = NOW) -> ClientError:
    """The error of a token that lets nobody in."""
    with pytest.raises(ClientError) as caught:
        keys.of_token(token, now)
    assert caught.value.code == "unauthorized"
    return caught.value


def test_a_token_is_256_random_bits_and_none_is_made_twice() -> None:
    """43 characters of base64 hold them; what lists show of it is its beginning."""
    made = [new_key(NOW) for _ in range(100)]
    for token, key in made:
        assert re.fullmatch(r"tg-[A-Za-z0-9_-]{43}", token)
        assert key.prefix == token[:SHOWN_CHARACTERS]
    assert len({token for token, _ in made}) == 100


def test_nothing_that_is_kept_has_the_token() -> None:
    """Its digest and its beginning are; people are not shown the digest either."""
    token, key = new_key(NOW, name="ann")
    assert token[SHOWN_CHARACTERS:] not in key.dump().decode() + repr(key)
    assert key.digest not in json.dumps(key.view())


def test_its_jobs_belong_to_the_owner_that_the_token_has_named_before_there_were_keys() -> None:
    """So shares go on."""
    token, key = new_key(NOW)
    assert key.owner == owner_of(f"Bearer {token}")


def test_a_key_is_read_as_it_was_written() -> None:
    """With every limit, and with none."""
    for limits in (
        {},
        {
            "name": "für Ann 🌊",
            "expires_at": NOW + 5,
            "queued_jobs": 3,
            "tokens_per_minute": 1000,
            "models": ("a/b", "c"),
            "priorities": ("batch",),
            "sees_all": True,
        },
    ):
        key = new_key(NOW, **limits)[1]
        assert read_key(key.dump()) == key


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b"nonsense", b"\xff", b'{"digest": "short", "prefix": "", "created_at": 0}']
)
def test_what_is_no_key_is_not_read(text: bytes) -> None:
    """A ValueError, whatever it is."""
    with pytest.raises(ValueError):
        read_key(text)


@pytest.mark.parametrize(
    "limits",
    [
        {"queued_jobs": 0},
        {"tokens_per_minute": 0},
        {"tokens_per_minute": 10**9},
        {"name": "x" * 65},
        {"priorities": ("urgent",)},
        {"models": ("",)},
        {"expires_at": float("inf")},
        {"expires_at": 253_402_300_799.0},
    ],
)
def test_limits_out_of_range_are_refused(limits: dict[str, Any]) -> None:
    """When a key is made, and when it is changed."""
    with pytest.raises(ValueError):
        new_key(NOW, **limits)
    with pytest.raises(ValueError):
        new_key(NOW)[1].changed(**limits)


def test_a_key_may_do_what_it_is_not_kept_from() -> None:
    """Models and classes; the error names the field, and no retry helps."""
    free = new_key(NOW)[1]
    free.insist("any", "interactive")
    bound = new_key(NOW, models=("a",), priorities=("standard", "batch"))[1]
    bound.insist("a", "batch")
    for model, priority, param in (("b", "batch", "model"), ("a", "interactive", "priority")):
        with pytest.raises(ClientError) as caught:
            bound.insist(model, priority)
        error = caught.value
        assert (error.code, error.param, error.retry_after) == ("forbidden", param, None)


def held(*keys: Key) -> Keys:
    """These keys."""
    return Keys(bool(keys), {key.owner: key for key in keys})


def test_only_the_whole_token_opens() -> None:
    """Not its beginning, not with more behind it, not another's, not the digest, not nothing."""
    (token, key), (other, _) = new_key(NOW), new_key(NOW)
    keys = held(key)
    assert keys.of_token(token, NOW) is key
    for wrong in (other, token[:-1], token + "x", token[:SHOWN_CHARACTERS], key.digest, key.owner, "", None):
        refused(keys, wrong)


def test_a_key_that_shares_the_owner_alone_does_not_open() -> None:
    """The look-up goes by 64 bits of the digest; all 256 are compared."""
    token, key = new_key(NOW)
    forged = key.changed(digest=key.owner + "0" * 48)
    refused(held(forged), token)


def test_a_key_works_until_it_expires() -> None:
    """To the second; and then the message says when that was."""
    token, key = new_key(NOW, expires_at=NOW + 60)
    keys = held(key)
    assert keys.of_token(token, NOW + 59.9) is key
    assert "expired on 2023-11-14 at 22:14 UTC" in refused(keys, token, NOW + 60).message
    with pytest.raises(ClientError, match="expired"):
        keys.of_owner(key.owner, NOW + 60)


def test_an_owner_without_its_key_submits_nothing_more() -> None:
    """What was let in before the key was removed; where there are no keys at all, everybody does."""
    key = new_key(NOW)[1]
    assert held(key).of_owner(key.owner, NOW) is key
    with pytest.raises(ClientError) as caught:
        held(new_key(NOW)[1]).of_owner(key.owner, NOW)
    assert caught.value.code == "unauthorized"
    assert Keys().of_owner(key.owner, NOW) is None
    assert held(key).of_owner("", NOW) is None


def test_an_api_that_others_may_reach_needs_a_key() -> None:
    """The message says how one is made."""
    held(new_key(NOW)[1]).insist_on_some()
    Keys(any_stored=True).insist_on_some()
    with pytest.raises(SettingsInvalid, match="`tidegate keys add`"):
        Keys().insist_on_some()
