"""People's ratings as a labeler, and win rates by people."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from aifeedback.annotation import PeopleLabeler, RatingStore, preferences, read_task, win_rates
from aifeedback.annotation.items import Item, items_of_comparisons, items_of_completions
from aifeedback.annotation.labeler import policy_pairs
from aifeedback.cli import app
from aifeedback.errors import InputError
from aifeedback.metrics import win_rate
from aifeedback.types import Comparison, Completion, Labeler, Problem, Prompt, Rating

AT = "2026-01-01T00:00:00+00:00"


def rated(item: Item, rater: str, choice: str | None = None, **more: object) -> Rating:
    return Rating(
        item_id=item.id,
        rater=rater,
        choice=choice,  # type: ignore[arg-type]
        order_shown=tuple(range(len(item.answers))),
        at=AT,
        prompt_id=item.prompt.id,
        answers=item.texts,
        **more,  # type: ignore[arg-type]
    )


def pair(number: int, first: str = "one", second: str = "other", sources: tuple[str, str] = ("a", "b")) -> Comparison:
    prompt = Prompt.of(f"Q{number}")
    texts = zip((f"{first} {number}", f"{second} {number}"), sources, strict=True)
    return Comparison.of(prompt, *(Completion.of(prompt, text, source=source) for text, source in texts))


def folder_of(path: Path, ratings: list[Rating]) -> Path:
    store = RatingStore(path / "ratings.sqlite")
    for rating in ratings:
        store.add(rating)
    store.close()
    return path


def test_ratings_answer_for_a_pair_in_any_order_and_from_any_source(tmp_path: Path) -> None:
    comparison = pair(0)
    item = items_of_comparisons([comparison])[0]
    people: Labeler = PeopleLabeler.load(folder_of(tmp_path, [rated(item, "anna", "first"), rated(item, "ben", "tie")]))
    assert people.name == f"people:{tmp_path}"
    other = pair(0, sources=("x", "y"))
    said = people.label([comparison, comparison.swapped(), other, other.swapped()])
    assert [p.p_first for p in said] == [0.75, 0.25, 0.75, 0.25]
    assert [p.comparison_id for p in said] == [comparison.id, comparison.swapped().id, other.id, other.swapped().id]
    assert [j.shown_swapped for j in said[1].judgements] == [True, True]


def test_what_nobody_rated_or_decided_is_unknown_and_identical_texts_are_a_tie(tmp_path: Path) -> None:
    items = items_of_comparisons([pair(0), pair(1)])
    people = PeopleLabeler([rated(items[0], "anna", "cannot_tell")])
    same = pair(2, "same", "same")
    said = people.label([pair(0), pair(1), same])
    assert [(p.p_first, p.problem) for p in said] == [
        (None, Problem.ABSTAINED),
        (None, Problem.MISSING),
        (0.5, None),
    ]


def test_a_ranking_answers_for_every_two_of_its_responses() -> None:
    prompts = [Prompt.of("Q")] * 3
    texts = [Completion.of(p, t, source=t) for p, t in zip(prompts, "abc", strict=True)]
    item = items_of_completions(prompts, texts)[0]
    people = PeopleLabeler([rated(item, "anna", ranking=(2, 1, 2))])
    assert [p.p_first for p in people.label(policy_pairs(prompts, texts))] == [0.0, 0.5, 1.0]


def test_raters_are_combined_by_a_declared_rule_and_can_be_left_out() -> None:
    comparison = pair(0)
    item = items_of_comparisons([comparison])[0]
    ratings = [rated(item, "a", "first"), rated(item, "b", "first"), rated(item, "c", "second")]
    assert PeopleLabeler(ratings).label([comparison])[0].p_first == pytest.approx(2 / 3)
    assert PeopleLabeler(ratings, combine="majority").label([comparison])[0].p_first == 1.0
    assert PeopleLabeler(ratings[1:], combine="majority").label([comparison])[0].p_first == 0.5
    assert PeopleLabeler(ratings, exclude=["a", "b"]).label([comparison])[0].p_first == 0.0
    with pytest.raises(InputError, match="no rule"):
        PeopleLabeler(ratings, combine="loudest")  # type: ignore[arg-type]


def test_corrections_replace_and_repeats_and_calibration_do_not_count() -> None:
    comparison = pair(0)
    item = items_of_comparisons([comparison])[0]
    ratings = [
        rated(item, "a", "first"),
        rated(item, "a", "second", revision=1),
        rated(item._replace(id="again"), "a", "first", purpose="repeat"),
        rated(item, "b", "first", purpose="calibration"),
    ]
    assert PeopleLabeler(ratings).label([comparison])[0].p_first == 0.0
    assert preferences([comparison], ratings)[0].p_first == 0.0


@pytest.mark.parametrize("name", ["", "ratings.jsonl", "ratings.sqlite"])
def test_a_place_without_ratings_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=str(tmp_path)):
        PeopleLabeler.load(tmp_path / name)


def test_a_file_of_ratings_gives_the_same_as_its_folder(tmp_path: Path) -> None:
    items = items_of_comparisons([pair(i) for i in range(4)])
    out = folder_of(
        tmp_path / "out", [rated(i, "anna", c) for i, c in zip(items, ("first", "second", "tie", "first"), strict=True)]
    )
    data = tmp_path / "pairs.jsonl"
    data.write_text(
        "".join(json.dumps({"prompt": f"Q{i}", "first": f"one {i}", "second": f"other {i}"}) + "\n" for i in range(4))
    )
    CliRunner().invoke(app, ["rate", str(data), "-o", str(out), "--export"])
    comparisons = [pair(i) for i in range(4)]
    folder, file = (PeopleLabeler.load(path).label(comparisons) for path in (out, out / "ratings.jsonl"))
    assert [p.p_first for p in folder] == [p.p_first for p in file] == [1.0, 0.0, 0.5, 1.0]


# ── win rates ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_win_rates_by_people_equal_those_of_their_verdicts() -> None:
    comparisons = [pair(i, sources=("rl", "sft") if i % 2 else ("sft", "rl")) for i in range(60)]
    wins = [Random(i).random() < 0.7 for i in range(60)]  # of rl
    ratings = [
        rated(items_of_comparisons([c])[0], "anna", "first" if won == (c.first.source == "rl") else "second")
        for c, won in zip(comparisons, wins, strict=True)
    ]
    found = win_rates(comparisons, PeopleLabeler(ratings), reference="sft")
    expected = win_rate([float(w) for w in wins], prompts=[c.prompt.id for c in comparisons])
    assert list(found["pairs"]) == ["rl vs sft"]
    rate = found["pairs"]["rl vs sft"]["win_rate"]
    assert (rate["value"], rate["low"], rate["high"]) == (expected.value, expected.low, expected.high)
    assert found["ranking"]["names"][0] in ("rl", "sft")


def test_identical_responses_count_as_ties_for_every_source() -> None:
    """Three policies, two of which often say the same: who shares a text shares its rank."""
    prompts, completions = [], []
    for i in range(10):
        prompt = Prompt.of(f"Q{i}")
        for source, text in (("a", "shared"), ("b", "shared"), ("c", "own")):
            prompts.append(prompt)
            completions.append(Completion.of(prompt, text, source=source))
    items = items_of_completions(prompts, completions)
    assert all(len(item.answers) == 2 for item in items)
    ratings = [rated(item, "anna", "first" if item.answers[0].text == "shared" else "second") for item in items]
    rates = win_rates(policy_pairs(prompts, completions), PeopleLabeler(ratings))["pairs"]
    assert {names: one["win_rate"]["value"] for names, one in rates.items()} == {
        "a vs b": 0.5,
        "a vs c": 1.0,
        "b vs c": 1.0,
    }
    assert [one["win_rate"]["n"] for one in rates.values()] == [10, 10, 10]


def test_ties_are_not_overcounted_while_most_pairs_are_unrated() -> None:
    """50 of 100 pairs identical; 10 of the others rated, all won: (½ · 50 + 1 · 50) / 100, not (½ · 50 + 10) / 60."""
    comparisons = [pair(i, "same", "same") for i in range(50)] + [pair(i) for i in range(50, 100)]
    ratings = [rated(items_of_comparisons([c])[0], "anna", "first") for c in comparisons[50:60]]
    rate = win_rates(comparisons, PeopleLabeler(ratings))["pairs"]["a vs b"]["win_rate"]
    assert rate["value"] == pytest.approx(0.75)
    assert rate["low"] < 0.75 <= rate["high"]


def test_win_rates_of_a_half_rated_study_cover_the_truth() -> None:
    random, covered, trials = Random(0), 0, 300
    for _ in range(trials):
        comparisons, ratings = [], []
        for i in range(120):
            same = random.random() < 0.3
            comparison = pair(i, "same", "same") if same else pair(i)
            comparisons.append(comparison)
            if not same and random.random() < 0.6:
                won = random.random() < 0.65
                item = items_of_comparisons([comparison])[0]
                ratings.append(rated(item, "anna", "first" if won else "second"))
        rate = win_rates(comparisons, PeopleLabeler(ratings))["pairs"]["a vs b"]["win_rate"]
        covered += rate["low"] <= 0.3 * 0.5 + 0.7 * 0.65 <= rate["high"]
    assert 0.92 <= covered / trials <= 0.985  # 0.95 within three standard errors


def test_rating_a_file_of_comparisons_ends_in_win_rates(tmp_path: Path) -> None:
    """Records as `compare` leaves them, with identical and repeated pairs."""
    comparisons = [*(pair(i, sources=("rl", "sft")) for i in range(6)), pair(6, "same", "same", ("rl", "sft"))]
    data, out = tmp_path / "comparisons.jsonl", tmp_path / "out"
    data.write_text("".join(c.model_dump_json() + "\n" for c in comparisons))
    items = read_task(data).items
    assert len(items) == 6
    folder_of(out, [rated(item, "anna", "first") for item in items])
    result = CliRunner().invoke(app, ["rate", str(data), "-o", str(out), "--export", "--reference", "sft"])
    assert result.exit_code == 0, result.output
    rate = json.loads((out / "summary.json").read_text())["win_rates"]["pairs"]["rl vs sft"]["win_rate"]
    assert (rate["value"], rate["n"]) == (pytest.approx(6.5 / 7), 7)
    assert "rl vs sft: win rate by people" in result.output


def test_a_weighted_sample_gives_the_win_rate_and_the_agreement_of_the_whole(tmp_path: Path) -> None:
    """Uncertain rows are half of the sample and a tenth of the file; people reverse the judge on them."""
    rows = []
    for i in range(200):
        uncertain = i % 10 == 0
        texts = {"first": f"one {i}", "second": f"other {i}", "first_source": "rl", "second_source": "sft"}
        rows.append({"prompt": f"Q{i}", **texts, "p_first": 0.55 if uncertain else 0.95, "judge": "j"})
    data, sample, out = tmp_path / "all.jsonl", tmp_path / "sample.jsonl", tmp_path / "out"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["draw", str(data), "-o", str(sample), "-n", "40", "--uncertain", "0.5"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    task = read_task(sample)
    uncertain_prompts = {f"Q{i}" for i in range(0, 200, 10)}
    verdicts = [(i, "second" if i.prompt.text in uncertain_prompts else "first") for i in task.items]
    folder_of(out, [rated(item, "anna", choice) for item, choice in verdicts])
    result = CliRunner().invoke(app, ["rate", str(sample), "-o", str(out), "--export", "--reference", "sft"])
    assert result.exit_code == 0, (result.output, result.exception)
    summary = json.loads((out / "summary.json").read_text())
    one = summary["win_rates"]["pairs"]["rl vs sft"]
    assert one["win_rate"]["value"] == pytest.approx(0.5)
    assert one["weighted"]["value"] == pytest.approx(0.9)
    assert summary["weighted_agreement"]["value"] == pytest.approx(0.9)
