"""paper.html, paper.json, paper.md: the tables of Lee et al. 2023 (arXiv 2309.00267) beside a run of the recipe ``paper``.

Same rows, the published figure, ours with a 95 % interval and every run's own value; per table one sentence on whether
the published *shape* holds. It holds or fails by intervals alone: a difference inside the intervals is undecided.

Intervals over several training seeds are approximate and wide on purpose: the variance within a run (held-out items,
which the runs share) is not divided by the number of runs, and the variance between runs is added to it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from aifeedback.reports.figures import Line, Mark, dots
from aifeedback.reports.page import render
from aifeedback.storage import read_json, write_json

Z = 1.959964
Verdict = Literal["holds", "fails", "undecided", "not measured"]
SOURCE = "Lee et al. 2023"


class Pooled(NamedTuple):
    """A metric over the runs; shares from 0 to 1."""

    value: float
    low: float
    high: float
    n: int
    """Items of one run."""
    runs: tuple[float, ...]

    @property
    def mirrored(self) -> Pooled:
        return Pooled(1 - self.value, 1 - self.high, 1 - self.low, self.n, tuple(1 - run for run in self.runs))


class Row(NamedTuple):
    label: str
    published: str
    """In percent, as printed there; a dash where it has no such row."""
    ours: Pooled | None


class Table(NamedTuple):
    title: str
    source: str
    """Where the published figures stand."""
    rows: Sequence[Row]
    shape: str
    """What the published table shows."""
    verdict: Verdict
    sentence: str
    reference: float | None = 0.5
    is_share: bool = True
    """Values are shares, printed in percent; else scores."""


def pooled(estimates: Sequence[Mapping[str, Any] | None], *, is_share: bool = True) -> Pooled | None:
    """One metric of several runs (estimates with value, low, high, n). None where no run measured it."""
    known = [one for one in estimates if one and one.get("value") is not None and one.get("low") is not None]
    if not known:
        return None
    values = [float(one["value"]) for one in known]
    within = statistics.fmean(((float(one["high"]) - float(one["low"])) / (2 * Z)) ** 2 for one in known)
    between = statistics.variance(values) / len(values) if len(values) > 1 else 0.0
    value, half = statistics.fmean(values), Z * math.sqrt(within + between)
    low, high = (max(0.0, value - half), min(1.0, value + half)) if is_share else (value - half, value + half)
    return Pooled(value, low, high, int(known[0].get("n") or 0), tuple(values))


def judged(claims: Sequence[tuple[str, bool | None]]) -> tuple[Verdict, str]:
    """From single claims (True, False, or None for undecided) the verdict on a table, and the sentence that says why."""
    if not claims:
        return "not measured", "This run has no figures for it."
    failed = [text for text, holds in claims if holds is False]
    unclear = [text for text, holds in claims if holds is None]
    if failed:
        return "fails", f"Not so here: {'; '.join(failed)}."
    if unclear:
        return "undecided", f"Not decided within the intervals: {'; '.join(unclear)}."
    return "holds", f"Here too: {'; '.join(text for text, _ in claims)}."


def above(one: Pooled | None, bound: float) -> bool | None:
    """Whether the interval lies above ``bound``; None where it contains it."""
    return None if one is None or one.low <= bound <= one.high else one.low > bound


def apart(more: Pooled | None, less: Pooled | None) -> bool | None:
    """Whether ``more`` is above ``less`` with intervals that do not overlap; None where they do."""
    if more is None or less is None or (more.low <= less.high and less.low <= more.high):
        return None
    return more.value > less.value


class Results:
    """Metrics of a finished run by step and, for steps that were repeated, by run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        done = {file.parent.name: read_json(file) for file in sorted((folder / "stages").glob("*/done.json"))}
        self.steps: Mapping[str, Mapping[str, Any]] = {name: step["figures"] for name, step in done.items()}
        self.runs = sorted(name.removeprefix("compare-") for name in self.steps if name.startswith("compare-"))

    def of(self, step: str, read: Callable[[Mapping[str, Any]], Any]) -> Pooled | None:
        """``step`` may hold {run}; ``read`` picks the estimate from its figures."""
        names = [step.format(run=run) for run in self.runs] if "{run}" in step else [step]
        return pooled([read(self.steps[name]) for name in names if name in self.steps])

    def win_rate(self, policy: str, *, at_length: bool = False) -> Pooled | None:
        key = "length_controlled" if at_length else "win_rate"
        return self.of("compare-{run}", lambda figures: (figures["policies"].get(policy) or {}).get(key))

    def against(self, one: str, other: str, *, at_length: bool = False) -> Pooled | None:
        key = "head_to_head_length_controlled" if at_length else "head_to_head"

        def read(name: str) -> Pooled | None:
            return self.of("compare-{run}", lambda figures: (figures.get(key) or {}).get(name))

        if (rate := read(f"{one}_vs_{other}")) is not None:
            return rate
        rate = read(f"{other}_vs_{one}")
        return rate.mirrored if rate else None

    def accuracy(self, step: str) -> Pooled | None:
        return self.of(step, lambda figures: figures.get("accuracy"))

    def length(self, policy: str) -> float | None:
        known = [self.steps[f"compare-{run}"]["policies"][policy].get("mean_length") for run in self.runs
                 if policy in self.steps[f"compare-{run}"]["policies"]]  # fmt: skip
        return statistics.fmean(known) if known and None not in known else None

    def evaluations(self, step: str) -> list[Mapping[str, float]]:
        """What was measured on held-out prompts while ``step`` trained, in order."""
        file = self.folder / "stages" / step / "policy" / "training" / "metrics.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        return [row for row in map(json.loads, lines) if "heldout_measure" in row and "heldout_reward" in row]

    def cells(self, step: str) -> list[Mapping[str, Any]]:
        return list((self.steps.get(step) or {}).get("cells") or [])


def tables(folder: Path) -> list[Table]:
    """Every table of the run in ``folder``; one that it did not measure says so."""
    results = Results(folder)
    return [
        _win_rates(results), _length_control(results), _label_quality(results), _sizes(results), _orders(results),
        _prompts(results), _consistency(results), _reward_models(results), _learning(results), _over_optimisation(results),
    ]  # fmt: skip


def _win_rates(results: Results) -> Table:
    rows = [
        Row("RLAIF against SFT", "71", results.win_rate("rlaif")),
        Row("RLHF against SFT", "73", results.win_rate("rlhf")),
        Row("RLAIF against RLHF", "50", results.against("rlaif", "rlhf")),
        Row("same-size RLAIF against SFT", "68", results.win_rate("same_size")),
        Row("d-RLAIF against SFT", "74", results.win_rate("d_rlaif")),
        Row("d-RLAIF against same-size RLAIF", "60", results.against("d_rlaif", "same_size")),
        Row("RLHF + RLAIF against SFT", "71", results.win_rate("both")),
        Row("RLHF + RLAIF against RLHF", "48", results.against("both", "rlhf")),
        Row("DPO on the AI labels against SFT", "–", results.win_rate("dpo")),
    ]
    claims: list[tuple[str, bool | None]] = [
        (f"{name} beats SFT", above(results.win_rate(policy), 0.5))
        for name, policy in (("RLAIF", "rlaif"), ("RLHF", "rlhf"), ("d-RLAIF", "d_rlaif"))
        if results.win_rate(policy)
    ]
    equal, direct = results.against("rlaif", "rlhf"), results.against("d_rlaif", "same_size")
    if equal:
        claims.append(("RLAIF and RLHF are level", equal.low <= 0.5 <= equal.high))
    if direct:
        claims.append(
            ("d-RLAIF is no worse than same-size RLAIF", None if direct.low < 0.5 < direct.high else direct.low > 0.5)
        )
    return Table("Win rates", f"{SOURCE}, Table 1 (summaries, by people); ours by the first evaluator", rows,
                 "RLAIF, RLHF and d-RLAIF beat SFT; RLAIF and RLHF are level; d-RLAIF is no worse than same-size RLAIF.",
                 *judged(claims))  # fmt: skip


def _length_control(results: Results) -> Table:
    published = {"rlaif": "71 → 59", "rlhf": "73 → 61", "same_size": "68 → 59", "d_rlaif": "74 → 65", "both": "71 → 61"}
    names = {
        "rlaif": "RLAIF",
        "rlhf": "RLHF",
        "same_size": "same-size RLAIF",
        "d_rlaif": "d-RLAIF",
        "both": "RLHF + RLAIF",
    }
    start = results.length("sft")
    rows, claims = [], []
    for policy, printed in published.items():
        raw, controlled, length = (
            results.win_rate(policy),
            results.win_rate(policy, at_length=True),
            results.length(policy),
        )
        grew = "" if length is None or not start else f" (length × {length / start:.2f})"
        rows.append(Row(f"{names[policy]} against SFT{grew}", printed.partition("→")[2].strip(), controlled))
        if raw and controlled and length and start and length > start:
            claims.append((f"{names[policy]} falls from {100 * raw.value:.0f} to {100 * controlled.value:.0f} %",
                           controlled.value < raw.value))  # fmt: skip
    rows.append(Row("RLAIF against RLHF", "47", results.against("rlaif", "rlhf", at_length=True)))
    rows.append(Row("d-RLAIF against same-size RLAIF", "56", results.against("d_rlaif", "same_size", at_length=True)))
    return Table("Win rates at equal length", f"{SOURCE}, appendix on length control", rows,
                 "Length control lowers the win rate of policies that write longer responses than SFT.",
                 *judged(claims))  # fmt: skip


def _label_quality(results: Results) -> Table:
    best, base = results.win_rate("rlaif"), results.win_rate("base_prompt")
    match = results.against("base_prompt", "rlaif")
    rows = [
        Row("RLAIF on the best labels against SFT", "67", best),
        Row("RLAIF on labels of the Base preamble without rationale against SFT", "63", base),
        Row("Base labels against the best labels", "41", match),
    ]
    claims = [("the policy of the better labels wins", above(match.mirrored, 0.5))] if match else []
    return Table("How much the quality of labels matters", f"{SOURCE}, end-to-end sensitivity", rows,
                 "Labels that agree better with people give the better policy.", *judged(claims))  # fmt: skip


def _sizes(results: Results) -> Table:
    published = {0: ("78.0", "18"), 1: ("73.8", "21"), 2: ("62.7", "56")}
    rows: list[Row] = []
    agreement, position = [], []
    sizes = results.cells("judges")[:3]
    for index, cell in enumerate(sizes if len({str(cell["judge"]) for cell in sizes}) > 1 else ()):
        name, size = str(cell["judge"]), "L S XS".split()[index]
        agreement.append(pooled([cell.get("alignment")]))
        position.append(pooled([cell.get("position_bias")]))
        rows.append(Row(f"{size} ({name}), agreement", published[index][0], agreement[-1]))
        rows.append(Row(f"{size} ({name}), same position twice", published[index][1], position[-1]))
    claims: list[tuple[str, bool | None]] = []
    if len(agreement) == 3:
        for (large, small), names in zip(((0, 1), (1, 2)), (("L", "S"), ("S", "XS")), strict=True):
            claims.append((f"{names[0]} agrees more than {names[1]}", apart(agreement[large], agreement[small])))
            claims.append(
                (f"{names[0]} depends less on position than {names[1]}", apart(position[small], position[large]))
            )
    return Table("The judge's size", f"{SOURCE}, Tables 3 and 4", rows,
                 "Agreement rises and position bias falls with the judge's size.", *judged(claims), reference=None)  # fmt: skip


def _orders(results: Results) -> Table:
    rows: list[Row] = []
    claims: list[tuple[str, bool | None]] = []
    for cell in results.cells("prompts")[:1] + results.cells("judges")[:3]:
        one, both = pooled([cell.get("alignment_single")]), pooled([cell.get("alignment")])
        name = f"{cell['judge']}, {'rationale' if cell.get('rationales') else 'at once'}"
        rows += [Row(f"{name}, one order", "–", one), Row(f"{name}, both orders averaged", "–", both)]
        if one and both:
            claims.append((f"{name}: {100 * one.value:.0f} → {100 * both.value:.0f} %", both.value >= one.value))
    return Table("Averaging both orders", f"{SOURCE}, section 2.1.1 (no table there)", rows,
                 "Averaging the two orders agrees with people at least as often as one order.", *judged(claims),
                 reference=None)  # fmt: skip


PROMPTS = {
    ("base", 0, 0): "76.1", ("base", 1, 0): "76.0", ("base", 2, 0): "75.7", ("base", 0, 1): "77.5",
    ("detailed", 0, 0): "77.4", ("detailed", 1, 0): "76.2", ("detailed", 2, 0): "76.3", ("detailed", 0, 1): "78.0",
    ("detailed", 1, 1): "77.4",
}  # fmt: skip
"""Preamble, exemplars, rationale → agreement in percent on summaries."""


def _prompts(results: Results) -> Table:
    rows: list[Row] = []
    known: dict[tuple[str, int, int], Pooled] = {}
    for cell in [*results.cells("prompts"), *results.cells("rationales")]:
        preamble = "detailed" if "detailed" in str(cell["prompt"]) else "base"
        key = preamble, int(cell.get("shots") or 0), int(cell.get("rationales") or 0)
        if (value := pooled([cell.get("alignment")])) is not None:
            known[key] = value
        thought = " + rationale" if key[2] else ""
        rows.append(Row(f"{preamble.capitalize()}{thought}, {key[1]}-shot", PROMPTS.get(key, "–"), known.get(key)))
    claims: list[tuple[str, bool | None]] = []
    for preamble in ("base", "detailed"):
        at_once, thought = known.get((preamble, 0, 0)), known.get((preamble, 0, 1))
        if at_once and thought:
            claims.append(
                (f"a rationale raises agreement after the {preamble.capitalize()} preamble", apart(thought, at_once))
            )
        none, two = known.get((preamble, 0, 0)), known.get((preamble, 2, 0))
        if none and two:
            gain = apart(two, none)
            claims.append((f"exemplars bring no significant gain after the {preamble.capitalize()} preamble", not gain))
    return Table("Preamble, exemplars, chain of thought", f"{SOURCE}, Table 2 (summaries)", rows,
                 "A rationale helps, exemplars do not.", *judged(claims), reference=None)  # fmt: skip


def _consistency(results: Results) -> Table:
    published = {"0.3": "76.2", "0.5": "75.1", "0.7": "74.0", "1.0": "72.8"}
    rows: list[Row] = []
    claims: list[tuple[str, bool | None]] = []
    greedy: Pooled | None = None
    for step in sorted(name for name in results.steps if name.startswith("consistency-")):
        heat = step.removeprefix("consistency-")
        for cell in results.cells(step):
            value = pooled([cell.get("alignment")])
            if int(cell.get("rationales") or 0) == 1:
                if greedy is None:
                    greedy = value
                    rows.append(Row("one greedy rationale", "78.0", value))
                continue
            rows.append(Row(f"{cell['rationales']} rationales at temperature {heat}", published.get(heat, "–"), value))
            if greedy and value:
                better = apart(value, greedy)
                claims.append((f"no significant gain at temperature {heat}", not better))
    return Table("Self-consistency", f"{SOURCE}, Table 5 (16 rationales there)", rows,
                 "Averaging over sampled rationales does not beat one greedy rationale.", *judged(claims),
                 reference=None)  # fmt: skip


def _reward_models(results: Results) -> Table:
    human, ai = results.accuracy("rm_human-{run}"), results.accuracy("rm_ai-{run}")
    size = results.accuracy("rm_size-{run}")
    rows = [
        Row("human labels, from the base model", "79.3", human),
        Row("human labels, from SFT", "78.7", results.accuracy("rm_human_from_sft-{run}")),
        Row("AI labels, from SFT", "74.2", ai),
        Row("AI labels, from the base model", "73.0", results.accuracy("rm_ai_from_base-{run}")),
        Row("AI labels of the same-size judge, from SFT", "–", size),
        Row("AI labels of the Base preamble without rationale", "77.9", results.accuracy("rm_base-{run}")),
        Row("human and AI labels, equal numbers", "–", results.accuracy("rm_both-{run}")),
    ]
    claims: list[tuple[str, bool | None]] = []
    if human and ai:
        claims.append(("human labels give the more accurate reward model", apart(human, ai)))
    return Table("Reward models", f"{SOURCE}, appendix on reward models: accuracy on held-out human pairs", rows,
                 "Trained on human labels, the reward model predicts human labels better.", *judged(claims))  # fmt: skip


def _learning(results: Results) -> Table:
    rows: list[Row] = []
    claims: list[tuple[str, bool | None]] = []
    for source, name in (("ai", "AI"), ("human", "human")):
        prefix = f"rm_{source}_part-"
        sizes = sorted({int(step.rpartition("-")[2]) for step in results.steps if step.startswith(prefix)})
        parts = [results.accuracy(f"{prefix}{{run}}-{size}") for size in sizes]
        rows += [Row(f"{size:,} {name} labels", "–", part) for size, part in zip(sizes, parts, strict=True)]
        whole = results.accuracy(f"rm_{source}-{{run}}")
        rows.append(Row(f"all {name} labels", "–", whole))
        if parts and parts[0] and whole:
            claims.append((f"all {name} labels beat {sizes[0]:,}", apart(whole, parts[0])))
    return Table("How the reward model learns from more labels", f"{SOURCE}, appendix (a figure there)", rows,
                 "Accuracy grows with the number of labels and flattens.", *judged(claims))  # fmt: skip


def _over_optimisation(results: Results) -> Table:
    rows: list[Row] = []
    claims: list[tuple[str, bool | None]] = []
    pulls = sorted({step.rpartition("-")[2] for step in results.steps if step.startswith("drift-")}, key=float)
    for pull in pulls:
        curves = [curve for run in results.runs if (curve := results.evaluations(f"drift-{run}-{pull}"))]
        best = pooled([_score(max(curve, key=lambda row: row["heldout_measure"])) for curve in curves], is_share=False)
        last = pooled([_score(curve[-1]) for curve in curves], is_share=False)
        rows += [Row(f"β = {pull}, the watched score at its best checkpoint", "–", best),
                 Row(f"β = {pull}, at the last checkpoint", "–", last)]  # fmt: skip
        if curves and pull == pulls[0]:
            rise = statistics.fmean(
                curve[-1]["heldout_reward"] - max(curve, key=lambda row: row["heldout_measure"])["heldout_reward"]
                for curve in curves
            )
            claims.append((f"from the best checkpoint on the reward rises by {rise:.2f}", rise > 0 or None))
            claims.append(("the watched score ends below its best", apart(best, last)))
    return Table("Too little pull to the starting policy", "Gao et al. 2023 (arXiv 2210.10760)", rows,
                 "With a small β the reward keeps rising while an independent measure turns over.", *judged(claims),
                 reference=None, is_share=False)  # fmt: skip


def _score(row: Mapping[str, float]) -> dict[str, float]:
    half = Z * row.get("heldout_measure_se", math.nan)
    value = row["heldout_measure"]
    return {"value": value, "low": value - half, "high": value + half}


# ------------------------------------------------------------------ pages


def write_paper(folder: Path, title: str = "paper") -> Path:
    """Write paper.html, paper.json and paper.md beside the run's summary; returns the page."""
    found = tables(folder)
    write_json(folder / "paper.json", {"tables": [
        {**table._asdict(), "rows": [{"label": row.label, "published": row.published,
                                      "ours": row.ours._asdict() if row.ours else None} for row in table.rows]}
        for table in found]})  # fmt: skip
    (folder / "paper.md").write_text(markdown(found), encoding="utf-8")
    manifest = read_json(folder / "manifest.json") or {}
    when = str(manifest.get("at") or "")[:10]
    page = render("paper.html.j2", tables=[(table, _plot(table)) for table in found], printed=printed, each_run=each_run,
                  title=title, when=when, headline=headline(found))  # fmt: skip
    target = folder / "paper.html"
    target.write_text(page, encoding="utf-8")
    return target


def headline(found: Sequence[Table]) -> str:
    counts = {verdict: sum(table.verdict == verdict for table in found) for verdict in ("holds", "fails", "undecided")}
    return (
        f"Of {len(found)} published shapes, {counts['holds']} hold here, {counts['fails']} fail and "
        f"{counts['undecided']} are not decided."
    )


def printed(table: Table, row: Row) -> str:
    """Value with interval and n, shares in percent."""
    if row.ours is None:
        return "not measured"
    value, low, high = (_number(table, part) for part in row.ours[:3])
    return f"{value} ({low} to {high})" + (f", n = {row.ours.n:,}" if row.ours.n else "")


def each_run(table: Table, row: Row) -> str:
    """The runs one by one, where there are several."""
    runs = row.ours.runs if row.ours else ()
    return ", ".join(_number(table, run) for run in runs) if len(runs) > 1 else "–"


def _number(table: Table, value: float) -> str:
    return f"{100 * value:.1f}" if table.is_share else f"{value:.2f}"


def markdown(found: Sequence[Table]) -> str:
    lines = [f"**{headline(found)}**", ""]
    for table in found:
        lines += [
            f"### {table.title}", "", f"{table.source}. Published: {table.shape}", "",
            f"**{table.verdict.capitalize()}.** {table.sentence}", "",
            f"| | published | ours{', %' if table.is_share else ''} (95 % interval) | runs |", "|---|---|---|---|",
        ]  # fmt: skip
        lines += [
            f"| {row.label} | {row.published} | {printed(table, row)} | {each_run(table, row)} |" for row in table.rows
        ]
        lines.append("")
    return "\n".join(lines)


def _plot(table: Table) -> str:
    lines = [Line(row.label, [Mark(row.ours.value, row.ours.low, row.ours.high), _mark(row.published)])
             for row in table.rows if row.ours]  # fmt: skip
    if not lines or not table.is_share:
        return ""
    series = ["ours", "published"] if any(line.marks[1] for line in lines) else ["ours"]
    return dots(
        [line._replace(marks=line.marks[: len(series)]) for line in lines], series, unit="%", reference=table.reference
    )


def _mark(published: str) -> Mark | None:
    return Mark(float(published) / 100) if published != "–" else None
