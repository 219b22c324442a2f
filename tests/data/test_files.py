# ruff: noqa: E501 - the tables of rows are read best with one case per line
"""Files that people exchange: formats by columns and by shape, broken input, what is written loads again."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from aifeedback.data import (
    labelled,
    load_prompts,
    read_comparisons,
    read_completions,
    read_labelled,
    read_prompts,
    read_records,
    write_completions,
    write_labelled,
    write_records,
    write_rows,
)
from aifeedback.errors import FileError
from aifeedback.types import Comparison, Completion, Preference, Problem, Prompt

USER = [{"role": "user", "content": "Which way is north?"}]


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


# ── formats ───────────────────────────────────────────────────────────────────────────────────────────────────────

SHAPES: dict[str, tuple[dict[str, Any], tuple[str, str, str], float | None]] = {
    # name: (row, (prompt, better or first answer, other answer), p(first named answer is better) by people)
    "trl text": ({"prompt": "Q", "chosen": "yes", "rejected": "no"}, ("Q", "yes", "no"), 1.0),
    "trl messages": ({"prompt": USER, "chosen": answer("up"), "rejected": answer("down")}, (USER[0]["content"], "up", "down"), 1.0),
    "prompt repeated": (
        {"prompt": USER[0]["content"], "chosen": USER + answer("up"), "rejected": USER + answer("down")},
        (USER[0]["content"], "up", "down"), 1.0,
    ),
    "implicit messages": ({"chosen": USER + answer("up"), "rejected": USER + answer("down")}, (USER[0]["content"], "up", "down"), 1.0),
    "implicit text": ({"chosen": "The sky is blue.", "rejected": "The sky is green."}, ("The sky is", "blue.", "green."), 1.0),
    "hh": (
        {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: go away"},
        ("hi", "hello", "go away"), 1.0,
    ),
    "stored": ({"prompt": "Q", "first": "a", "second": "b"}, ("Q", "a", "b"), None),
    "stored, labelled": ({"prompt": "Q", "first": "a", "second": "b", "label": "second"}, ("Q", "a", "b"), 0.0),
    "summaries": (
        {"info": {"post": "Long post", "title": "T", "subreddit": "advice"}, "summaries": [{"text": " a"}, {"text": " b"}],
         "choice": 1, "extra": {"confidence": 8}},
        ("SUBREDDIT: r/advice\nTITLE: T\nPOST: Long post\nTL;DR:", "a", "b"), 0.0,
    ),
    "pku": (
        {"prompt": "Q", "response_0": "a", "response_1": "b", "better_response_id": 1, "safer_response_id": 0},
        ("Q", "a", "b"), 0.0,
    ),
    "votes": (
        {"conversation_a": USER + answer("up"), "conversation_b": USER + answer("down"), "winner": "tie", "turn": 1,
         "model_a": "m", "model_b": "n", "judge": "expert_1"},
        (USER[0]["content"], "up", "down"), 0.5,
    ),
    "pandalm": (
        {"instruction": "Do", "input": "this", "response1": "a", "response2": "b", "annotator1": 1, "annotator2": 0, "annotator3": 2},
        ("Do\n\nthis", "a", "b"), 0.5,
    ),
    "helpsteer3": ({"context": USER, "response1": "a", "response2": "b", "overall_preference": -2}, (USER[0]["content"], "a", "b"), 1.0),
    "helpsteer2 preference": ({"prompt": "Q", "response_1": "a", "response_2": "b", "preference_strength": 3}, ("Q", "a", "b"), 0.0),
    "llmbar": ({"input": "Q", "output_1": "a", "output_2": "b", "label": 2}, ("Q", "a", "b"), 0.0),
    "alpaca": ({"instruction": "Q", "output_1": "a", "output_2": "b", "preference": 1.25, "annotator": "gpt"}, ("Q", "a", "b"), None),
    "ultrafeedback": (
        {"instruction": "Q", "source": "s", "completions": [{"response": "a", "overall_score": 7}, {"response": "b", "overall_score": 8}]},
        ("Q", "a", "b"), None,
    ),
    "shp": ({"history": "Q", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}, ("Q", "a", "b"), 1.0),
    "options": (
        {"text_correct": "\n\nHuman: q\n\nAssistant: a", "text_incorrect": "\n\nHuman: q\n\nAssistant: b"}, ("q", "a", "b"), 1.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_each_format_is_known_by_its_columns(tmp_path: Path, name: str) -> None:
    row, (prompt, one, other), p_one = SHAPES[name]
    read = read_comparisons(jsonl(tmp_path / "x.jsonl", [row]))
    comparison, human = read.rows[0], read.human[0]
    assert comparison.prompt.text == prompt
    assert {comparison.first.text, comparison.second.text} == {one, other}
    if p_one is None:
        assert human is None
    else:
        assert human == (p_one if comparison.first.text == one else 1.0 - p_one)
    assert read.report.kept == read.report.rows == 1


def test_a_models_verdict_is_never_taken_for_a_persons(tmp_path: Path) -> None:
    read = read_comparisons(jsonl(tmp_path / "a.jsonl", [SHAPES["alpaca"][0]]))
    assert (read.human, read.recorded) == ([None], [(0.75, "gpt")])
    read = read_comparisons(jsonl(tmp_path / "b.jsonl", [SHAPES["ultrafeedback"][0]]))
    assert (read.human, read.recorded) == ([None], [(0.0, "gpt-4 (UltraFeedback)")])


def test_neighbouring_ratings_of_one_prompt_become_a_pair(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Q", "response": "a", "helpfulness": 3, "verbosity": 4},
        {"prompt": "Q", "response": "b", "helpfulness": 1, "verbosity": 5},
        {"prompt": "alone", "response": "c", "helpfulness": 1, "verbosity": 5},
    ]
    path = jsonl(tmp_path / "h.jsonl", rows)
    assert read_comparisons(path).human == [1.0]
    assert read_comparisons(path, criterion="verbosity").human == [0.0]
    assert read_comparisons(path).report.skipped[0].row == 3


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"prompt": "Q", "first": "a", "second": "b"}], "no choice of verdicts"),
        (
            [{"prompt": "Q", "response": answer, "helpfulness": 1, "verbosity": 2} for answer in "ab"],
            "helpfulness, ver",
        ),
        ([SHAPES["ultrafeedback"][0]], "one of: overall_score"),
        ([SHAPES["pku"][0]], "one of: better, safer"),
    ],
)
def test_a_criterion_that_is_not_there_is_reported_with_those_that_are(
    tmp_path: Path, rows: list[dict[str, object]], told: str
) -> None:
    with pytest.raises(FileError, match=told) as wrong:
        read_comparisons(jsonl(tmp_path / "c.jsonl", rows), criterion="nope")
    assert wrong.value.key == "--criterion"


@pytest.mark.parametrize("tags", [[{}, {}], [{}, {"label": "safe"}], [{"label": "safe"}, {"kind": "other"}]])
def test_comparison_records_pass_through_parquet(tmp_path: Path, tags: list[dict[str, str]]) -> None:
    prompts = [Prompt.of(f"Q{n}", tags=some) for n, some in enumerate(tags)]
    pairs = [Comparison.of(p, *(Completion.of(p, text, source="s") for text in "ab")) for p in prompts]
    write_rows(tmp_path / "pairs.parquet", [pair.model_dump(mode="json") for pair in pairs])
    read = read_comparisons(tmp_path / "pairs.parquet").rows
    assert [(c.id, c.prompt.tags) for c in read] == [(c.id, c.prompt.tags) for c in pairs]


def test_several_votes_on_one_pair_are_averaged_whatever_their_order(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Q", "first": "a", "second": "b", "label": "first"},
        {"prompt": "Q", "first": "b", "second": "a", "label": "first"},
        {"prompt": "Q", "first": "a", "second": "b", "label": "first"},
    ]
    read = read_comparisons(jsonl(tmp_path / "v.jsonl", rows))
    assert read.human == [pytest.approx(2 / 3)]
    assert (read.report.kept, read.report.merged) == (3, 2)


def test_storage_order_says_nothing_about_the_chosen_answer(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{i}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(2000)]
    path = jsonl(tmp_path / "s.jsonl", rows)
    human = read_comparisons(path, seed=0).human
    assert 0.45 < sum(human) / len(human) < 0.55  # type: ignore[arg-type]
    assert read_comparisons(path, seed=0).rows == read_comparisons(path, seed=0).rows
    assert read_comparisons(path, seed=1).human != human
    # the same pair with the roles exchanged keeps its place and changes its label
    swapped = [{"prompt": r["prompt"], "chosen": r["rejected"], "rejected": r["chosen"]} for r in rows]
    other = read_comparisons(jsonl(tmp_path / "t.jsonl", swapped), seed=0)
    assert [1.0 - p for p in other.human if p is not None] == human


def test_containers_give_the_same_rows(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{i}", "first": 'a, "b"\nc', "second": "é🙂"} for i in range(5)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    lines = ["prompt,first,second"] + [f'Q{i},"a, ""b""\nc",é🙂' for i in range(5)]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "folder").mkdir()
    jsonl(tmp_path / "folder" / "1.jsonl", rows[:2])
    jsonl(tmp_path / "folder" / "2.jsonl", rows[2:])
    expected = read_comparisons(jsonl(tmp_path / "a.jsonl", rows)).rows
    assert len(expected) == 5
    for name in ("a.json", "a.jsonl.gz", "a.csv", "a.parquet", "folder"):
        assert read_comparisons(tmp_path / name).rows == expected, name


def test_a_saved_dataset_folder_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"prompt": "Q", "first": "a", "second": "b"}]).save_to_disk(str(tmp_path / "d"))
    assert len(read_comparisons(tmp_path / "d").rows) == 1


def test_columns_can_be_mapped(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("question,one,two,better,topic\nQ,x,y,B,maths\n")
    columns = {"prompt": "question", "first": "one", "second": "two", "label": "better"}
    read = read_comparisons(path, columns=columns)
    assert (read.human, dict(read.rows[0].prompt.tags)) == ([0.0], {"topic": "maths"})
    with pytest.raises(FileError, match="key 'answer'.*not a column of the file"):
        read_comparisons(path, columns={**columns, "second": "answer"})
    with pytest.raises(FileError, match="key 'promt'"):
        read_comparisons(path, columns={"promt": "question"})


# ── bad input ───────────────────────────────────────────────────────────────────────────────────────────────

GOOD = {"prompt": "Q", "first": "a", "second": "b"}

BROKEN: dict[str, tuple[str, bytes, str]] = {
    # name: (file name, bytes, what the message must hold)
    "empty": ("x.jsonl", b"", "the file is empty"),
    "wrong columns": ("x.jsonl", b'{"promt": "Q", "first": "a", "second": "b"}\n', "row 1, key 'prompt'.*promt, first, second"),
    "mixed types": ("x.jsonl", b'{"prompt": 7, "first": "a", "second": "b"}\n', r"row 1, key 'prompt': should be text or messages, is a number \(7\)"),
    "empty strings": ("x.jsonl", b'{"prompt": "Q", "first": "", "second": " "}\n', "row 1, key 'first': is empty"),
    "equal answers": ("x.jsonl", b'{"prompt": "Q", "first": "a", "second": "a"}\n', "row 1: both responses are the same"),
    "not UTF-8": ("x.jsonl", b'{"prompt": "\xff\xfe", "first": "a", "second": "b"}\n', "row 1: not valid UTF-8"),
    "lone surrogate": ("x.jsonl", b'{"prompt": "\\ud800", "first": "a", "second": "b"}\n', "row 1: not valid UTF-8"),
    "over-long row": ("x.jsonl", b'{"prompt": "' + b"x" * 4_000_001 + b'"}\n', "row 1: longer than 4,000,000 characters"),
    "no JSON": ("x.jsonl", b"prompt: Q\n", "row 1: not valid JSON"),
    "list of texts": ("x.json", b'["a", "b"]', "row 1: a row must be an object, this is text"),
    "cut JSON": ("x.json", b'[{"prompt": "Q", ', "not valid JSON"),
    "unknown ending": ("x.docx", b"PK", "unsupported file type '.docx'"),
    "cut gzip": ("x.jsonl.gz", gzip.compress(b"{}" * 100)[:20], "cannot be read"),
    "no Parquet": ("x.parquet", b"PAR1 nothing", "not a Parquet file"),
    "headless CSV": ("x.csv", b"prompt,,second\nQ,a,b\n", "the first line must name every column"),
    "ragged CSV": ("x.csv", b"prompt,first,second\nQ,a\n", "row 1: has fewer cells than the header"),
    "no shared prompt": ("x.jsonl", b'{"chosen": "\\n\\nHuman: a\\n\\nAssistant: x", "rejected": "\\n\\nHuman: b\\n\\nAssistant: y"}\n', "share no Assistant turn"),
    "wrong label": ("x.jsonl", b'{"prompt": "Q", "first": "a", "second": "b", "label": "left"}\n', "row 1, key 'label': holds 'left'"),
    "impossible probability": ("x.jsonl", b'{"prompt": "Q", "first": "a", "second": "b", "p_first": 1.5}\n', "row 1, key 'p_first'.*in \\[0, 1\\]"),
    "duplicated ids": ("x.jsonl", b"".join(b'{"id": 1, "prompt": "Q%d", "first": "a", "second": "b"}\n' % i for i in range(4)), "row 2, key 'id': duplicate .first in row 1.: '1'"),
    "unknown role": ("x.jsonl", b'{"prompt": [{"role": "robot", "content": "x"}], "first": "a", "second": "b"}\n', "unknown role 'robot'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_gives_one_message_with_file_row_key_and_fix(tmp_path: Path, name: str) -> None:
    file, content, message = BROKEN[name]
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(FileError, match=message) as raised:
        read_comparisons(path)
    assert str(path) in str(raised.value)
    assert "→" in str(raised.value)
    assert raised.value.exit_code == 2


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    for read in (read_comparisons, read_prompts, read_completions, read_labelled):
        with pytest.raises(FileError, match="no such file"):
            read(tmp_path / "nothing.jsonl")
    with pytest.raises(FileError, match="no table in this folder"):
        read_comparisons(tmp_path)


def test_good_rows_of_a_partly_bad_file_are_kept_and_the_others_counted(tmp_path: Path) -> None:
    good = [{"id": i, "prompt": f"Q{i}", "first": "a", "second": "b"} for i in range(20)]
    lines = [json.dumps(row).encode() for row in good]
    bad = [b"{", b"[1]", b'{"prompt": "", "first": "a", "second": "b"}', b'{"prompt": "\xff"}', b'{"prompt": "x"}',
           json.dumps({**good[0], "prompt": "other"}).encode()]  # fmt: skip
    path = tmp_path / "partly.jsonl"
    path.write_bytes(b"\n".join(lines[:10] + bad + lines[10:]))
    read = read_comparisons(path)
    assert [r.prompt.text for r in read.rows] == [f"Q{i}" for i in range(20)]
    assert (read.report.rows, read.report.kept, len(read.report.skipped)) == (26, 20, 6)
    assert [s.row for s in read.report.skipped] == list(range(11, 17))
    assert [s.key for s in read.report.skipped] == [None, None, "prompt", None, "first", "id"]
    assert "20 of 26 rows read" in read.report.sentence()
    assert len(read_prompts(path)) >= 20


def test_records_are_read_strictly(tmp_path: Path) -> None:
    prompt = Prompt.of("Q", tags={"topic": "x"})
    answers = [Completion.of(prompt, text, source="m") for text in ("a", "b")]
    path = tmp_path / "r.jsonl"
    assert write_records(path, answers) == 2
    assert read_records(path, Completion) == answers
    with pytest.raises(FileError, match="row 1.*not a Comparison"):
        read_records(path, Comparison)


# ── labelled files ────────────────────────────────────────────────────────────────────────────────────────────────


def preferences(rows: list[Comparison], values: list[float | None]) -> list[Preference]:
    return [
        Preference(comparison_id=row.id, source="fake:x", p_first=p, position_gap=0.1, problem=None if p is not None else Problem.REFUSED)
        for row, p in zip(rows, values, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet"])
def test_labelled_rows_come_back_as_they_were(tmp_path: Path, ending: str) -> None:
    rows = [
        {"prompt": f"Q{i}", "chosen": "good", "rejected": "bad", "topic": "t", "note": {"k": [1, None]}}
        for i in range(3)
    ]
    read = read_comparisons(jsonl(tmp_path / "in.jsonl", rows))
    written = labelled(read, preferences(read.rows, [0.8, 0.3, None]))
    path = tmp_path / f"out.{ending}"
    assert write_labelled(path, written) == 3
    again = read_labelled(path)
    assert [r.comparison for r in again] == read.rows
    assert [r.p_first for r in again] == [0.8, 0.3, None]
    assert [r.problem for r in again] == [None, None, Problem.REFUSED]
    assert [r.human_p_first for r in again] == read.human
    assert again[0].extra == {"topic": "t", "note": {"k": [1, None]}}
    assert (again[0].judge, again[0].position_gap) == ("fake:x", 0.1)
    assert write_labelled(path, written, only_known=True) == 2


def test_chosen_is_the_labelers_choice_and_its_probability_is_beside_it(tmp_path: Path) -> None:
    read = read_comparisons(jsonl(tmp_path / "in.jsonl", [GOOD]))
    write_labelled(tmp_path / "out.jsonl", labelled(read, preferences(read.rows, [0.3])))
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert (row["chosen"], row["rejected"], row["p_first"]) == ("b", "a", 0.3)
    assert row["chosen_probability"] == pytest.approx(0.7)


def test_labels_load_as_trl_wants_them(tmp_path: Path) -> None:
    """TRL: prompt, chosen and rejected are all text, or all lists of messages with role and content."""
    datasets = pytest.importorskip("datasets")
    dialogue = {
        "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
        "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: e",
    }
    for name, row, is_dialogue in (
        ("text", {"prompt": "Q", "chosen": "x", "rejected": "y"}, False),
        ("hh", dialogue, True),
    ):
        read = read_comparisons(jsonl(tmp_path / f"{name}.jsonl", [row]))
        path = tmp_path / f"{name}-out.jsonl"
        write_labelled(path, labelled(read, preferences(read.rows, [0.9])))
        loaded = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
        for column in ("prompt", "chosen", "rejected"):
            value = loaded[0][column]
            assert isinstance(value, list) is is_dialogue
            assert not is_dialogue or all(set(message) == {"role", "content"} for message in value)


def test_labels_must_belong_to_their_comparisons(tmp_path: Path) -> None:
    read = read_comparisons(jsonl(tmp_path / "in.jsonl", [GOOD]))
    with pytest.raises(ValueError, match="does not match comparison"):
        labelled(read, preferences([read.rows[0].swapped()], [0.3]))


def test_peoples_choices_read_as_labels(tmp_path: Path) -> None:
    row = read_labelled(jsonl(tmp_path / "x.jsonl", [{"prompt": "Q", "chosen": "x", "rejected": "y"}]))[0]
    assert row.p_first == float(row.comparison.first.text == "x")
    assert (row.judge, row.human_p_first) == ("human", row.p_first)
    unlabelled = read_labelled(jsonl(tmp_path / "y.jsonl", [GOOD]))[0]
    assert (unlabelled.p_first, unlabelled.problem) == (None, Problem.MISSING)


# ── prompts and completions ───────────────────────────────────────────────────────────────────────────────────────

PROMPTS: dict[str, tuple[dict[str, Any], str]] = {
    "prompt": ({"prompt": "Q"}, "Q"),
    "messages": ({"messages": USER + answer("x")}, USER[0]["content"]),
    "instruction": ({"instruction": "Do", "input": "this"}, "Do\n\nthis"),
    "question": ({"question": "Q"}, "Q"),
    "turns": ({"turns": ["one", "two"], "category": "c"}, "one"),
    "transcript": ({"prompt": "\n\nHuman: hi\n\nAssistant:"}, "hi"),
    "comparison": ({"chosen": "\n\nHuman: hi\n\nAssistant: a", "rejected": "\n\nHuman: hi\n\nAssistant: b"}, "hi"),
    "record": (Prompt.of("Q").model_dump(mode="json"), "Q"),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_known_by_their_columns(tmp_path: Path, name: str) -> None:
    row, text = PROMPTS[name]
    assert [p.text for p in read_prompts(jsonl(tmp_path / "p.jsonl", [row]))] == [text]


def test_each_prompt_is_read_once_and_the_repeats_are_counted(tmp_path: Path) -> None:
    loaded = load_prompts(jsonl(tmp_path / "p.jsonl", [{"prompt": p} for p in "aabab"]))
    assert [p.text for p in loaded.rows] == ["a", "b"]
    assert loaded.report.reasons == {"duplicate prompt": 3}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "completion": "A"},
        {"prompt": "Q", "response": "A"},
        {"instruction": "Q", "output": "A", "generator": "m"},
        {"prompt": [{"role": "user", "content": "Q"}], "completion": answer("A")},
        {"messages": [{"role": "user", "content": "Q"}, *answer("A")]},
        {"conversations": None, "messages": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"completion": "\n\nHuman: Q\n\nAssistant: A"},
    ],
)
def test_completions_are_known_by_their_columns(tmp_path: Path, row: dict[str, Any]) -> None:
    read = read_completions(jsonl(tmp_path / "c.jsonl", [row]))
    assert (read.prompts[0].text, read.rows[0].text) == ("Q", "A")
    assert read.rows[0].prompt_id == read.prompts[0].id


def test_completions_come_back_and_an_empty_answer_is_an_answer(tmp_path: Path) -> None:
    prompt = Prompt.of("Q", tags={"topic": "t"})
    answers = [Completion.of(prompt, text, source="policy") for text in ("A", "")]
    write_completions(tmp_path / "c.jsonl", [prompt, prompt], answers)
    read = read_completions(tmp_path / "c.jsonl")
    assert (read.rows, read.prompts) == (answers, [prompt, prompt])


# ── real files ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_hh_transcripts(real_data: Path) -> None:
    read = read_comparisons(real_data / "hh_rlhf_harmless_base" / "test.jsonl.gz")
    assert (read.report.rows, read.report.kept) == (2312, 2308)
    assert {s.key for s in read.report.skipped} <= {"chosen", "rejected"}
    assert all(r.prompt.messages[-1].role == "user" for r in read.rows)
    assert 0.45 < sum(h for h in read.human if h is not None) / len(read.rows) < 0.55


@pytest.mark.parametrize(
    ("file", "kept", "people"),
    [
        ("pandalm/testset-v1.even_idx.json.gz", 471, True),
        ("llmbar/Natural/dataset.json", 100, True),
        ("llmbar/Adversarial/GPTInst/dataset.json", 92, True),
        ("llmbar/Processed/FairEval/dataset.json.gz", 66, True),
        ("alpaca_eval/alpaca-7b/annotations.json.gz", 802, False),
        ("constitutional_harmlessness/438HHHEvaluations.jsonl.gz", 438, True),
    ],
)
def test_published_files_are_read_whole(real_data: Path, file: str, kept: int, people: bool) -> None:
    read = read_comparisons(real_data / file)
    assert read.report.kept == kept
    assert all((h is not None) is people for h in read.human)


def test_xstest_and_mt_bench_prompts(real_data: Path) -> None:
    prompts = read_prompts(real_data / "xstest" / "xstest_prompts.csv")
    assert sum(p.tags["label"] == "unsafe" for p in prompts) == 200
    assert len(prompts) == 450
    assert len(read_prompts(real_data / "fastchat_llm_judge" / "mt_bench" / "question.jsonl")) == 80
    answers = read_completions(real_data / "xstest" / "model_completions" / "xstest_v2_completions_gpt4.csv.gz")
    assert len(answers.rows) == 450
    assert answers.inputs[0]["final_label"] == "1_full_compliance"


def test_a_record_whose_reference_is_not_a_text_is_a_fault_of_its_row(tmp_path: Path) -> None:
    def row(n: int, **more: object) -> str:
        prompt = {"id": "p", "messages": [{"role": "user", "content": f"question {n}"}], **more}
        return json.dumps({"id": str(n), "prompt": prompt, "first": {"text": "one"}, "second": {"text": "two"}})

    file = tmp_path / "records.jsonl"
    file.write_text("\n".join([row(0, reference="yes"), row(1, reference=5), *map(row, range(2, 40))]))
    read = read_comparisons(file)
    assert [c.prompt.reference for c in read.rows] == ["yes", *[None] * 38]
    assert [(fault.row, fault.key) for fault in read.report.skipped] == [(2, "reference")]
