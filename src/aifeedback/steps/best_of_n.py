"""``best_of_n``: of several samples per prompt keep the one with the highest reward, ready to be imitated.

Best-of-n, and with SFT on what is kept and several rounds RAFT (Dong et al. 2023, arXiv 2304.06767). The curve is the
expected reward of best-of-n against n, from the N samples at hand by the unbiased estimator of Nakano et al. 2021 (arXiv
2112.09332, appendix I), beside the KL from the sampling policy, at most ln n − (n − 1)/n (Stiennon et al. 2020, appendix
G.3; a bound by Beirami et al. 2024, arXiv 2401.01879). Where we differ: all points of a curve are over the same prompts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from aifeedback import data
from aifeedback.config import Cli
from aifeedback.data.tables import is_missing
from aifeedback.errors import FileError, RecipeError
from aifeedback.models import lineage
from aifeedback.models.lineage import Origin, Trainer
from aifeedback.refs import Ref
from aifeedback.steps.rewards import (
    JudgeRewardOptions,
    RewardSpec,
    reward_cards,
    reward_from_options,
    reward_function,
    reward_origin,
)
from aifeedback.steps.score import whole_prompts
from aifeedback.steps.step import Context, Figures, Forecast, Measured, Rows, Step, at_most
from aifeedback.steps.verdict import Verdict, count, on_unknown
from aifeedback.types import Record

SCORE = "value"


class Kept(Record):
    """Columns beside a kept completion."""

    reward: float
    samples: int
    """Samples of the prompt with a known reward, from which it was selected."""


class Point(Figures):
    """Best of n samples per prompt."""

    n: int
    reward: Measured
    """Expected reward, mean over prompts."""
    gain: Measured
    """The same less the expected reward of one sample, on the same prompts."""
    kl: float
    """Upper bound on the KL from the sampling policy, nats per response: ln n − (n − 1)/n."""


class BestOfNFigures(Figures):
    prompts: int
    samples: int
    kept: int
    dropped: int
    """Prompts of which no sample has a known reward."""
    unknown: int
    """Samples without a known reward; never chosen."""
    reward: str
    curve: list[Point]
    """n = 1, 2, 4 … up to the largest n for which at least half of the prompts with a known reward have n of them; every
    point is over the prompts that reach it."""
    rows: Rows
    selected_by: tuple[Trainer, ...] = ()
    """Sources of the feedback behind the reward; a model that is trained on the file records them."""
    unrecorded: tuple[str, ...] = ()
    """Parts of that origin that could not be determined."""

    @property
    def is_unread(self) -> bool:
        return not self.kept and self.unknown > 0

    def verdict(self) -> Verdict:
        if verdict := on_unknown(self.unknown, self.samples, "samples", None):
            return verdict
        if not self.curve or self.curve[-1].n == 1:
            meaning = "Most prompts have a single sample with a known reward: there was nothing to choose from."
            return Verdict("watch", meaning, "Sample more: `aifeedback sample --per-prompt 8`.")
        one, best = self.curve[0], self.curve[-1]
        if best.gain.value == 0:
            return Verdict(
                "bad", "All samples of a prompt have the same reward.", "Use a reward that distinguishes them."
            )
        meaning = f"{count(self.kept, 'completion')} kept; expected reward {one.reward.value:+.3g} with one sample,"
        return Verdict("ok", f"{meaning} {best.reward.value:+.3g} with the best of {best.n}.")


class BestOfN(Step):
    """Keep the completions with the highest rewards of each prompt; writes best.jsonl, which ``train sft`` takes."""

    kind: ClassVar[str] = "best_of_n"
    main: ClassVar[str] = "best.jsonl"
    Figures = BestOfNFigures
    further: ClassVar = (JudgeRewardOptions,)
    completions: Annotated[Ref, Cli(("--data", "--completions"), metavar="FILE")]
    """Completions, several per prompt."""
    reward: Annotated[RewardSpec | None, Cli(is_repeated=True, metavar="REWARD")] = None
    """rm:DIR, python:FILE.py:FUNCTION, or judge:MODEL; repeat to add several. By default the scores in the file, as
    ``score`` writes them."""
    keep: int = Field(default=1, ge=1)
    """Completions to keep of each prompt, the best first."""
    samples: int | None = Field(default=None, ge=1)
    """Use the first N samples of each prompt only."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many completions."""
    batch: Annotated[int, Cli(is_hidden=True)] = Field(default=256, ge=1)
    """Completions that are scored, and journalled, together; responses to one prompt stay together."""

    @classmethod
    def from_options(cls, settings: dict[str, Any], chosen: Collection[str] = ()) -> BestOfN:
        settings = dict(settings)
        judge, served, weights = JudgeRewardOptions.taken_from(settings)
        named = settings.get("reward", [])
        if named:
            settings["reward"] = reward_from_options(named, weights, judge, served)
        elif judge or served or weights:
            option = "reward-weight" if weights else next(iter({**judge, **served})).replace("_", "-")
            raise RecipeError("has no effect without --reward", key=f"--{option}", fix="add --reward judge:MODEL")
        return super().from_options(settings, chosen)

    def requires(self) -> Iterator[str]:
        if self.reward and any(source.scheme == "rm" for source in self.reward.sources()):
            yield from ("torch", "transformers")

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        if self.reward is None or not self.reward.calls(2):
            return Forecast(0)
        total = at_most(rows.get(self.completions), self.limit)
        return Forecast(None if total is None or self.reward.has_rank or self.samples else total * self.reward.calls(1))

    def run(self, context: Context) -> BestOfNFigures:
        from aifeedback.training.examples import best_of_n

        read = data.read_completions(self.completions, limit=self.limit)
        groups = self._groups([prompt.id for prompt in read.prompts])
        used = [at for own in groups for at in own]
        rewards, name = self._rewards(read, used, context)
        prompts = [read.prompts[own[0]] for own in groups]
        values = [[rewards[at] for at in own] for own in groups]
        selection = best_of_n(prompts, [[read.rows[at] for at in own] for own in groups], values, keep=self.keep)
        kept = [_best(own, self.keep) for own in values]
        beside = [
            Kept(reward=value, samples=len(_known(own)))
            for own, best in zip(values, kept, strict=True)
            for value in best
        ]
        data.write_completions(
            context.folder / self.main,
            [row.prompt for row in selection.rows],
            [row.completion for row in selection.rows],
            beside,
        )
        origin = self._origin(read, context, len(selection.rows))
        return BestOfNFigures(
            prompts=len(groups),
            samples=len(used),
            kept=len(selection.rows),
            dropped=selection.dropped,
            unknown=sum(rewards[at] is None for at in used),
            reward=context.named(name),
            curve=curve([_known(own) for own in values]),
            rows=Rows.of(read.report),
            selected_by=tuple(one.model_copy(update={"uri": context.named(one.uri)}) for one in origin.trainers),
            unrecorded=origin.unrecorded,
        )

    def _groups(self, prompt_ids: Sequence[str]) -> list[list[int]]:
        """Positions of the samples of each prompt."""
        positions: dict[str, list[int]] = {}
        for at, prompt_id in enumerate(prompt_ids):
            positions.setdefault(prompt_id, []).append(at)
        return [own[: self.samples] for own in positions.values()]

    def _rewards(
        self, read: data.Completions, used: Sequence[int], context: Context
    ) -> tuple[dict[int, float | None], str]:
        if self.reward is None:
            return {at: self._stored(row, at) for at, row in enumerate(read.inputs)}, f"{SCORE} of {self.completions}"
        from aifeedback.training.rewards import name_of, score

        reward = reward_function(self.reward, context)
        rewards: dict[int, float | None] = {}
        for group in whole_prompts([read.prompts[at].id for at in used], self.batch):
            own = [used[i] for i in group]
            values = score(reward, [read.prompts[at] for at in own], [read.rows[at].text for at in own])
            rewards |= zip(own, values, strict=True)
            context.progress(len(rewards), len(used), {})
        return rewards, name_of(reward)

    def _stored(self, row: Mapping[str, Any], at: int) -> float | None:
        """The score in a row; None where it is empty."""
        if SCORE not in row:
            fix = "give --reward, or score the file first: `aifeedback score`"
            raise FileError("no scores to choose by", file=self.completions, key=SCORE, fix=fix)
        if is_missing(row[SCORE]):
            return None
        try:
            value = float(row[SCORE])
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            what = f"{row[SCORE]!r} is not a score"
            raise FileError(
                what, file=self.completions, key=SCORE, fix=f"correct usable row {at + 1}, or leave it empty"
            )
        return value

    def _origin(self, read: data.Completions, context: Context, rows: int) -> Origin:
        """Whose feedback chose: that behind the reward, or the judges that the file's scores name."""
        if self.reward is not None:
            return reward_origin(self.reward, reward_cards(self.reward, context), role="selection", rows=rows)
        judges = [str(row.get("judge") or "") for row in read.inputs if not is_missing(row.get(SCORE))]
        named = lineage.of_labels(self.completions, [judge for judge in judges if judge])
        own = tuple(one.model_copy(update={"role": "selection"}) for one in named.trainers)
        unknown = (f"{self.completions}: who gave the scores is not recorded",) if not all(judges) else ()
        return Origin(own, (*named.unrecorded, *unknown))


def curve(known: Sequence[Sequence[float]]) -> list[Point]:
    """Expected reward of best-of-n against n; ``known``: the known rewards of each prompt's samples.

    It ends at the largest n for which at least half of the prompts with a known reward have n of them; every point is
    over the prompts that reach it.
    """
    from aifeedback.metrics import best_of_n_kl, expected_best

    sizes = sorted((len(own) for own in known if own), reverse=True)
    if not sizes:
        return []
    most = sizes[(len(sizes) - 1) // 2]
    used = [own for own in known if len(own) >= most]
    single = np.array([expected_best(own, 1) for own in used])
    points = []
    for n in [*(2**power for power in range(most.bit_length()) if 2**power < most), most]:
        best = np.array([expected_best(own, n) for own in used])
        points.append(Point(n=n, reward=_mean(best), gain=_mean(best - single), kl=best_of_n_kl(n)))
    return points


def _mean(values: Any) -> Measured:
    from aifeedback.metrics.intervals import mean_interval, plain

    mean = mean_interval(values, bounds=None)
    ends = {name: plain(getattr(mean, name)) for name in ("value", "low", "high")}
    return Measured(**ends, n=len(values), method="mean over prompts, Student's t interval", notes=mean.notes)


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _best(values: Sequence[float | None], keep: int) -> list[float]:
    return sorted(_known(values), reverse=True)[:keep]
