"""A job in the engine: from the worker's message to what each step brings it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from scheduler.errors import ClientError
from scheduler.request import JobRequest, read_request
from workers.constraint import Constraint, constrain
from workers.guard import Load
from workers.models import LoadedModel, prompt_tokens
from workers.text import JobText, Piece, section_left_open
from workers.token_bytes import token_bytes
from workers.wire import Message


@dataclass(slots=True)
class RunningJob:
    """A job in the engine.

    ``so_far`` are the tokens of earlier attempts: they follow the prompt, and are not sent again.
    """

    key: str
    request: JobRequest
    priority: str
    claimed_at: float
    prompt: list[int]
    so_far: list[int]
    max_tokens: int
    seed: int
    text: JobText
    scope: str = ""
    """Whose jobs it may share the beginnings of prompts with; see :mod:`workers.prefixes`."""
    constraint: Constraint | None = None
    """What holds its answer to a form."""
    made: list[int] = field(default_factory=list)
    uid: int | None = None
    prefilled: bool = False
    computed: int = 0
    """Prompt tokens in its cache so far, reused ones too."""
    reused: int = 0
    """Of them, those that were kept of other jobs; known once it is taken up."""
    peak_bytes: int = 0
    """The most that its share of the batch took, measured."""
    untold: JobStep | None = None
    """Its news that the worker was not told yet."""
    unread: list[int] = field(default_factory=list)
    """Its tokens that are not text yet."""

    def advance(self, computed_tokens: int, *, done: bool) -> int:
        """Note how many tokens of its prompt were computed, beside what it reused; how many since the last time."""
        before, self.computed = self.computed or self.reused, self.reused + computed_tokens
        self.prefilled = done
        return self.computed - before

    def read(self) -> Piece:
        """Turn tokens into text, as late as it is wanted: many at once cost less than one by one."""
        piece = self.text.feed(self.unread)
        self.unread.clear()
        if self.untold is not None:
            self.untold.show(piece)
        return piece

    def news(self) -> JobStep:
        """What it wrote since this was last asked."""
        self.read()
        step, self.untold = self.untold or JobStep(self.key, []), None
        return step

    @property
    def ends(self) -> str | None:
        """Why its answer is at its end whatever could follow, in OpenAI's words; None where it is not."""
        return self.constraint.ends if self.constraint is not None else None

    @property
    def load(self) -> Load:
        """As the guard weighs it."""
        known = len(self.prompt) + len(self.so_far)
        length = known + len(self.made) if self.prefilled else self.computed
        left = 0 if self.prefilled else max(1, known - length)
        answer = max(1, self.max_tokens - self.completion_tokens)
        reused = 0 if length else self.reused
        return Load(self.key, self.priority, self.claimed_at, length, left, answer, reused)

    @property
    def completion_tokens(self) -> int:
        """Tokens of every attempt."""
        return len(self.so_far) + len(self.made)


@dataclass(slots=True)
class JobStep:
    """What one step or several brought one job."""

    key: str
    tokens: list[int]
    text: str = ""
    reasoning: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] | None = None
    """The job's result, where this step ended it."""
    peak_bytes: int = 0

    def show(self, piece: Piece) -> None:
        """Add text to it."""
        self.text += piece.text
        self.reasoning += piece.reasoning


def make_job(message: Message, loaded: LoadedModel) -> RunningJob:
    """A job from the worker's message.

    Raises:
        ClientError: the request is malformed, or its prompt cannot be used.
    """
    request = read_request(message["request"])
    for token in request.logit_bias or ():
        if not 0 <= token < loaded.vocabulary:  # MLX would write outside of the logits
            reason = f"{loaded.name} has no token {token}; it has {loaded.vocabulary:,}"
            raise ClientError("invalid_request", reason, param="logit_bias")
    prompt = prompt_tokens(loaded, request)
    begins = "normal" if request.messages is None else section_left_open(loaded.tokenizer, prompt)
    bare = request.must_call and loaded.grammars.call_marks is None
    several = request.parallel_tool_calls
    so_far = list(message["so_far"])
    constraint = constrain(loaded, request, so_far, begins)
    formed = bare or (constraint is not None and not request.must_call)
    return RunningJob(
        key=message["key"],
        request=request,
        priority=message["priority"],
        claimed_at=message["claimed_at"],
        prompt=prompt,
        so_far=so_far,
        max_tokens=min(message["max_tokens"], loaded.context_tokens - len(prompt)),
        seed=message["seed"],
        scope=message["scope"],
        text=JobText(
            loaded.tokenizer,
            request.stop,
            begins,
            bare_call=bare,
            several_calls=several,
            formed=formed,
            continues=request.messages is None,
        ),
        constraint=constraint,
    )


def take_token(job: RunningJob, response: Any, loaded: LoadedModel) -> bool:
    """Write a token, unless it only ends the answer; whether a stop word is met.

    Args:
        job: whose it is.
        response: of the generator.
        loaded: the model.
    """
    if response.finish_reason != "stop":
        step = job.untold = job.untold or JobStep(job.key, [])
        for kept in (job.made, job.unread, step.tokens):
            kept.append(response.token)
        if job.request.logprobs is not None:
            entry = logprob_entry(loaded, response.logprobs, response.token, job.request.logprobs)
            step.logprobs.append(entry)
    return job.read().stopped if job.text.may_stop or response.finish_reason else False


def ended(job: RunningJob, reason: str, *, stopped: bool) -> JobStep:
    """A job's last step: the rest of its text, and its result.

    Args:
        job: it ended.
        reason: why it ended, in OpenAI's words.
        stopped: whether its text has met one of its stop words.
    """
    step = job.news()
    if not stopped:
        rest = job.text.finish(cut=reason == "length")
        step.show(rest)
        reason = "stop" if rest.stopped else reason
    may_call = job.request.tool_choice != "none"
    calls, refused = job.text.tool_calls(job.request.tools if may_call else None)
    step.text += refused
    ended_by_calls = calls and reason != "length"
    result: dict[str, Any] = {
        "text": job.text.text,
        "finish_reason": "tool_calls" if ended_by_calls else reason,
    }
    if job.text.reasoning:
        result["reasoning"] = job.text.reasoning
    if calls:
        result["tool_calls"] = calls
    prompt, completion = len(job.prompt), job.completion_tokens
    result["usage"] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": min(prompt, job.reused)},
    }
    step.result, step.peak_bytes = result, job.peak_bytes
    return step


def logprob_entry(loaded: LoadedModel, values: mx.array, token: int, top: int) -> dict[str, Any]:
    """A token's logarithm of probability, and the ``top`` likeliest beside it, as OpenAI writes them."""
    chosen = [token]
    if top:
        count = min(top, values.size)
        best: Any = mx.argpartition(-values, kth=count - 1)[:count].tolist()
        chosen += sorted(best, key=lambda each: -_number(values, each))
    entries = [_entry(loaded, each, _number(values, each)) for each in chosen]
    return entries[0] | {"top_logprobs": entries[1:]}


def _entry(loaded: LoadedModel, token: int, logprob: float) -> dict[str, Any]:
    told = token_bytes(loaded.tokenizer, token)
    return {"token": told.decode(errors="replace"), "logprob": max(logprob, -9999.0), "bytes": list(told)}


def _number(values: mx.array, at: int) -> float:
    number: Any = values[at].item()
    return float(number)


def packed(step: JobStep, now: float) -> Message:
    """A step for the worker, its empty fields left out."""
    fields = {name: getattr(step, name) for name in step.__slots__}
    return {name: value for name, value in fields.items() if value} | {"at": now}


def advance(prompts: Iterable[Any], jobs: Mapping[int, RunningJob]) -> tuple[dict[str, int], int]:
    """Note how far prompts are.

    Args:
        prompts: a generator's word of each.
        jobs: by the generator's numbers.

    Returns:
        The prompts' tokens that are computed, by key; and how many the generator computed together for it, padding
        counted: a prompt's last token is a decode step's.
    """
    computed: dict[str, int] = {}
    parts = [0]
    for told in prompts:
        job = jobs[told.uid]
        part = job.advance(told.progress[0], done=told.end_of_prompt)
        if not told.end_of_prompt:
            parts.append(part)
        computed[job.key] = job.computed
    return computed, max(parts) * (len(parts) - 1) or len(computed)
