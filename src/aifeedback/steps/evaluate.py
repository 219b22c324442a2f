"""``evaluate``: what a labelled file shows about its judge, and what people say of the same pairs."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from aifeedback.annotation.items import items_of_comparisons
from aifeedback.annotation.labeler import PeopleLabeler
from aifeedback.config import Cli
from aifeedback.data import LabelledRow, load_judged
from aifeedback.errors import FileError
from aifeedback.metrics.length import LengthForm
from aifeedback.refs import JudgeRef, Ref
from aifeedback.steps import by_people
from aifeedback.steps.by_people import ByPeople
from aifeedback.steps.slicing import Tags
from aifeedback.steps.step import Context, Figures, Measured, Rows, Step
from aifeedback.steps.verdict import Verdict, on_agreement, on_unknown, with_interval
from aifeedback.types import Problem


class EvaluateFigures(Figures):
    rows: int
    unknown: int
    """Rows without a known verdict of a model."""
    identical: int = 0
    """Rows with two identical responses: ties."""
    empty: int = 0
    """Rows with an empty response."""
    win_rate_of_first: Measured | None = None
    """By the model; None where the file has no model's verdicts."""
    length_controlled: Measured | None = None
    alignment: Measured | None = None
    """Agreement with human labels."""
    kappa: Measured | None = None
    calibration_error: Measured | None = None
    brier: Measured | None = None
    people: ByPeople | None = None
    """Win rates by people, and those that they would give of all rows."""
    file: Rows | None = None
    """Rows of the data file."""

    def verdict(self) -> Verdict:
        if self.win_rate_of_first is None:
            return self._by_people()
        agreement = on_agreement(self.alignment)
        if agreement is not None and agreement.level == "bad":
            return agreement
        if verdict := on_unknown(self.unknown, self.rows, "labels", None):
            return verdict
        if agreement is None:
            meaning = "The file has no human labels: agreement with human labels is unknown."
            return Verdict(
                "watch", meaning, "Have some of the pairs rated: aifeedback rate FILE -o ratings --rater NAME"
            )
        return agreement

    def _by_people(self) -> Verdict:
        rates = [
            f"{name.replace('_vs_', ' against ')}: {with_interval(match.win_rate)}"
            for name, match in (self.people.matches if self.people else {}).items()
            if match.win_rate.value is not None
        ]
        meaning = f"Win rate by people. {'; '.join(rates)}." if rates else "People decided none of the pairs."
        return Verdict("ok" if rates else "watch", meaning)


class Evaluate(Step):
    """Measure a labelled file: agreement with human labels, calibration, win rates by the judge and by people."""

    kind: ClassVar[str] = "evaluate"
    Figures = EvaluateFigures
    data: Annotated[Ref, Cli(metavar="FILE")]
    """A labelled file, or any file with verdicts."""
    people: Annotated[JudgeRef | None, Cli(metavar="DIR")] = None
    """Ratings of some of the pairs (the -o folder of `rate`); they replace human labels of the file."""
    by: Annotated[Tags, Cli(is_repeated=True, metavar="tag:NAME")] = Field(default_factory=list)
    """Also give win rates by people by this tag of the prompts, such as tag:language. Repeat for several."""
    reference: str = ""
    """Source that the others are compared with."""
    length_control: LengthForm = "ratio"
    """How length is controlled for (docs/metrics.md); ratio is the published form."""

    @field_validator("people")
    @classmethod
    def _is_people(cls, name: JudgeRef | None) -> JudgeRef | None:
        return None if not name else JudgeRef(name if name.startswith("people:") else f"people:{name}")

    def run(self, context: Context) -> EvaluateFigures:
        from aifeedback.metrics.labels import labelled

        read = load_judged(self.data, context.seed, or_people=True)
        people = PeopleLabeler.load(self.people.name) if self.people else None
        rows = read.rows if people is None else self._rated(read.rows, people)
        is_judged = any(row.p_first is not None or row.problem is not Problem.MISSING for row in rows)
        figures = labelled(
            [row.p_first for row in rows],
            [row.comparison.first.text for row in rows],
            [row.comparison.second.text for row in rows],
            [row.human_p_first for row in rows],
            prompts=[row.comparison.prompt.id for row in rows],
            length_control=self.length_control,
        ).as_dict()
        if not is_judged:
            figures = {key: figures[key] for key in ("rows", "unknown", "identical", "empty")}
        return EvaluateFigures.model_validate(
            {**figures, "people": self._by_people(rows, people, is_judged), "file": Rows.of(read.report)}
        )

    def _rated(self, rows: list[LabelledRow], people: PeopleLabeler) -> list[LabelledRow]:
        preferences = people.label([row.comparison for row in rows])
        rated = [p.problem is not Problem.MISSING and bool(p.judgements) for p in preferences]
        if not any(rated):
            raise FileError(
                f"holds no rating of the {len(rows):,} pairs",
                file=people.name.removeprefix("people:"),
                fix="rate this file, or a draw of it",
            )
        return [row.model_copy(update={"human_p_first": p.p_first}) for row, p in zip(rows, preferences, strict=True)]

    def _by_people(self, rows: list[LabelledRow], people: PeopleLabeler | None, is_judged: bool) -> ByPeople | None:
        """Per two sources; None where nothing was rated."""
        if all(row.human_p_first is None for row in rows):
            return None
        weights = by_people.weights_in(self.people.name) if self.people else by_people.weights_of(rows)
        columns: dict[str, list[tuple[LabelledRow, bool]]] = defaultdict(list)
        for row in rows:
            one, other = row.comparison.first.source, row.comparison.second.source
            is_turned = one == self.reference or (other != self.reference and one > other)
            names = (other, one) if is_turned else (one, other)
            columns["first_vs_second" if one == other else "_vs_".join(names)].append((row, is_turned))
        matches, slices = {}, []
        for name, own in sorted(columns.items()):
            pairs = [row.comparison.swapped() if is_turned else row.comparison for row, is_turned in own]
            human = [_turned(row.human_p_first, is_turned) for row, is_turned in own]
            judge = [_turned(row.p_first, is_turned) for row, is_turned in own] if is_judged else None
            matches[name] = by_people.match_by_people(
                pairs, human, judge, weights=weights, length_control=self.length_control
            )
            slices += by_people.slices_by_people(name, self.by, pairs, human, judge, weights=weights)
        items = items_of_comparisons([row.comparison for row in rows])
        return ByPeople.model_validate(
            {
                "source": str(self.people) if self.people else "human_p_first",
                "judge": next((row.judge for row in rows if row.p_first is not None), "") if is_judged else "",
                **({} if people is None else by_people.among_raters(people, items)),
                "matches": matches,
                "slices": slices,
            }
        )


def _turned(p_first: float | None, is_turned: bool) -> float | None:
    return p_first if p_first is None or not is_turned else 1.0 - p_first
