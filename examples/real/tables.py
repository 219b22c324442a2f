"""The tables of a finished real run, as Markdown.

    python tables.py RUN

Every judge's agreement with the human labels, and on harm. Per policy, averaged over the training seeds: closeness to the
maintainer's summary (cosine of embeddings), the mean difference to the starting policy on the same prompts, and that
difference at equal length: the intercept of a regression on the logarithm of the length ratio, with a sandwich
covariance. Intervals are 95 %; over several seeds they add the variance between the seeds to that within one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import statsmodels.api as sm
import yaml

from aifeedback.data import read_completions
from aifeedback.models.embedding import Embedder
from aifeedback.reports.paper import Pooled, pooled

START, AGAIN = "start", "start-again"
"""The starting policy, and a second draw of it: what differs between the two is chance."""


class Measured(NamedTuple):
    """One policy of one seed."""

    similarity: float
    difference: Mapping[str, Any] | None
    equal_length: Mapping[str, Any] | None
    words: float
    n: int


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    run = Path(sys.argv[1])
    stages = json.loads((run / "summary.json").read_text(encoding="utf-8"))["stages"]
    print("| judge | n | agreement, both orders | one order | same position | label mass |\n|---|---|---|---|---|---|")
    for stage, figures in labelled(stages):
        print(f"| {stage} | {row(figures)} |")
    print("\n| reward model | accuracy, each seed | mean |\n|---|---|---|")
    for name, seeds in accuracies(stages).items():
        each = ", ".join(f"{one['value']:.2f}" for one in seeds)
        print(f"| {name} | {each} | {plain(pooled(seeds))} |")
    print("\n| judge on harm | agreement | same position | serious faults |\n|---|---|---|---|")
    for judge in stages["audit_harmless"]["figures"]["judges"]:
        print(f"| {judge['judge']} | {harm(judge)} |")
    seeds = [policies(run, stage) for stage in stages if stage.startswith("compare-")]
    print(
        "\n| policy | similarity | difference | at equal length | each seed | words | n |\n|---|---|---|---|---|---|---|"
    )
    for name in seeds[0]:
        print(f"| {name} | {over_seeds([seed[name] for seed in seeds])} |")


def over_seeds(measured: list[Measured]) -> str:
    similarity, words = (float(np.mean([getattr(one, key) for one in measured])) for key in ("similarity", "words"))
    difference, equal = (
        pooled([getattr(one, key) for one in measured], is_share=False) for key in ("difference", "equal_length")
    )
    each = ", ".join(f"{value:+.3f}" for value in equal.runs) if equal else "–"
    return f"{similarity:.3f} | {signed(difference)} | {signed(equal)} | {each} | {words:.1f} | {measured[0].n}"


def signed(estimate: Pooled | None) -> str:
    return "–" if estimate is None else f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def plain(estimate: Pooled | None) -> str:
    return "–" if estimate is None else f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def accuracies(stages: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    named: dict[str, list[Mapping[str, Any]]] = {}
    for name, stage in stages.items():
        if stage["kind"] == "reward_model":
            named.setdefault(name.rpartition("-")[0], []).append(stage["figures"]["accuracy"])
    return named


def harm(judge: Mapping[str, Any]) -> str:
    measured = {finding["probe"]: finding for finding in judge["findings"]}
    faults = sum(finding["level"] == "bad" for finding in judge["findings"])
    return f"{share(measured.get('agreement'))} | {share(measured.get('position'))} | {faults}"


def labelled(stages: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [
        (name, stage["figures"])
        for name, stage in stages.items()
        if stage["kind"] == "label" and stage["figures"].get("position_bias")
    ]


def row(figures: Mapping[str, Any]) -> str:
    cells = [share(figures.get(key)) for key in ("alignment", "alignment_single", "position_bias")]
    return " | ".join([*cells, f"{figures['label_mass']:.2f}", str(figures["labels"])])


def share(measured: Mapping[str, Any] | None) -> str:
    if not measured:
        return "–"
    return f"{measured['value']:.2f} [{measured['low']:.2f}, {measured['high']:.2f}]"


def policies(run: Path, stage: str) -> dict[str, Measured]:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    (written,) = [one for one in recipe["stages"] if one["id"] == stage]
    (measure,) = written["judges"].values()
    embedder = Embedder(str(measure["model"]).partition(":")[2])
    folder = run / "stages" / stage
    files = {name: folder / f"completions-{name}.jsonl" for name in [*written["policies"], AGAIN]}
    read = {name: read_completions(file) for name, file in files.items() if file.is_file()}
    similarity: dict[str, dict[str, float]] = {}
    length: dict[str, dict[str, int]] = {}
    for name, responses in read.items():
        ids = [prompt.id for prompt in responses.prompts]
        texts = embedder.embed([completion.text for completion in responses.rows])
        references = embedder.embed([str(prompt.reference) for prompt in responses.prompts])
        similarity[name] = dict(zip(ids, (texts * references).sum(1).tolist(), strict=True))
        length[name] = {i: max(len(c.text), 1) for i, c in zip(ids, responses.rows, strict=True)}
    rows = {}
    for name, responses in read.items():
        both = [i for i in similarity[name] if i in similarity[START]]
        gained = np.array([similarity[name][i] - similarity[START][i] for i in both])
        ratio = np.log([length[name][i] / length[START][i] for i in both])
        rows[name] = Measured(
            similarity=float(np.mean(list(similarity[name].values()))),
            difference=None if name == START else estimate(gained, None),
            equal_length=None if name == START else estimate(gained, ratio),
            words=float(np.mean([len(completion.text.split()) for completion in responses.rows])),
            n=len(both),
        )
    return rows


def estimate(gained: Any, ratio: Any) -> dict[str, float]:
    """The mean, or the value at equal length, with its interval."""
    columns = np.ones((len(gained), 1)) if ratio is None else np.column_stack([np.ones(len(gained)), ratio])
    fitted = sm.OLS(gained, columns).fit(cov_type="HC1")
    low, high = fitted.conf_int()[0]
    return {"value": float(fitted.params[0]), "low": float(low), "high": float(high), "n": len(gained)}


if __name__ == "__main__":
    main()
