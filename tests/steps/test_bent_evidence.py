"""Ten ways to pass bent evidence off as independent or intact, at random; and honest runs, which must pass."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from aifeedback.audit.diff import diff
from aifeedback.audit.judge import JudgeAudit, audit_judge
from aifeedback.judging.pairwise import JudgeLabeler
from aifeedback.models import lineage
from aifeedback.models.fake import FakeModel
from aifeedback.models.journal.digests import verify
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.refs import Ref
from aifeedback.steps import evidence
from aifeedback.steps.connect import JudgeCard
from aifeedback.types import Comparison, Completion, Prompt
from trained_folders import (
    FAKE,
    GOLD,
    OTHER,
    PEOPLE,
    TEST,
    fed_by,
    finished_run,
    judged,
    labelled,
    trained,
    weights,
)

FAMILIES = ("alpha", "llama", "qwen", "mistral")
ROLES = ("labels", "reward", "selection", "responses")


class Made:
    """A random policy, the judge that trained it, and everything that an honest comparison would have."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        family, number = self.rng.choice(FAMILIES), self.rng.randint(1, 9)
        self.judge = JudgeCard(model=f"openai:{family}-{number}", uri=f"openai:{family}-{number}", family=family,
                               revision=f"{family} {number}")  # fmt: skip
        self.base = weights(folder / "pretrained", f"pretrained {seed}")
        self.policy = self.base
        last = self.rng.randint(1, 3)
        for step in range(1, last + 1):  # who gave feedback once is carried on by every later step
            teachers = [self.judge] if step == 1 else self.rng.sample([PEOPLE, GOLD], self.rng.randint(0, 2))
            origin = fed_by(*teachers, role=self.rng.choice(ROLES))
            self.policy = trained(folder / f"policy{step}", base=self.policy, origin=origin)

    def accepts(self, policy: str | Path, *judges: JudgeCard, declared: tuple[JudgeCard, ...] = ()) -> bool:
        """Whether any claim about the policy counts as verified."""
        found = judged({"base": self.base, "policy": policy}, *judges, declared=declared, assessors=judges)
        return found.verified or any(claim.verified for claim in found.claims.values())

    def relative(self) -> JudgeCard:
        """The training judge, or one of its family."""
        name = f"openai:{self.judge.family}-{self.rng.randint(10, 99)}"
        return self.rng.choice((self.judge, JudgeCard(model=name, uri=name, family=self.judge.family, revision="r99")))


def another_trainer_is_declared(made: Made) -> bool:
    declared = tuple(made.rng.sample([OTHER, PEOPLE, GOLD, FAKE], made.rng.randint(1, 3)))
    return made.accepts(made.policy, made.relative(), declared=declared)


def the_folder_is_copied(made: Made) -> bool:
    copied = Path(shutil.copytree(made.policy, made.folder / f"copy{made.rng.randint(0, 99)}"))
    if made.rng.random() < 0.5:
        (copied / "config.json").write_text(json.dumps({"model_type": made.rng.choice(("gpt2", "other"))}))
    return made.accepts(copied, made.relative())


def the_folder_is_renamed(made: Made) -> bool:
    made.policy.rename(made.folder / "innocent")
    return made.accepts(made.folder / "innocent", made.relative())


def it_is_evaluated_on_prompts_it_was_trained_on(made: Made) -> bool:
    """Accepted would be a metric that rests on one of them."""
    seen = made.rng.sample(TEST, made.rng.randint(1, len(TEST)))
    changed: list[Callable[[str], str]] = [str.upper, lambda t: f" {t}\n", lambda t: t.replace(" ", "  "), str]
    policy = trained(made.folder / "seen", base=made.policy, origin=lineage.Origin(),
                     prompts=[Prompt.of(made.rng.choice(changed)(p.text)) for p in seen])  # fmt: skip
    held = evidence.held_out(TEST, {"policy": lineage.read(policy) or lineage.Origin()})
    is_used = any(prompt in seen for prompt in held.rows)
    return is_used and made.accepts(policy, OTHER)


def the_record_is_stripped(made: Made) -> bool:
    how = made.rng.choice(("record", "ids", "folder", "everything", "edited", "other"))
    training = made.policy / "training"
    if how == "record":
        (training / "feedback.json").unlink()
    elif how == "ids":
        (training / "prompt_ids.txt.gz").unlink()
    elif how == "edited":
        record = json.loads((training / "feedback.json").read_text())
        key = made.rng.choice(("trained_by", "unrecorded", "prompts"))
        record[key] = {"prompts": {**record["prompts"], "count": 0}, "unrecorded": ["x"], "trained_by": []}[key]
        (training / "feedback.json").write_text(json.dumps(record))
    elif how == "other":  # that of a policy which people alone trained
        shutil.copytree(trained(made.folder / "clean", PEOPLE) / "training", training, dirs_exist_ok=True)
    else:
        shutil.rmtree(training)
        if how == "everything":
            (made.policy / "README.md").unlink()
    shown = made.policy
    if how != "everything" and made.rng.random() < 0.5:
        shown = trained(made.folder / "further", base=made.policy, origin=fed_by(PEOPLE))
    return made.accepts(shown, made.rng.choice((OTHER, PEOPLE, GOLD)))


def a_label_is_edited(made: Made) -> bool:
    file = labelled(made.folder / "labels", made.judge)
    lines = file.read_text().splitlines()
    row = json.loads(lines[at := made.rng.randrange(len(lines))])
    row |= made.rng.choice(({"p_first": 0.1}, {"judge": "human"}, {"judge": OTHER.uri}))
    file.write_text("\n".join([*lines[:at], json.dumps(row), *lines[at + 1 :]]) + "\n")
    origin = lineage.of_labels(Ref(file), [json.loads(line)["judge"] for line in file.read_text().splitlines()])
    policy = trained(made.folder / "edited", origin=origin)
    return made.accepts(policy, made.rng.choice((OTHER, PEOPLE, made.judge)))


def the_summary_is_edited(made: Made) -> bool:
    run = finished_run(made.folder / "run")
    file = run / made.rng.choice(("summary.json", "report.html", "stages/labels/figures.json", "files.json"))
    file.write_text(file.read_text() + made.rng.choice((" ", "1", "\n")))
    return not verify(run).faults


def the_journal_is_cut(made: Made) -> bool:
    run = finished_run(made.folder / "run")
    with sqlite3.connect(run / "journal.sqlite") as db:
        db.execute(f"DELETE FROM calls WHERE seq > {made.rng.randint(0, 7)}")
    return not verify(run).faults


def audited(model: FakeModel, prompts: int) -> JudgeAudit:
    pairs = [
        Comparison.of(prompt, *(Completion.of(prompt, text, source="x") for text in (f"short {n}", f"a longer answer {n}")))
        for n in range(prompts)
        for prompt in [Prompt.of(f"Question {n}?")]
    ]  # fmt: skip
    labeler = JudgeLabeler(model, JudgePrompt.load("helpful-detailed"))
    return audit_judge(labeler, pairs, probes=["position"], n=4)


def the_judge_behind_the_address_is_exchanged(made: Made) -> bool:
    """Accepted would be an audit of the one that passes for an audit of the other."""
    names = made.rng.sample(("longer", "shorter", "first", "second"), 2)
    found = diff(*(audited(FakeModel(name), 24) for name in names))
    return not found.is_changed


def what_the_judge_taught_is_passed_off_as_independent(made: Made) -> bool:
    distilled = weights(made.folder / "start", "start")
    for n in range(made.rng.randint(1, 3)):
        distilled = trained(made.folder / f"distilled{n}", *([made.judge] if n == 0 else []), base=distilled)
    scheme, family = made.rng.choice((("rm", "reward model"), ("hf", "omega"), ("hf", "people"), ("rm", "omega")))
    uri = f"{scheme}:{distilled}"
    return made.accepts(made.policy, JudgeCard(model=uri, uri=uri, family=family, revision="r77"))


WAYS = (another_trainer_is_declared, the_folder_is_copied, the_folder_is_renamed,
        it_is_evaluated_on_prompts_it_was_trained_on, the_record_is_stripped, a_label_is_edited, the_summary_is_edited,
        the_journal_is_cut, the_judge_behind_the_address_is_exchanged,
        what_the_judge_taught_is_passed_off_as_independent)  # fmt: skip


def honest(made: Made) -> bool:
    """Somebody who had no part in the training judges a policy as its trainers left it; the run is as it was written."""
    others = (
        OTHER,
        PEOPLE,
        JudgeCard(model="openai:command-r", uri="openai:command-r", family="command", revision="c1"),
    )
    judges = [made.rng.choice(others), *made.rng.sample((made.judge, FAKE), made.rng.randint(0, 2))]
    made.rng.shuffle(judges)
    run = finished_run(made.folder / "run")
    found = judged({"base": made.base, "policy": made.policy}, *judges)
    return found.verified and not verify(run).faults


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.campaign)])
def test_campaign_no_bent_evidence_is_accepted_and_no_honest_one_refused(tmp_path: Path, count: int) -> None:
    accepted = [
        f"{way.__name__} {seed}"
        for way in WAYS
        for seed in range(100 * count, 101 * count)
        if way(Made(tmp_path / way.__name__ / str(seed), seed))
    ]
    refused = [seed for seed in range(5 * count) if not honest(Made(tmp_path / "honest" / str(seed), seed))]
    print(f"accepted: {len(accepted)} of {len(WAYS) * count}; refused: {len(refused)} of {5 * count}")
    assert (accepted, refused) == ([], [])
