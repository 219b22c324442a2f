"""``rejudge``: a saved comparison or label run, judged again by other judges from its stored pairs.

Nothing is sampled again and no policy is loaded: responses, pairs and human labels are those of the saved run. What the
new judges say stands beside what the earlier ones said of the very same pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import yaml
from pydantic import Field

from aifeedback import data
from aifeedback.config import Cli
from aifeedback.errors import FileError, RecipeError
from aifeedback.judging.spec import JudgeSpec, Judging, Served
from aifeedback.models.journal import digests
from aifeedback.models.journal.journal import Spent
from aifeedback.refs import PolicyRef, Ref, file_part
from aifeedback.steps import connect, evidence
from aifeedback.steps.compare import AGAIN, Compare, CompareFigures, judges_from_options
from aifeedback.steps.label import LabelFigures, judged_by, label_all, label_figures
from aifeedback.steps.policies import responses
from aifeedback.steps.sample import SamplingSettings
from aifeedback.steps.step import Context, Figures, Forecast, Measured, Rows, Step
from aifeedback.steps.verdict import Verdict
from aifeedback.storage import read_json
from aifeedback.types import Comparison, Preference


class RejudgeFigures(Figures):
    """``comparison`` or ``labels``, as the saved run is."""

    comparison: CompareFigures | None = None
    labels: dict[str, LabelFigures] | None = None
    """By judge."""
    agreement_with_earlier: dict[str, dict[str, Measured]]
    """New judge → earlier judge → share of the same pairs with the same verdict; a tie of one is half."""
    changed: list[str] = Field(default_factory=list)
    """Files of the saved run that are not what it left."""

    def verdict(self) -> Verdict | None:
        if self.changed:
            return Verdict(
                "bad", f"The saved run was changed: {self.changed[0]}.", "Run `aifeedback audit verify` on it."
            )
        if self.comparison is not None:
            return self.comparison.verdict()
        verdicts = [verdict for one in (self.labels or {}).values() if (verdict := one.verdict())]
        return next((verdict for verdict in verdicts if verdict.level != "ok"), verdicts[0] if verdicts else None)


class Saved(NamedTuple):
    """A stored comparison or label run."""

    folder: Path
    settings: Mapping[str, Any]
    is_comparison: bool


class Rejudge(Served, Step):
    """Judge a saved comparison or label run again by other judges, from its stored pairs; writes a report."""

    kind: ClassVar[str] = "rejudge"
    Figures = RejudgeFigures
    saved: Annotated[Ref, Cli(is_argument=True, metavar="RUN")]
    """Folder of `compare`, `label` or a recipe's run, one of its stages, or a labelled file with its .run folder."""
    judges: Annotated[
        dict[str, Judging],
        Cli(flatten=(JudgeSpec,), only=("model", "prompt", "by", "rationale", "constitution", "rubric", "shots")),
    ] = Field(min_length=1)
    """Name → judge or panel, the headline judge first."""
    audited: Annotated[list[Ref], Cli(is_repeated=True, metavar="DIR")] = Field(default_factory=list)
    """Audit of a judge (its folder): its agreement with people is shown beside it. Repeat for several."""

    @classmethod
    def from_options(cls, settings: dict[str, Any], chosen: Collection[str] = ()) -> Rejudge:
        settings = dict(settings)
        judges = settings.pop("judges", {})
        served = {name: settings.pop(name) for name in Served.model_fields if name in settings}
        among = judges.get("model", [])
        return super().from_options({**settings, "judges": judges_from_options(judges, served, among)}, chosen)

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        return Forecast(None)  # the pairs are those of the saved run

    def run(self, context: Context) -> RejudgeFigures:
        saved = find_saved(Path(self.saved))
        changed = [why for file in sorted(saved.folder.glob("*.jsonl")) if (why := digests.changed(file))]
        figures = self._comparison(saved, context) if saved.is_comparison else self._labels(saved, context)
        return figures.model_copy(update={"changed": changed})

    def _comparison(self, saved: Saved, context: Context) -> RejudgeFigures:
        policies = {name: PolicyRef(uri) for name, uri in saved.settings["policies"].items() if uri}
        reference = saved.settings["reference"]
        stored = {name: _completions(saved.folder, name) for name in policies}
        again = saved.folder / f"completions-{file_part(f'{reference} again')}.jsonl"
        compared = Compare(
            policies={name: PolicyRef(path) for name, path in stored.items()},
            reference=reference,
            prompts=Ref(stored[reference]),
            judges=self.judges,
            audited=self.audited,
            trained_by=saved.settings.get("trained_by") or [],
            **{key: saved.settings[key] for key in ("tidy", "length_control") if key in saved.settings},
        )
        sources = {**compared.policies, **({AGAIN: PolicyRef(again)} if again.is_file() else {})}
        read = {name: data.load_prompts(path) for name, path in sources.items()}
        prompts = list({p.id: p for one in read.values() for p in one.rows}.values())
        # the prompts' tags are in the pairs, not in the files of responses
        tagged = {pair.prompt.id: pair.prompt for _, pair in _pairs(saved.folder)}
        prompts = [tagged.get(prompt.id, prompt) for prompt in prompts]
        by_policy = evidence.origins(policies, reference)
        held = evidence.held_out(prompts, by_policy)
        drawn = {
            name: responses(
                f"{reference} again" if name == AGAIN else name,
                source,
                held.rows,
                context,
                sampling=SamplingSettings().at(context.seed),
                tidy=compared.tidy,
            )
            for name, source in sources.items()
        }
        independence = compared.model_copy(update={"policies": policies}).independence(by_policy, held, context)
        rows = Rows(read=len(prompts), kept=len(held.rows))
        figures = compared.measured(drawn, held.rows, independence, rows, context)
        earlier = {
            judge: {one.comparison_id: one for one in rows} for judge, rows in _preferences(saved.folder).items()
        }
        new = {judge: _preferences(context.folder).get(file_part(judge), []) for judge in self.judges}
        return RejudgeFigures(comparison=figures, agreement_with_earlier=_agreement(new, earlier))

    def _labels(self, saved: Saved, context: Context) -> RejudgeFigures:
        file = saved.folder / "labelled.jsonl"
        read = data.read_comparisons(file, context.seed)
        before = data.load_judged(file, context.seed).rows
        earlier: dict[str, dict[str, Any]] = {}
        for row in before:
            earlier.setdefault(row.judge, {})[row.comparison.id] = row
        labels: dict[str, LabelFigures] = {}
        new: dict[str, Sequence[Preference]] = {}
        prompts = [comparison.prompt.id for comparison in read.rows]
        for judge, spec in self.judges.items():
            new[judge] = label_all(connect.labeler(spec, context), read.rows, context)
            name = file_part(judge)
            data.write_records(context.folder / f"preferences-{name}.jsonl", new[judge])
            data.write_labelled(context.folder / f"labelled-{name}.jsonl", data.labelled(read, new[judge]))
            figures = label_figures(new[judge], read.human, prompts)
            labels[judge] = figures.model_copy(update={**judged_by(spec, context), "rows": Rows.of(read.report)})
        return RejudgeFigures(labels=labels, agreement_with_earlier=_agreement(new, earlier))

    def report(self, figures: Figures, spent: Spent, folder: Path, seed: int) -> Path | None:
        from aifeedback.reports.run_report import write_report

        assert isinstance(figures, RejudgeFigures)
        if figures.comparison is None:
            return None
        summary = figures.comparison.summary()
        verdict = figures.verdict()
        summary["stages"]["compare"] |= {**spent._asdict(), "verdict": verdict._asdict() if verdict else None}
        return write_report(
            {"title": f"{self.saved}, judged again", "seed": seed, **spent._asdict(), **summary}, folder
        )


def find_saved(place: Path) -> Saved:
    """The stored comparison or label run at ``place``. Raises FileError where there is none, RecipeError for several."""
    beside = place.with_name(f"{place.name}.run")
    root = beside if place.is_file() and beside.is_dir() else place
    folders = [root, *sorted(root.glob("stages/*"))]
    comparisons = [folder for folder in folders if next(folder.glob("comparisons-*.jsonl"), None)]
    labels = [folder for folder in folders if (folder / "labelled.jsonl").is_file()]
    matches = comparisons or labels
    if not matches:
        raise FileError("no stored comparison and no labels here", file=place, fix="give the -o of compare or label")
    if len(matches) > 1:
        listed = ", ".join(str(folder) for folder in matches)
        raise RecipeError(f"{place} has several to judge again: {listed}", key="RUN", fix="give one of these folders")
    folder = matches[0]
    settings = _settings(folder)
    if comparisons and not {"policies", "reference"} <= set(settings):
        raise FileError("nothing records which policies were compared", file=folder, fix="give the run's own folder")
    return Saved(folder, settings, bool(comparisons))


def _settings(folder: Path) -> Mapping[str, Any]:
    """Of a command, or of a recipe's stage with every @STEP as a path."""
    if (record := read_json(folder / "command.json")) is not None:
        return record["settings"]
    recipe = folder.parent.parent / "recipe.yaml"
    if not recipe.is_file():
        return {}
    stages = yaml.safe_load(recipe.read_text(encoding="utf-8")).get("stages") or ()
    stage = next((stage for stage in stages if stage.get("id") == folder.name), {})
    run = folder.parent.parent
    policies = {name: str(PolicyRef(uri).within(run)) for name, uri in (stage.get("policies") or {}).items()}
    return {"reference": "sft", **stage, **({"policies": policies} if policies else {})}


def _completions(folder: Path, name: str) -> str:
    file = folder / f"completions-{file_part(name)}.jsonl"
    if not file.is_file():
        raise FileError("the responses of this policy are not stored", file=file, fix="run compare again")
    return str(file)


def _pairs(folder: Path) -> list[tuple[str, Comparison]]:
    return [(file.name, pair) for file in sorted(folder.glob("comparisons-*.jsonl"))
            for pair in data.read_records(file, Comparison)]  # fmt: skip


def _preferences(folder: Path) -> dict[str, list[Preference]]:
    """Judge, as file names write it → all its preferences. A name may hold dashes: the policies' names distinguish them."""
    policies = [file.stem.removeprefix("comparisons-") for file in folder.glob("comparisons-*.jsonl")]
    by_judge: dict[str, list[Preference]] = {}
    for policy in sorted(policies, key=len, reverse=True):
        for file in folder.glob(f"preferences-*-{policy}.jsonl"):
            judge = file.stem.removeprefix("preferences-").removesuffix(f"-{policy}")
            if not any(judge.endswith(f"-{other}") for other in policies):
                by_judge.setdefault(judge, []).extend(data.read_records(file, Preference))
    return by_judge


def _agreement(
    new: Mapping[str, Sequence[Preference]], earlier: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Measured]]:
    """Of every new judge with every earlier one, on the pairs that both know."""
    from aifeedback.metrics import alignment

    agreements: dict[str, dict[str, Measured]] = {}
    for (judge, preferences), (before, known) in itertools.product(new.items(), earlier.items()):
        both = [(one.p_first, known[one.comparison_id].p_first) for one in preferences if one.comparison_id in known]
        if both:
            agreements.setdefault(judge, {})[before] = Measured.of(
                alignment([a for a, _ in both], [b for _, b in both])
            )
    return agreements
