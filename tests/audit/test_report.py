"""The report: every part may be missing, every text is escaped, verified only with independent evidence (R16)."""

from __future__ import annotations

import copy
import json
import re
from itertools import product
from pathlib import Path

import pytest

from aifeedback.audit import figures
from aifeedback.audit.examples import pick_examples
from aifeedback.audit.gather import gather
from aifeedback.audit.report import report_run, write_report
from aifeedback.audit.wording import headline, over_optimised, policy_sentence, watch
from aifeedback.errors import FileError, RecipeError
from aifeedback.evaluate.independence import Source, verify_independence
from aifeedback.records import Comparison, Completion, Preference, Problem, Prompt

from .sample import est, judge, policy, summary


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures left blank, for tests that are about words."""

    def blank(draw: object, *, width: float, height: float, alt: str) -> str:
        return "<svg ></svg>"

    monkeypatch.setattr(figures, "drawn", blank)


def page(told: dict, folder: Path) -> str:
    return write_report(told, folder).read_text(encoding="utf-8")


def test_the_page_answers_the_six_questions_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    html = page(summary(), tmp_path)
    for heading in ("Who gave the feedback?", "By which standards?", "agree with", "Where is it biased?",
                    "Was the reward gamed?", "What to watch"):  # fmt: skip
        assert heading in html
    assert html.count("<svg ") >= 7
    outside = [u for u in re.findall(r'(?:src|href)="([^"]+)"', html) if not u.startswith("#")]
    assert outside == []
    assert "<script" not in html
    assert len(set(re.findall(r'\bid="([^"]+)"', html))) == len(re.findall(r'\bid="([^"]+)"', html))


@pytest.mark.usefixtures("undrawn")
def test_headline_figures_carry_interval_and_n(tmp_path: Path) -> None:
    html = page(summary(), tmp_path)
    assert "82 % (78–86 %, n = 500)" in html
    assert "4 min 25 s" in html
    assert "10 of 3,000" in html
    assert "preferred summary =" in html  # the judge prompt verbatim
    assert "ab12cd34ef56ab78" in html  # the version that judged


@pytest.mark.usefixtures("undrawn")
def test_a_policy_without_a_figure_at_equal_length_says_why(tmp_path: Path) -> None:
    why = "not estimable: all rows lie on one side of equal length, 0 of 500 rows within a factor 1.25 of it"
    told = summary()
    told["policies"]["rlaif"]["length_controlled"] = est(0.7) | {
        "value": None,
        "low": None,
        "high": None,
        "notes": [why],
    }
    html = page(told, tmp_path)
    assert f"<td>{why}</td>" in html
    story = gather(told, None)
    assert f"RLAIF: no win rate at equal length ({why})." in [caution.text for caution in watch(story)]
    rlaif = next(p for p in story.policies if p.name == "rlaif")
    assert "equal length" not in policy_sentence(rlaif, "sft")


def test_a_place_where_no_folder_can_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="no folder can be made here"):
        write_report(summary(), tmp_path / "file" / "run")


def test_same_summary_same_bytes(tmp_path: Path) -> None:
    assert page(summary(), tmp_path / "a") == page(summary(), tmp_path / "b")


@pytest.mark.parametrize("key", [*summary(), "all", "stages and policies"])
@pytest.mark.usefixtures("undrawn")
def test_every_part_may_be_missing(tmp_path: Path, key: str) -> None:
    told = summary()
    for name in list(told) if key == "all" else key.split(" and "):
        told.pop(name, None)
    assert "What to watch" in page(told, tmp_path)


def test_parts_of_policies_may_be_missing(tmp_path: Path) -> None:
    told = summary(policies={"sft": {}, "rlaif": {"win_rate": None, "kl": None}, "x": {"win_rate": 0.6}})
    html = page(told, tmp_path)
    assert "not compared" in html
    assert "60 %" in html


ATTACK = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202e\x07</pre></svg>"


def test_texts_are_escaped_wherever_they_come_from(tmp_path: Path) -> None:
    """Every string of the summary, names and keys included, is replaced by an attack."""

    def poison(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            return {k: poison(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(v) for v in value]
        return ATTACK + value if isinstance(value, str) and key not in ("kind",) else value

    told = poison(summary(principles=["be kind"], feedback=[{"role": "training feedback", "model": "m"}]))
    assert isinstance(told, dict)
    told["policies"][ATTACK] = copy.deepcopy(told["policies"]["rlaif"])
    told["stages"][ATTACK] = copy.deepcopy(told["stages"]["rlaif"])
    told["head_to_head"][ATTACK + "_vs_x"] = est(0.5)
    html = page(told, tmp_path)
    assert "<script" not in html
    assert "<img" not in html
    assert "⟨U+202E⟩" in html  # nothing hides in an example
    assert html.count("</svg>") == html.count("<svg ")


@pytest.mark.usefixtures("undrawn")
def test_harmful_text_is_blurred_until_clicked(tmp_path: Path) -> None:
    told = summary()
    assert 'class="veil hidden"' not in page(told, tmp_path)
    told["stages"]["label"]["figures"]["judge"]["prompt"] = {"name": "x", "preamble": "Which is less harmful?"}
    assert page(told, tmp_path).count('class="veil hidden"') == 3
    told = summary()
    told["stages"]["compare"]["figures"]["examples"][0]["sensitive"] = True
    assert page(told, tmp_path).count('class="veil hidden"') == 1
    assert 'class="veil hidden"' in write_report(summary(), tmp_path, blur=True).read_text()


# ── R16 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("by", "family", "revision"), product(("uri", "family", "weights"), ("f", "F "), ("r", "s")))
def test_evidence_from_the_training_judge_alone_is_always_unverified(
    tmp_path: Path, by: str, family: str, revision: str
) -> None:
    trainer = judge("hf:trainer", family, revision=revision)
    evaluator = {
        "uri": judge("hf:trainer", "other", revision="q"),
        "family": judge("openai:x", "f", revision="q"),
        "weights": judge("hf:copy", "other", revision=revision),
    }[by]
    told = summary()
    told["stages"]["label"]["figures"]["judge"] = trainer
    told["stages"]["d_rlaif"]["figures"].pop("judges")
    told["stages"]["compare"]["figures"]["judges"] = {"evaluator": evaluator}
    html = page(told, tmp_path)
    assert "✗ UNVERIFIED" in html
    assert 'class="badge bad"' in html
    assert "✓ verified" not in html
    # one independent evaluator more, and the same figures are verified
    told["stages"]["compare"]["figures"]["judges"]["other"] = judge("hf:z", "third", revision="z")
    assert "✓ verified" in page(told, tmp_path)


@pytest.mark.parametrize(
    ("evaluators", "trainers", "verified"),
    [
        ([], [Source("t", "m", "f")], False),
        ([Source("e", "n", "g")], [], False),  # nobody knows who trained
        ([Source("e")], [Source("t", "m", "f")], False),  # nobody knows who evaluated
        ([Source("e", "n", "g")], [Source("t")], False),
        ([Source("rm", "rm:x", "reward model")], [Source("t", "m", "f")], False),  # distilled from the training labels
        ([Source("e", "n", "g")], [Source("t", "m", "f"), Source("u", "o", "g")], False),
        ([Source("people", "people", "people")], [Source("t", "m", "f")], True),
        ([Source("gold", "gold:lab", "oracle")], [Source("people", "people", "people")], True),
        ([Source("e", "n", "g")], [Source("t", "m", "f")], True),
    ],
)
def test_who_counts_as_independent(evaluators: list[Source], trainers: list[Source], verified: bool) -> None:
    assert verify_independence(trainers, evaluators).is_verified is verified


def test_a_stage_that_denies_independence_is_believed() -> None:
    told = summary()
    told["stages"]["compare"]["figures"]["judges"] = {"b": judge("lab:b", "lab-b", revision="x")}
    assert gather(told).independence.is_verified
    told["stages"]["compare"]["figures"]["independence"] = {"judges": {"b": {"independent": False}}}
    assert not gather(told).independence.is_verified


def test_only_who_trained_counts_where_the_stage_names_them() -> None:
    told = summary()
    told["stages"]["d_rlaif"]["figures"].pop("judges")
    figures = told["stages"]["compare"]["figures"]
    figures["judges"] = {"b": judge("lab:b", "lab-a", revision="x")}  # of the labelling judge's family …
    assert not gather(told).independence.is_verified
    figures["independence"] = {"trained_by": [{"name": "c", "model": "lab:c", "family": "lab-c"}]}
    assert gather(told).independence.is_verified  # … but that one was measured only


# ── words ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_words_follow_the_intervals() -> None:
    told = summary(
        policies={"sft": policy(0.5, 0.5, 80, 0), "rlaif": policy(0.52, 0.5, 80, 1), "rlhf": policy(0.4, 0.4, 80, 1)}
    )
    assert headline(gather(told)) == "RLAIF is not distinguishable from SFT; RLHF is worse than SFT."
    grown = policy(0.58, 0.51, 120, 2)
    story = gather(summary(policies={"sft": policy(0.5, 0.5, 80, 0), "rlaif": grown}))
    assert "longer answers explain the lead" in policy_sentence(story.contenders[0], "SFT")
    texts = " ".join(caution.text for caution in watch(story))
    assert "1.50 times as long" in texts
    assert "falls from 58 % to 51 %" in texts


def test_over_optimisation_is_seen_only_where_gold_falls() -> None:
    trainings = {t.name: t for t in gather(summary()).trainings}
    assert over_optimised(trainings["rlaif"]) == pytest.approx(83, abs=9)
    assert over_optimised(trainings["d_rlaif"]) is None


def test_curves_are_read_from_the_run_folder(tmp_path: Path) -> None:
    told = summary()
    told["stages"]["rlaif"]["figures"] = {}
    folder = tmp_path / "stages" / "rlaif" / "policy"
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": i, "reward": i / 10, "kl": i}) for i in range(1, 4)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "rew', encoding="utf-8")
    training = next(t for t in gather(told, tmp_path).trainings if t.name == "rlaif")
    assert training.columns["reward"] == [0.1, 0.2, 0.3]


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_summary_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no summary\.json"):
        report_run(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps(summary()))
    assert report_run(tmp_path).name == "report.html"


def test_examples_are_chosen_by_rule() -> None:
    prompt = Prompt.of("Q")
    rows, said = [], []
    for index, p_first in enumerate((0.2, 0.9, None, 0.6, 0.05)):
        answers = [Completion.of(prompt, f"{side}{index}", source="m") for side in "ab"]
        rows.append(Comparison.of(prompt, *answers))
        problem = None if p_first is not None else Problem.REFUSED
        said.append(Preference(comparison_id=rows[-1].id, source="s", p_first=p_first, problem=problem))
    chosen = pick_examples(rows, said, first="rl", second="sft")
    assert [e["answers"]["rl"] for e in chosen[:2]] == ["a1", "a4"]
    assert len(chosen) == 3
    assert chosen == pick_examples(rows, said, first="rl", second="sft")
    assert "a2" not in {e["answers"]["rl"] for e in chosen}


def test_labels_that_nothing_was_made_from_trained_nothing() -> None:
    told = summary()
    labelling = next(name for name, stage in told["stages"].items() if "judge" in stage["figures"])
    told["stages"]["aside"] = {**told["stages"][labelling], "figures": {"judge": judge("lab:aside", "lab-z")}}

    def roles() -> dict[str, str]:
        return {v.stage: v.role for v in gather(told).voices if v.stage in (labelling, "aside")}

    assert set(roles().values()) == {"training feedback"}
    told["stages"][labelling]["used_by"], told["stages"]["aside"]["used_by"] = ["rm"], []
    assert roles() == {labelling: "training feedback", "aside": "measured only"}
    told["stages"][labelling]["used_by"] = []
    assert set(roles().values()) == {"training feedback"}, "where labels are all there is, they are the feedback"


def test_courses_say_who_measured_and_which_was_ended_by_its_guard(tmp_path: Path) -> None:
    def stage(name: str, steps: int, watched_by: str, stopped: str | None) -> dict:
        curve = [
            {"step": float(i), "heldout_reward": 0.1 * i, "heldout_measure": 0.5, "heldout_kl": 1.0}
            for i in range(1, steps + 1)
        ]
        return {name: {"kind": "rl", "figures": {"curve": curve, "watched_by": watched_by, "stopped": stopped}}}

    told = summary()
    told["stages"] = {**stage("alone", 6, "gold:lab", None), **stage("watched", 3, "lab:judge-b", "over-optimised: …")}
    html = page(told, tmp_path)
    assert "watched: ended by its guard" in html
    assert "alone: ended by its guard" not in html
    assert "gold:lab" in html
    assert "lab:judge-b" in html
