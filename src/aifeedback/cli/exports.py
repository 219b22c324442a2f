"""--format: labels as every row, as what TRL's trainers take, or as a Hugging Face dataset folder with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from aifeedback.cli.terminal import console
from aifeedback.errors import RecipeError
from aifeedback.pipeline.checks import require_modules
from aifeedback.pipeline.command import FILES, Destination

FORMS = ("rows", "trl", "dataset")
COLUMNS = {
    "prompt": "text, or a list of messages",
    "first, second": "the two responses in storage order, which is drawn by seed and says nothing about quality",
    "chosen, rejected": "the response with the larger probability, and the other; empty where the label is unknown",
    "p_first": "probability in [0, 1] that `first` is better, averaged over both orders; empty where unknown",
    "chosen_probability": "the larger of p_first and 1 − p_first",
    "judge": "who labelled: model and judge prompt",
    "position_gap": "P(first) when shown first minus P(first) when shown second, in [−1, 1]; 0 is blind to position",
    "problem": "why the label is unknown",
    "human_p_first": "people's verdict about storage order, where the input had one",
}


class Exports(NamedTuple):
    """The form that the user chose and its folder: ``destination`` takes the run, ``write`` adds the chosen form."""

    form: str
    out: Path

    @classmethod
    def of(cls, form: str, out: Path) -> Exports:
        """Raises RecipeError before anything is run where form and name do not go together."""
        if form not in FORMS:
            raise RecipeError(f"unknown format '{form}'", key="--format", fix=", ".join(FORMS))
        if form == "dataset":
            require_modules(("pyarrow",))
        if form == "dataset" and out.suffix in FILES:
            raise RecipeError("a dataset is a folder", file=out, key="--format", fix="-o FOLDER")
        return cls(form, out)

    @property
    def destination(self) -> Destination:
        """A dataset folder contains only the dataset; its run folder is next to it."""
        if self.form == "dataset":
            out = self.out if self.out.name else self.out.absolute()  # "." has no name
            return Destination(out.with_name(f"{out.name}-run"), "labelled.jsonl", self.out)
        return Destination(self.out, "labelled.jsonl")

    def write(self, stage: Any) -> None:
        """Write the chosen form from the run's labelled rows."""
        if self.form == "rows":
            return
        from aifeedback import data

        rows = [dict(row.values) for row in data.read_rows(self.destination.folder / "labelled.jsonl")]
        if self.form == "trl":
            known = [{k: row[k] for k in ("prompt", "chosen", "rejected", "chosen_probability")} for row in rows
                     if row["p_first"] is not None]  # fmt: skip
            target = self.out if self.out.suffix in FILES else self.out / "trl.jsonl"
            data.write_rows(target, known)
            console.print(f"→ [bold]{target}[/]  [dim]({len(known):,} of {len(rows):,} rows have a label)[/]")
            return
        from aifeedback.models.journal.exports import DatasetCard, write_dataset

        judged_by = "; ".join(sorted({str(row["judge"]) for row in rows}))
        card = DatasetCard(
            title=self.out.name,
            about=f"Preferences over pairs of responses by an AI judge ({judged_by}), as soft labels.",
            source=Path(stage.comparisons).name,
            columns=COLUMNS,
        )
        count = write_dataset(rows, self.out, card)
        console.print(
            f"→ [bold]{self.out}[/]  [dim](dataset of {count:,} rows, with README.md; say its licence there)[/]"
        )
