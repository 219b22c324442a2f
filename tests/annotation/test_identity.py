"""A rating belongs to its texts: not to their order, to the seed, to who wrote them, or to how the file labels them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aifeedback.annotation import PeopleLabeler, RatingStore, read_task, summarise
from aifeedback.annotation.items import Catalogue, Item, current
from aifeedback.cli import app
from aifeedback.data import read_labelled
from aifeedback.types import Comparison, Rating, text_id

AT = "2026-01-01T00:00:00+00:00"
Rows = list[dict[str, object]]


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chosen(count: int = 20) -> Rows:
    return [{"prompt": f"Q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(count)]


def rate_all(folder: Path, data: Path, better: Callable[[str], bool], rater: str = "anna") -> list[Item]:
    """Every pair rated: the response that is ``better`` wins, as the page would store it."""
    items = read_task(data).items
    store = RatingStore(folder / "ratings.sqlite")
    for item in items:
        first = better(item.answers[0].text)
        store.add(
            Rating(
                item_id=item.id,
                rater=rater,
                choice="first" if first else "second",
                order_shown=item.order_for(rater, 0),
                at=AT,
                prompt_id=item.prompt.id,
                answers=item.texts,
            )
        )
    store.close()
    return items


def export(data: Path, out: Path, *more: str) -> tuple[dict[str, object], str]:
    result = CliRunner().invoke(app, ["rate", str(data), "-o", str(out), "--export", *more])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads((out / "summary.json").read_text()), result.output


def _turned(rows: Rows) -> Rows:
    return [{"prompt": r["prompt"], "chosen": r["rejected"], "rejected": r["chosen"]} for r in rows]


def _stored(rows: Rows) -> Rows:
    return [{"prompt": r["prompt"], "first": r["rejected"], "second": r["chosen"]} for r in rows]


def _sourced(rows: Rows) -> Rows:
    return [{**r, "chosen_model": "one", "rejected_model": "other"} for r in rows]


@pytest.mark.parametrize(
    "change", [lambda rows: rows, lambda rows: rows[::-1], _turned, _stored, _sourced], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("seed", ["0", "1", "7"])
def test_every_rating_survives_another_seed_order_labelling_or_source(
    tmp_path: Path, change: Callable[[Rows], Rows], seed: str
) -> None:
    rate_all(tmp_path / "out", write(tmp_path / "a.jsonl", chosen()), lambda text: text.startswith("good"))
    summary, _ = export(write(tmp_path / "b.jsonl", change(chosen())), tmp_path / "out", "--seed", seed)
    assert summary["ratings"] == 20
    assert summary["ratings_of_other_items"] == 0
    rows = read_labelled(tmp_path / "out" / "labelled.jsonl")
    assert len(rows) == 20
    for row in rows:
        better = row.comparison.first if row.human_p_first == 1.0 else row.comparison.second
        assert better.text.startswith("good")


def test_ratings_of_edited_prompts_stay_in_the_export_and_are_counted_aloud(tmp_path: Path) -> None:
    rate_all(tmp_path / "out", write(tmp_path / "a.jsonl", chosen()), lambda text: text.startswith("good"))
    edited = [{**row, "prompt": f"{row['prompt']}!"} if i < 11 else row for i, row in enumerate(chosen())]
    summary, output = export(write(tmp_path / "b.jsonl", edited), tmp_path / "out")
    assert (summary["ratings"], summary["ratings_of_other_items"]) == (9, 11)
    assert "11 ratings belong to no item" in " ".join(output.split())
    assert len((tmp_path / "out" / "ratings.jsonl").read_text().splitlines()) == 20


def test_a_sample_exports_the_ratings_of_an_earlier_sample_too(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", chosen())
    rate_all(tmp_path / "out", data, lambda text: text.startswith("good"))
    summary, _ = export(data, tmp_path / "out", "--limit", "3", "--seed", "5")
    assert summary["ratings"] == 20


def test_a_ranking_survives_another_order_of_the_rows(tmp_path: Path) -> None:
    rows: Rows = [{"prompt": "Q", "completion": text, "source": text} for text in "abc"]
    item = read_task(write(tmp_path / "a.jsonl", rows)).items[0]
    rating = Rating(
        item_id=item.id, rater="anna", ranking=(1, 3, 2), order_shown=(2, 0, 1), at=AT, prompt_id=item.prompt.id,
        answers=item.texts,
    )  # fmt: skip
    other = read_task(write(tmp_path / "b.jsonl", rows[::-1])).items[0]
    match = Catalogue([other]).match(rating)
    assert match is not None
    assert match.ranking == (2, 3, 1)  # c, b, a
    assert [other.answers[i].text for i in match.order_shown] == ["c", "a", "b"]


def test_ratings_stored_under_ids_of_one_order_are_still_found(tmp_path: Path) -> None:
    """Files of ratings made before ids were independent of the order: both orders of chosen/rejected files."""
    item = read_task(write(tmp_path / "a.jsonl", chosen(1))).items[0]
    comparison = Comparison.of(item.prompt, *item.answers)
    old = [
        Rating(item_id=comparison.id, rater="anna", choice="first", order_shown=(0, 1), at=AT),
        Rating(item_id=comparison.swapped().id, rater="ben", choice="first", order_shown=(0, 1), at=AT),
    ]
    assert summarise([item], old)["ratings"] == 2
    matched, strays = Catalogue([item]).matched(old)
    assert strays == []
    assert [rating.choice for rating in matched] == ["first", "second"]
    preference = PeopleLabeler(old).label([comparison])[0]
    assert [j.p_first for j in preference.judgements] == [1.0, 0.0]


def test_the_last_correction_counts_and_all_rows_stay(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", chosen(1))
    item = rate_all(tmp_path / "out", data, lambda text: text.startswith("good"))[0]
    store = RatingStore(tmp_path / "out" / "ratings.sqlite")
    assert store.add(store.ratings()[0].model_copy(update={"choice": "tie", "revision": 1}))
    assert [rating.choice for rating in current(store.ratings())] == ["tie"]
    store.close()
    summary, _ = export(data, tmp_path / "out")
    assert (summary["ratings"], summary["corrected"]) == (1, 1)
    assert len((tmp_path / "out" / "ratings.jsonl").read_text().splitlines()) == 2
    assert read_labelled(tmp_path / "out" / "labelled.jsonl")[0].human_p_first == 0.5
    assert item.texts == tuple(text_id(answer.text) for answer in item.answers)


def test_a_judges_verdict_stays_where_the_file_has_peoples_too(tmp_path: Path) -> None:
    rows: Rows = [
        {"prompt": "Q0", "first": "good a", "second": "bad a", "p_first": 0.2, "judge": "j", "human_p_first": 0.0},
        {"prompt": "Q1", "first": "good b", "second": "bad b", "p_first": 0.9, "judge": "j", "human_p_first": None},
        {"prompt": "Q2", "first": "good c", "second": "bad c", "p_first": None, "judge": "j", "human_p_first": 1.0,
         "problem": "unreadable"},
    ]  # fmt: skip
    data = write(tmp_path / "a.jsonl", rows)
    rate_all(tmp_path / "out", data, lambda text: text.startswith("good"))
    export(data, tmp_path / "out")
    labelled = read_labelled(tmp_path / "out" / "labelled.jsonl")
    assert [(row.p_first, row.judge, row.human_p_first) for row in labelled] == [
        (0.2, "j", 1.0),
        (0.9, "j", 1.0),
        (None, "j", 1.0),
    ]
    assert labelled[0].extra["human_p_first_before"] == 0.0
    assert labelled[2].problem == "unreadable"
