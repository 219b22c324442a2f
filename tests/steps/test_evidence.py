"""Who counts as evidence for which claim; ten ways to bend it, each with variations, and honest runs that pass."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest

from aifeedback.models import lineage
from aifeedback.refs import Ref
from aifeedback.steps import evidence
from aifeedback.steps.connect import JudgeCard
from aifeedback.types import Prompt
from trained_folders import (
    FAKE,
    GOLD,
    JUDGE,
    OTHER,
    PEOPLE,
    RELATIVE,
    TEST,
    TRAIN,
    fed_by,
    judged,
    labelled,
    trained,
    weights,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return weights(tmp_path / "pretrained", "pretrained")


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Trained on labels of JUDGE."""
    return trained(tmp_path / "policy", JUDGE)


@pytest.mark.parametrize("declared", [(), (OTHER,), (OTHER, PEOPLE), (GOLD,)])
@pytest.mark.parametrize("judges", [(JUDGE,), (RELATIVE,), (JUDGE, RELATIVE)])
def test_what_is_declared_removes_nobody(policy: Path, base: Path, declared: tuple, judges: tuple) -> None:
    found = judged({"base": base, "policy": policy}, *judges, declared=declared)
    assert not found.verified
    assert {one["model"] for one in found.trained_by} >= {JUDGE.uri}


@pytest.mark.parametrize("evaluator", [OTHER, PEOPLE, GOLD])
def test_what_is_declared_adds(policy: Path, base: Path, evaluator: JudgeCard) -> None:
    policies = {"base": base, "policy": policy}
    assert judged(policies, evaluator).verified
    assert judged(policies, evaluator, declared=[evaluator]).verified == (evaluator is PEOPLE)


@pytest.mark.parametrize("how", ["copy", "rename", "copy of a copy", "new configuration"])
def test_a_folder_under_another_name_keeps_its_origin(policy: Path, base: Path, tmp_path: Path, how: str) -> None:
    other = tmp_path / "innocent"
    if how == "rename":
        policy.rename(other)
    else:
        shutil.copytree(policy, other)
    if how == "copy of a copy":
        other = Path(shutil.copytree(other, tmp_path / "far" / "away"))
    if how == "new configuration":
        (other / "config.json").write_text('{"model_type": "other"}')
    assert not judged({"base": base, "policy": other}, JUDGE).verified
    assert judged({"base": base, "policy": other}, OTHER).verified


@pytest.mark.parametrize("how", ["record", "folder", "base", "everything", "served", "file"])
def test_a_missing_record_is_unverified(policy: Path, base: Path, tmp_path: Path, how: str) -> None:
    shown: str | Path = policy
    if how == "record":
        (policy / "training/feedback.json").unlink()
    elif how == "folder":
        shutil.rmtree(policy / "training")
    elif how == "everything":
        shutil.rmtree(policy / "training")
        (policy / "README.md").unlink()
    elif how == "base":  # stripped, then trained a little further
        shutil.rmtree(policy / "training")
        shown = trained(tmp_path / "further", base=policy)
    elif how == "served":
        shown = "openai:policy"
    else:
        shown = str(tmp_path / "responses.jsonl")
        Path(shown).write_text("")
    found = judged({"base": base, "policy": shown}, OTHER, PEOPLE)
    assert not found.verified
    assert "not recorded" in found.reason
    assert not found.claims["agreement"].verified


@pytest.mark.parametrize("cleverly", [False, True])
@pytest.mark.parametrize("key", ["trained_by", "prompts", "weights"])
def test_an_edited_record_is_unverified(policy: Path, base: Path, key: str, cleverly: bool) -> None:
    from aifeedback.models.journal.digests import seal

    seal(policy, policy / "journal.sqlite")
    file = policy / "training/feedback.json"
    record = json.loads(file.read_text())
    record[key] = {"trained_by": [], "prompts": {**record["prompts"], "count": 0}, "weights": "0" * 16}[key]
    if cleverly:  # with a digest that fits: the run's own list of digests still differs
        made = lineage.Feedback.model_validate(record)
        record["digest"] = lineage._digest(made)
    file.write_text(json.dumps(record))
    assert not judged({"base": base, "policy": policy}, JUDGE).verified
    assert not judged({"base": base, "policy": policy}, OTHER).verified


def in_other_clothes(prompt: Prompt, how: str) -> Prompt:
    text = prompt.text
    return Prompt.of({"spaces": f"  {text}\n", "capitals": text.upper(), "tags": text, "as it is": text}[how],
                     tags={"a": "b"} if how == "tags" else None)  # fmt: skip


@pytest.mark.parametrize("how", ["as it is", "spaces", "capitals", "tags"])
@pytest.mark.parametrize("seen", [1, 3, 6])
def test_prompts_trained_on_are_counted_and_never_count(tmp_path: Path, base: Path, how: str, seen: int) -> None:
    policy = trained(tmp_path / "policy", JUDGE, prompts=[in_other_clothes(p, how) for p in TEST[:seen]])
    found = judged({"base": base, "policy": policy}, OTHER)
    assert found.prompts is not None
    assert (found.prompts.trained_on, found.prompts.of, found.prompts.by_policy["policy"]) == (seen, 6, seen)
    assert found.prompts.excluded == found.verified == (seen < 6)
    held = evidence.held_out(TEST, {"policy": lineage.read(policy) or lineage.Origin()})
    assert len(held.rows) == (6 - seen or 6)


@pytest.mark.parametrize("how", ["removed", "emptied", "no list", "without the file"])
def test_labels_whose_list_of_digests_was_bent_are_unverified(tmp_path: Path, base: Path, how: str) -> None:
    file = labelled(tmp_path / "labels", JUDGE)
    listed = tmp_path / "labels/files.json"
    file.write_text(file.read_text().replace(JUDGE.uri, "openai:somebody"))
    if how == "removed":
        listed.unlink()
    else:
        kept = {k: v for k, v in json.loads(listed.read_text()).items() if k != file.name}
        listed.write_text({"emptied": "", "no list": "[]", "without the file": json.dumps(kept)}[how])
    origin = lineage.of_labels(Ref(file), ["openai:somebody helpful"] * 8)
    policy = trained(tmp_path / "policy", origin=origin)
    assert not judged({"base": base, "policy": policy}, OTHER).verified


@pytest.mark.parametrize("edit", ["people", "nobody", "another judge", "another verdict", "another card"])
def test_edited_labels_are_unverified(tmp_path: Path, base: Path, edit: str) -> None:
    file = labelled(tmp_path / "labels", JUDGE)
    name = {"people": "human", "nobody": "unknown", "another judge": "openai:other helpful"}.get(edit)
    if edit == "another card":
        card = tmp_path / "labels/figures.json"
        card.write_text(card.read_text().replace("alpha", "omega").replace("judge-1", "judge-9"))
    else:
        new = (f'"{JUDGE.uri} helpful"', f'"{name}"') if name else ('"p_first": 0.8', '"p_first": 0.1')
        assert new[0] in file.read_text()
        file.write_text(file.read_text().replace(*new))
    origin = lineage.of_labels(Ref(file), [name or f"{JUDGE.uri} helpful"] * 8)
    policy = trained(tmp_path / "policy", origin=origin)
    assert not judged({"base": base, "policy": policy}, JUDGE).verified
    if edit != "another card":  # without the card, the name alone still tells whom
        assert not judged({"base": base, "policy": policy}, OTHER).verified


@pytest.mark.parametrize("change", ["name", "name and family", "name, family and revision"])
def test_the_training_judge_under_another_name_is_found_by_its_weights(tmp_path: Path, base: Path, change: str) -> None:
    judge = weights(tmp_path / "judge", "judge", family="alpha")
    policy = trained(tmp_path / "policy", origin=lineage.Origin((lineage.trainer(f"hf:{judge}"),)))
    copied = Path(shutil.copytree(judge, tmp_path / "innocent"))
    if "family" in change:
        (copied / "config.json").write_text('{"model_type": "omega"}')
    if "revision" in change:
        (copied / "extra.json").write_text("{}")
    evaluator = lineage.trainer(f"hf:{copied}")
    card = JudgeCard(model=f"hf:{copied}", uri=f"hf:{copied}", family=evaluator.family, revision=evaluator.revision)
    assert not judged({"base": base, "policy": policy}, card).verified


@pytest.mark.parametrize("as_what", ["reward model", "judge", "judge of a judge"])
def test_what_was_distilled_from_the_training_judge_is_no_evidence(
    policy: Path, base: Path, tmp_path: Path, as_what: str
) -> None:
    distilled = trained(tmp_path / "distilled", JUDGE, base=weights(tmp_path / "start", "start"))
    if as_what == "judge of a judge":
        distilled = trained(tmp_path / "again", base=distilled)
    scheme, family = ("rm", "reward model") if as_what == "reward model" else ("hf", "omega")
    card = JudgeCard(model=f"{scheme}:{distilled}", uri=f"{scheme}:{distilled}", family=family, revision="r77")
    found = judged({"base": base, "policy": policy}, card)
    assert not found.verified
    assert found.judges[card.model].reason


@pytest.mark.parametrize("evaluator", [FAKE, JudgeCard(model="fake:longer", family="omega"),
                                       JudgeCard(model="python:mine.py:Judge", family="omega", revision="r5"),
                                       JudgeCard(model="acme:judge", family="people", revision="r5")])  # fmt: skip
def test_a_scripted_judge_is_no_evidence(policy: Path, base: Path, evaluator: JudgeCard) -> None:
    assert not judged({"base": base, "policy": policy}, evaluator).verified
    mixed = judged({"base": base, "policy": policy}, evaluator, OTHER)
    assert mixed.verified
    assert mixed.claims["win_rate"].evaluators == (OTHER.model,)


@pytest.mark.parametrize("family", ["people", "human", "oracle", "People"])
@pytest.mark.parametrize("model", ["openai:judge-1", "openai:judge-2", "hf:elsewhere"])
def test_a_model_that_calls_itself_people_is_none(policy: Path, base: Path, model: str, family: str) -> None:
    card = JudgeCard(model=model, uri=model, family=family, revision="r44")
    assert not judged({"base": base, "policy": policy}, card).verified


@pytest.mark.parametrize("declared", ["omega", "people", ""])
def test_a_declared_family_does_not_hide_the_one_that_the_name_tells(tmp_path: Path, base: Path, declared: str) -> None:
    llama = JudgeCard(model="openai:llama-3-70b", uri="openai:llama-3-70b", family="llama", revision="r1")
    policy = trained(tmp_path / "policy", llama)
    relative = JudgeCard(model="openai:Llama-3.1-8B", uri="openai:Llama-3.1-8B", family=declared, revision="r2")
    assert not judged({"base": base, "policy": policy}, relative).verified
    other = JudgeCard(model="openai:mistral-7b", uri="openai:mistral-7b", family="mistral", revision="r3")
    assert judged({"base": base, "policy": policy}, other).verified


def test_a_policy_is_no_evidence_of_itself(policy: Path, base: Path, tmp_path: Path) -> None:
    for folder in (policy, base, Path(shutil.copytree(policy, tmp_path / "copy"))):
        card = JudgeCard(model=f"hf:{folder}", uri=f"hf:{folder}", family="omega", revision="r5")
        assert not judged({"base": base, "policy": policy}, card).verified


def test_a_panel_is_as_independent_as_its_weakest_member(policy: Path, base: Path) -> None:
    panels = {
        name: JudgeCard(model=name, family="panel", members={card.model: card for card in cards})
        for name, cards in {"mixed": (OTHER, JUDGE), "others": (OTHER, GOLD)}.items()
    }
    found = judged({"base": base, "policy": policy}, *panels.values())
    assert {name: row.independent for name, row in found.judges.items()} == {"mixed": False, "others": True}


@pytest.mark.parametrize("role", ["reward", "selection", "responses"])
def test_every_part_in_training_counts(tmp_path: Path, base: Path, role: str) -> None:
    policy = trained(tmp_path / "policy", origin=fed_by(JUDGE, role=role))
    assert not judged({"base": base, "policy": policy}, JUDGE).verified


def test_one_badge_per_claim(policy: Path, base: Path) -> None:
    """The win rate has an independent evaluator; the table of harm was made by the training judge."""
    found = judged({"base": base, "policy": policy}, OTHER, assessors=[JUDGE])
    assert {name: claim.verified for name, claim in found.claims.items()} == {
        "win_rate": True, "harm": False, "refusal": False, "agreement": False,
    }  # fmt: skip
    assert "independent evaluator" in found.claims["win_rate"].reason
    alone = judged({"base": base, "policy": policy}, assessors=[OTHER])
    assert {name: claim.verified for name, claim in alone.claims.items()} == {"harm": True, "refusal": True}
    assert alone.verified


def test_people_and_the_oracle_agree_with_people(policy: Path, base: Path) -> None:
    for judge in (PEOPLE, GOLD):
        assert judged({"base": base, "policy": policy}, judge).claims["agreement"].verified


def test_honest_runs_pass(tmp_path: Path, base: Path) -> None:
    """Policies by labels, live reward, people, demonstrations alone, over one to three steps, judged by who had no part."""
    refused, runs = [], 0
    starts = {"pretrained": base, "sft": trained(tmp_path / "sft", origin=lineage.Origin())}
    teachers = {"labels": fed_by(JUDGE), "reward": fed_by(JUDGE, role="reward"), "people": fed_by(PEOPLE),
                "both": fed_by(JUDGE, PEOPLE), "none": lineage.Origin()}  # fmt: skip
    for (start, folder), (name, origin) in itertools.product(starts.items(), teachers.items()):
        policy = trained(tmp_path / f"{start}-{name}", base=folder, origin=origin, prompts=TRAIN)
        for reference, judge in itertools.product((base, folder), (OTHER, PEOPLE, GOLD, (OTHER, JUDGE), (FAKE, OTHER))):
            runs += 1
            judges = judge if isinstance(judge, tuple) else (judge,)
            if not judged({"before": reference, "after": policy}, *judges).verified:
                refused.append((start, name, judges[0].model))
    assert (runs, refused) == (100, [])
