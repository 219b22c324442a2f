"""Real dialogues through the whole path: label → reward model → reinforce → compare, with a small model made here.

The model has learnt nothing worth the name, so nothing is claimed about quality: what is tested is that long dialogues,
real Unicode and real lengths go through, and that every row is accounted for.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aifeedback.data import read_comparisons
from aifeedback.pipeline import recipe, runner
from aifeedback.pipeline.summary import summarise
from small_models import bpe_llama

ROWS = 120


class Quiet:
    def started(self, stage_id: str) -> None: ...
    def advanced(self, *told: object) -> None: ...
    def finished(self, stage_id: str, *, seconds: float, skipped: bool, **_: object) -> None: ...


@pytest.fixture(scope="module")
def finished_run(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = real_data / "hh_rlhf_harmless_base" / "test.jsonl.gz"
    folder = tmp_path_factory.mktemp("hh")
    texts = [row.prompt.text + row.first.text + row.second.text for row in read_comparisons(data, limit=600).rows]
    model = bpe_llama(folder / "model", texts)
    loaded = recipe.load(
        "pairs",
        {
            "data": str(data),
            "judge": f"hf:{model}",
            "policy": f"hf:{model}",
            "limit": ROWS,
            "test": 20,
            "max_prompt_tokens": 600,
            "max_new_tokens": 16,
            "sft_steps": 12,
            "rm_steps": 6,
            "steps": 3,
            "learning_rate": 1e-3,
            "sft.train.batch": 8,
            "reward_model.train.batch": 8,
        },
    )
    runner.require_inputs(loaded)
    runner.run(loaded, folder / "run", Quiet())
    return folder / "run"


def test_every_row_of_the_file_is_accounted_for(real_data: Path) -> None:
    read = read_comparisons(real_data / "hh_rlhf_harmless_base" / "test.jsonl.gz")
    assert read.report.rows == 2312
    assert read.report.kept + len(read.report.skipped) == 2312
    assert len(read.rows) == read.report.kept
    gold_first = sum(h == 1.0 for h in read.human if h is not None)
    assert 0.45 < gold_first / len(read.rows) < 0.55


def test_the_whole_path_on_real_dialogues(finished_run: Path) -> None:
    summary = summarise(finished_run)
    stages = summary["stages"]
    labels = stages["labels"]["figures"]
    assert labels["labels"] + labels["unknown"] == labels["rows"]["kept"]
    assert labels["rows"]["kept"] + sum(labels["rows"]["skipped"].values()) == labels["rows"]["read"]
    for name in ("sft", "reward_model", "rl"):
        trained = stages[name]["figures"]
        assert trained["steps"] > 0
        assert all(isinstance(count, int) for count in trained["skipped"].values())
    assert set(summary["policies"]) == {"sft", "rlaif"}
    assert summary["policies"]["rlaif"]["win_rate"]["n"] > 0


def test_the_policy_generates_in_plain_transformers(finished_run: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finished_run / "stages" / "rl" / "policy"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    request = tokenizer("\n\nHuman: Hello – how are you? 你好\n\nAssistant:", return_tensors="pt")
    message = model.generate(**request, max_new_tokens=5, do_sample=False)
    assert message.shape[1] > request["input_ids"].shape[1]


def test_labels_load_as_a_trl_preference_data_set(finished_run: Path) -> None:
    from datasets import Dataset
    from trl.data_utils import is_conversational, maybe_extract_prompt

    rows = [json.loads(line) for line in (finished_run / "stages/labels/labelled.jsonl").read_text().splitlines()]
    known = [row for row in rows if row["p_first"] is not None]
    data = Dataset.from_list([{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in known])
    assert is_conversational(data[0])
    assert maybe_extract_prompt(data[0])["chosen"] == data[0]["chosen"]
    for row in known:
        assert row["chosen_probability"] >= 0.5
