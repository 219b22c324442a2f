"""The probes one by one, on judges whose fault is known exactly, on recorded verdicts and on a model with a prompt."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from aifeedback.audit.finding import Finding, ProbeInput, settle, signed
from aifeedback.audit.judge import audit_judge
from aifeedback.audit.perturbation import appended, contrast, texts
from aifeedback.audit.probes import PROBES
from aifeedback.audit.probes.content import is_own
from aifeedback.audit.recorded import Recorded
from aifeedback.data import labelled, read_comparisons, read_labelled, write_labelled
from aifeedback.errors import InputError
from aifeedback.judging.pairwise import JudgeLabeler
from aifeedback.models.fake import FakeModel
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.types import Comparison, Completion, Preference, Problem, Prompt

from .planted import world


class Judge:
    """A Labeler made of one function of a comparison: P(first), or None."""

    def __init__(self, rule: Callable[[Comparison], float | None], name: str = "rule") -> None:
        self.rule, self.name = rule, name

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        said = [self.rule(c) for c in comparisons]
        return [
            Preference(
                comparison_id=c.id, source=self.name, p_first=p, problem=Problem.UNREADABLE if p is None else None
            )
            for c, p in zip(comparisons, said, strict=True)
        ]


def hashed(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def quality(comparison: Comparison) -> float:
    """A judge that sees the start of each answer only: blind to everything that probes append."""
    return float(hashed(comparison.first.text[:20]) > hashed(comparison.second.text[:20]))


def only(probe: str, judge: Judge, n: int = 100, **options: object) -> list[Finding]:
    where = world(n)
    return list(audit_judge(judge, where.comparisons, where.human, probes=[probe], n=n, **options).findings)  # type: ignore[arg-type]


def test_a_judge_that_ignores_the_marks_shows_exactly_nothing() -> None:
    for probe in ("padding", "authority", "bandwagon", "sycophancy", "language", "groups", "persuasion"):
        for finding in only(probe, Judge(quality), 60):
            assert (finding.value, finding.level, finding.examples) == (0.0, "fine", ()), finding.probe
            assert finding.n == 60
            assert finding.calls == 120


class Listening(Judge):
    """Remembers every list that it was asked."""

    def __init__(self, rule: Callable[[Comparison], float | None]) -> None:
        super().__init__(rule)
        self.lists: list[list[Comparison]] = []

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        self.lists.append(list(comparisons))
        return super().label(comparisons)


def test_all_probes_are_asked_in_one_list_by_prompt_and_each_question_once() -> None:
    where, judge = world(40), Listening(quality)
    told: list[tuple[int, int]] = []
    audit = audit_judge(
        judge,
        where.comparisons,
        where.human,
        n=40,
        family="owl",
        progress=lambda done, total, _: told.append((done, total)),
    )
    assert len(judge.lists) == 2  # the pairs themselves, then everything that probes ask
    asked = [c.id for c in judge.lists[1]]
    assert len(set(asked)) == len(asked) > 1_000
    assert told == [(40, 40 + len(asked)), (40 + len(asked), 40 + len(asked))]
    said = judge.label(where.comparisons)
    inputs = ProbeInput(judge, where.comparisons, where.human, said, n=40, family="owl")
    alone = [finding for name in PROBES for finding in PROBES[name](inputs)]  # answered when they ask
    assert list(audit.findings) == settle(alone)


def test_both_versions_of_a_pair_are_asked_side_by_side_at_even_places() -> None:
    where, judge = world(41), Listening(quality)
    audit_judge(judge, where.comparisons, where.human, n=41, probes=["authority", "wording", "tone", "near_empty"])
    asked = [c.id for c in judge.lists[1]]
    pairs = list(where.comparisons)
    for name in ("authority", "tone"):
        words = texts()[name]
        both = contrast(pairs, *(appended(words[k], 0, before=name == "tone") for k in ("mark", "control")))
        for one, other in zip(*both, strict=True):
            place = asked.index(one.id)
            assert place % 2 == 0
            assert asked[place + 1] == other.id


def test_a_judge_that_answers_nothing_is_not_measured_by_any_probe() -> None:
    rows = triples(8)
    tagged = [Prompt.of(f"R{i}", tags={"label": kind}) for i in range(12) for kind in ("safe", "unsafe")]
    audit = audit_judge(Judge(lambda c: None), rows, [1.0] * len(rows), family="owl", refusal_prompts=tagged)
    assert {f.level for f in audit.findings} == {"unknown"}
    assert not [f.sentence for f in audit.findings if "nan" in f.sentence]


def test_a_judge_that_follows_the_mark_always_shows_the_whole_effect() -> None:
    """P(first) goes from 0 to 1 with the mark's place, so half the difference is 0.5: the mark decides everything."""
    marks = texts()["authority"]["mark"]
    judge = Judge(
        lambda c: 0.5 + 0.5 * (any(m in c.first.text for m in marks) - any(m in c.second.text for m in marks))
    )
    finding = only("authority", judge, 40)[0]
    assert finding.value == 0.5
    assert finding.level == "bad"
    assert finding.details["verdict follows the mark"] == 1.0
    assert len(finding.examples) == 3


def test_unreadable_verdicts_are_counted_and_never_filled_in() -> None:
    finding = only("authority", Judge(lambda c: None if hashed(c.id) < 0.3 else quality(c)), 100)[0]
    assert 30 < finding.unreadable < 90
    assert finding.n + finding.unreadable >= 100
    nothing = only("authority", Judge(lambda c: None), 20)[0]
    assert not nothing.is_measured
    assert nothing.level == "unknown"
    assert "unreadable" in nothing.sentence


def test_a_contrast_changes_nothing_but_the_mark() -> None:
    where = world(20)
    words = texts()["bandwagon"]
    asked = contrast(where.comparisons, appended(words["mark"], 0), appended(words["control"], 0))
    for c, one, other in zip(where.comparisons, asked.favours_first, asked.favours_second, strict=True):
        assert one.first.text.startswith(c.first.text)
        assert one.prompt == c.prompt
        # both versions carry the same two sentences, exchanged
        assert one.first.text[len(c.first.text) :] == other.second.text[len(c.second.text) :]
        assert one.second.text[len(c.second.text) :] == other.first.text[len(c.first.text) :]


@pytest.mark.parametrize("name", [k for k, v in texts().items() if isinstance(v, dict) and "mark" in v])
def test_marks_and_controls_are_of_about_the_same_length(name: str) -> None:
    words = texts()[name]
    assert len(words["mark"]) == len(words["control"])
    for mark, control in zip(words["mark"], words["control"], strict=True):
        assert abs(len(mark) - len(control)) <= 0.15 * len(mark) + 3, (mark, control)


def test_agreement_slices_and_clusters_find_the_weak_topic() -> None:
    rows, human = [], []
    for i in range(300):
        topic = ("maths", "law", "cooking")[i % 3]
        prompt = Prompt.of(f"A question about {topic} and {topic} rules, number {i}", tags={"topic": topic})
        sides = [Completion.of(prompt, f"{side} {i}", source="m") for side in ("good", "poor")]
        sides = sides if i % 2 else sides[::-1]
        rows.append(Comparison.of(prompt, *sides))
        human.append(float(sides[0].text.startswith("good")))

    def rule(c: Comparison) -> float:
        right = float(c.first.text.startswith("good"))
        return right if c.prompt.tags["topic"] != "law" or hashed(c.id) < 0.5 else 1 - right

    found = {f.probe: f for f in audit_judge(Judge(rule), rows, human, probes=["agreement", "clusters"]).findings}
    assert found["agreement"].value == pytest.approx(0.83, abs=0.05)
    assert found["slices"].level == "watch"
    assert found["slices"].details["slices"][0]["slice"] == "topic: law"
    assert "law" in found["clusters"].details["clusters"][0]["words"]
    assert found["clusters"].level == "watch"
    assert all((e["P(first), judge"] > 0.5) != (e["P(first), people"] > 0.5) for e in found["agreement"].examples)


def test_without_people_agreement_is_not_measured() -> None:
    where = world(60)
    audit = audit_judge(Judge(quality), where.comparisons, probes=["agreement", "calibration", "length", "clusters"])
    assert [f.level for f in audit.findings] == ["unknown"] * 4


def test_calibration_of_a_judge_that_overstates() -> None:
    where = world(400)
    gold = {c.id: h for c, h in zip(where.comparisons, where.human, strict=True)}
    finding = only("calibration", Judge(lambda c: 0.99 if (gold[c.id] > 0.5) == (hashed(c.id) < 0.7) else 0.01), 400)[0]
    assert finding.value == pytest.approx(0.29, abs=0.05)
    assert finding.level == "bad"
    assert sum(row["n"] for row in finding.details["reliability"]) == 400
    for row in finding.details["reliability"]:
        if row["n"]:  # the share's own interval, not the edges of its bin
            assert row["low"] <= row["share"] <= row["high"]


def test_position_of_a_labeler_that_shows_one_order() -> None:
    """Without both orders in the judgements, the swapped copies are asked."""
    share, lean = only("position", Judge(lambda c: 0.9), 50)
    assert share.value == 1.0
    assert lean.value == pytest.approx(0.4)  # 0.9 when first, 0.1 when second: half the gap
    assert share.calls == 50
    assert only("position", Judge(quality), 50)[0].value == 0.0


def triples(count: int) -> list[Comparison]:
    rows = []
    for i in range(count):
        prompt = Prompt.of(f"Q{i}")
        answers = [Completion.of(prompt, text, source="m") for text in "abc"]
        rows += [Comparison.of(prompt, answers[0], answers[1]), Comparison.of(prompt, answers[1], answers[2])]
    return rows


def test_transitivity_needs_three_answers_and_sees_circles() -> None:
    assert not only("transitivity", Judge(quality), 20)[0].is_measured
    rows = triples(8)
    stone = Judge(lambda c: float((ord(c.first.text) - ord(c.second.text)) % 3 == 2))  # a over b over c over a
    assert audit_judge(stone, rows, probes=["transitivity"]).findings[0].value == 0.0
    order = Judge(lambda c: float(c.first.text < c.second.text))
    assert audit_judge(order, rows, probes=["transitivity"]).findings[0].value == 1.0


def test_transitivity_reports_how_many_triples_it_counted_and_how_many_not() -> None:
    rows = triples(8)
    last = rows[-1].prompt.id
    judge = Judge(lambda c: 0.5 if c.prompt.id == last else float(c.first.text < c.second.text))
    found = audit_judge(judge, rows, probes=["transitivity"]).findings[0]
    assert found.sentence == "7 of 7 triples are free of circles (100.0 %); 1 more had a tie or were not read whole."
    assert found.n == 7
    undecided = audit_judge(Judge(lambda c: 0.5), rows, probes=["transitivity"]).findings[0]
    assert undecided.sentence == "Not measured: none of 8 triples was read whole and without a tie."
    unread = audit_judge(Judge(lambda c: None), rows, probes=["transitivity"]).findings[0]
    assert (unread.is_measured, unread.unreadable) == (False, 24)


def test_repeatability_sees_a_judge_that_changes_its_mind() -> None:
    calls = iter(range(10**6))
    assert only("repeatability", Judge(lambda c: float(next(calls) % 2)), 60)[0].level == "bad"
    assert only("repeatability", Judge(quality), 60)[0].value == 1.0


def test_a_remembered_answer_is_not_a_second_answer() -> None:
    """A judge that answers known questions from a journal repeats itself always; the one without memory is asked."""
    remembered, calls = Judge(quality), iter(range(10**6))
    fickle = Judge(lambda c: float(next(calls) % 2))
    assert only("repeatability", remembered, 60, again=fickle)[0].level == "bad"
    assert only("repeatability", fickle, 60, again=fickle)[0].level == "bad"


def test_other_wordings_of_the_prompt_are_compared() -> None:
    variants = {"terse": Judge(quality), "contrary": Judge(lambda c: 1 - quality(c))}
    found = {f.probe: f for f in only("wording", Judge(quality), 40, variants=variants)}
    assert found["wording terse"].value == 1.0
    assert found["wording contrary"].value == 0.0
    assert found["wording polite"].value == 1.0


def test_stand_ins_count_every_win_of_a_text_that_answers_nothing() -> None:
    gullible = Judge(lambda c: float(c.first.text in texts()["near_empty"]))
    finding = only("near_empty", gullible, 50)[0]
    assert (finding.value, finding.level) == (1.0, "bad")
    assert finding.details["off-topic text"]["value"] == 0.0
    assert finding.examples[0]["stand-in"] in texts()["near_empty"]
    sober = Judge(lambda c: float(len(c.first.text) > len(c.second.text)))
    assert only("near_empty", sober, 50)[0].value == 0.0


def test_refusals_by_the_prompts_tags() -> None:
    prompts = [Prompt.of(f"safe {i}", tags={"label": "safe"}) for i in range(12)]
    prompts += [Prompt.of(f"unsafe {i}", tags={"type": "contrast_x"}) for i in range(12)]
    where = world(10)

    def asked(judge: Judge) -> dict[str, Finding]:
        audit = audit_judge(judge, where.comparisons, probes=["refusal"], refusal_prompts=prompts)
        return {f.probe: f for f in audit.findings}

    prude = asked(Judge(lambda c: 0.0))  # always prefers the refusal, the second answer
    assert (prude["over-refusal"].value, prude["under-refusal"].value) == (1.0, 0.0)
    assert prude["over-refusal"].level == "bad"
    wild = asked(Judge(lambda c: 1.0))
    assert (wild["over-refusal"].value, wild["under-refusal"].value) == (0.0, 1.0)
    assert not only("refusal", Judge(quality), 20)[0].is_measured


def test_refusals_in_the_data_are_taken_as_they_are() -> None:
    pairs = []
    for i in range(30):
        prompt = Prompt.of(f"request {i}", tags={"label": ("safe", "unsafe")[i % 2]})
        sides = [Completion.of(prompt, f"{source} {i}", source=source) for source in ("comply", "refuse")]
        pairs.append(Comparison.of(prompt, *(sides if i % 3 else sides[::-1])))
    prude = audit_judge(Judge(lambda c: float(c.first.source == "refuse")), pairs, probes=["refusal"])
    told = {f.probe: f for f in prude.findings}
    assert (told["over-refusal"].value, told["under-refusal"].value) == (1.0, 0.0)
    assert (told["over-refusal"].n, told["over-refusal"].calls, prude.asked) == (15, 0, 30)


@pytest.mark.parametrize(
    ("source", "family", "own"),
    [
        ("llama-7b", "llama", True),
        ("meta/Llama-2", "llama", True),
        ("codellama", "llama", False),
        ("gpt-4", "gpt", True),
        ("x", "", False),
        ("lab:judge-b", "judge-b", True),
    ],
)
def test_own_answers_are_known_by_whole_words(source: str, family: str, own: bool) -> None:
    assert is_own(Completion.of(Prompt.of("Q"), "a", source=source), family) is own


def test_holm_decides_over_all_tests_together() -> None:
    findings = [
        Finding(str(i), "bias", "", "", value=0.1, p_value=p, ideal=0.0) for i, p in enumerate((0.001, 0.03, 0.9))
    ]
    settled = settle([*findings, Finding("none", "bias", "", "")])
    assert [f.level for f in settled] == ["bad", "fine", "fine", "unknown"]
    assert settled[1].p_adjusted == pytest.approx(0.06)
    assert settle([]) == []


def test_a_certain_effect_that_is_too_small_to_matter_is_fine() -> None:
    values = (0.009, 0.011, -0.049, 0.05)
    found = settle([Finding(str(v), "bias", "", "", value=v, p_value=1e-9, ideal=0.0) for v in values])
    assert [f.level for f in found] == ["fine", "watch", "watch", "bad"]


def test_mistakes_are_reported_before_any_verdict() -> None:
    where = world(3)
    with pytest.raises(InputError, match="no probe 'charm'"):
        audit_judge(Judge(quality), where.comparisons, probes=["charm"])
    with pytest.raises(InputError, match="no pairs"):
        audit_judge(Judge(quality), [])


# ── recorded verdicts ─────────────────────────────────────────────────────────────────────────────────────────────


def test_recorded_verdicts_answer_what_needs_no_new_question(tmp_path: Path) -> None:
    where = world(120)
    said = Judge(quality, "old judge").label(where.comparisons)
    write_labelled(tmp_path / "l.jsonl", labelled(where.comparisons, said))
    recorded = Recorded.of_rows(read_labelled(tmp_path / "l.jsonl"))
    assert recorded.name == "old judge"
    audit = audit_judge(recorded, where.comparisons, where.human, family="owl")
    measured = {f.probe for f in audit.findings if f.is_measured}
    assert {"agreement", "slices", "length", "self"} <= measured
    for name in ("authority", "padding", "sycophancy", "near_empty", "polite"):
        finding = audit.get(name)
        assert finding is not None
        assert "recorded verdicts cannot be asked" in finding.sentence


@pytest.mark.parametrize("evaluator", ["GPT-4/Vanilla", "GPT-4/Rating", "ChatGPT/Vanilla", "LLaMA2/Vanilla"])
def test_llmbar_evaluators_have_their_published_figures(real_data: Path, evaluator: str) -> None:
    """``equal`` of statistics.json is the share with the same verdict in both orders, two unread ones included."""
    folder = real_data / "llmbar" / "Natural" / "evaluators" / evaluator
    read = read_comparisons(folder / "result.json.gz")
    published = json.loads((folder / "statistics.json").read_text())
    audit = audit_judge(Recorded.of_file(read, evaluator), read.rows, read.human, probes=["agreement", "position"])
    assert len(audit.findings) == 4
    position = audit.get("position")
    assert position is not None
    unread = sum(all(row["results"][-1][f"swap = {s}"]["winner"] is None for s in (False, True)) for row in read.inputs)
    same = position.details["same answer"] * position.n + unread
    assert same == pytest.approx(float(published["equal"].partition(" / ")[0]), abs=1e-6)
    if all(p.p_first is not None for p in Recorded.of_file(read).label(read.rows)):
        agreement = audit.get("agreement")
        assert agreement is not None
        assert f"{100 * agreement.value:.1f}%" == published["correct_average"]


def test_alpaca_eval_annotations_are_recorded_verdicts(real_data: Path) -> None:
    read = read_comparisons(real_data / "alpaca_eval" / "gpt-3.5-turbo-1106_verbose" / "annotations.json.gz")
    recorded = Recorded.of_file(read)
    assert sum(p.p_first is not None for p in recorded.label(read.rows)) == len(read.rows)


# ── a model with a prompt ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_whole_audit_runs_on_a_model_with_a_prompt() -> None:
    from aifeedback.judging.pairwise import JudgeLabeler
    from aifeedback.models.fake import FakeModel
    from aifeedback.prompts.judge_prompt import JudgePrompt

    prompt = JudgePrompt.load("helpful-base")
    where = world(40)
    audit = audit_judge(JudgeLabeler(FakeModel("longer"), prompt), where.comparisons, where.human, n=20, family="fake")
    assert {f.probe for f in audit.findings} >= {"agreement", "position", "padding", "delimiters", "polite"}
    padding = audit.get("padding")
    assert padding is not None
    assert padding.value > 0.05
    told = json.dumps(audit.as_dict(), allow_nan=False)  # NaN is null in files
    assert "padding" in told
    assert audit.asked == 40 + sum(f.calls for f in audit.findings)
    assert set(PROBES) >= {"agreement"}
    assert all(math.isnan(f.value) == (f.level == "unknown") for f in audit.findings)


def test_same_judge_same_findings() -> None:
    one, other = only("groups", Judge(quality), 30), only("groups", Judge(quality), 30)
    assert one == other
    inputs = ProbeInput(Judge(quality), world(50).comparisons, [None] * 50, [])
    assert inputs.drawn(10) == inputs.drawn(10)
    assert len(inputs.drawn(10)) == 10


def test_a_judge_that_distinguishes_nothing_is_not_fine() -> None:
    """It is blind to every mark, as the best judge is; what it lacks is a verdict."""
    found = {f.probe: f for f in only("decision", Judge(lambda c: 0.501 if quality(c) > 0.5 else 0.499))}
    assert (found["decision"].level, found["decision"].value) == ("bad", pytest.approx(0.501))
    assert found["decision"].low <= 0.501 <= found["decision"].high
    assert not found["label mass"].is_measured
    assert only("decision", Judge(quality))[0].level == "fine"


@pytest.mark.parametrize(("coverage", "level"), [(0.02, "bad"), (0.3, "watch"), (0.97, "fine")])
def test_labels_that_a_judge_did_not_mean_are_reported(coverage: float, level: str) -> None:
    labeler = JudgeLabeler(FakeModel("quality", coverage=coverage), JudgePrompt.load("helpful-detailed"))
    mass = audit_judge(labeler, world(20).comparisons, probes=["decision"]).get("label mass")
    assert mass is not None
    assert (mass.value, mass.level) == (pytest.approx(coverage), level)


def test_a_judge_that_takes_no_side_does_not_choose_the_second() -> None:
    """Kappa counts the verdicts: first rightly four times, no side taken otherwise, is perfect where there is one."""
    human = [1.0, 0.0] * 4 + [1.0] * 4
    comparisons = world(12).comparisons
    sides = dict(zip((c.id for c in comparisons), [1.0, 0.0] * 4 + [0.5] * 4, strict=True))
    labeler = Judge(lambda c: sides[c.id])
    finding = audit_judge(labeler, comparisons, human, probes=["agreement"]).findings[0]
    assert finding.details["kappa"]["value"] == 1.0


def test_nothing_has_a_minus_before_zero() -> None:
    assert [signed(x) for x in (-0.04, 0.04, -0.06, 2.149)] == ["+0.0", "+0.0", "-0.1", "+2.1"]
