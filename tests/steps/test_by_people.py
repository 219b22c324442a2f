"""People's verdicts count: win rates, agreement, prediction-powered rates, slices, and the report that shows them."""

from __future__ import annotations

import json
import random
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aifeedback.annotation import PeopleLabeler, RatingStore, read_task
from aifeedback.annotation.items import Item, items_of_completions
from aifeedback.cli import app
from aifeedback.data import read_records, write_rows
from aifeedback.errors import InputError
from aifeedback.types import Comparison, Completion, Prompt, Rating
from lab.summaries import write_policies

AT = "2026-01-01T00:00:00+00:00"


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if code:
        assert isinstance(result.exception, InputError), result.output
        return str(result.exception)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def figures(path: Path) -> dict[str, Any]:
    return json.loads((path / "figures.json").read_text())


def rated(item: Item, rater: str, choice: Any = None, **more: Any) -> Rating:
    order = tuple(range(len(item.answers)))
    return Rating(
        item_id=item.id, rater=rater, choice=choice, order_shown=order, at=AT, prompt_id=item.prompt.id,
        answers=item.texts, **more,
    )  # fmt: skip


def store(folder: Path, ratings: list[Rating]) -> Path:
    store = RatingStore(folder / "ratings.sqlite")
    for rating in ratings:
        store.add(rating)
    store.close()
    return folder


def write_policy(folder: Path, name: str, ending: str, count: int = 40) -> str:
    rows = [{"prompt": f"Q{i}", "tags": {"topic": ("law", "tea")[i % 2]}, "completion": f"{name} says {i}{ending}"}
            for i in range(count)]  # fmt: skip
    write_rows(folder / f"{name}.jsonl", rows)
    return f"{name}={folder / name}.jsonl"


@pytest.fixture
def policies(tmp_path: Path) -> list[str]:
    """Two files of responses with trailing symbols, which are removed before judging."""
    write_rows(
        tmp_path / "prompts.jsonl", [{"prompt": f"Q{i}", "tags": {"topic": ("law", "tea")[i % 2]}} for i in range(40)]
    )
    return [write_policy(tmp_path, "sft", " ."), write_policy(tmp_path, "rl", " . .")]


def compare(folder: Path, policies: list[str], *options: str, out: str = "out", code: int = 0) -> str:
    prompts = ["--prompts", str(folder / "prompts.jsonl"), "-o", str(folder / out)]
    return run("compare", *policies, *prompts, *options, code=code)


# ── the paper's first figure by people, in the lab ───────────────────────────────────────────────────────────────────


def test_raters_at_the_real_page_give_win_rates_that_contain_golds(tmp_path: Path) -> None:
    """Three careful raters rank the answers of four policies over HTTP; all six win rates hold gold's within them."""
    names = write_policies(tmp_path, 30)
    common = ["--prompts", str(tmp_path / "test.jsonl")]
    run("compare", *names, *common, "--judge", "gold:lab", "-o", str(tmp_path / "gold"))
    people = tmp_path / "people"
    printed = run("lab", "raters", str(tmp_path / "gold"), "-o", str(people))
    assert printed.count("30 items rated") == 3
    judges = ["--judge", "gold:lab", "--judge", f"people:{people}", "--judge", "fake:noisy"]
    out = tmp_path / "out"
    run("compare", *names, *common, *judges, "--by", "topic", "-o", str(out))
    found = figures(out)["people"]
    gold = figures(tmp_path / "gold")
    against = {f"{name}_vs_sft": row["win_rate"] for name, row in gold["policies"].items() if name != "sft"}
    truth = {name: rate["value"] for name, rate in {**against, **gold["head_to_head"]}.items()}
    assert set(truth) == set(found["matches"])
    for name, value in truth.items():
        assert found["matches"][name]["win_rate"]["low"] <= value <= found["matches"][name]["win_rate"]["high"], name
        assert found["matches"][name]["length_controlled"]["value"] is not None
    assert found["judge"] == "fake:noisy"
    assert found["kendalls_w"]["value"] > 0.8
    assert found["kendalls_w"]["n"] == 30
    assert {name: one["ratings"] for name, one in found["raters"].items()} == dict.fromkeys(
        ["rater-1", "rater-2", "rater-3"], 30
    )
    page = unescape((out / "report.html").read_text())
    assert "What do people say?" in page
    assert "Kendall's W" in page
    assert "d-RLAIF over SFT" in page


@pytest.mark.campaign
def test_raters_of_trained_policies_give_win_rates_that_contain_golds(tmp_path: Path) -> None:
    """The same of the policies that the short demo trains."""
    run("demo", "--short", "-o", str(tmp_path / "demo"))
    stage = tmp_path / "demo" / "stages" / "compare"
    run("lab", "raters", str(stage), "-o", str(tmp_path / "people"))
    names = [f"{name}={stage / f'completions-{name}.jsonl'}" for name in ("sft", "rlaif", "rlhf", "d_rlaif")]
    prompts = tmp_path / "demo" / "stages" / "world" / "test.jsonl"
    judges = ["--judge", "gold:lab", "--judge", f"people:{tmp_path / 'people'}"]
    run("compare", *names, "--prompts", str(prompts), *judges, "-o", str(tmp_path / "out"))
    found = figures(tmp_path / "out")
    for name, row in found["people"]["matches"].items():
        gold = row["judge"]["value"]
        print(f"{name}: gold {gold:.3f}, people {row['win_rate']['low']:.3f} to {row['win_rate']['high']:.3f}")
        assert row["win_rate"]["low"] <= gold <= row["win_rate"]["high"]


# ── compare ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ratings_of_responses_as_sampled_count_after_trailing_symbols_are_removed(
    tmp_path: Path, policies: list[str]
) -> None:
    items = _items_between(tmp_path, "sft", "rl")
    people = store(tmp_path / "people", [rated(item, "anna", "second") for item in items])
    compare(tmp_path, policies, "--judge", f"people:{people}")
    found = figures(tmp_path / "out")
    assert found["policies"]["rl"]["tidied"]["changed"] == 40
    assert found["policies"]["rl"]["win_rate"]["value"] == 1.0
    assert found["people"]["matches"]["rl_vs_sft"]["rated"] == 40
    assert found["ranking"]["names"] == ["rl", "sft"]


def _items_between(folder: Path, *names: str) -> list[Item]:
    prompts, completions = [], []
    for name in names:
        for line in (folder / f"{name}.jsonl").read_text().splitlines():
            row = json.loads(line)
            prompts.append(Prompt.of(row["prompt"], tags=row["tags"]))
            completions.append(Completion.of(prompts[-1], row["completion"], source=name))
    return items_of_completions(prompts, completions)


def test_ratings_of_other_responses_are_refused_before_any_call(tmp_path: Path, policies: list[str]) -> None:
    write_policy(tmp_path, "other", " else")
    people = store(tmp_path / "people", [rated(i, "anna", "first") for i in _items_between(tmp_path, "sft", "other")])
    printed = compare(tmp_path, policies, "--judge", "fake:noisy", "--judge", f"people:{people}", code=2)
    assert "no rating of these 40 pairs" in printed
    assert not list((tmp_path / "out").glob("preferences-*"))


def test_three_raters_count_by_their_verdicts_as_in_the_ratings_own_summary(
    tmp_path: Path, policies: list[str]
) -> None:
    compare(tmp_path, policies, "--judge", "fake:noisy")
    task = read_task(tmp_path / "out")
    draw = random.Random(0)
    ratings = [
        rated(item, rater, draw.choice(["first", "first", "second", "tie"])) for item in task.items for rater in "abc"
    ]
    people = store(tmp_path / "people", ratings)
    run("rate", str(tmp_path / "out"), "-o", str(people), "--export", "--reference", "sft")
    own = json.loads((people / "summary.json").read_text())["win_rates"]["pairs"]["rl vs sft"]
    compare(tmp_path, policies, "--judge", "fake:noisy", "--judge", f"people:{people}", out="judged")
    found = figures(tmp_path / "judged")
    for rate in (found["people"]["matches"]["rl_vs_sft"], found["policies"]["rl"]["by_judge"][f"people:{people}"]):
        for key in ("win_rate", "length_controlled"):
            assert (rate[key]["value"], rate[key]["low"]) == (own[key]["value"], own[key]["low"])
    assert found["people"]["krippendorff_alpha"]["n"] == 40


def test_few_ratings_and_many_labels_give_a_prediction_powered_rate_by_slice(
    tmp_path: Path, policies: list[str]
) -> None:
    """People say of 16 of 40 pairs that rl is better on law only; the judge's labels stand for the rest."""
    compare(tmp_path, policies, "--judge", "fake:noisy")
    chosen = read_task(tmp_path / "out").items[:16]
    side = {"law": "first", "tea": "second"}
    verdicts = [
        rated(item, "anna", side[item.prompt.tags["topic"]] if item.answers[0].source == "rl" else "second")
        for item in chosen
    ]
    people = store(tmp_path / "people", verdicts)
    printed = compare(
        tmp_path, policies, "--judge", "fake:noisy", "--judge", f"people:{people}", "--by", "topic", out="judged"
    )
    found = figures(tmp_path / "judged")["people"]
    match = found["matches"]["rl_vs_sft"]
    assert (match["rated"], match["pairs"]) == (16, 40)
    assert match["prediction_powered"]["n"] == 16
    assert match["prediction_powered"]["n_ai"] == 24
    assert (
        match["prediction_powered"]["low"] < match["prediction_powered"]["value"] < match["prediction_powered"]["high"]
    )
    assert [(one["value"], one["people"]["value"]) for one in found["slices"]] == [("law", 1.0), ("tea", 0.0)]
    assert all(one["judge"]["n"] == 20 for one in found["slices"])
    assert "16 of 40" in printed
    assert "topic=law" in printed
    page = (tmp_path / "judged" / "report.html").read_text()
    assert "Prediction-powered" in page
    assert "topic: tea" in page


def test_identical_responses_are_ties_in_proportion(tmp_path: Path, policies: list[str]) -> None:
    write_policy(tmp_path, "copy", " .")
    rows = [json.loads(line) for line in (tmp_path / "copy.jsonl").read_text().splitlines()]
    own = [json.loads(line) for line in (tmp_path / "sft.jsonl").read_text().splitlines()]
    write_rows(tmp_path / "copy.jsonl", [*own[:20], *rows[20:]])
    names = [policies[0], f"copy={tmp_path / 'copy.jsonl'}"]
    compare(tmp_path, names, "--judge", "fake:noisy")
    items = read_task(tmp_path / "out").items
    assert len(items) == 20
    people = store(tmp_path / "people", [rated(item, "anna", "first") for item in items[:10]])
    compare(tmp_path, names, "--judge", "fake:noisy", "--judge", f"people:{people}", out="judged")
    match = figures(tmp_path / "judged")["people"]["matches"]["copy_vs_sft"]
    assert match["identical"] == 20
    sides = {item.answers[0].source for item in items}
    assert match["win_rate"]["value"] == pytest.approx(0.75 if sides == {"copy"} else 0.25)


def test_a_folder_of_a_comparison_is_ranked_without_the_references_second_draw(tmp_path: Path) -> None:
    prompt = Prompt.of("Q")
    texts = {name: Completion.of(prompt, name, source=name) for name in ("sft", "rl", "dpo", "sft again")}
    for one, other in (("sft", "sft again"), ("rl", "sft"), ("dpo", "sft"), ("rl", "dpo")):
        pair = Comparison.of(prompt, texts[one], texts[other])
        (tmp_path / f"comparisons-{one}-{other}.jsonl").write_text(pair.model_dump_json() + "\n")
    (item,) = read_task(tmp_path).items
    assert {answer.source for answer in item.answers} == {"sft", "rl", "dpo"}
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no comparison of policies" in run("rate", str(empty), "-o", str(tmp_path / "r"), "--rater", "a", code=2)
    assert "is ranked" in run(
        "rate", str(tmp_path), "-o", str(tmp_path / "r"), "--rater", "a", "--ask", "harmful", code=2
    )


# ── evaluate ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def labelled(folder: Path, rows: int = 200) -> Path:
    """A judge's labels of rl against sft, right on 80 %; people prefer rl on 70 % of the pairs."""
    draw = random.Random(1)
    table = []
    for i in range(rows):
        truth = draw.random() < 0.7
        says = truth if draw.random() < 0.8 else not truth
        table.append(
            {"prompt": f"Q{i}", "first": f"one {i}", "second": f"other {i}", "first_source": "rl", "second_source": "sft",
             "p_first": 0.8 if says else 0.2, "judge": "j", "truth": truth, "tags": {"locale": ("de", "en", "fr")[i % 3]}}
        )  # fmt: skip
    write_rows(folder / "all.jsonl", table)
    return folder / "all.jsonl"


def rate_as_true(sample: Path, out: Path) -> Path:
    task = read_task(sample)
    truth = {json.loads(line)["prompt"]: json.loads(line)["truth"] for line in sample.read_text().splitlines()}
    ratings = []
    for item in task.items:
        is_first = truth[item.prompt.text] == item.answers[0].text.startswith("one")
        ratings.append(rated(item, "anna", "first" if is_first else "second"))
    return store(out, ratings)


@pytest.mark.parametrize("extra", [[], ["--uncertain", "0.5", "--uncertain-below", "0.85"]])
def test_ratings_of_a_drawn_sample_and_labels_of_all_give_one_rate(tmp_path: Path, extra: list[str]) -> None:
    data = labelled(tmp_path)
    sample = tmp_path / "sample.jsonl"
    run("draw", str(data), "-o", str(sample), "-n", "60", "--by", "locale", *extra)
    out = rate_as_true(sample, tmp_path / "people")
    run("rate", str(sample), "-o", str(out), "--export")
    printed = run(
        "evaluate", "--data", str(data), "--people", str(out), "--by", "locale", "--json", str(tmp_path / "f")
    )
    found = json.loads((tmp_path / "f").read_text())
    match = found["people"]["matches"]["rl_vs_sft"]
    powered = match["prediction_powered"]
    truth = sum(json.loads(line)["truth"] for line in data.read_text().splitlines()) / 200
    assert powered["low"] <= truth <= powered["high"]
    assert powered["high"] - powered["low"] < powered["human_only_high"] - powered["human_only_low"]
    assert (match["rated"], match["pairs"], powered["n_ai"]) == (60, 200, 140)
    assert [one["value"] for one in found["people"]["slices"]] == ["de", "en", "fr"]
    assert all(one["prediction_powered"]["n"] == one["rated"] for one in found["people"]["slices"])
    assert found["people"]["raters"]["anna"]["ratings"] == 60
    assert found["alignment"]["n"] == 60
    assert "prediction-powered" in printed


def test_a_file_that_only_people_rated_gives_their_win_rate(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{i}", "first": f"one {i}", "second": f"other {i}", "first_source": "rl", "second_source": "sft"}
            for i in range(30)]  # fmt: skip
    write_rows(tmp_path / "pairs.jsonl", rows)
    items = read_task(tmp_path / "pairs.jsonl").items
    out = store(
        tmp_path / "people", [rated(item, "anna", "first" if i % 3 else "second") for i, item in enumerate(items)]
    )
    run("rate", str(tmp_path / "pairs.jsonl"), "-o", str(out), "--export")
    printed = run("evaluate", "--data", str(out / "labelled.jsonl"), "--json", str(tmp_path / "f"))
    found = json.loads((tmp_path / "f").read_text())
    assert found["people"]["matches"]["rl_vs_sft"]["win_rate"]["n"] == 30
    assert "win_rate_of_first" not in found
    assert "✓ Win rate by people. rl against sft: 67 %" in printed
    turned = run("evaluate", "--data", str(out / "labelled.jsonl"), "--reference", "rl")
    assert "sft against rl: 33 %" in turned


def test_ratings_of_another_file_are_refused(tmp_path: Path) -> None:
    data = labelled(tmp_path, 20)
    write_rows(tmp_path / "b.jsonl", [{"prompt": "other", "first": "x", "second": "y"}])
    out = store(tmp_path / "people", [rated(read_task(tmp_path / "b.jsonl").items[0], "anna", "first")])
    assert "no rating of the 20 pairs" in run("evaluate", "--data", str(data), "--people", str(out), code=2)


def test_pairs_that_nobody_could_decide_leave_their_strata_their_size(tmp_path: Path) -> None:
    data = labelled(tmp_path, 90)
    sample = tmp_path / "sample.jsonl"
    run("draw", str(data), "-o", str(sample), "-n", "30", "--by", "locale")
    task = read_task(sample)
    out = store(
        tmp_path / "people",
        [
            rated(i, "anna", "cannot_tell" if i.prompt.tags["locale"] == "de" and n % 2 else "first")
            for n, i in enumerate(task.items)
        ],
    )
    run("rate", str(sample), "-o", str(out), "--export")
    from aifeedback.steps.by_people import weights_in

    weights = weights_in(out)
    assert weights is not None
    sums: dict[str, float] = {}
    for weight, stratum in weights.values():
        sums[stratum] = sums.get(stratum, 0.0) + weight
    assert sums == pytest.approx({"de": 30.0, "en": 30.0, "fr": 30.0})
    assert len(weights) < 30
    assert len(PeopleLabeler.load(out).ratings) == 30
    assert len(read_records(out / "ratings.jsonl", Rating)) == 30
