"""``Journaled``: a Model in front of a Model that answers from the journal, and journals what it had to ask.

The key of a question is a hash of the model's card, of what is asked (labels, or sampling) and of the rendered prompt.
Any change of model, revision, endpoint, template, exemplars or their order, decoding, or order shown is a miss.
A call that failed in transit is journalled too, but stays open: a later run asks it again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from aifeedback.models.journal import Entry, Journal, call_id, canonical, content_key, prompt_hash, setting_digest
from aifeedback.models.label_logprobs import as_array
from aifeedback.types import Model, ModelCard, Problem, Progress, PromptLike, Reading, Reply, Sampling, silent

OPEN = frozenset({Problem.SERVER_ERROR, Problem.TIMEOUT, Problem.NO_LOGPROBS, Problem.BAD_LOGPROBS})
"""Problems of the way to the model, not of its judgement: the question stays open."""


class Answered(NamedTuple):
    """One answer as it arrives."""

    place: int
    """Position of its prompt."""
    answer: Any
    """Reading or Reply."""
    seconds: float = 0.0
    raw: dict[str, Any] | None = None
    """What the server sent beyond the answer; kept in the journal only."""
    stays_open: bool = False
    """Asked again by a later run whatever its problem, which may be one of the settings rather than of the question."""


@runtime_checkable
class Streaming(Protocol):
    """A model that hands over answers as they come, in batches. Asking for the next batch says that the last one is
    committed, so a model that limits its calls in flight counts each call until then."""

    def iter_replies(self, prompts: Sequence[PromptLike], sampling: Sampling) -> Generator[list[Answered]]: ...

    def iter_labels(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> Generator[list[Answered]]: ...


@runtime_checkable
class SideBySide(Protocol):
    """A model that works on several batches at a time (``workers.WorkerPool``)."""

    def each(
        self, method: str, batches: Sequence[Sequence[PromptLike]], how: Sequence[str] | Sampling
    ) -> Generator[tuple[list[Any], float]]:
        """(answers, seconds per prompt) of each batch, in order; ``method``: ``read_labels`` or ``reply``."""
        ...


class Journaled:
    """Asks ``model`` only what ``journal`` does not hold; every answered batch is committed before more are taken.

    ``batch``: prompts per call of a model that does not stream. Batches lie at fixed places of the prompt list, so a
    resumed run computes the very batches that the interrupted one would have.
    """

    def __init__(self, model: Model, journal: Journal, *, batch: int = 256, progress: Progress = silent) -> None:
        self.model, self.journal, self.batch, self.progress = model, journal, batch, progress
        self.new_questions = 0
        """Questions that were not in the journal, since this object was made."""

    @property
    def card(self) -> ModelCard:
        return self.model.card

    @property
    def readout(self) -> str:
        """How label probabilities come about: ``logprobs``, ``votes`` or ``parsed``."""
        return getattr(self.model, "readout", "logprobs")

    @property
    def answers_later(self) -> bool:
        """Whether the model's calls wait in batches (``models.pending``)."""
        return bool(getattr(self.model, "answers_later", False))

    @property
    def has_chat_template(self) -> bool:
        return bool(getattr(self.model, "has_chat_template", False))

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The special tokens of the model's own tokenizer, where it tells them."""
        return tuple(getattr(self.model, "special_tokens", ()))

    def reply(self, prompts: Sequence[PromptLike], sampling: Sampling) -> list[Reply]:
        """As the model's own, with ``call_id``."""
        setting = canonical({"card": self.card.model_dump(mode="json"), "sampling": sampling.model_dump(mode="json")})
        return self._answers("reply", prompts, setting, self._asking("reply", sampling), Reply)

    def read_labels(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> list[Reading]:
        """As the model's own, with ``call_id``."""
        setting = canonical({"card": self.card.model_dump(mode="json"), "labels": list(labels)})
        return self._answers("labels", prompts, setting, self._asking("read_labels", labels), Reading)

    def label_logprobs(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> np.ndarray:
        """(N, K) float64: log P(label | prompt), unnormalised over the labels, NaN where not known."""
        return as_array(self.read_labels(prompts, labels), labels=len(labels))

    def _asking(self, method: str, how: Any) -> _Ask:
        model: Any = self.model
        if isinstance(model, Streaming):
            stream = model.iter_labels if method == "read_labels" else model.iter_replies
            return _Ask(None, lambda batches: _streamed(batches, lambda some: stream(some, how)))
        if isinstance(model, SideBySide):
            return _Ask(self.batch, lambda batches: _side_by_side(batches, lambda some: model.each(method, some, how)))
        return _Ask(self.batch, lambda batches: _one_by_one(batches, lambda some: getattr(model, method)(some, how)))

    def _answers(self, kind: str, prompts: Sequence[PromptLike], setting: str, ask: _Ask, form: type) -> list[Any]:
        digest = setting_digest(setting)
        hashes = [prompt_hash(prompt) for prompt in prompts]
        keys = [content_key(digest, hashed) for hashed in hashes]
        answers: dict[bytes, Any] = {}
        wanted = (_Batch(places, [prompts[n] for n in places]) for places in self._open(keys, ask.batch, answers, form))
        with closing(ask.run(wanted)) as batches:
            for batch in batches:
                entries = [_entry(kind, keys[a.place], setting, hashes[a.place], a) for a in batch]
                made = [entry for entry in entries if entry.outcome != Problem.OVER_BUDGET]
                answers.update({entry.key: _answer(entry, form) for entry in entries})
                answers.update({entry.key: _answer(entry, form) for entry in self.journal.append(made)})
                self.new_questions += len(made)
                self.progress(len(answers), len(prompts), {"asked": self.new_questions, **self._figures()})
        return [answers[key] for key in keys]

    def _open(
        self, keys: Sequence[bytes], batch: int | None, answers: dict[bytes, Any], form: type
    ) -> Iterator[list[int]]:
        """Places of the questions to ask, batch by batch; what the journal holds when a batch's turn comes goes into
        ``answers``, and what is equal to an earlier question is not asked again."""
        taken: set[bytes] = set()
        step = batch or max(len(keys), 1)
        for start in range(0, len(keys), step):
            wanted = dict(zip(keys[start : start + step], range(start, len(keys)), strict=False))
            missing = [key for key in wanted if key not in answers and key not in taken]
            for key, entry in self.journal.find(missing).items():
                answers[key] = _answer(entry, form)
            open_keys = [key for key in missing if key not in answers]
            taken.update(open_keys)
            if open_keys:
                yield [wanted[key] for key in open_keys]

    def _figures(self) -> dict[str, float]:
        figures: Any = getattr(self.model, "figures", None)
        return figures() if figures is not None else {}


class _Batch(NamedTuple):
    places: list[int]
    """In the list of all prompts."""
    prompts: list[PromptLike]


class _Ask(NamedTuple):
    batch: int | None
    """Prompts per batch; None: all in one."""
    run: Callable[[Iterator[_Batch]], Generator[list[Answered]]]
    """Batches → what was answered, by place."""


def _streamed(
    batches: Iterator[_Batch], stream: Callable[[Sequence[PromptLike]], Generator[list[Answered]]]
) -> Generator[list[Answered]]:
    for places, prompts in batches:
        with closing(stream(prompts)) as answered:
            for some in answered:
                yield [one._replace(place=places[one.place]) for one in some]


def _one_by_one(
    batches: Iterator[_Batch], answer: Callable[[Sequence[PromptLike]], Sequence[Any]]
) -> Generator[list[Answered]]:
    for places, prompts in batches:
        start = time.perf_counter()
        answers = answer(prompts)
        seconds = (time.perf_counter() - start) / len(prompts)
        yield [Answered(place, value, seconds) for place, value in zip(places, answers, strict=True)]


def _side_by_side(
    batches: Iterator[_Batch], each: Callable[[Sequence[Sequence[PromptLike]]], Generator[tuple[list[Any], float]]]
) -> Generator[list[Answered]]:
    every = list(batches)
    with closing(each([batch.prompts for batch in every])) as computed:
        for (places, _), (answers, seconds) in zip(every, computed, strict=True):
            yield [Answered(place, value, seconds) for place, value in zip(places, answers, strict=True)]


def _entry(kind: str, key: bytes, setting: str, hashed: bytes, answered: Answered) -> Entry:
    answer = answered.answer
    return Entry(
        kind=kind,
        key=key,
        setting=setting,
        prompt_hash=hashed,
        outcome=answer.problem or "ok",
        answer=canonical(answer.model_dump(exclude={"call_id"}, exclude_defaults=True)),
        raw=None if answered.raw is None else canonical(answered.raw),
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=getattr(answer, "completion_tokens", 0),
        cost_usd=answer.cost_usd,
        seconds=answered.seconds,
        is_final=answer.problem not in OPEN and not answered.stays_open,
    )


def _answer(entry: Entry, form: type) -> Any:
    return form.model_validate({**json.loads(entry.answer), "call_id": call_id(entry.key)})
