"""A match: two policies' responses to the same prompts, and one judge's preferences."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from aifeedback import data
from aifeedback.annotation.labeler import PeopleLabeler, pair_rates
from aifeedback.judging.spec import Judging
from aifeedback.metrics.length import LengthForm
from aifeedback.refs import file_part
from aifeedback.steps import connect
from aifeedback.steps.label import label_all
from aifeedback.steps.step import Context, Figures, Measured
from aifeedback.types import Comparison, Completion, Preference, Prompt


class ByJudge(Figures):
    """One policy against the reference, by one judge."""

    win_rate: Measured
    length_controlled: Measured
    unknown: dict[str, int]


@dataclass(frozen=True)
class Match:
    """Two policies' responses to the same prompts, and one judge's preferences."""

    pairs: list[Comparison]
    preferences: list[Preference]
    length_control: LengthForm = "ratio"

    @classmethod
    def judged(
        cls,
        judge: Judging | PeopleLabeler,
        judge_name: str,
        name: str,
        prompts: Sequence[Prompt],
        ours: Sequence[Completion | None],
        theirs: Sequence[Completion | None],
        context: Context,
        length_control: LengthForm = "ratio",
    ) -> Match:
        """Judge every prompt that both answered; pairs and preferences are left in the folder."""
        pairs = pairs_of(prompts, ours, theirs)
        is_people = isinstance(judge, PeopleLabeler)
        labeler = judge if is_people else connect.labeler(judge, context)
        preferences = label_all(labeler, pairs, context, 256 if is_people else connect.batch_for(judge, context, 256))
        data.write_records(context.folder / f"comparisons-{file_part(name)}.jsonl", pairs)
        data.write_records(context.folder / f"preferences-{file_part(judge_name)}-{file_part(name)}.jsonl", preferences)
        return (MatchByPeople if is_people else cls)(pairs, preferences, length_control)

    @cached_property
    def _preferred(self) -> Any:
        from aifeedback.metrics.length import ExtrapolationWarning, preferred

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExtrapolationWarning)  # the note stays in the figures
            return preferred(
                [p.p_first for p in self.preferences],
                [len(c.first.text) for c in self.pairs],
                [len(c.second.text) for c in self.pairs],
                method=self.length_control,
            )

    @cached_property
    def win_rate(self) -> Measured:
        """Of the first: a share in [0, 1] of the pairs with a verdict, with its interval; a tie is half a win."""
        return Measured.of(self._preferred.win_rate)

    @cached_property
    def length_controlled(self) -> Measured:
        """The same at equal length (characters)."""
        return Measured.of(self._preferred.length_controlled)

    def mirrored(self) -> dict[str, Any]:
        """The win rate of the second."""
        from aifeedback.metrics import win_rate

        return win_rate([None if p.p_first is None else 1 - p.p_first for p in self.preferences], hard=True).as_dict()

    def figures(self) -> ByJudge:
        return ByJudge(
            win_rate=self.win_rate, length_controlled=self.length_controlled, unknown=_unknown(self.preferences)
        )


class MatchByPeople(Match):
    """Of a pair with several raters the share of their verdicts counts, not the majority's."""

    @cached_property
    def _rates(self) -> dict[str, Any]:
        known = [p.p_first for p in self.preferences]
        return pair_rates(self.pairs, known, length_control=self.length_control)

    @cached_property
    def win_rate(self) -> Measured:
        return Measured.model_validate(self._rates["win_rate"])

    @cached_property
    def length_controlled(self) -> Measured:
        return Measured.model_validate(self._rates["length_controlled"])

    def mirrored(self) -> dict[str, Any]:
        rate = self.win_rate.model_dump()
        value, low, high = (None if rate[key] is None else 1 - rate[key] for key in ("value", "high", "low"))
        return {**rate, "value": value, "low": low, "high": high, "wins": rate["losses"], "losses": rate["wins"]}


def pairs_of(
    prompts: Sequence[Prompt], ours: Sequence[Completion | None], theirs: Sequence[Completion | None]
) -> list[Comparison]:
    """The prompts that both answered."""
    return [
        Comparison.of(prompt, one, other)
        for prompt, one, other in zip(prompts, ours, theirs, strict=True)
        if one is not None and other is not None
    ]


def _unknown(preferences: Sequence[Preference]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for preference in preferences:
        if preference.problem is not None:
            counted[str(preference.problem)] = counted.get(str(preference.problem), 0) + 1
    return counted
