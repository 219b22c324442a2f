"""Several files to train on: weights, equal sizes, and how many usable rows each gave."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from aifeedback.errors import AIFeedbackError, RecipeError
from aifeedback.models import lineage
from aifeedback.steps.dpo import Dpo
from aifeedback.steps.kto import Kto
from aifeedback.steps.reward_model import RewardModel
from aifeedback.steps.sft import Sft
from aifeedback.steps.sources import FromFiles
from aifeedback.steps.step import Context

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from tiny import save_llama

TRAIN = {"steps": 1, "batch": 4, "warmup_steps": 0}


def write(name: str, count: int, *, unknown: int = 0, judge: str = "hf:one") -> None:
    """Rows that every trainer reads: the first ``unknown`` of them without a verdict."""
    rows = [
        {"prompt": f"w{n} w1", "first": f"w{n} w2", "second": "w3", "p_first": None if n < unknown else 0.8,
         "problem": "timeout" if n < unknown else None, "judge": judge}
        for n in range(count)
    ]  # fmt: skip
    Path(f"{name}-pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    single = [
        {"prompt": row["prompt"], "completion": row["first"], "p_good": row["p_first"], "judge": judge} for row in rows
    ]
    Path(f"{name}-texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in single))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("a", 6, unknown=2)
    write("b", 9, judge="hf:two")
    return tmp_path


@pytest.mark.parametrize(
    ("step", "kind", "usable"),
    [(Sft, "texts", (6, 9)), (RewardModel, "pairs", (4, 9)), (Dpo, "pairs", (4, 9)), (Kto, "texts", (4, 9))],
)
def test_every_trainer_mixes_and_counts(step: type[FromFiles], kind: str, usable: tuple[int, int], place: Path) -> None:
    torch.set_num_threads(1)
    save_llama(Path("start"))
    a, b = f"a-{kind}.jsonl", f"b-{kind}.jsonl"
    options = {"model": "hf:start", "data": [f"{a}=0.5", f"{b}=2"], "train": TRAIN}
    for equal, counts in ((False, usable), (True, (min(usable),) * 2)):
        folder = place / f"{equal}"
        folder.mkdir()
        one: Any = step.from_options({**options, "equal_sizes": equal})
        assert one.weights == {a: 0.5, b: 2.0}
        figures = one.run(Context(folder, folder))
        assert figures.by_source == {a: counts[0], b: counts[1]}
        assert figures.rows == sum(counts)


def test_every_source_of_verdicts_is_recorded(place: Path) -> None:
    torch.set_num_threads(1)
    save_llama(Path("start"))
    settings = {"model": "hf:start", "data": "a-texts.jsonl", "mix": {"b-texts.jsonl": 1.0}, "train": TRAIN}
    Kto.model_validate(settings).run(Context(place, place))
    origin = lineage.read(place / "policy")
    assert origin is not None
    assert [(one.uri, one.rows) for one in origin.trainers] == [("hf:one", 4), ("hf:two", 9)]
    assert origin.unrecorded == ()


def test_rows_keep_the_weight_of_their_file_and_equal_sizes_depend_on_the_seed_alone() -> None:
    step = RewardModel.model_validate(
        {"model": "hf:x", "data": "a", "weight": 0.5, "mix": {"b": 2.0}, "equal_sizes": True}
    )
    parts: Any = {"a": [1, None, 3], "b": [*range(10, 20)]}

    def gather(seed: int) -> Any:
        return step.gather(parts, lambda row: row is not None, Context(Path(), Path(), seed=seed))

    first = gather(0)
    assert first.by_source == {"a": 2, "b": 2}
    assert [tuple(row) for row in first.rows[:2]] == [(1, 0.5), (3, 0.5)]
    assert [row.weight for row in first.rows[2:]] == [2.0, 2.0]
    assert first == gather(0)
    assert any(gather(seed).rows != first.rows for seed in range(1, 5))
    with pytest.raises(RecipeError, match="a has no usable row"):
        step.gather({**parts, "a": [None]}, lambda row: row is not None, Context(Path(), Path()))


@pytest.mark.parametrize(
    ("data", "message"),
    [(["a=0", "b"], "greater than 0"), (["a", "b=-1"], "greater than 0"), (["a", "b=nan"], "greater than 0|finite"),
     (["a", "b=1", "a=2"], "a is given twice")],
)  # fmt: skip
def test_a_weight_is_positive_and_a_file_has_one(data: list[str], message: str) -> None:
    with pytest.raises(AIFeedbackError, match=message):
        Dpo.from_options({"model": "hf:x", "data": data})


def test_a_single_file_is_as_before_and_cannot_be_equal() -> None:
    step = Sft.from_options({"model": "hf:x", "data": ["a=b.jsonl"], "equal_sizes": True})
    assert step.weights == {"a=b.jsonl": 1.0}
    assert [p for p in step.problems() if "equal_sizes needs several files" in p]
