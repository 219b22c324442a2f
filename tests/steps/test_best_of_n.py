"""Best-of-n: what is kept, the curve by hand, what stays unknown, and whose feedback it was."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.errors import FileError, RecipeError
from aifeedback.models import lineage
from aifeedback.steps.best_of_n import BestOfN, BestOfNFigures, curve
from aifeedback.steps.step import Context

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from tiny import save_llama


def scored(path: Path, rewards: list[list[Any]], **more: Any) -> str:
    rows = [
        {"prompt": f"w{p} w1", "completion": f"w{p} w{s + 2}", "source": "hf:start", "value": value, **more}
        for p, own in enumerate(rewards)
        for s, value in enumerate(own)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(folder: Path, **settings: Any) -> tuple[BestOfNFigures, list[dict[str, Any]]]:
    figures = BestOfN.model_validate(settings).run(Context(folder, folder))
    return figures, [json.loads(line) for line in (folder / "best.jsonl").read_text().splitlines()]


def test_the_best_known_sample_of_each_prompt_is_kept(tmp_path: Path) -> None:
    file = scored(tmp_path / "scored.jsonl", [[0.1, None, 0.3], [None, None, None], [0.5, 0.5, -0.2]])
    figures, kept = run(tmp_path, completions=file)
    assert [(row["completion"], row["reward"], row["samples"]) for row in kept] == [
        ("w0 w4", 0.3, 2),
        ("w2 w2", 0.5, 3),
    ]
    assert (figures.prompts, figures.samples, figures.kept, figures.dropped, figures.unknown) == (3, 9, 2, 1, 4)
    figures, kept = run(tmp_path, completions=file, keep=2, samples=2)
    assert [row["completion"] for row in kept] == ["w0 w2", "w2 w2", "w2 w3"]
    assert figures.samples == 6


def test_the_curve_by_hand() -> None:
    """Maxima of all pairs: (1, 2, 4) → 2, 4, 4; (0, 0, 3) → 0, 3, 3. A prompt with one known sample is on no point."""
    points = curve([[1.0, 2.0, 4.0], [0.0, 3.0, 0.0], [9.0], []])
    assert [point.n for point in points] == [1, 2, 3]
    assert [point.reward.value for point in points] == pytest.approx([(7 / 3 + 1) / 2, (10 / 3 + 2) / 2, 3.5])
    assert [point.gain.value for point in points] == pytest.approx([0, 1, 11 / 6])
    assert [point.kl for point in points] == pytest.approx([0, math.log(2) - 1 / 2, math.log(3) - 2 / 3])
    assert [point.reward.n for point in points] == [2, 2, 2]
    assert curve([[], []]) == []


def test_a_python_reward_a_mix_and_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("reward.py").write_text(
        "def last(completions):\n    return [float(text.split()[-1][1:]) for text in completions]\n"
    )
    scored(Path("answers.jsonl"), [[0.9, 0.1], [0.2, 0.3]])
    reward = {"mix": [{"source": "python:reward.py:last", "weight": 2.0}]}
    figures, kept = run(tmp_path, completions="answers.jsonl", reward=reward)
    assert [row["completion"] for row in kept] == ["w0 w3", "w1 w3"]
    assert figures.curve[-1].reward.value == pytest.approx(6.0)
    assert figures.verdict().level == "ok"
    command = "best-of-n --data answers.jsonl --reward python:reward.py:last -o kept.jsonl"
    done = CliRunner().invoke(app, command.split(), catch_exceptions=False)
    assert "expected reward +2.5 with one sample, +3 with the best of 2" in " ".join(done.output.split())
    equal = BestOfN.model_validate({"completions": scored(Path("equal.jsonl"), [[0.5, 0.5]])})
    assert equal.run(Context(tmp_path, tmp_path)).verdict().level == "bad"


def test_what_cannot_be_chosen_by_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(FileError, match="no scores to choose by"):
        run(tmp_path, completions="plain.jsonl")
    with pytest.raises(FileError, match="'high' is not a score"):
        run(tmp_path, completions=scored(Path("words.jsonl"), [["high"]]))
    with pytest.raises(RecipeError, match="has no effect without --reward"):
        BestOfN.from_options({"completions": "plain.jsonl", "rank": "all"})


@pytest.mark.parametrize("by", ["reward", "scores"])
def test_a_policy_trained_on_the_best_records_who_chose(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge that only chose has a part in training like one that labelled."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    save_llama(Path("start"))
    scored(Path("answers.jsonl"), [[0.1, 0.2]] * 4, judge="fake:longer scores")
    chosen = ["--reward", "judge:fake:longer"] if by == "reward" else []
    for command in (
        ["best-of-n", "--data", "answers.jsonl", *chosen, "-o", "best.jsonl"],
        "train sft --model hf:start --data best.jsonl --steps 1 --batch 2 -o policy".split(),
    ):
        done = CliRunner().invoke(app, command, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    origin = lineage.read(Path("policy"))
    assert origin is not None
    assert [(one.uri, one.role) for one in origin.trainers] == [("fake:longer", "selection")]
    assert origin.unrecorded == ()
