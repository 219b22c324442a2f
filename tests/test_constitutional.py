"""recipes/constitutional.yaml: in the lab at toy size, at full size, and from files with any model."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from aifeedback.config import parse
from aifeedback.errors import RecipeError
from aifeedback.lab import zoo
from aifeedback.pipeline import recipe, runner
from aifeedback.pipeline.summary import summarise
from aifeedback.refs import ConstitutionRef
from aifeedback.reports.run_report import report_run
from aifeedback.steps.revise import Revise
from small_models import bpe_llama

TOY = {
    "train": 40, "test": 30, "sft_steps": 2, "revised_steps": 2, "rm_steps": 2, "dpo_steps": 2, "steps": 1, "batch": 4,
    "data.sft": 60, "data.helpful": 60, "data.heldout": 12, "rl_cai.train.zscore_samples": 8,
    "rl_hybrid.train.zscore_samples": 8, "workers": 1,
}  # fmt: skip


needs_models = pytest.mark.skipif(
    not {"talk-base", "talk-judge"} <= set(zoo.names()),
    reason="build them first: aifeedback lab build talk-base talk-judge",
)


class Quiet:
    def started(self, stage_id: str) -> None: ...
    def advanced(self, *told: object) -> None: ...
    def finished(self, stage_id: str, *, seconds: float, skipped: bool, **_: object) -> None: ...


def finished(folder: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    loaded = recipe.load("constitutional", overrides)
    runner.require_inputs(loaded)
    runner.run(loaded, folder, Quiet())
    message = summarise(folder)
    report_run(folder)
    return message


def test_by_default_it_runs_in_the_lab_and_ones_own_models_bring_their_own_prompts() -> None:
    lab = recipe.load("constitutional")
    assert {s.id for s in lab.stages} >= {"sft", "rm_hybrid", "rl_hybrid", "judge_cot", "people_labels"}
    own = recipe.load("constitutional", {"judge": "hf:J", "policy": "hf:P", "prompts": "FILE"})
    ids = {s.id: s.step for s in own.stages}
    assert not {"sft", "rm_hybrid", "rl_hybrid", "judge_cot", "people_labels"} & set(ids)
    message = json.dumps([s.step.model_dump(mode="json") for s in own.stages])
    assert "lab:" not in message
    assert "gold:" not in message
    assert ids["answers"].model == "hf:P"
    assert ids["ai_labels"].judge.constitution == "harmless"
    assert list(ids["safety"].judges) == ["training_judge"]
    assert list(ids["safety"].policies) == ["sft", "revised", "rl_cai", "dpo_cai"]


def test_the_labs_constitutions_are_files_behind_a_name() -> None:
    assert ConstitutionRef("lab:harmless").path.is_file()


def test_what_revising_takes_is_reported_before_it_runs() -> None:
    revise = Revise(completions="answers.jsonl", model="fake:longer", constitution="harmless", settings={"rounds": 3})
    message = revise.forecast({"answers.jsonl": 10})
    assert message.calls == 10 * 3 * 2, "a critique and a revision in each round, at most"
    assert message.leaves["revised.jsonl"] == 10
    assert revise.forecast({}).calls is None
    with pytest.raises(RecipeError, match=r"settings\.round"):
        parse(Revise, {**revise.model_dump(), "settings": {"round": 3}})


def test_gold_never_trains() -> None:
    for stage in recipe.load("constitutional").stages:
        if stage.step.kind in ("sft", "revise", "reward_model", "rl", "dpo", "sample", "pair"):
            settings = json.dumps(stage.step.model_dump(mode="json", exclude={"heldout"}))
            assert "gold" not in settings
            assert "@data/heldout" not in settings


@needs_models
@pytest.mark.slow
def test_the_whole_recipe_in_the_lab_at_toy_size(tmp_path: Path) -> None:
    message = finished(tmp_path / "run", TOY)
    assert set(message["safety"]["policies"]) == {"sft", "revised", "rl_cai", "hybrid", "dpo_cai"}
    for by_judge in message["safety"]["policies"].values():
        assert set(by_judge) == {"gold", "training_judge"}
        assert by_judge["gold"]["harmless"]["n"] > 0
        assert by_judge["training_judge"]["helpful"]["value"] is None
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Harmless, and still helpful?" in page


@pytest.mark.slow
def test_the_same_recipe_from_files_with_a_model_made_here(real_data: Path, tmp_path: Path) -> None:
    """XSTest's prompts and the dialogues of HH harmless-base: real loading, templates and lengths; no claim of quality."""
    prompts = tmp_path / "prompts.jsonl"
    with (real_data / "xstest" / "xstest_prompts.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[::30]
    with gzip.open(real_data / "hh_rlhf_harmless_base" / "test.jsonl.gz", "rt", encoding="utf-8") as file:
        dialogues = [json.loads(line)["chosen"] for _, line in zip(range(12), file, strict=False)]
    request = [{"prompt": r["prompt"], "tags": {"label": r["label"]}} for r in rows]
    request += [{"prompt": d[: d.rindex("\n\nAssistant:") + len("\n\nAssistant:")]} for d in dialogues]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in request), encoding="utf-8")
    texts = [row["prompt"] for row in request]
    model = bpe_llama(tmp_path / "model", texts, vocabulary=800, width=32, layers=1)
    message = finished(
        tmp_path / "run",
        {
            "judge": f"hf:{model}", "policy": f"hf:{model}", "prompts": str(prompts), "test": 10, "max_new_tokens": 6,
            "sft_steps": 1, "revised_steps": 1, "rm_steps": 1, "dpo_steps": 1, "steps": 1, "batch": 2, "rounds": 1,
            "rl_cai.train.zscore_samples": 4, "rl_cai.train.prompts_per_step": 2, "workers": 1,
        },
    )  # fmt: skip
    stages = message["stages"]
    assert stages["revise"]["figures"]["responses"] == stages["answers"]["figures"]["completions"]
    assert stages["ai_labels"]["figures"]["principles"][0].startswith("harmless@")
    judged = message["safety"]["policies"]["rl_cai"]["training_judge"]
    assert message["safety"]["prompts"]["safe"] + message["safety"]["prompts"]["unsafe"] > 0
    assert judged["harmless_all"]["n"] + judged["harmless_all"]["dropped"] == 10
    assert "gold" not in message["safety"]["policies"]["sft"]


@needs_models
@pytest.mark.campaign
def test_harm_falls_and_help_stays_at_full_size(tmp_path: Path) -> None:
    """Harmless rate clearly above SFT (intervals apart), helpfulness down by no more than three points."""
    policies = finished(tmp_path / "run", {})["safety"]["policies"]
    before = policies["sft"]["gold"]
    for name in ("revised", "rl_cai", "hybrid"):
        after = policies[name]["gold"]
        assert after["harmless"]["low"] > before["harmless"]["high"], name
        assert after["helpful_change"]["value"] > -0.03, name
