"""The engine in its process: what it generates, refuses, sheds and survives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx_lm
import pytest
from mlx_lm.generate import BatchGenerator

from benchmarks.random_models import write_random_llama, write_random_model
from benchmarks.small_models import SMALL_CONFIGS
from tests.engines import MODEL, Talk, engine

PROMPTS = ["a", "Hello there", "x" * 40, "The quick brown fox jumps over the lazy dog. " * 4]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talk]:
    """One engine for the module."""
    with engine(tmp_path_factory.mktemp("engine")) as made:
        yield made


@pytest.fixture
def talk(shared: Talk, tiny_model: Path) -> Iterator[Talk]:
    """The module's engine with its model loaded; each test asks for jobs of its own. One that a test killed
    by mistake fails that test alone.
    """
    shared.revive(tiny_model)
    yield shared
    shared.drain()


def undisturbed(folder: Path, prompt: str, count: int) -> list[int]:
    """mlx-lm's own greedy tokens, in this process."""
    model, tokenizer = mlx_lm.load(str(folder))[:2]
    generator = BatchGenerator(model, max_tokens=count)
    generator.insert([tokenizer.encode(prompt)])
    tokens: list[int] = []
    while responses := generator.next_generated():
        tokens += [response.token for response in responses]
    generator.close()
    return tokens


def test_greedy_tokens_are_mlx_lms_own(talk: Talk, tiny_model: Path) -> None:
    """And the text is those tokens', in pieces; the usage counts them."""
    key = talk.run(prompt=PROMPTS[3], max_tokens=40)
    result = talk.result(key)
    tokens = undisturbed(tiny_model, PROMPTS[3], 40)
    assert talk.tokens(key) == tokens
    assert result["text"] == talk.sent(key) == bytes(tokens).decode().removeprefix(" ")
    assert result["finish_reason"] == "length"
    none = {"prompt_tokens_details": {"cached_tokens": 0}}
    assert result["usage"] == {"prompt_tokens": 180, "completion_tokens": 40, "total_tokens": 220} | none


SAMPLING = [
    {},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.01},
    {"temperature": 1.3, "repetition_penalty": 1.2, "frequency_penalty": 0.4, "presence_penalty": 0.3},
    {"repetition_penalty": 1.3, "logit_bias": {"101": 3.0}},
]


def test_a_batch_writes_what_each_job_writes_alone(talk: Talk) -> None:
    """Twenty jobs, greedy and seeded, of unlike prompts and lengths, byte for byte."""
    asked = [
        {
            "prompt": prompt,
            "max_tokens": 20 + 9 * at,
            "seed": at,
            **{k: v for k, v in fields.items() if k != "seed"},
        }
        for at, prompt in enumerate(PROMPTS)
        for fields in SAMPLING
    ]
    alone = [talk.result(talk.run(**fields)) for fields in asked]
    keys = [talk.run(**fields) for fields in asked]
    assert [talk.result(key) for key in keys] == alone
    assert len({result["text"] for result in alone}) > 15


@pytest.mark.parametrize("fields", SAMPLING, ids=range(len(SAMPLING)))
def test_a_job_resumed_anywhere_writes_what_it_would_have(talk: Talk, fields: dict[str, Any]) -> None:
    """From its prompt and any number of its tokens: the rest comes, once, and the result is the whole."""
    fields = {key: value for key, value in fields.items() if key != "seed"}
    calm_key = talk.run(prompt=PROMPTS[2], max_tokens=24, **fields)
    calm = talk.result(calm_key)
    tokens = talk.tokens(calm_key)
    keys = [talk.run(prompt=PROMPTS[2], max_tokens=24, so_far=tokens[:cut], **fields) for cut in range(25)]
    for cut, key in enumerate(keys):
        assert talk.result(key) == calm, cut
        assert talk.tokens(key) == tokens[cut:]
        assert calm["text"].endswith(talk.sent(key))


def test_a_stop_word_ends_a_job_that_was_interrupted_within_it(talk: Talk) -> None:
    """The word is found whether or not an attempt ended between its letters; nothing follows it."""
    calm_key = talk.run(max_tokens=40)
    text = talk.result(calm_key)["text"]
    tokens = talk.tokens(calm_key)
    stop = text[12:16]
    end = text.index(stop) + 4
    calm = talk.result(talk.run(max_tokens=40, stop=[stop]))
    assert calm["text"] == text[: end - 4] and calm["finish_reason"] == "stop"
    assert calm["usage"]["completion_tokens"] == end
    keys = [talk.run(max_tokens=40, stop=[stop], so_far=tokens[:cut]) for cut in range(end + 1)]
    for cut, key in enumerate(keys):
        assert talk.result(key) == calm
        assert talk.tokens(key) == tokens[cut:end]


def test_a_stop_word_at_the_very_last_token_is_a_stop(talk: Talk) -> None:
    """The end by length and the end by word at once: the word wins, and is not shown."""
    text = talk.result(talk.run(max_tokens=20))["text"]
    result = talk.result(talk.run(max_tokens=20, stop=[text[-3:]]))
    assert (result["text"], result["finish_reason"]) == (text[: text.index(text[-3:])], "stop")


def test_half_a_stop_word_at_the_end_is_shown(talk: Talk) -> None:
    """What was held back for a word that did not come belongs to the text."""
    text = talk.result(talk.run(max_tokens=20))["text"]
    key = talk.run(max_tokens=20, stop=[text[-3:] + "\x01"])
    assert talk.result(key)["text"] == text == talk.sent(key)


def test_log_probabilities_are_given_for_every_token(talk: Talk) -> None:
    """The chosen token's and the five likeliest; greedy, the chosen is the likeliest."""
    key = talk.run(max_tokens=12, logprobs=5)
    talk.result(key)
    entries = [entry for step in talk.steps(key) for entry in step.get("logprobs", ())]
    assert [bytes(entry["bytes"]) for entry in entries] == [bytes([token]) for token in talk.tokens(key)]
    for entry in entries:
        tops = [top["logprob"] for top in entry["top_logprobs"]]
        assert len(tops) == 5 and tops == sorted(tops, reverse=True)
        assert entry["logprob"] == tops[0] <= 0


def test_log_probabilities_without_likeliest_are_the_chosen_ones(talk: Talk) -> None:
    """``logprobs`` 0: the token's own alone; the most that may be asked for is given."""
    key, most = talk.run(max_tokens=3, logprobs=0, temperature=1), talk.run(max_tokens=3, logprobs=20)
    assert talk.result(key) and talk.result(most)
    entries = [entry for step in talk.steps(key) for entry in step["logprobs"]]
    assert [entry["top_logprobs"] for entry in entries] == [[], [], []]
    assert all(len(entry["top_logprobs"]) == 20 for step in talk.steps(most) for entry in step["logprobs"])


def test_a_chat_is_written_by_the_models_template(talk: Talk) -> None:
    """Roles, parts, a call's empty content; ``developer`` is said as ``system``. Its answer begins without a space."""
    messages = [
        {"role": "developer", "content": "Be brief"},
        {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
        {"role": "tool", "content": "3", "tool_call_id": "1"},
    ]
    said = "".join(
        f"<|im_start|>{role}\n{text}<|im_end|>\n"
        for role, text in [("system", "Be brief"), ("user", "Hi"), ("assistant", ""), ("tool", "3")]
    )
    chat = talk.result(talk.run(messages=messages))
    plain = talk.result(talk.run(prompt=f"{said}<|im_start|>assistant\n"))
    assert chat == plain | {"text": plain["text"].removeprefix(" ")}


def test_a_prompt_beyond_the_models_positions_is_refused(talk: Talk) -> None:
    """400 with both numbers; not in words that clients take for a reason to drop their history."""
    error = talk.refusal(talk.run(prompt="x" * 4096))
    assert (error["status"], error["code"], error["param"]) == (400, "invalid_request", "prompt")
    assert "4,096" in error["message"]
    for word in ("context length", "maximum context", "too long"):
        assert word not in error["message"].lower()


def test_an_answer_ends_at_the_models_last_position(talk: Talk) -> None:
    """A prompt one short of the positions gets one token, whatever was asked for."""
    result = talk.result(talk.run(prompt="x" * 4095, max_tokens=100))
    assert (result["usage"]["completion_tokens"], result["finish_reason"]) == (1, "length")


def test_a_template_that_refuses_is_the_clients_fault(talk: Talk, tiny_model: Path, tmp_path: Path) -> None:
    """400, with the template's own words; one that is broken too; and the engine goes on."""
    for name, template, words in (
        ("strict", "{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("broken", "{{ messages[0].nothing.at.all }}", "nothing"),
        ("empty", "", "no tokens"),
    ):
        folder = shutil.copytree(tiny_model, tmp_path / name)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
        talk.load(folder, name)
        error = talk.refusal(talk.run(model=name, messages=[{"role": "user", "content": "Hi"}]))
        assert (error["status"], error["code"], error["param"]) == (400, "invalid_request", "messages")
        assert words in error["message"]
    assert talk.result(talk.run())


@pytest.mark.parametrize("token", [512, 1 << 20, (1 << 31) - 1, (1 << 40), -1, -600, -(1 << 40)])
def test_a_bias_for_a_token_that_is_none_is_refused(talk: Talk, token: int) -> None:
    """400, and nothing is written outside of the logits."""
    error = talk.refusal(talk.run(logit_bias={str(token): 5.0}))
    assert error["status"] == 400
    assert error["param"].split(".")[0] == "logit_bias"


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 5e-324},
        {"temperature": 2, "top_p": 1e-300},
        {"temperature": 1, "min_p": 1.0, "top_k": 1, "top_p": 0.001},
        {"temperature": 1, "top_k": 1 << 20},
        {"repetition_penalty": 1e-300},
        {"repetition_penalty": 10, "presence_penalty": -2, "frequency_penalty": 2},
        {"logit_bias": {str(token): -100 for token in range(512)}},
        {"logprobs": 20, "logit_bias": {"65": -100}},
        {"prompt": "\x00\x01\x7f"},
        {"prompt": "<|im_end|>" * 3},
        {"stop": ["\x00"] * 16},
    ],
    ids=str,
)
def test_odd_requests_get_a_result(talk: Talk, fields: dict[str, Any]) -> None:
    """Whatever passes the request's checks generates."""
    result = talk.result(talk.run(max_tokens=4, **fields))
    assert result["finish_reason"] in {"stop", "length"}


def test_an_eos_token_ends_a_job_unseen(talk: Talk, tmp_path: Path) -> None:
    """It is not part of the text, nor of the tokens."""
    talk.load(write_random_llama(tmp_path), "ends")
    key = talk.run(model="ends", logit_bias={"258": 100}, max_tokens=20)
    assert talk.result(key)["finish_reason"] == "stop"
    assert talk.tokens(key) == [] and talk.sent(key) == ""


def test_a_removed_job_stops_and_others_go_on(talk: Talk) -> None:
    """Its company writes what it writes alone; nothing comes for the removed one any more."""
    alone = talk.result(talk.run(prompt=PROMPTS[1], max_tokens=300))
    keep, drop = talk.run(prompt=PROMPTS[1], max_tokens=300), talk.run(prompt=PROMPTS[3], max_tokens=3000)
    talk.until(lambda: len(talk.tokens(drop)) > 20, "tokens of both")
    talk.supervisor.send({"kind": "remove", "key": drop})
    assert talk.result(keep) == alone
    count = len(talk.tokens(drop))
    assert talk.result(talk.run(max_tokens=50))
    assert len(talk.tokens(drop)) == count < 3000


def test_removing_frees_the_memory(talk: Talk) -> None:
    """After the last job went, only the weights are left."""
    idle = talk.result(talk.run(max_tokens=2)) and talk.of("step")[-1]["memory"]["active_bytes"]
    keys = [talk.run(prompt="x" * 1000, max_tokens=2000) for _ in range(4)]
    talk.until(lambda: all(talk.tokens(key) for key in keys), "tokens of all")
    assert talk.of("step")[-1]["memory"]["active_bytes"] > idle + 4 * 1000 * 512
    for key in keys:
        talk.supervisor.send({"kind": "remove", "key": key})
    assert talk.result(talk.run(max_tokens=2))
    assert talk.of("step")[-1]["memory"]["active_bytes"] < idle + (1 << 19)


def test_nonsense_from_the_worker_is_survived(talk: Talk) -> None:
    """Keys that nobody knows, kinds of a later version, a model that is not there."""
    for message in (
        {"kind": "grant", "key": "?"},
        {"kind": "remove", "key": "?"},
        {"kind": "unload", "model": "?"},
        {"kind": "of a later version", "key": "?"},
    ):
        talk.supervisor.send(message)
    error = talk.refusal(talk.run(model="nobody's"))
    assert error["code"] == "internal_error" and "nobody's" in error["message"]


def test_a_stored_request_is_validated_again(talk: Talk) -> None:
    """Redis is not trusted: a request that the API would refuse is refused here too."""
    error = talk.refusal(talk.run(temperature=99))
    assert (error["status"], error["param"]) == (400, "temperature")


def test_a_model_at_work_is_not_unloaded(talk: Talk) -> None:
    """The message is ignored, and the job ends well."""
    key = talk.run(max_tokens=100)
    talk.supervisor.send({"kind": "unload", "model": MODEL})
    assert talk.result(key)["finish_reason"] == "length"
    assert talk.result(talk.run(max_tokens=2))


def test_an_unloaded_model_gives_its_memory_back(talk: Talk, wide_model: Path) -> None:
    """And can be loaded again."""
    assert talk.result(talk.run(max_tokens=2))
    talk.supervisor.send({"kind": "measure"})  # by then the step that was under way at the job's end is over
    talk.until(lambda: talk.of("measured"), "what is in use")
    before = talk.of("measured")[-1]["memory"]["active_bytes"]
    weights = talk.load(wide_model, "wide").weights_bytes
    assert talk.of("loaded")[-1]["memory"]["active_bytes"] >= before + weights - 4096
    talk.supervisor.send({"kind": "unload", "model": "wide"})
    assert talk.result(talk.run(max_tokens=2))
    assert abs(talk.of("step")[-1]["memory"]["active_bytes"] - before) < 1 << 18


def bad_folders(folder: Path, good: Path) -> Iterator[tuple[str, Path]]:
    yield "absent", folder / "absent"
    for name in ("no-config", "no-weights", "rubbish", "cut", "unknown", "own-code"):
        copy = shutil.copytree(good, folder / name)
        weights = copy / "model.safetensors"
        if name == "no-config":
            (copy / "config.json").unlink()
        elif name == "no-weights":
            weights.unlink()
        elif name == "rubbish":
            weights.write_bytes(b"\xff" * 1000)
        elif name == "cut":
            weights.write_bytes(weights.read_bytes()[:-1000])
        else:
            config = json.loads((copy / "config.json").read_text())
            more = {"model_type": "of-tomorrow"}
            if name == "own-code":
                more |= {
                    "auto_map": {"AutoConfig": "m.C", "AutoModelForCausalLM": "m.M"},
                    "model_file": "m.py",
                }
                (copy / "m.py").write_text(
                    f"open({str(folder / 'ran')!r}, 'w')\nclass C: pass\nclass M: pass\n"
                )
            (copy / "config.json").write_text(json.dumps(config | more))
        yield name, copy


def test_a_model_that_cannot_be_loaded_is_told(talk: Talk, tiny_model: Path, tmp_path: Path) -> None:
    """With a reason; code that comes with a model is not run; the engine goes on."""
    for name, folder in bad_folders(tmp_path, tiny_model):
        talk.supervisor.send({"kind": "load", "model": name, "source": str(folder)})
        talk.until(
            lambda name=name: talk.of("load_failed", model=name) or talk.of("loaded", model=name), name
        )  # type: ignore[misc]
        assert talk.of("load_failed", model=name), name
        (failed,) = talk.of("load_failed", model=name)
        assert failed["reason"]
        assert failed["unsupported"] == (name == "unknown"), name
    assert not (tmp_path / "ran").exists()
    assert talk.result(talk.run(max_tokens=2))


@pytest.mark.parametrize("model_type", SMALL_CONFIGS)
def test_every_kind_of_cache_is_batched_and_resumed(talk: Talk, tmp_path: Path, model_type: str) -> None:
    """Sliding, recurrent and low-rank caches too: company and interruption change no text."""
    talk.load(write_random_model(tmp_path, model_type, never_stops=True), model_type)
    try:
        asked = [{"prompt": prompt, "max_tokens": 40 + 8 * at} for at, prompt in enumerate(PROMPTS)]
        calm_keys = []
        for fields in asked:
            calm_keys.append(talk.run(model=model_type, **fields))
            talk.result(calm_keys[-1])
        keys = [talk.run(model=model_type, **fields) for fields in asked]
        assert [talk.result(key) for key in keys] == [talk.result(key) for key in calm_keys]
        for cut in (1, 17, 39):
            again = [
                talk.run(model=model_type, so_far=talk.tokens(key)[:cut], **fields)
                for key, fields in zip(calm_keys, asked, strict=True)
            ]
            assert [talk.result(key) for key in again] == [talk.result(key) for key in calm_keys], cut
    finally:
        talk.supervisor.send({"kind": "unload", "model": model_type})
