"""What a lab model can do, measured through the path that users take. Runs at build time; the card keeps the results.

Every figure is on the ``test`` split, which no lab model was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aifeedback.judging.pairwise import JudgeLabeler, Rationale
from aifeedback.judging.pointwise import JudgeScorer, RatingLabeler
from aifeedback.lab import gold, samples, zoo
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.types import Comparison, Model, Preference, Sampling

EXAM_SEED = 9000
"""Far from the seeds that recipes use."""


def examine_judge(model: Model, *, count: int, seed: int = EXAM_SEED) -> dict[str, float]:
    """Agreement with gold in percent: pairs and fact pairs, direct in one order and both, by rating, evidence first."""
    pairs = samples.comparisons(count, split="test", seed=seed)
    facts = samples.fact_pairs(count, split="test", seed=seed)
    direct = pair_judge(model)
    labels = direct.label(pairs)
    cot = rating_judge(model, evidence=True)
    return {
        "n": count,
        "seed": seed,
        "alignment_single": agreement_single(pairs, labels),
        "alignment": agreement(pairs, labels),
        "same_position": same_position(labels),
        "alignment_rating": agreement(pairs, rating_judge(model, evidence=False).label(pairs)),
        "alignment_cot": agreement(pairs, cot.label(pairs)),
        "fact_pairs": agreement(facts, direct.label(facts)),
        "fact_pairs_cot": agreement(facts, cot.label(facts)),
    }


def examine_pair_judge(model: Model, *, count: int, seed: int = EXAM_SEED) -> dict[str, float]:
    """Agreement with gold in percent, by preamble, solved examples and chain of thought; position bias of each."""
    pairs = samples.comparisons(count, split="test", seed=seed)
    facts = samples.fact_pairs(count, split="test", seed=seed)
    figures: dict[str, float] = {"n": count, "seed": seed}
    for preamble in ("base", "detailed"):
        prompt = JudgePrompt.load(zoo.prompt_file(f"pairs-{preamble}"))
        for shots, rationale in ((0, None), (1, None), (2, None), (0, Rationale()), (1, Rationale())):
            judge = JudgeLabeler(model, prompt.with_shots(shots), rationale=rationale)
            labels = judge.label(pairs)
            name = f"{preamble}_{shots}{'_cot' if rationale else ''}"
            figures[f"{name}"] = agreement(pairs, labels)
            figures[f"{name}_single"] = agreement_single(pairs, labels)
            figures[f"{name}_same_position"] = same_position(labels)
    judge = JudgeLabeler(
        model, JudgePrompt.load(zoo.prompt_file("pairs-detailed")).with_shots(0), rationale=Rationale()
    )
    figures["fact_pairs_cot"] = agreement(facts, judge.label(facts))
    figures["alignment_rating_cot"] = agreement(pairs, rating_judge(model, evidence=True).label(pairs))
    return figures


def examine_policy(model: Model, *, count: int, seed: int = EXAM_SEED) -> dict[str, float]:
    """Mean gold score of greedy summaries, the share of stated facts that is right, and mean length in words."""
    prompts = samples.prompts(count, split="test", seed=seed)
    texts = [r.text for r in model.reply([p.text for p in prompts], Sampling(temperature=0.0, max_new_tokens=48))]
    facts = [gold.facts_of(p) for p in prompts]
    readings = [gold.read(t) for t in texts]
    stated = sum(len(values) for r in readings for values in r.stated.values())
    wrong = sum(len(v) for f, r in zip(facts, readings, strict=True) for v in gold.wrong_facts(f, r).values())
    return {
        "n": count,
        "seed": seed,
        "gold": _rounded(float(np.mean([gold.score_reading(f, r) for f, r in zip(facts, readings, strict=True)]))),
        "facts_right": _percent((stated - wrong) / max(1, stated)),
        "words": _rounded(float(np.mean([r.length for r in readings]))),
    }


def pair_judge(model: Model, **settings: Any) -> JudgeLabeler:
    """The judge that says at once which summary is better, in both orders."""
    return JudgeLabeler(model, JudgePrompt.load(zoo.prompt_file("pairwise")), **settings)


def rating_judge(model: Model, *, evidence: bool) -> RatingLabeler:
    """The judge that compares two ratings; with ``evidence`` each is written after a check of every fact."""
    prompt = JudgePrompt.load(zoo.prompt_file("rating"))
    return RatingLabeler(JudgeScorer(model, prompt, rationale=Rationale() if evidence else None))


def agreement(comparisons: Sequence[Comparison], labels: Sequence[Preference]) -> float:
    """Percent of gold's decided pairs on which the label sides with gold; a label of 0.5 or none counts half."""
    return _percent(np.mean([_side(p.p_first, t) for p, t in _decided(comparisons, labels)]))


def agreement_single(comparisons: Sequence[Comparison], labels: Sequence[Preference]) -> float:
    """The same for one order at a time, averaged over both orders."""
    return _percent(np.mean([_side(j.p_first, t) for p, t in _decided(comparisons, labels) for j in p.judgements]))


def _decided(comparisons: Sequence[Comparison], labels: Sequence[Preference]) -> list[tuple[Preference, float]]:
    """Labels beside gold's verdicts, where it has one: neither a tie nor another world's prompt."""
    truth = [p.p_first for p in gold.GoldLabeler().label(comparisons)]
    return [(label, t) for label, t in zip(labels, truth, strict=True) if t is not None and t != 0.5]


def same_position(labels: Sequence[Preference]) -> float:
    """Percent of pairs in which the response shown first wins, or loses, in both orders."""
    known = [[j.p_first for j in p.judgements] for p in labels]
    return _percent(np.mean([(a > 0.5) != (b > 0.5) for a, b in known if a is not None and b is not None]))


def _side(p_first: float | None, truth: float) -> float:
    return 0.5 if p_first is None or p_first == 0.5 else float((p_first > 0.5) == (truth > 0.5))


def _percent(share: Any) -> float:
    return _rounded(100 * float(share))


def _rounded(value: float) -> float:
    return round(value, 2)
