"""Every trained folder says whose feedback trained it; later trainers carry it on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from aifeedback.data import write_completions
from aifeedback.models import lineage
from aifeedback.models.journal.digests import seal
from aifeedback.models.lineage import Origin
from aifeedback.refs import ModelRef, Ref
from aifeedback.types import Completion, Message, Prompt
from trained_folders import FAKE, JUDGE, OTHER, TEST, TRAIN, fed_by, labelled, pairs, trained, weights


def uris(folder: Path) -> set[str]:
    found = lineage.read(folder)
    assert found is not None
    return {one.uri for one in found.trainers}


def test_the_record_holds_who_labelled_by_which_words(tmp_path: Path) -> None:
    card = JUDGE.model_copy(update={"constitution": "harmless"})
    origin = lineage.of_labels(Ref(labelled(tmp_path / "labels", card)), ["openai:judge-1 helpful"] * 8)
    trained(tmp_path / "policy", origin=origin)
    record = json.loads((tmp_path / "policy/training/feedback.json").read_text())
    (one,) = record["trained_by"]
    assert (one["uri"], one["family"], one["revision"], one["constitution"]) == (
        "openai:judge-1", "alpha", "r1", "harmless"
    )  # fmt: skip
    assert (one["rows"], one["human_rows"]) == (8, 0)
    assert one["labels"].startswith("sha256:")
    assert record["prompts"]["count"] == len(TRAIN)
    assert record["base"]["digest"]
    assert record["at"]


def test_a_policy_from_an_sft_folder_keeps_its_entries(tmp_path: Path) -> None:
    sft = trained(tmp_path / "sft", JUDGE, prompts=TRAIN[:3])
    policy = trained(tmp_path / "policy", OTHER, base=sft, prompts=TRAIN[3:])
    found = lineage.read(policy)
    assert found is not None
    assert uris(policy) == {JUDGE.uri, OTHER.uri}
    assert found.prompts == {lineage.prompt_key(prompt) for prompt in TRAIN}
    assert uris(trained(tmp_path / "third", base=policy)) == {JUDGE.uri, OTHER.uri}


def test_who_labelled_for_a_reward_model_trained_the_policy(tmp_path: Path) -> None:
    reward = trained(tmp_path / "reward", JUDGE)
    own = [lineage.trainer(f"rm:{reward}", role="reward")]
    policy = trained(tmp_path / "policy", origin=lineage.behind(f"rm:{reward}", own), prompts=())
    assert uris(policy) == {JUDGE.uri, f"rm:{reward}"}
    found = lineage.read(policy)
    assert found is not None
    assert found.prompts, "prompts of the labels shaped the reward"


@pytest.mark.parametrize("how", ["no record", "no folder", "edited"])
def test_a_reward_model_of_unknown_origin_leaves_the_policy_unrecorded(tmp_path: Path, how: str) -> None:
    reward = trained(tmp_path / "reward", JUDGE)
    if how == "no record":
        (reward / "training/feedback.json").unlink()
    elif how == "no folder":
        shutil.rmtree(reward)
    else:
        file = reward / "training/feedback.json"
        file.write_text(file.read_text().replace("alpha", "omega"))
    assert lineage.behind(f"rm:{reward}", []).unrecorded


def test_a_base_that_lost_its_record_is_not_taken_for_a_pretrained_one(tmp_path: Path) -> None:
    for traces in ("README.md", "training", "command.json"):
        base = weights(tmp_path / f"base-{traces}", traces)
        assert lineage.of_base(base, "base") == Origin()
        if traces == "training":
            (base / traces).mkdir()
        else:
            (base / traces).write_text("tags: [aifeedback]")
        found = lineage.read(trained(tmp_path / f"policy-{traces}", OTHER, base=base))
        assert found is not None
        assert found.unrecorded, traces


def test_every_judge_of_a_panel_and_people_are_counted(tmp_path: Path) -> None:
    file = labelled(tmp_path / "labels", JUDGE, names="panel(mean: one, other)")
    members = {"one": JUDGE.as_json(), "other": OTHER.as_json()}
    (tmp_path / "labels/figures.json").write_text(json.dumps({"judge": {"family": "panel", "members": members}}))
    seal(tmp_path / "labels", tmp_path / "labels/journal.sqlite")
    origin = lineage.of_labels(Ref(file), ["panel(mean: one, other)"] * 5 + ["human"] * 3)
    assert {one.uri: (one.rows, one.human_rows) for one in origin.trainers} == {
        JUDGE.uri: (5, 0), OTHER.uri: (5, 0), "people": (3, 3)
    }  # fmt: skip


@pytest.mark.parametrize("name", ["unknown", "somebody", ""])
def test_labels_of_nobody_in_particular_are_unrecorded(tmp_path: Path, name: str) -> None:
    origin = lineage.of_labels(Ref(labelled(tmp_path, JUDGE)), [name] * 8)
    assert not origin.trainers
    assert "is not recorded" in origin.unrecorded[0]


def test_texts_of_a_teacher_count_and_own_samples_do_not(tmp_path: Path) -> None:
    base = weights(tmp_path / "base", "base")
    data = Ref(tmp_path / "texts.jsonl")
    texts = [Completion.of(p, "text", source="openai:judge-1 revised by harmless@1.0") for p in TRAIN]
    write_completions(data, TRAIN, texts)
    sources = [text.source for text in texts]
    (one,) = lineage.of_texts(data, [*sources, f"hf:{base}", "data"], base).trainers
    assert (one.uri, one.role, one.constitution, one.rows) == ("openai:judge-1", "responses", "harmless@1.0", 8)
    assert len(lineage.of_texts(data, [f"hf:{base}"], weights(tmp_path / "another", "another")).trainers) == 1


def test_texts_of_the_labs_world_are_nobodys_feedback_and_those_of_its_models_are(tmp_path: Path) -> None:
    from aifeedback.lab import samples
    from aifeedback.lab.talk import samples as talk

    sources = [rows[0].completion.source for rows in (samples.demonstrations(1), talk.demonstrations(1))]
    sources += [samples.comparisons(1)[0].first.source]
    assert lineage.of_texts(Ref(tmp_path / "texts.jsonl"), sources, None) == lineage.Origin()
    (teacher,) = lineage.of_texts(Ref(tmp_path / "texts.jsonl"), [*sources, "lab:judge"], None).trainers
    assert (teacher.uri, teacher.family) == ("lab:judge", "lab-a")


@pytest.mark.parametrize(
    "other",
    [
        Prompt.of("  test QUESTION 0? "),
        Prompt.of("Test question 0?", tags={"topic": "x"}, reference="text"),
        Prompt.of([Message(role="system", content="Be kind."), Message(role="user", content="Test question 0?")]),
    ],
)
def test_a_prompt_is_recognised_in_other_clothes(other: Prompt) -> None:
    assert lineage.prompt_key(other) == lineage.prompt_key(TEST[0])
    assert lineage.prompt_key(Prompt.of("Test question 0 or 1?")) != lineage.prompt_key(TEST[0])


@pytest.mark.parametrize("damage", ["feedback.json", "prompt_ids.txt.gz", "weights", "torn"])
def test_a_record_that_does_not_fit_its_folder_counts_as_none(tmp_path: Path, damage: str) -> None:
    policy = trained(tmp_path / "policy", JUDGE)
    if damage == "weights":
        (policy / "model.safetensors").write_bytes(b"other weights")
    elif damage == "torn":
        file = policy / "training/feedback.json"
        file.write_text(file.read_text()[:200])
    elif damage == "feedback.json":
        file = policy / "training/feedback.json"
        record = json.loads(file.read_text())
        file.write_text(json.dumps(record | {"trained_by": []}))
    else:
        (policy / "training/prompt_ids.txt.gz").write_bytes(b"")
    found = lineage.read(policy)
    assert found is not None
    assert not found.trainers
    assert found.unrecorded


def test_a_trained_model_is_the_same_without_the_records_of_its_command(tmp_path: Path) -> None:
    from aifeedback.models.folders import identity_digest, weights_digest

    policy = trained(tmp_path / "policy", JUDGE)
    before = identity_digest(policy), weights_digest(policy)
    for name in ("command.json", "files.json", "figures.json", "done.json"):
        (policy / name).write_text("{}")
    assert (identity_digest(policy), weights_digest(policy)) == before
    (policy / "config.json").write_text("{}")
    assert identity_digest(policy) != before[0]
    assert weights_digest(policy) == before[1]


def test_a_scripted_judge_may_train_and_is_named(tmp_path: Path) -> None:
    assert uris(trained(tmp_path / "policy", FAKE)) == {"fake:noisy"}
    assert lineage.trainer("fake:noisy").family == "fake"
    assert lineage.trainer("python:mine.py:reward").family == "unknown"
    assert lineage.trainer("lab:judge").weights == lineage.weights_of(ModelRef("lab:judge")) != ""


def test_equal_sources_are_one_entry() -> None:
    both = fed_by(JUDGE) + fed_by(JUDGE, OTHER)
    assert [one.uri for one in both.trainers] == [JUDGE.uri, OTHER.uri]
    assert len(pairs()) == 8
