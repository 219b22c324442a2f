"""Reward model: a scalar head at the last token, trained on soft labels.

Lee et al. 2023 (arXiv 2309.00267): −p·log σ(Δ) − (1−p)·log σ(−Δ), Δ = r(x, y₁) − r(x, y₂). Human labels are p ∈ {0, 1}.
What is read is the finished conversation in the tokenizer's chat template, at its last token; without a template, the
prompt's text, the response and EOS. The folder is a standard sequence classifier with one output. Where we differ: the
optional offset that centres rewards is kept in the folder's config (``reward_offset``), since the classifier head has
no bias; plain transformers ignores it, ``RewardModel`` subtracts it. Differences of rewards are the same either way.

**Ensembles** of reward models that differ by seed show how far one model's certainty is its own error.

Coste et al. 2023 (arXiv 2310.02743): optimising against the mean, or the mean minus the spread, of an ensemble delays
over-optimisation. Members differ in their new head and in data order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aifeedback.errors import TrainingError
from aifeedback.inference.encoding import Encoding
from aifeedback.inference.passes import context_window
from aifeedback.training import compute, folders
from aifeedback.training.examples import Pair, PairIds, encode_pairs, split_by_tokens
from aifeedback.training.loop import Loss, Session, Title, TrainResult, lowest_loss
from aifeedback.training.losses import centring_loss, soft_preference_loss
from aifeedback.training.objective import (
    Micro,
    RowObjective,
    encoded,
    planned_steps,
    row_order,
    share_of,
    stop_rule,
)
from aifeedback.training.settings import RewardModelConfig
from aifeedback.types import Comparison, Completion, Preference, Problem, Progress, Prompt, PromptLike, silent


class Accuracy(NamedTuple):
    """Share of held-out pairs whose preferred completion scores higher, with a 95 % Wilson interval."""

    value: float
    low: float
    high: float
    n: int
    """Pairs with a preference (p_first other than one half)."""
    equal_scores: int
    """Pairs that the model could not distinguish; they count as wrong."""


class RewardObjective(RowObjective):
    """Soft-label cross-entropy on score differences, with the lead and the centring that the settings ask for."""

    def __init__(self, model: Any, rows: Sequence[PairIds], *, config: RewardModelConfig, **rest: Any) -> None:
        super().__init__(model, rows, **rest)
        self.lead, self.centre_weight = config.margin, config.centre_weight

    def forward(self, micro: Micro) -> Loss:
        rows: list[PairIds] = micro.rows
        score_B = score_ids(
            self.model, [[*r.prompt, *r.first] for r in rows] + [[*r.prompt, *r.second] for r in rows], grad=True
        )
        first_B, second_B = score_B.chunk(2)
        margin_B = first_B - second_B
        p_B = torch.tensor([r.p_first for r in rows], device=margin_B.device, dtype=margin_B.dtype)
        weight_B = torch.tensor([r.weight for r in rows], device=margin_B.device, dtype=margin_B.dtype) * micro.scale
        lead_B = margin_B.new_tensor([self.lead if r.margin is None else r.margin for r in rows])
        loss_B = soft_preference_loss(margin_B, p_B, lead=lead_B)
        if self.centre_weight:
            loss_B = loss_B + self.centre_weight * centring_loss(first_B, second_B)
        agrees_B = torch.sign(margin_B) == torch.sign(p_B - 0.5)
        return Loss(
            (loss_B * weight_B).sum(),
            {
                "accuracy": (agrees_B * weight_B).sum(),
                "margin": (margin_B.abs() * weight_B).sum(),
                "score": ((first_B + second_B) / 2 * weight_B).sum(),
            },
        )


def score_ids(model: Any, sequences: Sequence[Sequence[int]], *, grad: bool) -> Tensor:
    """Score of each whole sequence, read at its last token, fp32. Shape (N,)."""
    hidden_ND = compute.last_hidden(model, sequences, grad=grad)
    with torch.set_grad_enabled(grad):
        return model.score(hidden_ND).squeeze(-1).float()


def fit_reward_model(
    model_dir: str | PathLike[str],
    rows: Sequence[Pair],
    config: RewardModelConfig,
    out: str | PathLike[str],
    *,
    heldout: Sequence[Pair] | None = None,
    progress: Progress = silent,
) -> TrainResult:
    """Fit a reward model on labelled comparisons and write the folder ``out``; run again, it resumes or returns.

    Rows with an unknown label or that are too long are left out and counted. ``heldout`` pairs (human, p ∈ {0, 1}) give
    ``heldout_accuracy`` with ``_low``, ``_high``, ``_n`` among the figures. Raises TrainingError, ModelError,
    and RecipeError for ``patience`` without anything to measure on.
    """
    session = Session("reward", base=model_dir, out=out, config=config, rows=rows, heldout=heldout or ())
    if (done := session.finished()) is not None:
        return done
    stop = stop_rule(config, heldout)
    tokenizer = folders.load_tokenizer(model_dir)
    kept, held, skipped = encoded(encode_pairs, tokenizer, rows, heldout, config, model_dir, whole=True)
    model = folders.load_scorer(model_dir, seed=config.seed, dtype=session.dtype)
    folders.set_pad_token(tokenizer, model)
    objective = RewardObjective(
        session.adapt(model),
        kept,
        config=config,
        order=row_order(kept, config, prompts=[row.comparison.prompt for row in rows]),
        forward_tokens=config.forward_tokens,
        share=share_of(session.accelerator),
    )

    def evaluate(_: int) -> dict[str, float]:
        return heldout_figures(model, held, forward_tokens=config.forward_tokens)

    outcome = session.run(
        objective,
        steps=planned_steps(len(kept), config),
        progress=progress,
        evaluate=evaluate if held else None,
        stop=stop,
        best=lowest_loss if stop else None,
    )
    title = Title(
        "Reward model",
        "Scalar reward at the last token of the conversation: `AutoModelForSequenceClassification`, one output.",
    )
    return session.conclude(model, tokenizer, outcome, title, rows=len(kept), skipped=skipped)


def heldout_figures(model: Any, held: Sequence[PairIds], *, forward_tokens: int = 16_384) -> dict[str, float]:
    """Accuracy with interval, and soft-label loss, on encoded held-out pairs."""
    margin = pair_margins(model, held, forward_tokens=forward_tokens)
    p = torch.tensor([row.p_first for row in held], dtype=torch.float64)
    share = accuracy(margin.tolist(), p.tolist())
    return {
        "heldout_loss": float(soft_preference_loss(margin, p).mean()),
        "heldout_accuracy": share.value,
        "heldout_accuracy_low": share.low,
        "heldout_accuracy_high": share.high,
        "heldout_n": share.n,
    }


def pair_margins(model: Any, rows: Sequence[PairIds], *, forward_tokens: int = 16_384) -> Tensor:
    """r(first) − r(second) of each row, float64."""
    margins = []
    for group in split_by_tokens(range(len(rows)), [r.tokens for r in rows], limit=forward_tokens):
        part = [rows[i] for i in group]
        sequences = [[*r.prompt, *r.first] for r in part] + [[*r.prompt, *r.second] for r in part]
        first_B, second_B = score_ids(model, sequences, grad=False).double().cpu().chunk(2)
        margins.append(first_B - second_B)
    return torch.cat(margins) if margins else torch.zeros(0, dtype=torch.float64)


def accuracy(margins: Sequence[float], p_first: Sequence[float]) -> Accuracy:
    """Accuracy of score differences against labels; pairs at p_first = ½ have no preference and do not count."""
    decided = [(m, p) for m, p in zip(margins, p_first, strict=True) if p != 0.5]
    right = sum(m > 0 if p > 0.5 else m < 0 for m, p in decided)
    return Accuracy(*wilson(right, len(decided)), len(decided), sum(m == 0 for m, _ in decided))


def wilson(right: int, n: int, *, z: float = 1.959964) -> tuple[float, float, float]:
    """Share and its Wilson score interval (Wilson 1927); NaN three times for n = 0."""
    if n == 0:
        return math.nan, math.nan, math.nan
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return share, max(0.0, middle - half), min(1.0, middle + half)


class RewardModel:
    """A reward model folder in use: scores, labels comparisons, serves as a reward function."""

    def __init__(self, folder: str | PathLike[str], *, name: str | None = None, forward_tokens: int = 16_384) -> None:
        self.folder, self.forward_tokens = str(folder), forward_tokens
        self.name = name or f"reward:{folder}"
        self.tokenizer = folders.load_tokenizer(folder)
        self.model = folders.load_scorer(folder, seed=None).eval()
        self.offset = float(getattr(self.model.config, "reward_offset", 0.0))
        self.encoding = Encoding.of(self.tokenizer, self.model)
        self.longest = context_window(self.model.config)

    def scores(
        self, prompts: Sequence[Prompt | PromptLike], completions: Sequence[Completion | str]
    ) -> list[float | None]:
        """One reward per (prompt, completion); None where the two together exceed the model's context window."""
        sequences = [self._ids(p, c) for p, c in zip(prompts, completions, strict=True)]
        usable = [i for i, ids in enumerate(sequences) if self.longest is None or len(ids) <= self.longest]
        rewards: list[float | None] = [None] * len(sequences)
        lengths = [len(ids) for ids in sequences]
        for group in split_by_tokens(usable, lengths, limit=self.forward_tokens):
            values = score_ids(self.model, [sequences[i] for i in group], grad=False).double() - self.offset
            for i, value in zip(group, values.tolist(), strict=True):
                rewards[i] = value
        return rewards

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        """p_first = σ(r(first) − r(second)), the model's own probability."""
        values = self.scores(
            [c.prompt for c in comparisons for _ in range(2)], [s for c in comparisons for s in (c.first, c.second)]
        )
        return [
            self._preference(c, first, second)
            for c, first, second in zip(comparisons, values[::2], values[1::2], strict=True)
        ]

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float | None]:
        """TRL's signature; further columns are not used."""
        return self.scores(prompts, completions)

    def _preference(self, comparison: Comparison, first: float | None, second: float | None) -> Preference:
        if first is None or second is None:
            return Preference(comparison_id=comparison.id, source=self.name, p_first=None, problem=Problem.TOO_LONG)
        p_first = float(torch.sigmoid(torch.tensor(first - second, dtype=torch.float64)))
        return Preference(comparison_id=comparison.id, source=self.name, p_first=p_first)

    def _ids(self, prompt: Prompt | PromptLike, completion: Completion | str) -> list[int]:
        text = completion.text if isinstance(completion, Completion) else completion
        return self.encoding.conversation(as_prompt(prompt).messages, text)


def as_prompt(prompt: Any) -> Prompt:
    """A Prompt, or one made of a text (one user message), message records or plain message dictionaries."""
    return prompt if isinstance(prompt, Prompt) else Prompt.of(prompt)


def centre(folder: str | PathLike[str], prompts: Sequence[Prompt], completions: Sequence[Completion]) -> float:
    """Stores the mean reward of these completions (the SFT policy's samples) as the folder's offset; returns it.

    Raises TrainingError where none could be scored.
    """
    model = RewardModel(folder)
    known = [s for s in model.scores(prompts, completions) if s is not None]
    if not known:
        raise TrainingError(f"{folder}: no completion could be scored, so there is no mean to centre on")
    offset = model.offset + math.fsum(known) / len(known)
    file = Path(folder) / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "reward_offset": offset}, indent=2) + "\n", encoding="utf-8")
    return offset


def fit_ensemble(
    model_dir: str | PathLike[str],
    rows: Sequence[Pair],
    config: RewardModelConfig,
    out: str | PathLike[str],
    *,
    members: int,
    heldout: Sequence[Pair] | None = None,
    progress: Progress = silent,
) -> list[TrainResult]:
    """Fits ``members`` reward models with seeds from ``config.seed`` on, in the folders ``out/member-0`` …"""
    return [
        fit_reward_model(
            model_dir,
            rows,
            config.model_copy(update={"seed": config.seed + i}),
            Path(out) / f"member-{i}",
            heldout=heldout,
            progress=progress,
        )
        for i in range(members)
    ]


class Judged(NamedTuple):
    """What an ensemble says of one completion."""

    mean: float
    spread: float
    """Standard deviation over members (n − 1), after each member's own offset; 0 for a single member."""


class RewardEnsemble:
    """Reward models asked together. As a reward function it gives mean − ``caution``·spread."""

    def __init__(self, folders: Sequence[str | PathLike[str]], *, caution: float = 0.0) -> None:
        self.members = [RewardModel(folder) for folder in folders]
        self.caution = caution
        self.encoding = self.members[0].encoding
        self.name = f"ensemble of {len(self.members)}: {self.members[0].name}"

    def judge(
        self, prompts: Sequence[Prompt | PromptLike], completions: Sequence[Completion | str]
    ) -> list[Judged | None]:
        """Mean and spread of each; None where any member could not score it."""
        return [_judged(values) for values in self._values(prompts, completions)]

    def scores(
        self, prompts: Sequence[Prompt | PromptLike], completions: Sequence[Completion | str]
    ) -> list[float | None]:
        """mean − caution·spread; None where any member could not score it."""
        return [None if j is None else j.mean - self.caution * j.spread for j in self.judge(prompts, completions)]

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        """p_first is the mean of the members' own probabilities; unknown where one of them is unknown."""
        votes = [member.label(comparisons) for member in self.members]
        return [self._preference([vote[i] for vote in votes], c) for i, c in enumerate(comparisons)]

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float | None]:
        """TRL's signature; further columns are not used."""
        return self.scores(prompts, completions)

    def _values(self, prompts: Sequence[Any], completions: Sequence[Any]) -> list[tuple[float | None, ...]]:
        return list(zip(*(m.scores(prompts, completions) for m in self.members), strict=True))

    def _preference(self, votes: Sequence[Preference], comparison: Comparison) -> Preference:
        known = [vote.p_first for vote in votes if vote.p_first is not None]
        if len(known) < len(votes):
            problems = {vote.problem for vote in votes}
            problem = problems.pop() if len(problems) == 1 else Problem.MISSING  # all failed alike, or some did
            return Preference(comparison_id=comparison.id, source=self.name, p_first=None, problem=problem)
        return Preference(comparison_id=comparison.id, source=self.name, p_first=math.fsum(known) / len(known))


def _judged(values: Sequence[float | None]) -> Judged | None:
    known = [v for v in values if v is not None]
    if len(known) < len(values):
        return None
    mean = math.fsum(known) / len(known)
    square = math.fsum((v - mean) ** 2 for v in known)
    return Judged(mean, math.sqrt(square / (len(known) - 1)) if len(known) > 1 else 0.0)
