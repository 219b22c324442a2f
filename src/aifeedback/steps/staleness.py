"""``staleness``: how far a policy has moved from the one whose samples were labelled, and what a reward fitted on those
labels is worth on its own samples.

The distance is KL(policy ‖ drawn_from), the mean over fresh samples at temperature 1 of Σ log π − log π₀ (``training/kl``).
Labels of earlier samples say less the larger it is: Lee et al. 2023 (arXiv 2309.00267, section 2.4) name this staleness of
the reward model, which a live judge does not have. The recipe ``refresh`` relabels fresh samples and goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from aifeedback import data
from aifeedback.config import Cli
from aifeedback.judging.sampling import sample_completions
from aifeedback.refs import ModelRef, Ref, RewardRef
from aifeedback.steps.step import Context, Figures, Forecast, Measured, Rows, Step, at_most
from aifeedback.steps.verdict import Verdict, with_interval
from aifeedback.types import Sampling


class StalenessFigures(Figures):
    kl: Measured
    """KL(policy ‖ drawn_from), nats per response."""
    accuracy: Measured | None = None
    """Share of the earlier labelled pairs that the reward orders like their label."""
    accuracy_fresh: Measured | None = None
    """The same on pairs of the policy's own samples."""
    unanswered: int = 0
    """Prompts without a sample."""
    rows: Rows

    @property
    def is_stale(self) -> bool:
        """Whether the reward is right less often on fresh samples, the intervals apart."""
        before, fresh = self.accuracy, self.accuracy_fresh
        if before is None or fresh is None or before.low is None or fresh.high is None:
            return False
        return fresh.high < before.low

    def verdict(self) -> Verdict:
        if self.kl.value is None:
            return Verdict("bad", "No sample of the policy could be compared.")
        ends = "" if self.kl.low is None else f" (95 % CI {self.kl.low:.2g}–{self.kl.high:.2g}, n = {self.kl.n:,})"
        moved = f"{self.kl.value:.2g} nats per response from the policy whose samples were labelled{ends}"
        if self.accuracy_fresh is None:
            return Verdict("ok", f"{moved}.")
        fresh = f"{moved}; the reward is right on {with_interval(self.accuracy_fresh)} of fresh pairs"
        if self.accuracy is not None:
            fresh += f", before on {with_interval(self.accuracy)}"
        if self.is_stale:
            return Verdict(
                "watch", f"{fresh}.", "Relabel fresh samples and fit the reward model again (recipe refresh)."
            )
        return Verdict("ok", f"{fresh}.")


class Staleness(Step):
    """Measure how far a policy has moved from the one whose samples were labelled; writes completions.jsonl."""

    kind: ClassVar[str] = "staleness"
    Figures = StalenessFigures
    policy: Annotated[ModelRef, Cli(metavar="MODEL")]
    """The policy as it is now: hf:DIR or lab:NAME."""
    drawn_from: Annotated[ModelRef, Cli(metavar="MODEL")]
    """The policy that the labelled responses were sampled from."""
    prompts: Annotated[Ref, Cli(("--prompts", "--data"), metavar="FILE")]
    """Prompts to sample on."""
    limit: int | None = Field(default=200, ge=1)
    """Use at most this many prompts."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Samples are cut after this many tokens."""
    reward: Annotated[RewardRef | None, Cli(metavar="rm:DIR")] = None
    """Reward model that was fitted on the labels."""
    labels: Annotated[Ref | None, Cli(metavar="FILE")] = None
    """Labelled pairs of earlier samples that the reward model was not trained on."""
    fresh: Annotated[Ref | None, Cli(metavar="FILE")] = None
    """Labelled pairs of the policy's own samples."""

    def requires(self) -> Iterator[str]:
        yield from ("torch", "transformers")

    def problems(self) -> Iterator[str]:
        if not (self.policy.is_local and self.drawn_from.is_local):
            yield "policy and drawn_from: log-probabilities of whole responses need models on this machine"
        if self.reward is not None and self.reward.scheme != "rm":
            yield f"reward: only a reward model (rm:DIR) goes stale, not {self.reward}"
        if (self.labels or self.fresh) and self.reward is None:
            yield "labels and fresh say where a reward is right: give reward too"

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        return Forecast(at_most(rows.get(self.prompts), self.limit))

    def run(self, context: Context) -> StalenessFigures:
        from aifeedback.training.kl import sequence_kl

        read = data.load_prompts(self.prompts, limit=self.limit)
        drawn = sample_completions(
            context.connect(self.policy),
            read.rows,
            sampling=Sampling(temperature=1.0, max_new_tokens=self.max_new_tokens, seed=context.seed),
            source=context.named(self.policy),
            progress=context.progress,
        )
        by_id = {prompt.id: prompt for prompt in read.rows}
        prompts = [by_id[completion.prompt_id] for completion in drawn.completions]
        data.write_completions(context.folder / "completions.jsonl", prompts, drawn.completions)
        moved = sequence_kl(self.policy.folder(), self.drawn_from.folder(), prompts, drawn.completions)
        return StalenessFigures(
            kl=_measured(moved.value, moved.standard_error, moved.n),
            accuracy=self._accuracy(self.labels, context),
            accuracy_fresh=self._accuracy(self.fresh, context),
            unanswered=len(drawn.unanswered),
            rows=Rows.of(read.report),
        )

    def _accuracy(self, labels: Ref | None, context: Context) -> Measured | None:
        if labels is None or self.reward is None:
            return None
        from aifeedback.metrics import reward_accuracy
        from aifeedback.training.reward_model import RewardModel

        rows = [row for row in data.read_labelled(labels, context.seed) if row.p_first is not None]
        p_first = [one.p_first for one in RewardModel(self.reward.name).label([row.comparison for row in rows])]
        others = [None if p is None else 1.0 - p for p in p_first]
        return Measured.of(reward_accuracy(p_first, others, [row.p_first for row in rows]))


def _measured(value: float, error: float, n: int) -> Measured:
    from aifeedback.metrics.intervals import plain, t_of

    reach = t_of(0.95, n - 1) * error if n > 1 else float("nan")
    ends = {"value": plain(value), "low": plain(value - reach), "high": plain(value + reach)}
    return Measured(**ends, n=n, method="mean log-ratio of samples, Student's t interval")
