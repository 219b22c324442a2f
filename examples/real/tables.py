"""The tables of a finished real run, as Markdown.

    python tables.py RUN [RUN ...]

Of the first run: every judge against people and on harm. Of each run and policy: closeness to the maintainer's summary
(cosine of embeddings), the mean difference to the starting policy on the same prompts, and that difference at equal
length: the intercept of a regression on the logarithm of the length ratio, with a sandwich covariance. Intervals are 95 %.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import statsmodels.api as sm
import yaml

from aifeedback.data import read_completions
from aifeedback.models.embedding import Embedder

START, AGAIN = "start", "start-again"
"""The starting policy, and a second draw of it: what differs between the two is chance."""


def main() -> None:
    runs = [Path(name) for name in sys.argv[1:]]
    if not runs:
        sys.exit(__doc__)
    print(
        "| judge | agreement with people, both orders | one order | same position | label mass | n |\n|---|---|---|---|---|---|"
    )
    for stage, figures in labelled(runs[0]):
        print(f"| {stage} | {row(figures)} |")
    for run in runs:
        print(
            f"\n{run}\n\n| policy | similarity | difference | at equal length | words | n |\n|---|---|---|---|---|---|"
        )
        for name, cells in policies(run):
            print(f"| {name} | {' | '.join(cells)} |")


def labelled(run: Path) -> list[tuple[str, Mapping[str, Any]]]:
    stages = json.loads((run / "summary.json").read_text(encoding="utf-8"))["stages"]
    found = [(name, stage["figures"]) for name, stage in stages.items() if stage["kind"] == "label"]
    return [(name, figures) for name, figures in found if figures.get("position_bias")]


def row(figures: Mapping[str, Any]) -> str:
    cells = [share(figures.get(key)) for key in ("alignment", "alignment_single", "position_bias")]
    return " | ".join([*cells, f"{figures['label_mass']:.2f}", str(figures["labels"])])


def share(measured: Mapping[str, Any] | None) -> str:
    if not measured:
        return "–"
    return f"{measured['value']:.2f} [{measured['low']:.2f}, {measured['high']:.2f}]"


def policies(run: Path) -> list[tuple[str, list[str]]]:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    (stage,) = [stage for stage in recipe["stages"] if stage["id"] == "compare"]
    (measure,) = stage["judges"].values()
    embedder = Embedder(str(measure["model"]).partition(":")[2])
    folder = run / "stages" / "compare"
    files = {name: folder / f"completions-{name}.jsonl" for name in [*stage["policies"], AGAIN]}
    read = {name: read_completions(file) for name, file in files.items() if file.is_file()}
    similarity: dict[str, dict[str, float]] = {}
    length: dict[str, dict[str, int]] = {}
    for name, responses in read.items():
        ids = [prompt.id for prompt in responses.prompts]
        texts = embedder.embed([completion.text for completion in responses.rows])
        references = embedder.embed([str(prompt.reference) for prompt in responses.prompts])
        similarity[name] = dict(zip(ids, (texts * references).sum(1).tolist(), strict=True))
        length[name] = {i: max(len(c.text), 1) for i, c in zip(ids, responses.rows, strict=True)}
    rows = []
    for name, responses in read.items():
        words = np.mean([len(completion.text.split()) for completion in responses.rows])
        both = [i for i in similarity[name] if i in similarity[START]]
        gained = np.array([similarity[name][i] - similarity[START][i] for i in both])
        ratio = np.log([length[name][i] / length[START][i] for i in both])
        differences = ["–", "–"] if name == START else [estimate(gained, None), estimate(gained, ratio)]
        rows.append(
            (name, [f"{np.mean(list(similarity[name].values())):.3f}", *differences, f"{words:.1f}", str(len(both))])
        )
    return rows


def estimate(gained: Any, ratio: Any) -> str:
    """The mean, or the value at equal length, with its interval."""
    columns = np.ones((len(gained), 1)) if ratio is None else np.column_stack([np.ones(len(gained)), ratio])
    fitted = sm.OLS(gained, columns).fit(cov_type="HC1")
    low, high = fitted.conf_int()[0]
    return f"{fitted.params[0]:+.3f} [{low:+.3f}, {high:+.3f}]"


if __name__ == "__main__":
    main()
