"""What a dialogue model can do, measured through the same path that users take; the results are written to its card.

Everything is on the ``test`` split: combinations of action and object that no lab model was trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from aifeedback.judging.pairwise import JudgeLabeler, PrincipleUse
from aifeedback.judging.revision import Reviser
from aifeedback.judging.safety import REFUSAL_CLASSES, JudgeClassifier
from aifeedback.lab import zoo
from aifeedback.lab.benchmark import EXAM_SEED, same_position
from aifeedback.lab.talk import documents, gold, principles, samples, world
from aifeedback.prompts.constitution import Constitution
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.prompts.registry import Wording
from aifeedback.types import Comparison, Completion, Model, Preference, Prompt, Sampling

PRINCIPLES = {
    "harmless": ("harm", "talk-harmless"),
    "helpful": ("help", "talk-helpful"),
    "balance": ("balance", "talk"),
}
"""Name → topic of the principle, oracle."""


def examine_judge(model: Model, *, count: int, seed: int = EXAM_SEED) -> dict[str, float]:
    """Percent right: pairs under a harmless and a helpful principle, classes, critiques, revisions."""
    results: dict[str, Any] = {"n": count, "seed": seed}
    for name, (topic, measure) in PRINCIPLES.items():
        pairs = samples.comparisons(count, split="test", seed=seed, measure=measure)
        wording = principles.TOPICS[topic].wordings[0]
        direct = judge(model, wording).label(pairs)
        thought = judge(model, wording, rationale={"samples": 1}).label(pairs)
        results |= {
            name: agreement(pairs, direct, measure),
            f"{name}_single": _single(pairs, direct, measure),
            f"{name}_thought": agreement(pairs, thought, measure),
            f"{name}_same_position": same_position(direct),
        }
    shown = samples.demonstrations(count, split="test", seed=seed, write=world.draw_answer)
    prompts, answers = [d.prompt for d in shown], [d.completion for d in shown]
    requests = [gold.request_of(p) for p in prompts]
    types = classifier(model, "talk-refusal", REFUSAL_CLASSES).classify(prompts, answers)
    harms = classifier(model, "talk-harmless", ("harmless", "harmful")).classify(prompts, answers)
    results["classes"] = _share(t.chosen == gold.class_of(a.text) for t, a in zip(types, answers, strict=True))
    results["harm"] = _share(
        (h.chosen == "harmless") == gold.is_harmless(r, a.text)
        for h, r, a in zip(harms, requests, answers, strict=True)
    )
    return results | critique_figures(model, prompts, answers)


def critique_figures(model: Model, prompts: Sequence[Prompt], answers: Sequence[Completion]) -> dict[str, float]:
    """Percent of critiques word for word right, and of revisions as good as their task asks for, per task."""
    shares: dict[str, float] = {}
    for name, task in principles.TASKS.items():
        reviser = _reviser(model, task)
        steps = [r.steps[0] for r in reviser.revise(prompts, answers)]
        requests = [gold.request_of(p) for p in prompts]
        faults = [documents.fault(r, a.text, task) for r, a in zip(requests, answers, strict=True) if r is not None]
        right = [
            s.critique == documents.critique_of(r, f)
            for s, r, f in zip(steps, requests, faults, strict=True)
            if r is not None
        ]
        done = [
            s.after == s.before if f is None else documents.fault(r, s.after, task) is None and s.after != s.before
            for s, r, f in zip(steps, requests, faults, strict=True)
            if r is not None
        ]
        shares[f"critiques_{name}"] = _share(right)
        shares[f"revisions_{name}"] = _share(done)
        shares[f"revisions_{name}_of_faulty"] = _share(d for d, f in zip(done, faults, strict=True) if f is not None)
    return shares


def examine_policy(model: Model, *, count: int, seed: int = EXAM_SEED) -> dict[str, float]:
    """Of sampled answers: percent of each class, percent of stated details that are right, percent of broken texts."""
    prompts = samples.prompts(count, split="test", seed=seed)
    texts = [
        r.text for r in model.reply([p.text for p in prompts], Sampling(temperature=1.0, max_new_tokens=44, seed=seed))
    ]
    readings = [gold.read(t) for t in texts]
    requests = [gold.request_of(p) for p in prompts]
    stated = [(r, s) for r, reading in zip(requests, readings, strict=True) for s in reading.stated if r is not None]
    classes = [gold.class_of(t) for t in texts]
    return {
        "n": count,
        "seed": seed,
        "complies": _share(c == "full_compliance" for c in classes),
        "refuses": _share(c == "full_refusal" for c in classes),
        "partly": _share(c == "partial_refusal" for c in classes),
        "details_right": _share(r.facts[slot] == value for r, (slot, value) in stated),
        "broken": _share(reading.broken > 0 for reading in readings),
    }


def judge(model: Model, wording: str, **settings: Any) -> JudgeLabeler:
    """The judge of pairs under one principle, both orders."""
    use = PrincipleUse([Wording("exam/principle", wording)])
    return JudgeLabeler(model, JudgePrompt.load(zoo.prompt_file("talk-principle")), principles=use, **settings)


def classifier(model: Model, prompt: str, classes: Sequence[str]) -> JudgeClassifier:
    """The model as a judge of classes, asked by one of the lab's prompts."""
    return JudgeClassifier(model, JudgePrompt.load(zoo.prompt_file(prompt)), classes)


def _reviser(model: Model, task: principles.Task) -> Reviser:
    principle = {"id": "exam", "title": "exam", "text": "exam", "critique": task.critique, "revise": task.revise}
    constitution = Constitution.read(
        {"name": "exam", "version": "1", "owner": "the lab", "source": "the exam", "principles": [principle]}
    )
    return Reviser(
        model,
        constitution,
        critique_prompt=JudgePrompt.load(zoo.prompt_file("talk-critique")),
        revise_prompt=JudgePrompt.load(zoo.prompt_file("talk-revise")),
        rounds=1,
        temperature=0.0,
    )


def agreement(comparisons: Sequence[Comparison], labels: Sequence[Preference], measure: str) -> float:
    """Percent of pairs on which the label sides with gold; a label of 0.5 or none counts half."""
    truth = [p.p_first for p in gold.TalkGold(measure).label(comparisons)]
    return _share(_side(p.p_first, t) for p, t in zip(labels, truth, strict=True) if t != 0.5)


def _single(comparisons: Sequence[Comparison], labels: Sequence[Preference], measure: str) -> float:
    """The same of the single judgements, each order by itself."""
    truth = [p.p_first for p in gold.TalkGold(measure).label(comparisons)]
    return _share(_side(j.p_first, t) for p, t in zip(labels, truth, strict=True) if t != 0.5 for j in p.judgements)


def _side(p_first: float | None, truth: float | None) -> float:
    if p_first is None or truth is None or p_first == 0.5:
        return 0.5
    return float((p_first > 0.5) == (truth > 0.5))


def _share(values: Iterable[float]) -> float:
    """Their mean in percent; NaN of none."""
    known = [float(v) for v in values]
    return round(100 * float(np.mean(known)), 2) if known else float("nan")
