"""The published tables beside a run: pooling by hand, shapes by intervals, every table from the stages of the recipe."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.pipeline.recipe import load
from aifeedback.reports import paper
from aifeedback.reports.paper import above, apart, judged, pooled
from aifeedback.steps.compare import Compare


def est(value: float, half: float = 0.03, n: int = 400) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def test_runs_are_pooled_as_by_hand() -> None:
    one = pooled([est(0.70), est(0.74), est(0.66)])
    assert one is not None
    within, between = (0.03 / 1.959964) ** 2, 0.04**2 / 3  # 0.70 ± 0.04: a sample variance of 0.0016
    half = 1.959964 * math.sqrt(within + between)
    assert one.value == pytest.approx(0.70)
    assert (one.low, one.high) == pytest.approx((0.70 - half, 0.70 + half))
    assert (one.n, one.runs) == (400, (0.70, 0.74, 0.66))


def test_one_run_keeps_its_interval_and_shares_stay_shares() -> None:
    one = pooled([est(0.6)])
    assert one is not None
    assert one[:4] == pytest.approx((0.6, 0.57, 0.63, 400))
    top = pooled([est(0.99, half=0.05)])
    assert top is not None
    assert top.high == 1.0
    score = pooled([est(1.5, half=0.5)], is_share=False)
    assert score is not None
    assert score.high == pytest.approx(2.0)


@pytest.mark.parametrize("missing", [[], [None], [{"value": None, "low": None}], [{"value": 0.5, "low": None}]])
def test_what_no_run_measured_is_not_measured(missing: list[Any]) -> None:
    assert pooled(missing) is None


def test_a_shape_fails_only_where_an_interval_contradicts_it() -> None:
    up, level, down = (pooled([est(value)]) for value in (0.6, 0.51, 0.4))
    assert [above(one, 0.5) for one in (up, level, down, None)] == [True, None, False, None]
    assert [apart(up, down), apart(down, up), apart(up, up)] == [True, False, None]
    assert judged([("a", True), ("b", True)])[0] == "holds"
    assert judged([("a", True), ("b", None)])[0] == "undecided"
    assert judged([("a", None), ("b", False)]) == ("fails", "Not so here: b.")
    assert judged([])[0] == "not measured"


def planted(folder: Path, change: Callable[[str, dict[str, Any]], None] = lambda step, figures: None) -> Path:
    """A run of the recipe with figures in the published shape."""
    rates = {
        "sft": 0.5,
        "rlaif": 0.71,
        "rlhf": 0.73,
        "d_rlaif": 0.74,
        "same_size": 0.62,
        "base_prompt": 0.6,
        "both": 0.71,
        "dpo": 0.7,
    }
    for run in range(3):
        compare = {
            "policies": {
                name: {"win_rate": est(rate), "length_controlled": est(rate - 0.05), "mean_length": 80 + 30 * (name != "sft")}
                for name, rate in rates.items()
            },
            "head_to_head": {
                "rlaif_vs_rlhf": est(0.49), "d_rlaif_vs_same_size": est(0.6), "rlhf_vs_both": est(0.52),
                "rlaif_vs_base_prompt": est(0.59),
            },
            "head_to_head_length_controlled": {"rlaif_vs_rlhf": est(0.47)},
        }  # fmt: skip
        steps: dict[str, dict[str, Any]] = {f"compare-{run}": compare}
        for name, accuracy in {"human": 0.79, "ai": 0.7, "size": 0.66, "base": 0.65, "both": 0.75, "human_from_sft": 0.78,
                               "ai_from_base": 0.69}.items():  # fmt: skip
            steps[f"rm_{name}-{run}"] = {"accuracy": est(accuracy)}
        for source, size, accuracy in (
            ("ai", 300, 0.6),
            ("ai", 1000, 0.66),
            ("human", 300, 0.62),
            ("human", 1000, 0.7),
        ):
            steps[f"rm_{source}_part-{run}-{size}"] = {"accuracy": est(accuracy)}
        for pull in ("0.0", "0.1"):
            steps[f"drift-{run}-{pull}"] = {}
            log = folder / "stages" / f"drift-{run}-{pull}" / "policy" / "training" / "metrics.jsonl"
            log.parent.mkdir(parents=True)
            scores = (0.5, 0.8, 0.2) if pull == "0.0" else (0.5, 0.7, 0.72)
            rows = [
                {"heldout_measure": score, "heldout_measure_se": 0.05, "heldout_reward": step}
                for step, score in enumerate(scores)
            ]
            log.write_text("\n".join(json.dumps(row) for row in [*rows, {"step": 9}]))
        for step, figures in steps.items():
            write(folder, step, figures, change)
    cells = [{"judge": f"lab:{size}", "prompt": "detailed", "shots": 0, "rationales": 1, "alignment": est(agreement),
              "alignment_single": est(agreement - 0.04), "position_bias": est(position)}
             for size, agreement, position in (("l", 0.85, 0.2), ("s", 0.75, 0.3), ("xs", 0.6, 0.6))]  # fmt: skip
    write(folder, "judges", {"cells": cells}, change)
    for step, thoughts, agreement in (("prompts", 0, 0.7), ("rationales", 1, 0.82)):
        write(folder, step, {"cells": [
            {"judge": "lab:l", "prompt": f"lab:pairs-{preamble}", "shots": shots, "rationales": thoughts,
             "alignment": est(agreement), "alignment_single": est(agreement - 0.05)}
            for preamble in ("base", "detailed") for shots in (0, 1, 2)]}, change)  # fmt: skip
    write(
        folder,
        "consistency-0.7",
        {"cells": [{"rationales": 1, "alignment": est(0.82)}, {"rationales": 8, "alignment": est(0.8)}]},
        change,
    )
    return folder


def write(folder: Path, step: str, figures: dict[str, Any], change: Callable[[str, dict[str, Any]], None]) -> None:
    change(step, figures)
    (folder / "stages" / step).mkdir(parents=True, exist_ok=True)
    (folder / "stages" / step / "done.json").write_text(json.dumps({"figures": figures}))


def verdicts(folder: Path) -> dict[str, str]:
    return {table.title: table.verdict for table in paper.tables(folder)}


def test_a_run_in_the_published_shape_holds_in_every_table(tmp_path: Path) -> None:
    assert set(verdicts(planted(tmp_path)).values()) == {"holds"}
    assert paper.headline(paper.tables(tmp_path)).startswith("Of 10 published shapes, 10 hold")


def _lose(step: str, figures: dict[str, Any]) -> None:
    if step.startswith("compare"):
        figures["policies"]["rlaif"]["win_rate"] = est(0.3)


def _swap(step: str, figures: dict[str, Any]) -> None:
    if step == "judges":
        figures["cells"].reverse()


def _worse(step: str, figures: dict[str, Any]) -> None:
    if step.startswith("compare"):
        figures["head_to_head"]["rlaif_vs_base_prompt"] = est(0.35)


@pytest.mark.parametrize(
    ("change", "failing"),
    [(_lose, "Win rates"), (_swap, "The judge's size"), (_worse, "How much the quality of labels matters")],
)
def test_a_shape_that_fails_stays_failed(tmp_path: Path, change: Any, failing: str) -> None:
    assert verdicts(planted(tmp_path, change))[failing] == "fails"


def test_a_run_that_measured_nothing_says_so_in_every_table(tmp_path: Path) -> None:
    assert set(verdicts(tmp_path).values()) == {"not measured"}
    page = paper.write_paper(tmp_path).read_text()
    assert page.count("not measured") >= 10


def test_page_json_and_markdown_hold_the_same_values(tmp_path: Path) -> None:
    page = paper.write_paper(planted(tmp_path)).read_text()
    assert "Of 10 published shapes, 10 hold here" in page
    stored = json.loads((tmp_path / "paper.json").read_text())["tables"][0]["rows"][0]
    assert (stored["label"], stored["published"], stored["ours"]["value"]) == (
        "RLAIF against SFT",
        "71",
        pytest.approx(0.71),
    )
    assert (
        "| RLAIF against SFT | 71 | 71.0 (68.0 to 74.0), n = 400 | 71.0, 71.0, 71.0 |"
        in (tmp_path / "paper.md").read_text()
    )


def test_the_recipe_has_every_step_that_a_table_reads() -> None:
    ids = {stage.id for stage in load("paper").stages}
    source = Path(paper.__file__).read_text()
    read = set(re.findall(r'"((?:rm|compare)[a-z_]*)-\{run\}"', source)) | {
        "drift",
        "judges",
        "prompts",
        "rationales",
        "consistency",
    }
    assert len(read) >= 12
    assert all(any(id_ == name or id_.startswith(f"{name}-") for id_ in ids) for name in read), read
    (compare,) = [stage.step for stage in load("paper").stages if stage.id == "compare-0"]
    assert isinstance(compare, Compare)
    policies = set(compare.policies)
    assert policies == {"sft", "rlaif", "rlhf", "d_rlaif", "same_size", "base_prompt", "both", "dpo"}


@pytest.mark.slow
def test_a_small_run_accounts_for_every_arm_and_resumes_to_the_same_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = {
        "pairs": 40,
        "half": 20,
        "few": 10,
        "steps": 2,
        "drift_steps": 30,
        "rm_steps": 2,
        "test": 20,
        "heldout": 30,
        "sampled": 4,
    }
    command = ["run", "paper", "-o", "run", "--set", "workers=1", "--set", "runs=[0]"]
    command += [part for name, value in sizes.items() for part in ("--set", f"{name}={value}")]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert CliRunner().invoke(app, ["report", "run", "--paper"]).exit_code == 0
    first = (tmp_path / "run" / "paper.json").read_bytes()
    rows = [row for table in json.loads(first)["tables"] for row in table["rows"]]
    assert [row["label"] for row in rows if row["ours"] is None] == []
    for step in ("rlhf-0", "compare-0"):
        (tmp_path / "run" / "stages" / step / "done.json").unlink()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert CliRunner().invoke(app, ["report", "run", "--paper"]).exit_code == 0
    assert (tmp_path / "run" / "paper.json").read_bytes() == first
