"""Builds the lab's models from nothing: ``aifeedback lab build``. Counts steps, never seconds, so builds are repeatable.

A model may start from another (its copy of the base). Weights are stored in bf16; the benchmark on its card is
taken after that rounding.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import torch

from aifeedback.errors import InputError
from aifeedback.lab import benchmark, instructions, recipes, training, zoo
from aifeedback.lab.documents import Tree
from aifeedback.lab.talk import benchmark as talk_benchmark
from aifeedback.lab.talk import documents as talk_documents
from aifeedback.lab.talk.vocabulary import vocabulary as talk_vocabulary
from aifeedback.lab.tokenizer import make_tokenizer, vocabulary
from aifeedback.types import Progress, silent


def _draw_talk(rng: Random, phase: training.Phase) -> Tree:
    return talk_documents.draw_tree(rng, phase.mixture, phase.row_tokens)


def _draw_pairs(rng: Random, phase: training.Phase) -> Tree:
    shots = phase.shots
    if shots is None and not phase.sentences:
        shots = 0
    if shots is None:
        return training.draw_posts(rng, phase)
    return instructions.draw_tree(rng, phase.mixture, phase.row_tokens, shots, phase.distraction)


def _pairs_vocabulary() -> list[str]:
    own = {word for preamble in instructions.PREAMBLES.values() for word in preamble.split()}
    posts = vocabulary()
    return [*posts, *sorted(own.difference(posts))]


WORLDS = {
    "posts": (vocabulary, training.draw_posts),
    "pairs": (_pairs_vocabulary, _draw_pairs),
    "talk": (talk_vocabulary, _draw_talk),
}
"""The words of each world, and what draws its training rows."""


CARD = "card.json"


def build(
    names: Sequence[str], out: Path, *, scale: float = 1.0, exam_count: int = 1000, progress: Progress = silent
) -> list[Path]:
    """Train these models into folders of ``out``; return the folders.

    ``scale`` shortens every phase (for trying things out); ``exam_count`` is n of each figure on the card, 0 for none.
    A start model is taken from ``out``, or built there first. Raises InputError for an unknown name,
    and where a folder exists that is not a model of the lab: its own models are replaced.
    """
    unknown = [n for n in names if n not in recipes.RECIPES]
    if unknown:
        raise InputError(f"the lab cannot build '{unknown[0]}'", fix=f"it can build: {', '.join(recipes.RECIPES)}")
    foreign = next((out / n for n in names if (out / n).exists() and not (out / n / CARD).is_file()), None)
    if foreign:
        raise InputError("exists and is not a model of the lab", file=foreign, fix="build into another folder")
    with _one_thread():
        return [_build(name, out, scale, exam_count, progress) for name in names]


def _build(name: str, out: Path, scale: float, exam_count: int, progress: Progress) -> Path:
    recipe = recipes.RECIPES[name]
    words, draw = WORLDS[recipe.world]
    tokenizer = make_tokenizer(words())
    model = training.make_model(recipe.shape, tokenizer, recipe.seed, family=recipe.family, context=recipe.context)
    if recipe.start is not None:
        start = out / recipe.start
        if not (start / "config.json").is_file():
            _build(recipe.start, out, scale, exam_count, progress)
        model.load_state_dict(_weights(start))
    began = time.monotonic()
    losses = {}
    for phase in recipe.phases:
        short = phase.model_copy(update={"steps": max(1, round(phase.steps * scale))})
        losses[phase.name] = round(
            training.train_phase(model, tokenizer, short, seed=recipe.seed, draw=draw, progress=progress), 4
        )
    folder = out / name
    _save(model, tokenizer, folder)
    card = {
        "name": name,
        "about": recipe.about,
        "family": recipe.family,
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": recipe.model_dump(mode="json"),
        "scale": scale,
        "loss": losses,
        "seconds": round(time.monotonic() - began, 1),
        "exam": _examine(recipe.exam, folder, exam_count) if exam_count else {},
    }
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return folder


def _examine(kind: str, folder: Path, count: int) -> dict[str, Any]:
    from aifeedback import models

    examiners = {
        "policy": benchmark.examine_policy,
        "judge": benchmark.examine_judge,
        "pair-judge": benchmark.examine_pair_judge,
        "talk-policy": talk_benchmark.examine_policy,
        "talk-judge": talk_benchmark.examine_judge,
    }
    return examiners[kind](models.connect(f"hf:{folder}"), count=count)


def _weights(folder: Path) -> dict[str, Any]:
    """The state of a saved model, in fp32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    """A standard folder, weights in bf16. The model itself keeps its precision."""
    from transformers import AutoModelForCausalLM

    if folder.exists():
        shutil.rmtree(folder)
    rounded = AutoModelForCausalLM.from_config(model.config)
    rounded.load_state_dict(model.state_dict())
    rounded.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _one_thread() -> Generator[None]:
    """More threads do not help models this small, and one makes sums repeatable."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def shipped() -> Path:
    """Where the package keeps the weights that it ships: build into it to replace them."""
    return zoo.WEIGHTS
