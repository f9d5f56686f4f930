"""What an engine last said is kept: need, limit and phase."""

from __future__ import annotations

from typing import Any

from workers.account import Account

GIB = 1 << 30
READY = {"kind": "ready", "budget_bytes": 8 * GIB, "device": "cpu (x86_64)"}
MEMORY = {"active_bytes": 2 * GIB, "cache_bytes": GIB}


def account(*messages: dict[str, Any]) -> Account:
    """After these."""
    made = Account()
    for message in messages:
        made.note(message)
    return made


def test_a_need_lasts_until_the_step_is_done() -> None:
    """What it was about to use counts where it is more than what it used."""
    before = account(READY, {"kind": "step", "memory": MEMORY}, {"kind": "account", "need_bytes": 7 * GIB})
    assert (before.most_bytes, before.words) == (7 * GIB, "need 7.0 GiB, limit 8.0 GiB, phase prefill")
    before.note({"kind": "step", "memory": MEMORY})
    assert (before.most_bytes, before.words) == (2 * GIB, "need 2.0 GiB, limit 8.0 GiB, phase decode")


def test_the_limit_is_what_was_read_last_and_a_loaded_model_is_in_use() -> None:
    """Not what the host gave when the engine came, nor what was in use before."""
    read = {"kind": "measured", "budget_bytes": 5 * GIB, "memory": MEMORY}
    assert account(READY, read).words == "need 2.0 GiB, limit 5.0 GiB, phase idle"
    assert account(READY, {"kind": "loaded", "model": "m", "memory": MEMORY}).most_bytes == 2 * GIB


def test_its_phase_follows_what_it_says() -> None:
    """A message that tells the phase itself is believed; host readings change none."""
    said: list[tuple[dict[str, Any], str]] = [
        (READY, "idle"),
        ({"kind": "loading", "model": "m"}, "load"),
        ({"kind": "measuring", "model": "m"}, "measure"),
        ({"kind": "loaded", "model": "m"}, "idle"),
        ({"kind": "step", "memory": MEMORY, "computed": {"a/1": 64}}, "prefill"),
        ({"kind": "step", "memory": MEMORY, "computed": {}}, "decode"),
        ({"kind": "measured", "memory": MEMORY}, "decode"),
        ({"kind": "account", "need_bytes": 5, "phase": "decode"}, "decode"),
    ]
    made = Account()
    assert made.phase == "start"
    for message, phase in said:
        made.note(message)
        assert made.phase == phase
