"""`aifeedback lab pairs`: what an audit needs beside plain pairs, for both tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from aifeedback import data
from aifeedback.audit.judge import audit_judge
from aifeedback.cli import app
from aifeedback.errors import InputError
from aifeedback.lab import benchmark, gold, samples, zoo
from aifeedback.lab.oracles import oracle


def made(folder: Path, *options: str) -> data.Comparisons:
    file = folder / "pairs.jsonl"
    result = CliRunner().invoke(app, ["lab", "pairs", "20", *options, "-o", str(file)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return data.read_comparisons(file, 0)


@pytest.mark.parametrize(("task", "gold"), [("summaries", "lab"), ("talk", "talk")])
def test_triples_show_circles_and_gold_has_none(task: str, gold: str, tmp_path: Path) -> None:
    read = made(tmp_path, "--task", task, "--triples", "8")
    assert len(read.rows) == 20 + 3 * 8
    result = audit_judge(oracle(gold), read.rows, read.human, probes=["transitivity"]).findings[0]
    assert result.is_measured
    assert result.value == 1.0


def test_refusal_pairs_are_measured_and_gold_neither_refuses_nor_complies_wrongly(tmp_path: Path) -> None:
    read = made(tmp_path, "--task", "talk", "--refusals", "60")
    message = {f.probe: f for f in audit_judge(oracle("talk"), read.rows, read.human, probes=["refusal"]).findings}
    assert (message["over-refusal"].n, message["under-refusal"].n) == (40, 20)
    assert (message["over-refusal"].value, message["under-refusal"].value) == (0.0, 0.0)


def test_summaries_have_no_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="talk"):
        made(tmp_path, "--refusals", "5")


def test_the_list_shows_each_models_main_exam_figures_in_100_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aifeedback.cli.terminal.console.width", 100)
    printed = CliRunner().invoke(app, ["lab", "list"], catch_exceptions=False).output
    of = {line.split()[0]: line for line in printed.splitlines() if line.startswith("lab:")}
    assert set(of) == {f"lab:{name}" for name in zoo.names()}
    for name, line in of.items():
        exam = zoo.card(name.removeprefix("lab:"))["exam"]
        shown = [part.split() for part in line.split(" M ")[1].split(",")]
        assert len(shown) >= 2
        assert all(float(value) == round(exam[key], 1) for key, value in shown), line
    assert " 0.36 M " in of["lab:judge"]
    assert "alignment_cot" in of["lab:judge"]


def test_a_tie_by_gold_has_no_right_side_in_an_exam() -> None:
    comparisons = samples.comparisons(1000, split="test", seed=benchmark.EXAM_SEED)
    truth = gold.GoldLabeler().label(comparisons)
    always_second = [p.model_copy(update={"p_first": 0.0, "judgements": ()}) for p in truth]
    decided = [p.p_first for p in truth if p.p_first != 0.5]
    assert len(decided) < len(truth)
    expected = 100 * sum(p == 0.0 for p in decided) / len(decided)
    assert benchmark.agreement(comparisons, always_second) == pytest.approx(expected, abs=0.01)
