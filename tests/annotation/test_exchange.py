"""Ratings go to other tools and come back: Argilla's records, Label Studio's tasks, CSV; whatever is unusable is named."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from aifeedback.annotation import RatingStore, read_task
from aifeedback.annotation.exchange import FORMATS, Imported, export_ratings, import_ratings
from aifeedback.annotation.items import SCALES, Item, items_of_comparisons, items_of_completions, single_items
from aifeedback.cli import app
from aifeedback.data import write_rows
from aifeedback.errors import FileError, InputError
from aifeedback.types import Comparison, Completion, Message, Prompt, Rating

AT = "2026-01-01T00:00:00+00:00"
TEXTS = ['A, "quoted"\nanswer', "=1+1; عربي", "third 🙂", "fourth"]


def items_of(kind: str, count: int = 4) -> list[Item]:
    prompts = [Prompt.of([Message(role="system", content="Be brief."), Message(role="user", content=f"Q {i},\n\"x\"")])
               if i == 1 else Prompt.of(f"Q {i},\n\"x\"") for i in range(count)]  # fmt: skip
    if kind == "pairs":
        return items_of_comparisons(
            [
                Comparison.of(p, *(Completion.of(p, f"{t} {i}", source="s") for t in TEXTS[:2]))
                for i, p in enumerate(prompts)
            ]
        )
    if kind == "rankings":
        rows = [(p, Completion.of(p, t, source=t)) for p in prompts for t in TEXTS]
        return items_of_completions([p for p, _ in rows], [c for _, c in rows])
    completions = [Completion.of(p, f"answer {i}", source="s") for i, p in enumerate(prompts)]
    return single_items(prompts, completions, SCALES[kind])


def rating_of(item: Item, rater: str, verdict: int, **more: Any) -> Rating:
    said: dict[str, Any] = {"choice": "cannot_tell"}
    if verdict and item.scale is not None:
        said = {"value": float(item.scale.low + verdict % 2)}
    elif verdict and item.is_pair:
        said = {"choice": ("first", "second", "tie")[verdict % 3]}
    elif verdict:
        said = {"ranking": ((1, 2, 3, 4), (4, 4, 1, 2), (1, 1, 1, 1), (2, 1, 3, 4))[verdict % 4]}
    order = tuple(reversed(range(len(item.answers))))
    common: dict[str, Any] = {
        "item_id": item.id, "rater": rater, "order_shown": order, "seconds": 12.5, "at": AT, "prompt_id": item.prompt.id,
        "answers": item.texts, "asks": item.scale.asks if item.scale else None, "standard": "guide 3",
    }  # fmt: skip
    return Rating(**{**common, **said, **more})


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["pairs", "rankings", "harmful", "score"])
@given(
    verdicts=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["ana", "ben, B."]), st.integers(0, 11)), max_size=8)
)
@settings(max_examples=15, deadline=None)
def test_what_goes_out_comes_back_equal(
    form: str, kind: str, verdicts: list[tuple[int, str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    items = items_of(kind)
    ratings = {
        (items[place].id, rater): rating_of(
            items[place], rater, verdict, revision=verdict // 6, comment=f"because\n{verdict}; \"yes\"" if verdict % 2 else None,
        )
        for place, rater, verdict in verdicts
    }  # fmt: skip
    file = tmp_path_factory.mktemp("exchange") / ("ratings.csv" if form == "csv" else "records.json")
    assert export_ratings(file, items, list(ratings.values()), form) == len(ratings)
    found = import_ratings(file, items, form=form)
    assert {(r.item_id, r.rater): r for r in found.ratings} == ratings
    assert found.skipped == {}
    assert found.unknown == ()


def test_sources_never_leave(tmp_path: Path) -> None:
    items = items_of("rankings")
    secret = Completion.of(items[0].prompt, "text", source="secret-policy")
    items[0] = items[0]._replace(answers=(secret, *items[0].answers[1:]))
    for form in FORMATS:
        export_ratings(tmp_path / "out", items, [], form)
        assert "secret-policy" not in (tmp_path / "out").read_text()


# ── files that other tools made ──────────────────────────────────────────────────────────────────────────────────────


def read(tmp_path: Path, content: Any, name: str = "f.json", kind: str = "pairs", **how: Any) -> Imported:
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / name).write_text(text)
    return import_ratings(tmp_path / name, items_of(kind), **how)


def fields(
    item: Item, names: tuple[str, ...] = ("response_1", "response_2"), *, turned: bool = False
) -> dict[str, str]:
    texts = [answer.text for answer in item.answers]
    return {"prompt": item.prompt.text, **dict(zip(names, texts[::-1] if turned else texts, strict=True))}


@pytest.mark.parametrize(
    ("value", "choice"),
    [("response_1", "first"), ("B", "second"), ("Left", "first"), ("Equally good", "tie"), ("cannot tell", "cannot_tell"),
     (["response_2", "response_1"], "second"), ([{"value": "response_1", "rank": 1}, {"value": "response_2", "rank": 1}], "tie")],
)  # fmt: skip
def test_verdicts_of_argilla(tmp_path: Path, value: Any, choice: str) -> None:
    record = {"id": "7", "fields": fields(items_of("pairs")[0]),
              "responses": {"preference": [{"value": value, "user_id": "3f"}]}}  # fmt: skip
    (rating,) = read(tmp_path, [record]).ratings
    assert (rating.choice, rating.rater) == (choice, "3f")


def test_responses_that_were_stored_the_other_way_round_are_turned(tmp_path: Path) -> None:
    record = {"id": "7", "fields": fields(items_of("pairs")[0], turned=True),
              "responses": {"preference": [{"value": "response_1", "user_id": "u"}]}}  # fmt: skip
    (rating,) = read(tmp_path, [record]).ratings
    assert (rating.choice, rating.order_shown) == ("second", (1, 0))


def test_an_older_record_lists_users_with_all_their_values(tmp_path: Path) -> None:
    user = {
        "user_id": "u",
        "status": "submitted",
        "values": {"better": {"value": "answer-2"}, "why": {"value": "short"}},
    }
    draft = {"user_id": "v", "status": "draft", "values": {"better": {"value": "answer-1"}}}
    record = {"fields": {"instruction": "Q 0,\n\"x\"", "answer-1": TEXTS[0] + " 0", "answer-2": TEXTS[1] + " 0", "extra": "?"},
              "responses": [user, draft], "metadata": {"length": 3}}  # fmt: skip
    names = {
        "prompt": "instruction",
        "response_1": "answer-1",
        "response_2": "answer-2",
        "verdict": "better",
        "comment": "why",
    }
    found = read(tmp_path, [record], columns=names)
    assert [(r.rater, r.choice, r.comment) for r in found.ratings] == [("u", "second", "short")]
    assert found.unknown == ("extra", "metadata.length")


def test_annotations_of_label_studio(tmp_path: Path) -> None:
    pairs = items_of("pairs")
    notes: list[dict[str, Any]] = [
        {"completed_by": 4, "lead_time": 9.5,
         "result": [{"from_name": "pw", "type": "pairwise", "value": {"selected": "right"}}]},
        {"completed_by": {"id": 5, "email": "b@example.org"},
         "result": [{"from_name": "better", "type": "choices", "value": {"choices": ["Equally good"]}},
                    {"from_name": "comment", "type": "textarea", "value": {"text": ["a", "b"]}},
                    {"from_name": "tone", "type": "choices", "value": {"choices": ["rude"]}}]},
        {"completed_by": 6, "was_cancelled": True, "result": []},
        {"completed_by": 7, "result": []},
    ]  # fmt: skip
    found = read(tmp_path, [{"id": 1, "data": fields(pairs[0]), "annotations": notes}])
    assert [(r.rater, r.choice, r.seconds, r.comment) for r in found.ratings] == [
        ("4", "second", 9.5, None), ("b@example.org", "tie", None, "a\nb"),
    ]  # fmt: skip
    assert found.skipped == {"was cancelled": 1, "has no verdict": 1}
    assert found.unknown == ("result.tone",)


@pytest.mark.parametrize(
    ("ranker", "ranking"),
    [(["response_3", "response_1", "response_2", "response_4"], (2, 3, 1, 4)),
     ({"rank_2": ["response_2", "response_4"], "rank_1": ["response_1", "response_3"], "_": []}, (1, 2, 1, 2)),
     ({"best": ["response_1"], "_": ["response_2", "response_3", "response_4"]}, None)],
)  # fmt: skip
def test_rankers_with_and_without_buckets(tmp_path: Path, ranker: Any, ranking: tuple[int, ...] | None) -> None:
    names = ("response_1", "response_2", "response_3", "response_4")
    item = items_of("rankings")[0]
    note = {"completed_by": 1, "result": [{"from_name": "r", "type": "ranker", "value": {"ranker": ranker}}]}
    found = read(tmp_path, [{"data": fields(item, names), "annotations": [note]}], kind="rankings")
    assert [r.ranking for r in found.ratings] == ([] if ranking is None else [ranking])
    assert found.skipped == ({} if ranking else {"some responses were left unranked": 1})


def test_a_csv_of_ones_own_with_other_columns(tmp_path: Path) -> None:
    item = items_of("pairs")[0]
    with (tmp_path / "f.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "response_1", "response_2", "annotator", "winner", "mood"])
        texts = [answer.text for answer in item.answers]
        for who, winner in (("ana", "1"), ("", "2"), ("ben", "both"), ("cem", "the blue one"), ("dan", "")):
            writer.writerow([item.prompt.text, *texts, who, winner, "fine"])
        writer.writerow(["another prompt", *texts, "eva", "1", "fine"])
    names = {"prompt": "question", "rater": "annotator", "verdict": "winner"}
    found = import_ratings(tmp_path / "f.csv", items_of("pairs"), columns=names)
    assert [(r.rater, r.choice) for r in found.ratings] == [("ana", "first"), ("ben", "tie")]
    assert found.unknown == ("mood",)
    assert sum(found.skipped.values()) == 4
    assert found.skipped["verdict 'the blue one' names no response"] == 1
    assert found.skipped["belongs to no item of the data file"] == 1


def test_values_beyond_the_scale_and_edited_texts_are_skipped_by_name(tmp_path: Path) -> None:
    (item, *_) = items_of("score")
    rows = [{"id": item.id, "fields": {}, "responses": {"score": [{"value": v, "user_id": "u"} for v in (11, "7", None)]}},
            {"id": item.id, "fields": {"prompt": "Q", "response_1": "edited"},
             "responses": {"score": [{"value": 5, "user_id": "u"}]}}]  # fmt: skip
    found = read(tmp_path, rows, kind="score")
    assert [r.value for r in found.ratings] == [7.0]
    assert found.skipped == {"value 11 is not on the scale": 1, "has no verdict": 1, "its responses were edited": 1}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [("f.csv", "a,b\n1,2\n", "has no column 'rater'"), ("f.json", "{", "is not JSON"), ("f.json", "[]", "not a list of records"),
     ("f.json", "[1]", "not a list of records")],
)  # fmt: skip
def test_a_file_that_is_none_of_these_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(FileError, match=words):
        read(tmp_path, text, name)
    with pytest.raises(InputError, match="no format"):
        read(tmp_path, text, name, form="excel")
    with pytest.raises(InputError, match="no column"):
        read(tmp_path, text, name, columns={"colour": "x"})


def test_the_commands_carry_ratings_there_and_back(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    write_rows(data, [{"prompt": f"Q{i}", "first": f"one {i}", "second": f"other {i}"} for i in range(3)])
    items = read_task(data).items
    store = RatingStore(tmp_path / "a" / "ratings.sqlite")
    for item in items:
        store.add(rating_of(item, "ana", 1))
    ratings = store.ratings()
    store.close()
    file = tmp_path / "records.json"
    run = CliRunner().invoke
    out = [
        "ratings",
        "export",
        "--data",
        str(data),
        "--ratings",
        str(tmp_path / "a"),
        "--format",
        "argilla",
        "-o",
        str(file),
    ]
    assert run(app, out).exit_code == 0
    back = ["ratings", "import", str(file), "--data", str(data), "-o", str(tmp_path / "b")]
    for words in ("3 of 3 ratings added", "0 of 3 ratings added, 3 were there already"):
        result = run(app, back)
        assert result.exit_code == 0, (result.output, result.exception)
        assert words in " ".join(result.output.split())
    assert RatingStore(tmp_path / "b" / "ratings.sqlite").ratings() == ratings
