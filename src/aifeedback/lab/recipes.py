"""How each model of the lab is trained: sizes, seeds, phases. ``build`` runs them; the card of a model repeats its own.

What made the difference, in this order: embeddings that start loud (``training.start_weights``), fragments before whole
posts, values weighted but not the words around them, drills of what 'the same' means, and letting the learning rate
fall at the end of every phase.
"""

from __future__ import annotations

from typing import Literal

from aifeedback.config import Config
from aifeedback.lab.training import Phase, Shape


class Recipe(Config):
    about: str
    family: str
    """Judges of one family do not count as independent of each other."""
    shape: Shape
    seed: int
    start: str | None = None
    """The model whose weights it continues from; none: random ones."""
    phases: tuple[Phase, ...]
    exam: Literal["policy", "judge", "pair-judge", "talk-policy", "talk-judge"]
    world: Literal["posts", "pairs", "talk"] = "posts"
    """The task that it is for."""
    context: int = 512
    """Longest text that it can read, in tokens."""


XS = Shape(width=64, layers=3, heads=2, inner=176)
S = Shape(width=96, layers=3, heads=3, inner=256)
S_OTHER = Shape(width=80, layers=3, heads=2, inner=240)
M = Shape(width=144, layers=4, heads=4, inner=384)

COPYING = (
    Phase(
        name="look up", mixture={"extraction": 0.9, "copy": 0.1}, steps=250, row_tokens=64, sentences=2,
        distraction=0.9, decay=0.2,
    ),
    Phase(
        name="fragments", mixture={"extraction": 0.6, "copy": 0.4}, steps=200, row_tokens=128, sentences=4,
        distraction=0.9, decay=0.2,
    ),
    Phase(name="posts", mixture={"extraction": 0.3, "copy": 0.7}, steps=500, distraction=0.7),
)  # fmt: skip
"""A post's facts by name, and faithful summaries."""


def checking(steps: int) -> tuple[Phase, ...]:
    """Checks in writing, in about ``steps`` steps; the verdict without a check comes last and stays a guess."""
    return (
        Phase(
            name="same or not", mixture={"drill": 0.5, "extraction": 0.5}, steps=round(0.125 * steps), row_tokens=64,
            sentences=2, distraction=0.9, decay=0.4,
        ),
        Phase(
            name="check fragments", mixture={"doubtful": 0.5, "drill": 0.25, "extraction": 0.15, "copy": 0.1},
            steps=round(0.155 * steps), row_tokens=128, sentences=2, distraction=0.9,
        ),
        Phase(
            name="check long fragments", mixture={"doubtful": 0.6, "drill": 0.2, "copy": 0.2},
            steps=round(0.125 * steps), sentences=4, distraction=0.9, decay=0.2,
        ),
        Phase(
            name="check posts", mixture={"evidence": 0.4, "doubtful": 0.4, "drill": 0.1, "copy": 0.1},
            steps=round(0.42 * steps), distraction=0.7,
        ),
        Phase(
            name="all duties", mixture={"evidence": 0.5, "pair": 0.3, "rating": 0.1, "copy": 0.1},
            steps=round(0.175 * steps), matrix_lr=0.01, other_lr=4e-3, decay=0.9,
        ),
    )  # fmt: skip


def comparing(steps: int) -> tuple[Phase, ...]:
    """``checking``'s first phases, then both summaries of a pair in writing, after preambles and solved examples."""
    same, fragments, long_fragments, _, _ = checking(steps)
    return (
        same,
        fragments,
        long_fragments,
        Phase(
            name="check pairs", mixture={"evidence": 0.2, "doubtful": 0.2, "drill": 0.1, "copy": 0.1, "checked pair": 0.4},
            steps=round(0.35 * steps), distraction=0.7,
        ),
        Phase(
            name="prompts", mixture={"checked pair": 0.45, "pair": 0.35, "evidence": 0.15, "copy": 0.05}, shots=2,
            row_tokens=1024, steps=round(0.25 * steps), matrix_lr=0.01, other_lr=4e-3, decay=0.9,
        ),
    )  # fmt: skip


TALK_BASE = (
    Phase(name="details", mixture={"facts": 0.8, "reply": 0.2}, steps=300, row_tokens=64, decay=0.2),
    Phase(name="answers", mixture={"facts": 0.3, "reply": 0.7}, steps=500, row_tokens=128),
)
"""A request's details and whether it would hurt anyone; answers of every manner."""

TALK_JUDGE = (
    Phase(
        name="findings", mixture={"think": 0.6, "pair": 0.1, "facts": 0.05, "type": 0.1, "harm": 0.1, "critique": 0.05},
        steps=600, decay=0.2,
    ),
    Phase(
        name="principles",
        mixture={"think": 0.3, "pair": 0.2, "critique": 0.2, "revise": 0.23, "type": 0.035, "harm": 0.035},
        steps=1200,
    ),
)  # fmt: skip
"""What there is to say of an answer; then verdicts under principles, critiques and revisions."""


RECIPES: dict[str, Recipe] = {
    "base": Recipe(
        about="Summarises faithfully. Base of the policy and of reward models.",
        family="lab-a", shape=S, seed=0, phases=COPYING, exam="policy",
    ),
    "judge": Recipe(
        about="Default judge: checks every fact in writing, then rates; also gives direct verdicts.",
        family="lab-a", shape=S, seed=0, phases=checking(3200), exam="judge",
    ),
    "judge-b": Recipe(
        about="A second judge of other size, weights and training order, for independent evaluation.",
        family="lab-b", shape=S_OTHER, seed=1, phases=checking(2800), exam="judge",
    ),
    "judge-xs": Recipe(
        about="The judge's recipe at half its size.",
        family="lab-a", shape=XS, seed=0, phases=checking(3200), exam="judge",
    ),
    "judge-m": Recipe(
        about="The judge's recipe at three times its size.",
        family="lab-a", shape=M, seed=0, phases=checking(3200), exam="judge",
    ),
    "pairs-l": Recipe(
        about="Judges pairs after a preamble and solved examples, at once or after a check of both. The largest of three.",
        family="lab-pairs", shape=M, seed=0, phases=comparing(3200), exam="pair-judge", world="pairs", context=1024,
    ),
    "pairs-s": Recipe(
        about="The judge of pairs at the policy's size.",
        family="lab-pairs", shape=S, seed=0, phases=comparing(3200), exam="pair-judge", world="pairs", context=1024,
    ),
    "pairs-xs": Recipe(
        about="The judge of pairs at half the policy's size, trained a quarter as long.",
        family="lab-pairs", shape=XS, seed=0, phases=comparing(800), exam="pair-judge", world="pairs", context=1024,
    ),
    "talk-base": Recipe(
        about="Answers requests in every manner, helpful and harmful. Base of the dialogue policy and reward models.",
        family="lab-talk", shape=S, seed=0, phases=TALK_BASE, exam="talk-policy", world="talk",
    ),
    "talk-judge": Recipe(
        about="Judges, criticises and revises answers under principles in the lab's short wording.",
        family="lab-talk", shape=S, seed=0, start="talk-base", phases=TALK_JUDGE, exam="talk-judge", world="talk",
    ),
}  # fmt: skip
