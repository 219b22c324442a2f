"""``grid``: label the same pairs under every combination of judge, prompt, exemplars and chain of thought.

The tables of Lee et al. 2023 (arXiv 2309.00267, Tables 2 to 5): agreement with people and position bias by prompt,
number of exemplars, rationale and judge. Where we differ: every cell is compared with the first one on the same pairs
(clustered by prompt), and p-values are adjusted by Holm, so that the best of many cells is not taken for a finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationError, model_validator

from aifeedback import data
from aifeedback.config import Cli
from aifeedback.judging.spec import JudgeSpec, Served
from aifeedback.refs import JudgeRef, PromptRef, Ref
from aifeedback.steps import connect
from aifeedback.steps.label import label_all, label_figures
from aifeedback.steps.step import Context, Figures, Forecast, Measured, Rows, Step, at_most
from aifeedback.steps.verdict import Verdict, count, with_interval


class Cell(Figures):
    """One combination, and what it was worth."""

    judge: str
    prompt: str
    shots: int | None = None
    rationales: int = 0
    """Rationales per judgement: 0 is none, 1 greedy, more sampled and averaged (self-consistency)."""
    labels: int
    unknown: int
    alignment: Measured | None = None
    """Agreement with human labels, both orders averaged."""
    alignment_single: Measured | None = None
    """The same with one order alone."""
    position_bias: Measured | None = None
    """How often the same position won in both orders."""
    label_mass: float | None = None
    difference: Measured | None = None
    """Agreement less that of the first cell, on the pairs that both labelled."""
    p_value: float | None = None
    """Of the difference, adjusted by Holm over the cells."""

    @property
    def is_better(self) -> bool:
        """Whether it agrees with people more often than the first cell, at the 5 % level over all cells."""
        gain = self.difference and self.difference.value
        return bool(gain and gain > 0 and self.p_value is not None and self.p_value < 0.05)

    @property
    def name(self) -> str:
        shots = "" if self.shots is None else f", {count(self.shots, 'exemplar')}"
        thought = (
            "" if not self.rationales else ", rationale" if self.rationales == 1 else f", {self.rationales} rationales"
        )
        return f"{self.judge}, {self.prompt}{shots}{thought}"


class GridFigures(Figures):
    cells: list[Cell]
    """In the order of the settings; the first is what the others are compared with."""
    rows: Rows

    @property
    def is_unread(self) -> bool:
        return not any(cell.labels for cell in self.cells) and any(cell.unknown for cell in self.cells)

    def verdict(self) -> Verdict:
        known = [(cell, cell.alignment) for cell in self.cells if cell.alignment and cell.alignment.value is not None]
        if self.is_unread:
            return Verdict("bad", "No cell could be read.", "Run one cell with `aifeedback label` to see why.")
        if not known:
            return Verdict(
                "watch", "The pairs carry no human labels.", "Use pairs with human labels to rank the cells."
            )
        best, agreement = max(known, key=lambda pair: pair[1].value or 0.0)
        meaning = f"Best: {best.name}, agreement {with_interval(agreement)}"
        if others := self.cells[1:]:
            better = sum(cell.is_better for cell in others)
            meaning += f"; better than the first, after Holm: {better} of {count(len(others), 'cell')}"
        meaning += "."
        return Verdict("ok", meaning)


class Grid(Served, Step):
    """Label pairs under every combination of judges, prompts, exemplars and rationales; writes figures.json and labels."""

    kind: ClassVar[str] = "grid"
    Figures = GridFigures
    comparisons: Annotated[Ref, Cli(("--data", "--comparisons"), metavar="FILE")]
    """Pairs with human labels, in any known format."""
    judges: Annotated[tuple[JudgeRef, ...], Cli(("--judge",), is_repeated=True, metavar="MODEL")] = Field(min_length=1)
    """Judge. Repeat for several."""
    prompts: Annotated[tuple[PromptRef, ...], Cli(("--prompt",), is_repeated=True, metavar="NAME")] = Field(
        min_length=1
    )
    """Judge prompt. Repeat for several."""
    shots: Annotated[tuple[int, ...], Cli(is_repeated=True, metavar="N")] = ()
    """Number of exemplars. Repeat for several; as each prompt says by default."""
    rationales: Annotated[tuple[int, ...], Cli(is_repeated=True, metavar="N")] = (0,)
    """Rationales before the verdict: 0 none, 1 greedy, more sampled and averaged. Repeat for several."""
    temperature: float = Field(default=0.7, gt=0.0)
    """Sampling temperature where there are several rationales."""
    how: Annotated[dict[str, Any], Cli(is_hidden=True)] = Field(default_factory=dict)
    """Further settings of every judge, such as by: ratings or debias: logits."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many pairs."""
    columns: Annotated[dict[str, str] | None, Cli(("--column",), metavar="OURS=THEIRS")] = None
    """Column names of an unusual file, ours=theirs. Repeat for several."""
    criterion: str | None = None
    """Which human verdict to use, where a file has several."""

    @model_validator(mode="after")
    def _checked(self) -> Grid:
        if any(shots < 0 for shots in self.shots) or any(samples < 0 for samples in self.rationales):
            raise ValueError("shots and rationales: 0 or more")
        self.require_server(list(self.judges))
        try:
            self.cells()
        except ValidationError as wrong:
            raise ValueError(
                "; ".join(error["msg"].removeprefix("Value error, ") for error in wrong.errors())
            ) from None
        return self

    def cells(self) -> list[JudgeSpec]:
        """The judge of every cell: judges outermost, rationales innermost."""
        served = {name: getattr(self, name) for name in Served.model_fields if name in self.model_fields_set}
        return [
            JudgeSpec.model_validate(
                {
                    **self.how,
                    **(served if judge.is_served else {}),
                    "model": judge,
                    "prompt": prompt,
                    "shots": shots,
                    "rationale": self._rationale(samples),
                }
            )
            for judge, prompt, shots, samples in product(
                self.judges, self.prompts, self.shots or (None,), self.rationales
            )
        ]

    def _rationale(self, samples: int) -> dict[str, Any] | None:
        if samples == 0:
            return None
        return {} if samples == 1 else {"samples": samples, "temperature": self.temperature}

    def problems(self) -> Iterator[str]:
        yield from dict.fromkeys(problem for cell in self.cells() for problem in cell.problems())

    def refs(self) -> Iterator[Ref]:
        yield self.comparisons
        yield from dict.fromkeys(ref for cell in self.cells() for ref in cell.refs())

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        pairs = at_most(rows.get(self.comparisons), self.limit)
        return Forecast(None if pairs is None else pairs * sum(cell.calls_per_pair for cell in self.cells()))

    def run(self, context: Context) -> GridFigures:
        from aifeedback.metrics import agreement_difference
        from aifeedback.metrics.intervals import adjust, shared_prompts

        read = data.read_comparisons(
            self.comparisons, context.seed, columns=self.columns, criterion=self.criterion, limit=self.limit
        )
        prompts = [comparison.prompt.id for comparison in read.rows]
        results: list[Cell] = []
        labels: list[list[float | None]] = []
        cells = self.cells()
        for number, judge in enumerate(cells):
            context.progress(number, len(cells), {})
            batch = connect.batch_for(judge, context, 256)
            preferences = label_all(connect.labeler(judge, context), read.rows, context, batch)
            data.write_records(context.folder / f"preferences-{number:02}.jsonl", preferences)
            figures = label_figures(preferences, read.human, prompts)
            labels.append([preference.p_first for preference in preferences])
            results.append(
                Cell(
                    judge=context.named(judge.model),
                    prompt=str(judge.prompt),
                    shots=judge.shots,
                    rationales=judge.rationale.samples if judge.rationale else 0,
                    **{
                        name: getattr(figures, name)
                        for name in (
                            "labels",
                            "unknown",
                            "alignment",
                            "alignment_single",
                            "position_bias",
                            "label_mass",
                        )
                    },
                )
            )
        if any(human is not None for human in read.human):
            clusters = shared_prompts(prompts)
            differences = [agreement_difference(own, labels[0], read.human, prompts=clusters) for own in labels[1:]]
            adjusted = adjust([difference.p_value for difference in differences])
            results[1:] = [
                cell.model_copy(update={"difference": Measured.of(difference), "p_value": _known(p)})
                for cell, difference, p in zip(results[1:], differences, adjusted, strict=True)
            ]
        return GridFigures(cells=results, rows=Rows.of(read.report))


def _known(p: float) -> float | None:
    return None if p != p else float(p)
