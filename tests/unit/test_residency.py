"""Which models are in memory: loaded on demand, the least recently used sent away first."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from scheduler.batch_account import Holder
from scheduler.errors import ModelUnusable
from scheduler.foresight import Row
from scheduler.ledger import Ledger
from scheduler.settings import is_missing_folder
from scheduler.slots import CacheGroup
from tests.cards import PLAIN
from workers.models import load_model
from workers.residency import GIVEN_UP_SECONDS, Residency, weights_on_disk
from workers.wire import Message

CARD = replace(PLAIN, model="a", weights_bytes=4_000_000, caches=(CacheGroup("full", 1, bytes_per_token=1),))


@dataclass
class House:
    """A residency over folders whose weight files are as large as asked, and a ledger of 100,000 bytes."""

    folder: Path
    sent: list[Message] = field(default_factory=list)
    now: float = 1000.0
    ledger: Ledger = field(default_factory=lambda: Ledger(10_000_000, 16, 1))

    def __post_init__(self) -> None:
        self.residency = Residency({}, self.sent.append, clock=lambda: self.now)

    def model(self, name: str, size: int = 4_000_000) -> None:
        (self.folder / name).mkdir()
        (self.folder / name / "model.safetensors").write_bytes(bytes(size))
        self.residency.sources[name] = str(self.folder / name)

    def load(self, name: str, weights: int = 4_000_000) -> bool:
        """Ask for a model, and let the engine answer at once."""
        asked = self.residency.load(name, self.ledger)
        if asked:
            self.residency.loaded(replace(CARD, model=name, weights_bytes=weights), self.ledger)
        return asked

    @property
    def said(self) -> list[tuple[str, str]]:
        return [(message["kind"], message["model"]) for message in self.sent]


@pytest.fixture
def house(tmp_path: Path) -> House:
    made = House(tmp_path)
    for name in "abc":
        made.model(name)
    return made


def test_a_model_is_loaded_when_asked_for(house: House) -> None:
    """The engine is told, and the ledger counts the weights from then on, at first by the files' size, and the probe."""
    assert house.residency.load("a", house.ledger)
    assert house.sent == [{"kind": "load", "model": "a", "source": str(house.folder / "a"), "cards": []}]
    assert house.residency.loading == "a"
    weights = weights_on_disk(str(house.folder / "a"))
    assert house.ledger.weights_bytes == weights * 9 // 8 > weights > 0
    house.residency.loaded(CARD, house.ledger)
    assert (house.residency.loading, house.ledger.weights_bytes) == (None, 4_000_000)


def test_one_model_is_loaded_at_a_time(house: House) -> None:
    """A second is not asked for while the first comes."""
    assert house.residency.load("a", house.ledger)
    assert not house.residency.load("b", house.ledger)
    assert house.said == [("load", "a")]


def test_the_least_recently_used_model_makes_room(house: House) -> None:
    """Of two idle ones, the one whose last job came earlier goes, and only as many as needed."""
    house.load("a")
    house.load("b")
    house.residency.used("a")
    house.sent.clear()
    assert house.load("c")
    assert house.said == [("unload", "b"), ("load", "c")]
    assert set(house.ledger.cards) == {"a", "c"}


def test_a_model_with_jobs_is_never_unloaded(house: House) -> None:
    """With both models at work nothing moves; the one that becomes idle goes."""
    house.load("a")
    house.load("b")
    house.ledger.reserve(Holder("job_a", 1), "a", Row(1, 1))
    house.ledger.reserve(Holder("job_b", 1), "b", Row(1, 1))
    house.sent.clear()
    assert not house.load("c")
    assert house.said == []
    house.ledger.release(Holder("job_a", 1))
    assert house.load("c")
    assert house.said == [("unload", "a"), ("load", "c")]


def test_nothing_is_unloaded_in_vain(house: House) -> None:
    """Where even without the idle models there is no room, they stay."""
    house.load("a")
    house.load("b")
    house.ledger.reserve(Holder("job_a", 1), "a", Row(400_000, 1))
    house.model("large", 9_000_000)
    house.sent.clear()
    assert not house.load("large")
    assert house.said == []


def test_a_model_larger_than_the_budget_is_given_up_for_a_while(house: House) -> None:
    """It is not served, the reason has both numbers, and it is tried again later."""
    house.model("huge", 20_000_000)
    assert not house.load("huge")
    error = house.residency.why_not("huge")
    assert error is not None
    assert "19.1 MiB" in error.message and "9.5 MiB" in error.message
    assert error.numbers == {"estimated_bytes": 20_000_000, "limit_bytes": house.ledger.budget_bytes}
    assert "huge" not in house.residency.served
    house.now += GIVEN_UP_SECONDS - 1
    assert house.residency.why_not("huge")
    house.now += 1
    assert house.residency.why_not("huge") is None
    assert "huge" in house.residency.served


def test_a_model_larger_than_its_files_said_is_sent_away(house: House) -> None:
    """Over the budget it is given up; where others hold the memory it is merely tried again."""
    assert house.load("a", weights=15_000_000)
    assert house.said == [("load", "a"), ("unload", "a")]
    assert house.ledger.weights_bytes == 0
    assert house.residency.why_not("a")
    house.load("b", weights=5_000_000)
    house.load("c", weights=6_000_000)
    assert set(house.ledger.cards) == {"b"}
    assert house.residency.why_not("c") is None


def test_the_size_that_was_measured_counts_from_then_on(house: House) -> None:
    """A model seen to weigh more than its files is not loaded again beside what leaves it no room."""
    house.load("b", weights=5_000_000)
    house.load("c", weights=6_000_000)
    house.ledger.reserve(Holder("job_b", 1), "b", Row(1, 1))
    house.sent.clear()
    assert not house.load("c")
    assert house.said == []
    house.ledger.release(Holder("job_b", 1))
    assert house.load("c", weights=6_000_000)
    assert house.said == [("unload", "b"), ("load", "c")]


def test_a_lost_engine_takes_its_models_with_it(house: House) -> None:
    """The model it was loading is named, and can be asked for again."""
    house.residency.load("a", house.ledger)
    assert house.residency.reset() == "a"
    assert house.residency.reset() is None
    house.ledger = Ledger(10_000_000, 16, 1)
    assert house.load("a")


def test_a_model_of_unknown_size_is_loaded_when_nothing_else_is_held(house: House) -> None:
    """It counts as the whole budget: idle models go, running ones keep it waiting, and nothing is admitted
    meanwhile; once it was measured it counts as what it is.
    """
    house.residency.sources["far"] = "nobody/has-this-model"
    house.load("a")
    house.ledger.reserve(Holder("job_a", 1), "a", Row(1, 1))
    assert not house.residency.load("far", house.ledger)
    house.ledger.release(Holder("job_a", 1))
    house.sent.clear()
    assert house.residency.load("far", house.ledger)
    assert house.said == [("unload", "a"), ("load", "far")]
    assert house.ledger.headroom_bytes == 0
    house.residency.loaded(replace(CARD, model="far"), house.ledger)
    assert house.ledger.weights_bytes == 4_000_000
    assert house.load("b")
    assert set(house.ledger.cards) == {"far", "b"}


def test_a_model_that_ends_engines_alone_is_given_up_at_once(house: House) -> None:
    """In company it has the benefit of the doubt, once; a load that ended well in between gives it back."""
    for _ in range(2):
        house.residency.blame("a", "why", alone=False)
        assert "a" in house.residency.served
        house.load("a")
        house.ledger.drop_model("a")
    house.residency.blame("a", "why", alone=False)
    house.residency.blame("a", "why", alone=False)
    house.residency.blame("b", "why", alone=True)
    assert house.residency.served == ("c",)
    house.now += GIVEN_UP_SECONDS
    house.residency.blame("a", "why", alone=False)
    assert house.residency.served == ("a", "b", "c")


def test_weights_on_disk_are_the_weight_files(tmp_path: Path) -> None:
    """Files that loading does not read do not count; what is nowhere here is unknown."""
    sizes = {
        "model-1.safetensors": 10,
        "model-2.safetensors": 20,
        "consolidated.safetensors": 30,
        "a.json": 40,
    }
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    assert weights_on_disk(str(tmp_path)) == 30
    assert weights_on_disk("mlx-community/some-model") == 0
    assert weights_on_disk("/no/such/folder") == 0


def test_a_downloaded_model_weighs_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hugging Face id is looked for in the local cache, by the revision that loading would take."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for commit, size in (("a" * 40, 10), ("b" * 40, 20)):
        snapshot = tmp_path / "models--nobody--here" / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").write_bytes(bytes(size))
    (tmp_path / "models--nobody--here" / "refs").mkdir()
    (tmp_path / "models--nobody--here" / "refs" / "main").write_text("b" * 40)
    assert weights_on_disk("nobody/here") == 20
    assert weights_on_disk("nobody/there") == 0


def test_why_a_model_cannot_be_loaded_is_for_the_log_alone(house: House) -> None:
    """It names folders and quotes libraries; clients hear a fixed sentence."""
    house.residency.load("a", house.ledger)
    with capture_logs() as logged:
        house.residency.unloadable("a", "No safetensors found in /srv/secret/a", house.ledger)
    error = house.residency.why_not("a")
    assert error is not None
    assert (error.code, error.message) == ("no_worker", "the model a cannot be loaded here now")
    assert [line["reason"] for line in logged] == ["No safetensors found in /srv/secret/a"]
    assert (house.residency.loading, house.ledger.weights_bytes) == (None, 0)


@pytest.mark.parametrize("source", ["/srv/secret/none", "./none", "~/none-of-this-name"])
def test_a_folder_that_is_not_there_is_said_so(house: House, source: str) -> None:
    """The engine is not asked; the log names the folder, and the client is not told to try again."""
    house.residency.sources["gone"] = source
    with capture_logs() as logged:
        assert not house.residency.load("gone", house.ledger)
    error = house.residency.why_not("gone")
    assert error is not None
    assert (error.code, error.retry_after) == ("model_not_found", None)
    assert "none" not in error.message
    assert [line["reason"] for line in logged] == [f"the folder {source} does not exist"]
    assert house.sent == []
    with pytest.raises(ModelUnusable, match=f"^the folder {source} does not exist$"):
        load_model("gone", source)


def test_a_hugging_face_id_is_no_missing_folder() -> None:
    """It is looked for elsewhere; and a folder that is there is none either."""
    assert not is_missing_folder("mlx-community/some-model")
    assert not is_missing_folder("/")


def test_a_model_that_ends_its_engines_is_left_alone_for_longer_each_time(house: House) -> None:
    """Each costs the other models' jobs a start; once it was loaded, the count begins anew."""
    now = [0.0]
    house.residency.clock = lambda: now[0]
    for seconds in (60, 120, 240, 480, 960, 1920, 3600, 3600):
        house.residency.blame("a", "it ended the engine", alone=True)
        now[0] += seconds - 1
        assert house.residency.why_not("a") is not None
        now[0] += 2
        assert house.residency.why_not("a") is None
