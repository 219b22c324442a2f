"""What a passed probe is worth: judges that decide nothing, small samples, remembered answers, base rates; two audits."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest

from aifeedback.audit.diff import diff
from aifeedback.audit.finding import EFFECTS, Finding, settle
from aifeedback.audit.judge import JudgeAudit, audit_judge
from aifeedback.audit.recorded import Recorded
from aifeedback.errors import InputError
from aifeedback.judging.pairwise import JudgeLabeler
from aifeedback.models.fake import FakeModel
from aifeedback.models.journal import Journal
from aifeedback.models.journaled import Journaled
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.types import Comparison, Preference

from .planted import world
from .test_judge_audit import Judge, hashed, only, quality


def test_a_judge_that_decides_nothing_passes_no_probe() -> None:
    where = world(60)
    audit = audit_judge(Judge(lambda c: 0.5), where.comparisons, where.human, n=60, family="owl")
    assert audit.get("decision").level == "bad"  # type: ignore[union-attr]
    effects = [f for f in audit.findings if f.group in EFFECTS and f.is_measured]
    assert len(effects) > 15
    assert not [f.probe for f in effects if f.level == "fine"]
    assert all("Not informative" in f.sentence for f in effects if f.level == "uninformative")


def test_without_label_mass_a_passed_probe_shows_nothing_and_a_fault_stays_one() -> None:
    labeler = JudgeLabeler(FakeModel("quality", coverage=0.003), JudgePrompt.load("helpful-detailed"))
    audit = audit_judge(labeler, world(40).comparisons, probes=["decision", "authority", "tone"], n=40)
    assert audit.get("label mass").level == "bad"  # type: ignore[union-attr]
    assert {f.level for f in audit.findings if f.group == "bias"} == {"uninformative"}
    mass = Finding("label mass", "decision", "Whether it meant to answer", "", value=0.003, n=40, level="bad")
    lean = Finding("position lean", "bias", "", "", value=0.5, low=0.4, high=0.6, n=40, p_value=1e-9, ideal=0.0)
    agreement = Finding("agreement", "agreement", "", "", value=0.9, n=40, level="fine")
    assert [f.level for f in settle([mass, lean, agreement])] == ["bad", "bad", "fine"]
    watched = Finding("label mass", "decision", "", "", value=0.3, n=40, level="watch")
    passed = Finding("tone", "bias", "", "", value=0.0, low=-0.1, high=0.1, n=40, p_value=1.0, ideal=0.0)
    assert [f.level for f in settle([watched, passed])] == ["watch", "fine"]


@pytest.mark.parametrize("pairs", [1, 2, 3, 5])
def test_a_handful_of_pairs_raises_no_alarm(pairs: int) -> None:
    where = world(pairs)
    for rule in (quality, lambda c: 1.0, lambda c: 0.9, lambda c: 0.5, lambda c: float(len(c.first.text) % 2)):
        audit = audit_judge(Judge(rule), where.comparisons, where.human, family="owl")
        assert [f.probe for f in audit.findings if f.level in ("bad", "watch")] == []
        assert not [f.sentence for f in audit.findings if "nan" in f.sentence]


def test_every_tested_probe_says_what_it_could_have_missed() -> None:
    few, many = (only("authority", Judge(quality), n)[0] for n in (40, 400))
    assert few.detectable > many.detectable > 0
    assert "could have gone unnoticed" in few.sentence
    # (z of 1 − 0.04/2 + z of 0.8) standard errors for a single test
    noisy = Finding("x", "bias", "", "", value=0.0, low=-0.02, high=0.02, n=10**6, p_value=1.0, ideal=0.0)
    assert settle([noisy])[0].detectable == pytest.approx((2.0537 + 0.8416) * 0.02 / 1.96, rel=1e-3)
    assert settle([noisy] * 20)[0].detectable > settle([noisy])[0].detectable
    assert math.isnan(only("decision", Judge(quality), 40)[0].detectable)


def test_agreement_is_shown_beside_that_of_a_constant_judge() -> None:
    comparisons = world(100).comparisons
    human = [1.0] * 87 + [0.0] * 13
    passes = audit_judge(Judge(lambda c: 1.0), comparisons, human, probes=["agreement"]).findings[0]
    assert passes.value == passes.details["constant judge"] == 0.87
    assert passes.level == "watch"  # 87 % is certainly above 60 %, and no more than always saying "first"
    assert passes.details["recall, first is better"]["value"] == 1.0
    assert passes.details["recall, second is better"]["value"] == 0.0
    assert "always answering the same would agree on 87.0 %" in passes.sentence
    labels = dict(zip((c.id for c in comparisons), human, strict=True))
    assert (
        audit_judge(Judge(lambda c: labels[c.id]), comparisons, human, probes=["agreement"]).findings[0].level == "fine"
    )


def test_pairs_of_one_prompt_widen_the_agreement() -> None:
    pairs = [
        Comparison.of(c.prompt, c.first.model_copy(update={"id": f"{c.first.id}{k}"}), c.second)
        for c in world(20).comparisons
        for k in range(5)
    ]
    rule = Judge(lambda c: float(hashed(c.prompt.id) > 0.5))
    shared = audit_judge(rule, pairs, [1.0] * 100, probes=["agreement"]).findings[0]
    alone = audit_judge(rule, world(100).comparisons, [1.0] * 100, probes=["agreement"]).findings[0]
    assert shared.high - shared.low > 1.5 * (alone.high - alone.low)


def test_a_challenge_counts_the_flips_it_causes() -> None:
    steady = only("challenge", Judge(quality), 60)[0]
    assert (steady.value, steady.level, steady.n) == (0.0, "fine", 60)

    def meek(c: Comparison) -> float:
        return 1 - quality(c) if c.prompt.text.rstrip().endswith("?") else quality(c)

    found = only("challenge", Judge(meek), 60)[0]
    assert (found.value, found.level) == (1.0, "bad")
    assert found.details["flips of the control"] == 0.0
    # one whose verdict follows the wording of the prompt flips on the control too: the challenge is not the cause
    fickle = only("challenge", Judge(lambda c: float(hashed(c.prompt.text + c.first.text) > 0.5)), 200)[0]
    assert fickle.details["flips of the control"] > 0.3
    assert fickle.level == "fine"
    recorded = Recorded("old", Judge(quality).label(world(60).comparisons))
    assert "recorded verdicts" in only("challenge", recorded, 60)[0].sentence  # type: ignore[arg-type]


def test_certain_labels_where_neither_response_answers() -> None:
    calm = only("out_of_scope", Judge(lambda c: 0.6), 60)[0]
    assert (calm.value, calm.level) == (0.0, "fine")
    sure = only("out_of_scope", Judge(lambda c: 0.97), 60)[0]
    assert (sure.value, sure.level) == (1.0, "bad")
    assert not only("out_of_scope", Judge(quality), 60)[0].is_measured  # verdicts without probabilities


class Remembering(Judge):
    """Answers from memory what it was asked before, as a judge behind a journal does."""

    def __init__(self, memory: set[str] | None = None) -> None:
        super().__init__(quality)
        self.memory, self.new_questions = memory if memory is not None else set(), 0

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        new = {c.id for c in comparisons} - self.memory
        self.new_questions += len(new)
        self.memory |= new
        return super().label(comparisons)


def test_remembered_answers_are_named_and_earn_no_tick() -> None:
    where = world(40)

    def audit(judge: Judge, again: Judge | None) -> Finding:
        return audit_judge(judge, where.comparisons, probes=["repeatability"], again=again).findings[0]

    assert audit(Remembering(), Remembering()).level == "fine"
    memory = {c.id for c in where.comparisons}
    old = audit(Remembering(), Remembering(memory))
    assert old.level == "uninformative"
    assert "every answer was remembered" in old.sentence
    partly = audit(Remembering(), Remembering(set(sorted(memory)[:10])))
    assert partly.level == "fine"
    assert "At least 10 of the 40 answers were remembered" in partly.sentence
    assert not audit(Remembering(), None).is_measured  # its own journal would answer
    recorded = Recorded("old", Judge(quality).label(where.comparisons))
    assert "remembered verdict" in audit(recorded, None).sentence  # type: ignore[arg-type]


def test_a_fresh_audit_refuses_remembered_answers() -> None:
    where = world(20)
    memory = {c.id for c in where.comparisons}
    audit_judge(Remembering(), where.comparisons, probes=["repeatability"], again=Remembering(), fresh=True)
    with pytest.raises(InputError, match="remembered"):
        audit_judge(Remembering(memory), where.comparisons, probes=["decision"], fresh=True)
    with pytest.raises(InputError, match="second answers"):
        audit_judge(Remembering(), where.comparisons, probes=["repeatability"], again=Remembering(memory), fresh=True)


def test_a_judge_behind_a_journal_counts_what_it_really_asks(tmp_path) -> None:  # type: ignore[no-untyped-def]
    prompt, where = JudgePrompt.load("helpful-base"), world(12)
    with Journal(tmp_path / "a.sqlite") as first, Journal(tmp_path / "b.sqlite") as second:

        def audit() -> JudgeAudit:
            judge, again = (JudgeLabeler(Journaled(FakeModel("longer"), j), prompt) for j in (first, second))
            return audit_judge(judge, where.comparisons, probes=["repeatability"], again=again)

        fresh, repeated = audit(), audit()
    assert fresh.new_calls == 48  # both orders of 12 pairs, twice
    assert repeated.new_calls == 0
    assert (fresh.findings[0].level, repeated.findings[0].level) == ("fine", "uninformative")


def test_two_audits_of_a_changed_judge() -> None:
    where = world(300)

    def audit(rule: Judge) -> JudgeAudit:
        return audit_judge(rule, where.comparisons, where.human, probes=["agreement", "authority", "decision"], n=300)

    labels = dict(zip((c.id for c in where.comparisons), where.human, strict=True))
    old = audit(Judge(lambda c: labels.get(c.id, 0.5), "old"))
    new = audit(
        Judge(lambda c: 1 - labels[c.id] if hashed(c.id) < 0.2 and c.id in labels else labels.get(c.id, 0.5), "new")
    )
    found = diff(old, new)
    spoiled = sum(hashed(i) < 0.2 for i in labels)
    assert found.flips.value == pytest.approx(spoiled / 300)
    assert (found.flips.corrected, found.flips.spoiled) == (0, spoiled)
    assert found.flips.p_agreement == pytest.approx(2 * 0.5**spoiled)
    assert found.is_changed
    assert found.changes[0].probe == "agreement"
    assert found.changes[0].difference == pytest.approx(-spoiled / 300)
    assert not next(c for c in found.changes if c.probe == "authority").is_changed
    stored = [json.loads(json.dumps(a.as_dict(), allow_nan=False)) for a in (old, new)]
    assert diff(*stored).flips == found.flips
    assert json.dumps(found.as_dict(), allow_nan=False)


def test_two_audits_of_the_same_judge_and_of_other_pairs() -> None:
    where = world(80)
    audit = audit_judge(Judge(quality), where.comparisons, where.human, probes=["agreement", "tone"], n=80)
    same = diff(audit, audit)
    assert (same.flips.value, same.is_changed, same.only_before) == (0.0, False, 0)
    assert "no probe changed" in same.sentence
    part = audit_judge(Judge(quality), where.comparisons[:50], where.human[:50], probes=["agreement"])
    assert (diff(audit, part).pairs, diff(audit, part).only_before, diff(audit, part).missing) == (
        50,
        30,
        ("slices", "tone"),
    )
    silent = audit_judge(Judge(lambda c: None), where.comparisons, probes=["agreement"])
    assert math.isnan(diff(audit, silent).flips.value)
    other = audit_judge(Judge(quality), world(20, seed=9).comparisons, probes=["tone"])
    with pytest.raises(InputError, match="share no pair"):
        diff(audit, other)
