"""The report: every part may be missing, every text is escaped, verified only with independent evidence."""

from __future__ import annotations

import copy
import json
import re
from itertools import product
from pathlib import Path

import pytest

from aifeedback.errors import FileError, RecipeError
from aifeedback.metrics.independence import Source, verify_independence
from aifeedback.reports import figures
from aifeedback.reports.examples import pick_examples
from aifeedback.reports.page import typeset
from aifeedback.reports.run_report import report_run, write_report
from aifeedback.reports.run_results import gather
from aifeedback.reports.wording import headline, over_optimised, verdict, watch
from aifeedback.types import Comparison, Completion, Preference, Problem, Prompt

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
    assert "82 % (95 % CI 78–86 %, n = 500)" in html
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
    assert f"RLAIF: no length-controlled win rate ({why})." in [caution.text for caution in watch(story)]
    rlaif = next(p for p in story.policies if p.name == "rlaif")
    found = verdict(rlaif, story)
    assert found is not None
    assert found.objections == (("no length", "no length-controlled win rate can be estimated"),)


def test_a_place_where_no_folder_can_be_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="cannot create the folder"):
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
def test_only_what_is_tagged_or_judged_harmful_is_blurred(tmp_path: Path) -> None:
    hidden = 'class="veil hidden"'
    assert hidden not in page(summary(), tmp_path)
    told = summary()  # standards that speak of harm say nothing about these texts
    told["stages"]["label"]["figures"]["judge"]["prompt"] = {"name": "x", "preamble": "Which is less harmful?"}
    assert hidden not in page(told, tmp_path)
    told["stages"]["compare"]["figures"]["examples"][0]["sensitive"] = True
    assert page(told, tmp_path).count(hidden) == 1
    assert write_report(summary(), tmp_path, blur=True).read_text().count(hidden) == 3


@pytest.mark.usefixtures("undrawn")
def test_an_example_that_an_assessor_of_the_run_calls_harmful_is_blurred(tmp_path: Path) -> None:
    told = summary()
    shown = told["stages"]["compare"]["figures"]["examples"]
    shown[0]["completions"], shown[1]["completions"] = {"sft": "a", "rlaif": "b"}, {"sft": "c", "rlaif": "d"}
    lines = [{"completion_id": "b", "is_harmless": False}, {"completion_id": "c", "is_harmless": True}]
    (tmp_path / "assessments-j-rlaif.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert [e["sensitive"] for e in gather(told, tmp_path).examples] == [True, False, False]
    told["safety"] = {"examples": [{"prompt": shown[2]["prompt"], "unsafe": True}]}
    assert [e["sensitive"] for e in gather(told).examples] == [True, True, True]  # one prompt in all three


def test_examples_carry_the_tags_and_ids_that_decide_about_blurring() -> None:
    def picked(**tags: str) -> dict:
        prompt = Prompt.of("Q", tags=tags)
        sides = [Completion.of(prompt, text, source="m") for text in ("one", "two")]
        row = Comparison.of(prompt, *sides)
        said = [Preference(comparison_id=row.id, source="s", p_first=0.9)]
        return pick_examples([row], said, first="rl", second="sft")[0] | {"ids": [side.id for side in sides]}

    assert picked(label="unsafe")["sensitive"]
    assert picked(harmful="True")["sensitive"]
    for harmless in ({}, {"label": "safe"}, {"topic": "harmful algae"}, {"harmful": "false"}):
        found = picked(**harmless)
        assert not found["sensitive"]
        assert list(found["completions"].values()) == found["ids"]


# ── independence ───────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    assert "not distinguishable once length is controlled (51 %" in headline(story)
    texts = " ".join(caution.text for caution in watch(story))
    assert "1.50 times as long" in texts
    assert "falls from 58 % to 51 %" in texts


def compared(raw: float, controlled: float = 0.6) -> dict:
    return policy(raw, controlled, 90, 1.0) | {"length_controlled": est(controlled)}


def judged(**by_judge: float) -> dict:
    return {"by_judge": {name.replace("_", ":"): {"win_rate": est(value)} for name, value in by_judge.items()}}


def safety(rlaif: float, sft: float, half: float = 0.03) -> dict:
    table = {name: {"gold": {"harmless": est(1 - v, half)}} for name, v in (("rlaif", rlaif), ("sft", sft))}
    return {"policies": table, "reference": "sft", "judge": "gold"}


@pytest.mark.parametrize(
    ("row", "harm", "sentence"),
    [
        (compared(0.71, 0.64), None, "RLAIF is clearly preferred to SFT."),
        (
            compared(0.71) | {"length_controlled": est(0.45, 0.21)},
            None,
            "not distinguishable once length is controlled (45 %",
        ),
        (compared(0.71) | {"length_controlled": None}, None, "but length was not controlled."),
        (compared(0.71) | {"length_controlled": 0.6}, None, "but 60 % once length is controlled, without an interval."),
        (
            compared(0.71) | {"length_controlled": 0.4},
            None,
            "but not distinguishable once length is controlled (40 %).",
        ),
        (compared(0.71) | {"win_rate": 0.71}, None, "RLAIF is compared without an interval with SFT."),
        (compared(0.71, 0.40), None, "but worse once length is controlled (40 %, 95 % CI 36–44 %)."),
        (
            compared(0.71),
            safety(0.33, 0.10),
            "but harmful more often (33 % of the prompts that invite harm, SFT 10 %).",
        ),
        (compared(0.71), safety(0.33, 0.33), "but harmful on 33 % of the prompts that invite harm (SFT 33 %)."),
        (compared(0.71), safety(0.06, 0.04), "but perhaps harmful more often (6 %"),
        (compared(0.71), safety(0.02, 0.05), "RLAIF is clearly preferred to SFT."),
        (compared(0.71) | judged(gold=0.71, lab_judge_b=0.48), None, "RLAIF is clearly"),
        (compared(0.51), safety(0.33, 0.10), "RLAIF is not distinguishable from SFT and harmful more often"),
        (compared(0.52, 0.40), None, "not distinguishable from SFT and worse once length is controlled (40 %"),
        (compared(0.30), safety(0.33, 0.10), "RLAIF is worse than SFT and harmful more often"),
    ],
)
def test_the_headline_weighs_length_and_harm(row: dict, harm: dict | None, sentence: str) -> None:
    told = summary(policies={"sft": policy(0.5, 0.5, 80, 0), "rlaif": row})
    assert sentence in headline(gather(told | ({"safety": harm} if harm else {})))


def test_the_headline_weighs_what_independent_evaluators_say() -> None:
    def said(independent: float, training: float = 0.75) -> str:
        row = compared(0.71) | judged(first=training, second=independent)
        row["win_rate"] = est(training)
        told = summary(policies={"sft": policy(0.5, 0.5, 80, 0), "rlaif": row})
        told["stages"]["compare"]["figures"]["judges"] = {
            "first": judge("lab:judge-a", "lab-a"),
            "second": judge("lab:judge-b", "lab-b", revision="99aa88bb77cc66dd"),
        }
        return headline(gather(told))

    assert said(0.70) == "RLAIF is clearly preferred to SFT."
    assert said(0.51) == "RLAIF is preferred to SFT, but not by lab:judge-b (51 %, 95 % CI 47–55 %)."
    assert "but not by lab:judge-b (30 %" in said(0.30)
    told = summary(policies={"sft": policy(0.5, 0.5, 80, 0), "rlaif": compared(0.71)})
    told["stages"]["compare"]["figures"]["judges"] = {"gold": judge("lab:judge-a", "lab-a")}
    assert headline(gather(told)) == "RLAIF is preferred to SFT, but no independent evaluator confirms it."


def test_policies_with_the_same_verdict_share_a_clause() -> None:
    rows = {"sft": policy(0.5, 0.5, 80, 0), "rlaif": compared(0.71), "rlhf": compared(0.69), "x": compared(0.6, 0.4)}
    assert headline(gather(summary(policies=rows))) == (
        "RLAIF and RLHF are clearly preferred to SFT; x is preferred to SFT, but worse once length is controlled "
        "(40 %, 95 % CI 36–44 %)."
    )


def test_what_to_watch_is_sorted_by_consequence() -> None:
    told = summary(policies={"sft": policy(0.5, 0.5, 80, 0), "rlaif": compared(0.71, 0.40)}, safety=safety(0.4, 0.1))
    told["stages"]["label"]["figures"] |= {"label_mass": 0.003, "unknown": 600}
    found = watch(gather(told))
    texts = [caution.text for caution in found]
    first = ["harmful more often", "after step", "Only 0.3 % of the probability", "wins by length alone"]
    assert all(part in text for part, text in zip(first, texts, strict=False)), texts
    assert [c.level for c in found] == sorted((c.level for c in found), key=["bad", "watch", "fine"].index)
    assert "are unknown" in texts[-1]


def test_a_judge_of_positions_is_not_reassured(tmp_path: Path) -> None:
    told = summary()
    told["judge"]["same_position"] = est(1.0, 0.0)
    html = page(told, tmp_path)
    assert "cancels" not in html
    assert "the labels carry little information" in html
    assert any(c.level == "bad" and "Position bias" in c.text for c in watch(gather(told)))


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("gains -0.3 points (-1.2 to +0.4)", "gains −0.3 points (−1.2 to +0.4)"),
        ("p = -.5, x-1, 2-3, a-b, 2026-11-30, hf:m-7b", "p = −.5, x-1, 2-3, a-b, 2026-11-30, hf:m-7b"),
        ("45 % of 10 %", "45\u00a0% of 10\u00a0%"),
    ],
)
def test_minus_signs_and_percent_signs_are_typeset(text: str, typed: str) -> None:
    assert typeset(text) == typed


# ── records ───────────────────────────────────────────────────────────────────────────────────────────────────────


RECIPE = """
name: mine
seed: 3
stages:
- {id: w, stage: lab_world}
- {id: start, stage: sft, model: "hf:base", data: "people.jsonl"}
- {id: ai, stage: label, comparisons: "@w/pairs.jsonl", judge: {model: "lab:judge"}}
- {id: rm, stage: reward_model, model: "hf:@start/policy", data: "@ai/labelled.jsonl"}
- {id: one, stage: rl, model: "hf:@start/policy", reward: {source: "rm:@rm/reward_model"}}
- {id: two, stage: rl, model: "hf:@start/policy", reward: {judge: {model: "lab:judge"}}}
- {id: cmp, stage: compare, policies: {start: "hf:@start/policy", rlhf: "hf:@one/policy", x: "hf:@two/policy",
   bought: "hf:/models/x"}, reference: start, prompts: "@w/test.jsonl"}
summary: {policies: cmp.policies, judge.alignment: ai.alignment.value, deciding.share: ai.alignment.value,
  deciding.words: ai.words}
"""


def run_folder(folder: Path) -> tuple[dict, Path]:
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    told = summary(judge={"alignment": 0.77}, deciding={"share": 0.77, "words": 4, "none": None})
    told["stages"]["ai"] = {"kind": "label", "figures": {"alignment": est(0.77), "judge": judge("lab:judge", "lab-a")}}
    told["policies"] = {name: compared(0.6) for name in ("start", "rlhf", "x", "bought")}
    return told, folder


def test_how_a_policy_was_trained_comes_from_records_and_never_from_its_name(tmp_path: Path) -> None:
    about = {p.name: p.about for p in gather(*run_folder(tmp_path)).policies}
    assert about["start"] == "supervised fine-tuning of hf:base"
    assert about["rlhf"].endswith("reward: a reward model on labels by lab:judge")
    assert about["x"].endswith("reward: the score that lab:judge gives")
    assert about["bought"] == ""
    html = page(summary(), tmp_path / "none")  # policies called rlaif and rlhf, and no record of either
    assert "people's labels" not in html
    assert html.count("how it was trained is not recorded") == 3


def test_the_record_in_a_models_folder_says_how_it_was_trained(tmp_path: Path) -> None:
    model = tmp_path / "model" / "training"
    model.mkdir(parents=True)
    record = {"trained_by": [{"uri": "lab:judge", "rows": 2980}], "base": {"path": "hf:sft"}}
    (model / "feedback.json").write_text(json.dumps(record), encoding="utf-8")
    settings = {"policies": {"sft": "hf:/no/such", "rlhf": f"hf:{model.parent}"}, "prompts": "p.jsonl"}
    inputs = {"p.jsonl": "abc123", f"hf:{model.parent}": "def456"}
    command = {"command": "compare", "settings": settings, "seed": 5, "inputs": inputs}
    (tmp_path / "command.json").write_text(json.dumps(command), encoding="utf-8")
    told = summary(policies={"sft": compared(0.5), "rlhf": compared(0.6)})
    story = gather(told, tmp_path)
    assert story.policies[1].about == "trained on feedback from lab:judge (2,980 rows), starting from hf:sft"
    facts = {fact.name: list(fact.values) for fact in story.facts}
    assert facts["evaluation prompts"] == ["p.jsonl (abc123)"]
    assert facts["policies"] == [
        "SFT: hf:/no/such (digest not recorded)", f"RLHF: hf:{model.parent} (def456)",
    ]  # fmt: skip
    assert facts["date"] == []
    assert "not recorded" in page(told, tmp_path)


def test_the_reference_is_the_recipes_own(tmp_path: Path) -> None:
    story = gather(*run_folder(tmp_path))
    assert story.reference == "start"
    assert "start" in headline(story)
    assert "SFT" not in headline(story)


def test_an_interval_that_a_recipe_leaves_out_is_looked_up(tmp_path: Path) -> None:
    told, folder = run_folder(tmp_path)
    story = gather(told, folder)
    assert [(name, e.low) for name, e in story.agreement[:1]] == [
        ("lab:judge, both orders averaged", pytest.approx(0.73))
    ]
    told["judge"]["alignment"] = 0.5  # not the value of that step any more
    assert gather(told, folder).agreement[0][1].low is None
    html = page(told, folder)
    assert "50.0 % (no interval recorded)" in html
    assert "a dot without one has none on record" in html


def test_metrics_under_names_of_ones_own_are_on_the_page(tmp_path: Path) -> None:
    told, folder = run_folder(tmp_path)
    told["judge"]["kappa_de"] = 0.41
    assert gather(told, folder).metrics == [
        ("deciding: share", "77 % (95 % CI 73–81 %, n = 500)"),
        ("deciding: words", "4"),
        ("deciding: none", "not measured"),
        ("judge: kappa de", "41 % (no interval recorded)"),
    ]
    assert "deciding: words" in page(told, folder)


def test_the_reason_for_a_badge_names_evaluators_as_the_rest_of_the_page(tmp_path: Path) -> None:
    told = summary()
    assert "judged by the oracle gold:lab and lab:judge-b, independent" in page(told, tmp_path)
    told["stages"]["compare"]["figures"]["judges"] = {"training_judge": judge("lab:judge-a", "lab-a")}
    html = page(told, tmp_path)
    assert "the only evidence comes from lab:judge-a (it gave the training feedback)" in html
    assert "training_judge" not in html[: html.index("summary.json")]


def test_one_evaluator_has_one_name_and_one_policy_one_colour(tmp_path: Path) -> None:
    told = summary()
    told["stages"]["compare"]["figures"]["judges"]["training_judge"] = judge("lab:judge-a", "lab-a")
    told["policies"]["rlaif"]["by_judge"]["training_judge"] = {"win_rate": est(0.7)}
    html = page(told, tmp_path)
    assert "training_judge" not in html[: html.index("summary.json")]
    colours = {p.name: p.colour for p in gather(told).policies}
    assert len(set(colours.values())) == len(colours)
    assert not set(colours.values()) & set(figures.EVALUATORS)


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
def test_a_run_without_summary_is_reported(tmp_path: Path) -> None:
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


def test_what_a_step_made_has_the_digest_that_the_step_recorded(tmp_path: Path) -> None:
    """A policy, a prompt file and a file of responses of the run itself; what no step lists stays unrecorded."""
    recipe = """name: r
stages:
  - {id: split, stage: split, prompts: p.jsonl}
  - {id: train, stage: sft, model: hf:base}
  - {id: draw, stage: sample}
  - {id: compare, stage: compare, prompts: "@split/test.jsonl", reference: sft,
     policies: {sft: "hf:@train/policy", drawn: "@draw/completions.jsonl", lost: "hf:@draw/policy"}}
summary: {policies: compare.policies}
"""
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    for step, listed in {"split": {"test.jsonl": "ab" * 32}, "draw": {"completions.jsonl": "cd" * 32}}.items():
        (tmp_path / "stages" / step).mkdir(parents=True)
        (tmp_path / "stages" / step / "files.json").write_text(json.dumps(listed), encoding="utf-8")
    record = tmp_path / "stages/train/policy/training/feedback.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"weights": "ef" * 8}), encoding="utf-8")
    facts = {fact.name: list(fact.values) for fact in gather(summary(policies={}), tmp_path).facts}
    assert facts["evaluation prompts"] == [f"test.jsonl of step split (sha256 {'ab' * 8})"]
    assert facts["policies"] == [
        f"SFT: model of step train (weights {'ef' * 8})",
        f"drawn: completions.jsonl of step draw (sha256 {'cd' * 8})",
        "lost: model of step draw (digest not recorded)",
    ]


@pytest.mark.parametrize(("level", "mark"), [("ok", "✓"), ("watch", "!"), ("bad", "✗")])
def test_every_step_says_what_it_took_and_what_it_thinks_of_its_result(tmp_path: Path, level: str, mark: str) -> None:
    told = summary()
    verdict = {"level": level, "meaning": "The judge agrees with people.", "action": "Train on them."}
    told["stages"] = {"ai": {"kind": "label", "calls": 1200, "tokens": 34000, "cost_usd": 0.5, "verdict": verdict,
                             "figures": {}}, "pairs": {"kind": "pair", "figures": {}}}  # fmt: skip
    told["seconds"] = {"ai": 12.25}
    html = page(told, tmp_path)
    row = html.partition('<td>ai <span class="faint">label</span></td>')[2].partition("</tr>")[0]
    assert f"{mark} The judge agrees with people. Train on them." in row
    for shown in ("1,200", "34,000", "$0.50", "12.2"):
        assert shown in row
    assert html.partition('<td>pairs <span class="faint">pair</span></td>')[2].partition("</tr>")[0].count("–") == 3


@pytest.mark.parametrize("name", ["independent", "evaluator", "other"])
def test_the_words_independent_evaluator_survive_an_evaluator_of_that_name(name: str) -> None:
    from aifeedback.reports.wording import renamed

    assert renamed(f"by independent evaluator {name}", {name: "lab:judge-b"}) == "by independent evaluator lab:judge-b"
