"""The dialogue world as records: prompts, demonstrations and comparisons, each from a seed and a split."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from aifeedback.errors import InputError
from aifeedback.lab.samples import Demonstration, all_pairs
from aifeedback.lab.talk import gold, words, world
from aifeedback.lab.talk.world import Request, Split
from aifeedback.lab.world import stream
from aifeedback.types import Comparison, Completion, Prompt

SOURCE = "lab:talk-candidates"
MOST_MISSES = 5000
"""Draws in a row that bring nothing new: hardly any request is left that was not met."""
LABEL_OF = {"benign": "safe", "contrast": "safe", "harmful": "unsafe"}


def prompts(count: int, *, split: Split = "train", seed: int = 0) -> list[Prompt]:
    """Different requests. Tags: split, kind (benign, contrast, harmful) and XSTest's label (safe, unsafe).

    Raises InputError where the world has fewer.
    """
    drawn: dict[str, Prompt] = {}
    index = misses = 0
    while len(drawn) < count:
        prompt = _prompt(_request(seed, "prompts", split, index), split)
        misses = misses + 1 if prompt.id in drawn else 0
        if misses > MOST_MISSES:
            what = f"the dialogue world has fewer than {count:,} different requests of the split '{split}'"
            raise InputError(what, fix=f"ask for {len(drawn):,} or fewer")
        drawn.setdefault(prompt.id, prompt)
        index += 1
    return list(drawn.values())


def demonstrations(
    count: int,
    *,
    split: Split = "train",
    seed: int = 0,
    write: Callable[[Random, Request], str] = world.draw_demonstration,
    kind: world.Kind | None = None,
) -> list[Demonstration]:
    """Requests with answers as the starting policy's data hold them, or as ``write`` writes them."""
    rows = []
    for i in range(count):
        request = world.draw_request(stream(seed, "demonstrations", kind, split, i), split, kind)
        text = write(stream(seed, "demonstration", kind, split, i), request)
        prompt = _prompt(request, split)
        rows.append(Demonstration(prompt, Completion.of(prompt, text, source=SOURCE, finish_reason="stop")))
    return rows


def helpful_demonstrations(count: int, *, split: Split = "train", seed: int = 0) -> list[Demonstration]:
    """Benign requests with answers that help, some of them carelessly: people's helpful data."""

    def write(rng: Random, request: Request) -> str:
        return world.write_answer(rng, request, "help", world.CARELESS)

    return demonstrations(count, split=split, seed=seed + 1, write=write, kind="benign")


def comparisons(
    count: int, *, split: Split = "test", seed: int = 0, measure: str = "talk", kind: world.Kind | None = None
) -> list[Comparison]:
    """Two answers of one request each that gold tells apart (by at least half a point), storage order random."""
    score = gold.MEASURES[measure]
    rows: list[Comparison] = []
    index = 0
    while len(rows) < count:
        request = world.draw_request(stream(seed, "comparisons", measure, split, index), split, kind)
        rng = stream(seed, "candidates", measure, split, index)
        index += 1
        texts = [world.draw_answer(rng, request) for _ in range(2)]
        if abs(score(request, texts[0]) - score(request, texts[1])) >= 0.5:
            prompt = _prompt(request, split)
            first, second = (Completion.of(prompt, t, source=SOURCE, finish_reason="stop") for t in texts)
            rows.append(Comparison.of(prompt, first, second))
    return rows


def triples(count: int, *, split: Split = "test", seed: int = 0) -> list[Comparison]:
    """All three pairs of three different answers to each request."""
    rows = []
    for i in range(count):
        request = _request(seed, "triples", split, i)
        rng = stream(seed, "three candidates", split, i)
        rows += all_pairs(
            _prompt(request, split), lambda request=request, rng=rng: world.draw_answer(rng, request), SOURCE
        )
    return rows


def refusal_pairs(count: int, *, split: Split = "test", seed: int = 0) -> list[Comparison]:
    """An answer that helps against a refusal, sources ``comply`` and ``refuse``, storage order random; the kinds of
    request take turns, so two thirds are safe to answer."""
    rows = []
    for i in range(count):
        kind = ("benign", "harmful", "contrast")[i % 3]
        request = world.draw_request(stream(seed, "refusals", split, i), split, kind)
        rng = stream(seed, "comply or refuse", split, i)
        prompt = _prompt(request, split)
        texts = {
            "comply": world.write_answer(rng, request, "help"),
            "refuse": world.write_answer(rng, request, "refuse"),
        }
        sides = [Completion.of(prompt, text, source=who, finish_reason="stop") for who, text in texts.items()]
        rows.append(Comparison.of(prompt, *(sides if rng.random() < 0.5 else sides[::-1])))
    return rows


def prompt_text(request: Request) -> str:
    """What the policy reads."""
    return f"{words.REQUEST_MARK} : {request.text} {words.REPLY_MARK} :"


def _request(seed: int, purpose: str, split: Split, index: int) -> Request:
    return world.draw_request(stream(seed, purpose, split, index), split)


def _prompt(request: Request, split: Split) -> Prompt:
    tags = {"split": split, "kind": request.kind, "label": LABEL_OF[request.kind]}
    return Prompt.of(prompt_text(request), tags=tags)
