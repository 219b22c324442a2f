# ruff: noqa: E501 - the tables of rows are read best with one case per line
"""Every part of a row is used, or the row is skipped with its reason; verdicts mean one thing; rows keep their form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aifeedback.data import (
    labelled,
    load_judged,
    load_preferred,
    load_prompts,
    read_comparisons,
    read_completions,
    read_judged,
    read_labelled,
    read_prompts,
    write_completions,
    write_labelled,
)
from aifeedback.errors import FileError
from aifeedback.types import Comparison, Preference, Problem

Turns = list[tuple[str, str]]


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def says(*turns: str) -> list[dict[str, str]]:
    """Messages from 's: …', 'u: …' and 'a: …'."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[turn[0]], "content": turn[3:]} for turn in turns]


def turns_of(messages: Any) -> list[str]:
    return [f"{m.role[0]}: {m.content}" for m in messages]


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def judged(rows: Any, p_first: float | None = 0.8) -> list[Preference]:
    problem = None if p_first is not None else Problem.REFUSED
    return [Preference(comparison_id=row.id, source="fake:x", p_first=p_first, problem=problem) for row in rows]


# ── every part is used ────────────────────────────────────────────────────────────────────────────────────────────

FRENCH = (
    "s: Answer only in French.",
    "u: How often do I water a cactus?",
    "a: Toutes les deux semaines.",
    "u: And in winter?",
)

PAIRS: dict[str, tuple[dict[str, Any], list[str]]] = {
    # name: (row whose responses are yes and no, the prompt's turns)
    "dialogues around a text prompt": (
        {"prompt": "And in winter?", "chosen": says(*FRENCH, "a: yes"), "rejected": says(*FRENCH, "a: no")}, list(FRENCH),
    ),
    "a system message in the dialogues": (
        {"prompt": "q", "chosen": says("s: Be brief.", "u: q", "a: yes"), "rejected": says("s: Be brief.", "u: q", "a: no")},
        ["s: Be brief.", "u: q"],
    ),
    "the prompt is the first of several turns": (
        {"prompt": "q", "chosen": says("u: q", "a: x", "u: r", "a: yes"), "rejected": says("u: q", "a: x", "u: r", "a: no")},
        ["u: q", "a: x", "u: r"],
    ),
    "turns that follow the prompt": (
        {"prompt": says("u: q"), "first": says("a: x", "u: r", "a: yes"), "second": says("a: x", "u: r", "a: no")},
        ["u: q", "a: x", "u: r"],
    ),
    "a system message in the prompt alone": (
        {"prompt": says("s: Be brief.", "u: q"), "chosen": says("u: q", "a: yes"), "rejected": says("u: q", "a: no")},
        ["s: Be brief.", "u: q"],
    ),
    "the prompt's last turn repeated": (
        {"prompt": says("u: p", "a: x", "u: q"), "chosen": says("u: q", "a: yes"), "rejected": says("u: q", "a: no")},
        ["u: p", "a: x", "u: q"],
    ),
    "transcripts that go on": (
        {"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": " x\n\nHuman: r\n\nAssistant: yes", "rejected": " x\n\nHuman: r\n\nAssistant: no"},
        ["u: q", "a: x", "u: r"],
    ),
    "transcripts around a text prompt": (
        {"prompt": "r", "chosen": "\n\nHuman: q\n\nAssistant: x\n\nHuman: r\n\nAssistant: yes", "rejected": "\n\nHuman: q\n\nAssistant: x\n\nHuman: r\n\nAssistant: no"},
        ["u: q", "a: x", "u: r"],
    ),
    "a system column": ({"system": "Be brief.", "prompt": "q", "chosen": "yes", "rejected": "no"}, ["s: Be brief.", "u: q"]),
    "a system column and a question": (
        {"system_prompt": "Be brief.", "question": "q", "chosen": "yes", "rejected": "no"}, ["s: Be brief.", "u: q"],
    ),
    "a system column that the dialogue repeats": (
        {"system": "Be brief.", "prompt": says("s: Be brief.", "u: q"), "first": "yes", "second": "no"}, ["s: Be brief.", "u: q"],
    ),
    "history as pairs": ({"history": [["p", "x"]], "prompt": "q", "first": "yes", "second": "no"}, ["u: p", "a: x", "u: q"]),
    "history as objects": (
        {"history": [{"user": "p", "assistant": "x"}], "prompt": "q", "first": "yes", "second": "no"}, ["u: p", "a: x", "u: q"],
    ),
    "history as messages, after the system message": (
        {"chat_history": says("u: p", "a: x"), "prompt": says("s: Be brief.", "u: q"), "first": "yes", "second": "no"},
        ["s: Be brief.", "u: p", "a: x", "u: q"],
    ),
    "history as a transcript": (
        {"history": "Human: p\n\nAssistant: x", "prompt": "q", "first": "yes", "second": "no"}, ["u: p", "a: x", "u: q"],
    ),
    "history written as JSON": ({"history": '[["p", "x"]]', "prompt": "q", "first": "yes", "second": "no"}, ["u: p", "a: x", "u: q"]),
    "an instruction with input": (
        {"instruction": "Translate", "input": "hola", "chosen": "yes", "rejected": "no"}, ["u: Translate\n\nhola"],
    ),
    "an instruction with input and numbered outputs": (
        {"instruction": "Translate", "input": "hola", "output_1": "yes", "output_2": "no", "label": 1}, ["u: Translate\n\nhola"],
    ),
    "AlpacaEval with input": (
        {"instruction": "Translate", "context": "hola", "output_1": "yes", "output_2": "no", "preference": 1.0}, ["u: Translate\n\nhola"],
    ),
    "ShareGPT conversations": (
        {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "yes"}, "rejected": {"from": "gpt", "value": "no"}, "system": ""},
        ["u: q"],
    ),
    "content in parts": (
        {"conversation_a": [{"role": "user", "content": [{"type": "text", "text": "q", "image": None}]}, {"role": "assistant", "content": [{"type": "text", "text": "yes"}]}],
         "conversation_b": [{"role": "user", "content": [{"type": "text", "text": "q", "image": None}]}, {"role": "assistant", "content": [{"type": "text", "text": "no"}]}],
         "winner": "model_a"}, ["u: q"],
    ),
    "a developer message": ({"prompt": [{"role": "developer", "content": "Be brief."}, *says("u: q")], "first": "yes", "second": "no"}, ["s: Be brief.", "u: q"]),
    "a tool's result": (
        {"prompt": [*says("u: q"), {"role": "tool", "content": "9", "tool_call_id": "x"}], "first": "yes", "second": "no"},
        ["u: q", "t: 9"],
    ),
    "a tool's result in ShareGPT's words": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "observation", "value": "9"}],
         "chosen": {"from": "gpt", "value": "yes"}, "rejected": {"from": "gpt", "value": "no"}}, ["u: q", "t: 9"],
    ),
    "a tool's result in parts": (
        {"prompt": [*says("u: q"), {"role": "tool", "content": [{"type": "text", "text": "9"}]}], "first": "yes", "second": "no"},
        ["u: q", "t: 9"],
    ),
    "the whole dialogue beside the pair": (
        {"prompt": "q", "messages": says("u: q", "a: yes"), "chosen": says("u: q", "a: yes"), "rejected": says("u: q", "a: no")}, ["u: q"],
    ),
    "columns without content": (
        {"prompt": "q", "first": "yes", "second": "no", "system": None, "history": [], "tools": "[]", "context": "nan", "input": ""}, ["u: q"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_every_part_of_a_pair_is_in_the_prompt(tmp_path: Path, name: str) -> None:
    row, expected = PAIRS[name]
    path = jsonl(tmp_path / "x.jsonl", [row])
    pair = read_comparisons(path).rows[0]
    assert turns_of(pair.prompt.messages) == expected
    assert {pair.first.text, pair.second.text} == {"yes", "no"}
    assert [turns_of(p.messages) for p in read_prompts(path)] == [expected]


LOST: dict[str, tuple[dict[str, Any], str, str]] = {
    # name: (row, column, words of the reason)
    "tools": ({"prompt": "q", "first": "yes", "second": "no", "tools": [{"name": "search"}]}, "tools", "no place"),
    "tools as text": ({"prompt": "q", "chosen": "yes", "rejected": "no", "tools": '[{"name": "search"}]'}, "tools", "no place"),
    "a context": ({"prompt": "q", "first": "yes", "second": "no", "context": "The shop opens at nine."}, "context", "no place"),
    "an input": ({"prompt": "q", "chosen": "yes", "rejected": "no", "input": "hola"}, "input", "no place"),
    "an instruction": ({"prompt": "q", "chosen": "yes", "rejected": "no", "instruction": "In French"}, "instruction", "no place"),
    "another dialogue": ({"prompt": "q", "first": "yes", "second": "no", "conversation": says("u: p", "a: x", "u: q")}, "conversation", "no place"),
    "two system messages": ({"prompt": says("s: A", "u: q"), "first": "yes", "second": "no", "system": "B"}, "system", "differs"),
    "a torn history": ({"history": [["p", "x", "y"]], "prompt": "q", "first": "yes", "second": "no"}, "history", "turns"),
    "early divergence": (
        {"prompt": "q", "chosen": says("u: q", "a: x", "u: r", "a: yes"), "rejected": says("u: q", "a: z", "u: r", "a: no")},
        "rejected", "differ before their last turn",
    ),
    "early divergence in transcripts": (
        {"chosen": "\n\nHuman: q\n\nAssistant: x\n\nHuman: r\n\nAssistant: yes", "rejected": "\n\nHuman: q\n\nAssistant: z\n\nHuman: r\n\nAssistant: no"},
        "rejected", "differ before their last turn",
    ),
    "one side longer": (
        {"prompt": "q", "chosen": says("u: q", "a: yes"), "rejected": says("u: q", "a: no", "u: r", "a: no")},
        "rejected", "differ before their last turn",
    ),
    "votes on diverging conversations": (
        {"conversation_a": says("u: q", "a: x", "u: r", "a: yes"), "conversation_b": says("u: q", "a: z", "u: r", "a: no"), "winner": "tie"},
        "conversation_b", "differ before their last turn",
    ),
    "another prompt": ({"prompt": "q", "chosen": says("u: z", "a: yes"), "rejected": says("u: z", "a: no")}, "chosen", "does not contain the prompt"),
    "a tool call": (
        {"prompt": [*says("u: q"), {"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}], "first": "yes", "second": "no"},
        "prompt", "tool_calls",
    ),
    "a picture": (
        {"prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "first": "yes", "second": "no"}, "prompt", "'image_url'",
    ),
    "an open end": ({"prompt": "q", "chosen": says("u: q", "a: yes", "u: r"), "rejected": says("u: q", "a: no", "u: r")}, "chosen", "assistant"),
}  # fmt: skip


@pytest.mark.parametrize("name", LOST)
def test_a_row_with_a_part_that_has_no_place_is_skipped_by_name(tmp_path: Path, name: str) -> None:
    row, key, reason = LOST[name]
    good = {k: v for k, v in row.items() if k in ("prompt", "first", "second", "chosen", "rejected")}
    columns = {"chosen", "rejected"} if "chosen" in row else {"first", "second"}
    if "conversation_a" in row:
        rows = [{**row, f"conversation_{x}": says(f"u: q{n}", f"a: {x}")} for n in range(3) for x in "a"]
        rows = [
            {**r, "conversation_b": says(r["conversation_a"][0]["content"].join(("u: ", "")), "a: b")} for r in rows
        ]
    else:
        rows = [{"prompt": f"q{n}", **dict(zip(sorted(columns), ("yes", "no"), strict=True))} for n in range(3)]
    del good
    read = read_comparisons(jsonl(tmp_path / "x.jsonl", [*rows, row]))
    assert len(read.rows) == 3
    (skipped,) = read.report.skipped
    assert (skipped.row, skipped.key) == (4, key)
    assert reason in skipped.reason
    with pytest.raises(FileError, match=f"row 1, key '{key}'"):
        read_comparisons(jsonl(tmp_path / "alone.jsonl", [row]))


COMPLETIONS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "several turns after the prompt": ({"prompt": says("u: q"), "completion": says("a: x", "u: r", "a: yes")}, ["u: q", "a: x", "u: r"]),
    "alpaca with system and history": (
        {"system": "Be brief.", "history": [["p", "x"]], "instruction": "q", "input": "", "output": "yes"}, ["s: Be brief.", "u: p", "a: x", "u: q"],
    ),
    "several turns": ({"messages": says("s: Be brief.", "u: p", "a: x", "u: q", "a: yes")}, ["s: Be brief.", "u: p", "a: x", "u: q"]),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "x"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "yes"}], "system": "Be brief."},
        ["s: Be brief.", "u: p", "a: x", "u: q"],
    ),
    "Dolly": ({"instruction": "q", "context": "It is nine.", "response": "yes"}, ["u: q\n\nIt is nine."]),
    "the prompt beside its dialogue": ({"prompt": "q", "messages": says("u: q", "a: yes")}, ["u: q"]),
    "a transcript that goes on": ({"prompt": "\n\nHuman: q\n\nAssistant:", "completion": " x\n\nHuman: r\n\nAssistant: yes"}, ["u: q", "a: x", "u: r"]),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPLETIONS)
def test_every_part_of_a_completion_is_in_the_prompt(tmp_path: Path, name: str) -> None:
    row, expected = COMPLETIONS[name]
    read = read_completions(jsonl(tmp_path / "x.jsonl", [row]))
    assert turns_of(read.prompts[0].messages) == expected
    assert read.rows[0].text == "yes"


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ({"prompt": "q", "completion": "yes", "tools": [{"name": "search"}]}, "tools"),
        ({"messages": says("u: q", "a: yes"), "tools": '[{"name": "search"}]'}, "tools"),
        ({"prompt": "q", "completion": says("u: z", "a: yes")}, "completion"),
        ({"prompt": "q", "completion": "yes", "context": "It is nine."}, "context"),
        ({"messages": says("u: q", "a: x", "u: r")}, "messages"),
        ({"messages": says("a: yes")}, "prompt"),
    ],
)
def test_a_completion_with_a_part_that_has_no_place_is_skipped(tmp_path: Path, row: dict[str, Any], key: str) -> None:
    with pytest.raises(FileError, match=f"row 1, key '{key}'"):
        read_completions(jsonl(tmp_path / "x.jsonl", [row]))


@pytest.mark.parametrize(
    ("row", "key"), [({"prompt": "q", "tools": [1]}, "tools"), ({"prompt": "q", "input": "hola"}, "input")]
)
def test_a_prompt_with_a_part_that_has_no_place_is_skipped(tmp_path: Path, row: dict[str, Any], key: str) -> None:
    loaded = load_prompts(jsonl(tmp_path / "x.jsonl", [{"prompt": "a"}, {"prompt": "b"}, row]))
    assert [(s.row, s.key) for s in loaded.report.skipped] == [(3, key)]


def test_a_labelled_file_keeps_the_columns_of_its_conversation_and_reads_back_the_same(tmp_path: Path) -> None:
    rows = [
        {"system": "Be brief.", "history": [["p", "x"]], "prompt": f"q{n}", "chosen": "yes", "rejected": "no"}
        for n in range(3)
    ]
    rows.append({"instruction": "Translate", "input": "hola", "chosen": "yes", "rejected": "no"})
    for some in (rows[:3], rows[3:]):
        read = read_comparisons(jsonl(tmp_path / "in.jsonl", some))
        write_labelled(tmp_path / "out.jsonl", labelled(read, judged(read.rows)))
        assert [row.comparison for row in read_labelled(tmp_path / "out.jsonl")] == list(read.rows)


# ── verdicts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def pairs(labels: list[Any], column: str = "label") -> list[dict[str, Any]]:
    return [{"prompt": f"Q{n}", "first": "a", "second": "b", column: label} for n, label in enumerate(labels)]


@pytest.mark.parametrize(
    "labels",
    [
        [1, 0, 1, 0], ["1", "0", "1", "1"], [1.0, 0.0, 1.0, 1.0], [0, 0, 0, 0], [1, 2, 0], [True, False], [1, None, 1], [1, 1, 1, 0],
        ["first", "second", 0],
    ],
)  # fmt: skip
@pytest.mark.parametrize("column", ["label", "winner", "preference"])
def test_an_index_that_could_mean_either_response_refuses_the_file(
    tmp_path: Path, labels: list[Any], column: str
) -> None:
    with pytest.raises(FileError, match=f"key '{column}'.*could mean(.|\n)*'first', 'second'(.|\n)*human_p_first"):
        read_comparisons(jsonl(tmp_path / "x.jsonl", pairs(labels, column)))


def test_what_an_index_means_is_decided_over_the_whole_file_whatever_the_limit(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="row 4, key 'label': holds 0"):
        read_comparisons(jsonl(tmp_path / "x.jsonl", pairs([1, 2, 1, 0])), limit=2)
    assert read_comparisons(jsonl(tmp_path / "y.jsonl", pairs([1, 1, 1, 2])), limit=2).human == [1.0, 1.0]


@pytest.mark.parametrize(
    ("labels", "human"),
    [
        ([1, 2, 1], [1.0, 0.0, 1.0]),
        ([1.0, 2.0, None], [1.0, 0.0, None]),
        (["1.0", "2.0", ""], [1.0, 0.0, None]),
        (["A", "B", "tie"], [1.0, 0.0, 0.5]),
        (["model_a", "model_b", "both_bad"], [1.0, 0.0, 0.5]),
        (["response 1", "Response_2", "tie (bothbad)"], [1.0, 0.0, 0.5]),
        (["both good", "both bad", "neither"], [0.5, 0.5, 0.5]),
        (["first", "cannot tell", "nan"], [1.0, None, None]),
        ([0.5, 1, 2], [0.5, 1.0, 0.0]),
    ],
)
def test_verdicts_in_their_many_spellings(tmp_path: Path, labels: list[Any], human: list[float | None]) -> None:
    assert read_comparisons(jsonl(tmp_path / "x.jsonl", pairs(labels))).human == human


INDEXED: dict[str, tuple[dict[str, Any], str, dict[Any, float | None], list[Any]]] = {
    # name: (row without its verdict, column, index → p_first, indices of another convention)
    "LLMBar": ({"output_1": "a", "output_2": "b"}, "label", {1: 1.0, 2: 0.0}, [0]),
    "PKU-SafeRLHF": ({"response_0": "a", "response_1": "b"}, "better_response_id", {0: 1.0, 1: 0.0}, [2]),
    "SHP": ({"human_ref_A": "a", "human_ref_B": "b"}, "labels", {1: 1.0, 0: 0.0}, [2]),
    "summarize_from_feedback": ({"summaries": [{"text": "a"}, {"text": "b"}]}, "choice", {0: 1.0, 1: 0.0}, [2]),
    "PandaLM": ({"response1": "a", "response2": "b"}, "annotator1", {0: 0.5, 1: 1.0, 2: 0.0}, []),
    "votes": ({}, "winner", {"model_a": 1.0, "model_b": 0.0, "both_bad": 0.5, "tie (bothbad)": 0.5}, [0, 1, 2]),
}
PROMPTS = {
    "LLMBar": "input", "PKU-SafeRLHF": "prompt", "SHP": "history", "summarize_from_feedback": "info", "PandaLM": "instruction", "votes": "",
}  # fmt: skip


def indexed(name: str, values: list[Any]) -> list[dict[str, Any]]:
    row, column, _, _ = INDEXED[name]
    made = []
    for n, value in enumerate(values):
        prompt: dict[str, Any] = {PROMPTS[name]: f"Q{n}"}
        if name == "summarize_from_feedback":
            prompt = {"info": {"post": f"Q{n}"}}
        if name == "votes":
            prompt = {f"conversation_{x}": says(f"u: Q{n}", f"a: {x}") for x in "ab"}
        made.append({**prompt, **row, column: value})
    return made


@pytest.mark.parametrize("name", INDEXED)
def test_the_index_of_a_known_format_may_be_a_float_or_text_or_empty(tmp_path: Path, name: str) -> None:
    _, _, meaning, _ = INDEXED[name]
    expected = list(meaning.values())
    as_floats = [float(key) if isinstance(key, int) else key for key in meaning]
    for values in (list(meaning), as_floats, [str(value) for value in as_floats]):
        read = read_comparisons(jsonl(tmp_path / "x.jsonl", indexed(name, [*values, None, "", float("nan")])))
        assert read.human == [*expected, None, None, None]
        assert read.report.skipped == ()


@pytest.mark.parametrize(("name", "other"), [(name, other) for name, case in INDEXED.items() for other in case[3]])
def test_an_index_of_another_convention_refuses_a_known_format(tmp_path: Path, name: str, other: int) -> None:
    _, column, meaning, _ = INDEXED[name]
    rows = indexed(name, [*list(meaning) * 3, other])
    with pytest.raises(FileError, match=f"row {len(rows)}, key '{column}': holds {other}, which could mean"):
        read_comparisons(jsonl(tmp_path / "x.jsonl", rows))


@pytest.mark.parametrize("nothing", [None, float("nan"), "", "nan", "null"])
@pytest.mark.parametrize("column", ["p_first", "human_p_first", "preference", "overall_preference", "overall_score"])
def test_an_empty_verdict_is_unknown(tmp_path: Path, column: str, nothing: Any) -> None:
    row: dict[str, Any] = {"prompt": "Q", "first": "a", "second": "b", "judge": "m", column: nothing}
    if column == "preference":
        row = {"instruction": "Q", "output_1": "a", "output_2": "b", column: nothing}
    if column == "overall_preference":
        row = {"context": says("u: Q"), "response1": "a", "response2": "b", column: nothing}
    if column == "overall_score":
        row = {"instruction": "Q", "completions": [{"response": "a", column: nothing}, {"response": "b", column: 1}]}
    read = read_comparisons(jsonl(tmp_path / "x.jsonl", [row]))
    assert (read.human, read.recorded, read.report.skipped) == ([None], [None], ())
    again = read_labelled(tmp_path / "x.jsonl")[0]
    assert (again.p_first, again.problem) == (None, Problem.MISSING)


def test_empty_verdicts_of_tables_are_unknown(tmp_path: Path) -> None:
    table = tmp_path / "x.csv"
    table.write_text("prompt,first,second,p_first,judge,human_p_first\nQ,a,b,0.3,m,\nR,a,b,,m,1\n")
    read = read_labelled(table)
    assert [(row.p_first, row.human_p_first) for row in read] == [(0.3, None), (None, 1.0)]
    nan = float("nan")
    rows = [
        {"prompt": f"Q{n}", "first": "a", "second": "b", "p_first": p, "judge": "m"} for n, p in enumerate([0.2, nan])
    ]
    assert [row.p_first for row in read_labelled(parquet(tmp_path / "x.parquet", rows))] == [0.2, None]


def test_a_later_verdict_on_a_pair_without_one_is_adopted(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Q", "first": x, "second": y, "label": v}
        for x, y, v in [("a", "b", None), ("b", "a", "first"), ("a", "b", "tie")]
    ]
    read = read_comparisons(jsonl(tmp_path / "x.jsonl", rows))
    assert (read.human, read.report.merged) == ([0.25], 2)


@pytest.mark.parametrize(
    "names", [("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen-rating", "rejected-rating"), ("chosen_rating", "rejected_rating")],
)  # fmt: skip
def test_a_choice_by_scores_is_a_models(tmp_path: Path, names: tuple[str, str]) -> None:
    rows = [
        {"prompt": f"Q{n}", "chosen": "a", "rejected": "b", names[0]: one, names[1]: 4.0}
        for n, one in enumerate([8.0, 4.0, None, float("nan")])
    ]
    read = read_comparisons(jsonl(tmp_path / "x.jsonl", rows))
    better = [float(pair.first.text == "a") for pair in read.rows]
    assert read.human == [None, None, better[2], better[3]]
    by = f"scores ({names[0]})"
    assert read.recorded == [(better[0], by), (0.5, by), None, None]


def test_the_verdict_of_arena_battles(tmp_path: Path) -> None:
    flags = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    rows = [
        {"prompt": json.dumps([f"Q{n}"]), "response_a": json.dumps(["yes"]), "response_b": json.dumps(["no"]), "model_a": "m", "model_b": "n",
         "winner_model_a": a, "winner_model_b": b, "winner_tie": t}
        for n, (a, b, t) in enumerate(flags)
    ]  # fmt: skip
    read = read_comparisons(jsonl(tmp_path / "x.jsonl", rows))
    assert read.human == [1.0, 0.0, 0.5]
    assert (read.rows[0].prompt.text, read.rows[0].first.text, read.rows[0].first.source) == ("Q0", "yes", "m")
    plain = [{"prompt": "Q", "response_a": "yes", "response_b": "no", "winner": "B"}]
    assert read_comparisons(jsonl(tmp_path / "y.jsonl", plain)).human == [0.0]


def test_every_pair_of_right_and_wrong_responses_of_reward_bench_2(tmp_path: Path) -> None:
    row = {
        "id": "1",
        "prompt": "Q",
        "chosen": ["yes"],
        "rejected": ["no", "never", "nay"],
        "num_correct": 1,
        "subset": "Factuality",
    }
    read = read_comparisons(
        jsonl(tmp_path / "x.jsonl", [row, {**row, "id": "2", "prompt": "R", "chosen": ["yes", "aye"]}])
    )
    assert len(read.rows) == 9
    assert all(h == float(c.first.text in ("yes", "aye")) for c, h in zip(read.rows, read.human, strict=True))


# ── the form of the input is kept ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_each_row_leaves_in_the_form_in_which_it_came(tmp_path: Path, ending: str) -> None:
    rows = [
        {"prompt": says("u: q0"), "chosen": says("a: yes"), "rejected": says("a: no")},
        {"prompt": "q1", "chosen": "yes", "rejected": "no"},
        {"prompt": says("u: p", "a: x", "u: q2"), "chosen": says("a: yes"), "rejected": says("a: no")},
        {"prompt": "q3", "chosen": says("u: q3", "a: yes"), "rejected": says("u: q3", "a: no")},
    ]
    read = read_comparisons(jsonl(tmp_path / "in.jsonl", rows))
    write_labelled(tmp_path / f"out.{ending}", labelled(read, judged(read.rows)))
    again = read_labelled(tmp_path / f"out.{ending}")
    assert [row.comparison for row in again] == list(read.rows)
    write_labelled(tmp_path / "again.jsonl", again)
    for name in ("out.jsonl", "again.jsonl") if ending == "jsonl" else ("again.jsonl",):
        out = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        assert [isinstance(row[key], list) for row in out for key in ("prompt", "chosen", "rejected")] == [
            is_chat for is_chat in (True, False, True, True) for _ in range(3)
        ]
        assert out[0]["prompt"] == says("u: q0")


def test_stored_responses_and_completions_keep_their_form(tmp_path: Path) -> None:
    rows = [
        {"prompt": says("u: q0"), "first": says("a: yes"), "second": says("a: no")},
        {"prompt": "q1", "first": "yes", "second": "no"},
    ]
    read = read_comparisons(jsonl(tmp_path / "in.jsonl", rows))
    write_labelled(tmp_path / "out.jsonl", labelled(read, judged(read.rows)))
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [{key: row[key] for key in ("prompt", "first", "second")} for row in out] == rows
    answers = [{"prompt": says("u: q"), "completion": says("a: yes")}, {"prompt": "q", "completion": "yes"}]
    done = read_completions(jsonl(tmp_path / "c.jsonl", answers))
    write_completions(tmp_path / "c2.jsonl", done.prompts, done.rows)
    out = [json.loads(line) for line in (tmp_path / "c2.jsonl").read_text().splitlines()]
    assert [{key: row[key] for key in ("prompt", "completion")} for row in out] == answers


def test_the_form_passes_through_records(tmp_path: Path) -> None:
    from aifeedback.data import read_records, write_records

    read = read_comparisons(
        jsonl(tmp_path / "in.jsonl", [{"prompt": says("u: q"), "first": says("a: yes"), "second": says("a: no")}])
    )
    write_records(tmp_path / "records.jsonl", read.rows)
    assert read_comparisons(tmp_path / "records.jsonl").rows == read.rows
    assert read_records(tmp_path / "records.jsonl", Comparison) == list(read.rows)
    write_records(tmp_path / "prompts.jsonl", [pair.prompt for pair in read.rows])
    assert read_prompts(tmp_path / "prompts.jsonl") == [pair.prompt for pair in read.rows]


def test_own_columns_named_like_a_labels_are_kept_beside_it(tmp_path: Path) -> None:
    row = {
        "prompt": "Q",
        "chosen": "yes",
        "rejected": "no",
        "problem": "the sink leaks",
        "p_first": "often",
        "judge": "Anna",
        "position_gap": [1],
    }
    read = read_comparisons(jsonl(tmp_path / "in.jsonl", [row]))
    assert read_labelled(tmp_path / "in.jsonl")[0].problem is None
    write_labelled(tmp_path / "out.jsonl", labelled(read, judged(read.rows, None)))
    (again,) = read_labelled(tmp_path / "out.jsonl")
    assert (again.p_first, again.problem, again.judge) == (None, Problem.REFUSED, "fake:x")
    assert again.extra == {f"input_{key}": row[key] for key in ("problem", "p_first", "judge", "position_gap")}
    stored = {
        "prompt": "Q",
        "first": "yes",
        "second": "no",
        "problem": "the sink leaks",
        "p_first": 0.7,
        "judge": "Anna",
    }
    (one,) = read_judged(jsonl(tmp_path / "s.jsonl", [stored]))
    assert (one.p_first, one.judge, one.problem) == (0.7, "Anna", None)


def test_columns_of_several_types_and_huge_numbers_are_written(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    own: list[Any] = [1, "one", {"a": 1}, [1, "x"], 10**40, None, 2.5, True]
    rows = [{"prompt": f"Q{n}", "chosen": "yes", "rejected": "no", "own": value} for n, value in enumerate(own)]
    rows[1]["nested"] = [{"deep": "text"}]
    rows[2]["nested"] = [{"deep": 3}]
    read = read_comparisons(jsonl(tmp_path / "in.jsonl", rows))
    write_labelled(tmp_path / "out.parquet", labelled(read, judged(read.rows)))
    again = read_labelled(tmp_path / "out.parquet")
    assert [row.p_first for row in again] == [0.8] * len(own)
    assert [row.extra["own"] for row in again] == [v if v is None or v == "one" else json.dumps(v) for v in own]


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_a_number_of_thousands_of_digits_is_a_fault_of_its_row(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    path.write_text(
        '{"prompt": "Q", "first": "a", "second": "b", "n": %s}\n{"prompt": "Q", "first": "a", "second": "b"}\n'
        % ("9" * 5000)
    )
    read = read_comparisons(path)
    assert [s.row for s in read.report.skipped] == [1]
    assert "thousands of digits" in read.report.skipped[0].reason
    path.write_text('[{"prompt": "Q", "n": %s}]' % ("9" * 5000))
    with pytest.raises(FileError):
        read_comparisons(path)
    big = jsonl(
        tmp_path / "big.jsonl", [{"prompt": "Q", "first": "a", "second": "b", "p_first": 10**400}, *pairs([None] * 2)]
    )
    assert read_comparisons(big).report.skipped[0].key == "p_first"


# ── containers ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("spelled", [json.dumps, repr])
@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_message_lists_written_as_text_are_messages(tmp_path: Path, spelled: Any, ending: str) -> None:
    import csv

    cells = {
        key: spelled(value)
        for key, value in {
            "prompt": says('s: It\'s "brief".', "u: q"),
            "chosen": says("a: yes\n"),
            "rejected": says("a: no"),
        }.items()
    }
    path = tmp_path / f"x.{ending}"
    if ending == "parquet":
        parquet(path, [cells])
    else:
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(cells), delimiter="\t" if ending == "tsv" else ",")
            writer.writeheader()
            writer.writerow(cells)
    pair = read_comparisons(path).rows[0]
    assert turns_of(pair.prompt.messages) == ['s: It\'s "brief".', "u: q"]
    assert {pair.first.text.strip(), pair.second.text} == {"yes", "no"}


def test_a_torn_message_list_in_a_table_is_a_fault_of_its_row(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("prompt,first,second\nQ,a,b\nR,a,b\n\"[{'role': 'user', 'content': 'q'\",a,b\n")
    read = read_comparisons(path)
    assert [(s.row, "list of messages" in s.reason) for s in read.report.skipped] == [(3, True)]


@pytest.mark.parametrize("mark", [";", "\t", "|", ","])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_separators_and_encodings_of_spreadsheets(tmp_path: Path, mark: str, encoding: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(
        mark.join(("prompt", "first", "second")).encode(encoding)
        + "\r\n".encode(encoding.removesuffix("-sig") if encoding != "utf-16" else "utf-16-le")
        + mark.join(("Qué?", "a", "b")).encode(
            {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}.get(encoding, encoding)
        )
    )
    if encoding == "utf-32":
        path.write_bytes(f"prompt{mark}first{mark}second\r\nQué?{mark}a{mark}b".encode(encoding))
    (pair,) = read_comparisons(path).rows
    assert (pair.prompt.text, pair.first.text, pair.second.text) == ("Qué?", "a", "b")


def test_the_index_that_pandas_writes_is_not_a_column(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(",prompt,first,second\n0,Q,a,b\n1,R,a,b\n")
    read = read_comparisons(path)
    assert [pair.prompt.text for pair in read.rows] == ["Q", "R"]
    assert read.inputs[0] == {"prompt": "Q", "first": "a", "second": "b"}
    path.write_text(",prompt,first,second\nx,Q,a,b\n")
    with pytest.raises(FileError, match="name every column"):
        read_comparisons(path)
    path.write_text("prompt,first,first\nQ,a,b\n")
    with pytest.raises(FileError, match="key 'first': two columns"):
        read_comparisons(path)


@pytest.mark.parametrize("ending", ["zst", "bz2", "xz"])
def test_compressed_files(tmp_path: Path, ending: str) -> None:
    import bz2
    import lzma

    pack: Any = {"bz2": bz2.compress, "xz": lzma.compress}.get(ending)
    if ending == "zst":
        pack = lambda data: pytest.importorskip("pyarrow").compress(data, "zstd", asbytes=True)  # noqa: E731
    data = b'{"prompt": "Q", "first": "a", "second": "b"}\n'
    (tmp_path / f"x.jsonl.{ending}").write_bytes(pack(data) + pack(data.replace(b"Q", b"R")))
    assert len(read_comparisons(tmp_path / f"x.jsonl.{ending}").rows) == 2
    (tmp_path / f"y.jsonl.{ending}").write_bytes(pack(data)[:-6])
    with pytest.raises(FileError, match="cannot be read"):
        read_comparisons(tmp_path / f"y.jsonl.{ending}")


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrow_files(tmp_path: Path, kind: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    ipc = pytest.importorskip("pyarrow.ipc")
    table = pyarrow.Table.from_pylist(
        [{"prompt": says("u: q"), "chosen": says("a: yes"), "rejected": says("a: no")}] * 1
    )
    with getattr(ipc, f"new_{kind}")(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert read_comparisons(tmp_path / "x.arrow").rows[0].prompt.text == "q"
    (tmp_path / "y.arrow").write_bytes(b"ARROW1 no")
    with pytest.raises(FileError, match="not an Arrow file"):
        read_comparisons(tmp_path / "y.arrow")


@pytest.mark.parametrize("name", ["x.xlsx", "x.txt", "x.zip", "x.pdf"])
def test_other_files_are_refused_with_what_to_save_them_as(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(FileError, match="unsupported file type(.|\n)*save it as CSV, JSONL or Parquet"):
        read_comparisons(tmp_path / name)


# ── folders ───────────────────────────────────────────────────────────────────────────────────────────────────────

LAYOUTS: dict[str, dict[str, str]] = {
    # name: file → the part that it belongs to
    "files named after splits": {"train.jsonl": "train", "test.jsonl": "test"},
    "a hub snapshot": {"data/train-00000-of-00002.jsonl": "train", "data/train-00001-of-00002.jsonl": "train", "data/test-00000-of-00001.jsonl": "test"},
    "folders named after splits": {"train/part.jsonl": "train", "validation/part.jsonl": "validation"},
    "configurations": {"default/train/0000.jsonl": "default/train", "default/test/0000.jsonl": "default/test", "other/train/0000.jsonl": "other/train"},
    "HH's halves": {"harmless-base/train.jsonl": "harmless-base/train", "harmless-base/test.jsonl": "harmless-base/test"},
    "names around the split": {"pairs_train_v2.jsonl": "train", "pairs_held_out_v2.jsonl": "heldout"},
    "a split and another file": {"train.jsonl": "train", "extra.jsonl": ""},
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("spelled", ["relative", "./", "absolute"])
def test_the_splits_of_a_folder_are_never_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, spelled: str
) -> None:
    from aifeedback.data import place_of, place_problem

    monkeypatch.chdir(tmp_path)
    for file, part in LAYOUTS[name].items():
        (tmp_path / "d" / file).parent.mkdir(parents=True, exist_ok=True)
        jsonl(tmp_path / "d" / file, [{"prompt": f"{part}: {file}", "first": "a", "second": "b"}])
    (tmp_path / "d" / "README.md").write_text("# A data set")
    (tmp_path / "d" / "dataset_infos.json").write_text("{}")
    folder = {"relative": "d", "./": "./d", "absolute": str(tmp_path / "d")}[spelled]
    with pytest.raises(FileError, match="has several parts: .*(.|\n)*name one: .*#"):
        read_comparisons(folder)
    assert "several parts" in str(place_problem(folder))
    for part in {part for part in LAYOUTS[name].values() if part}:
        read = read_comparisons(f"{folder}#{part}")
        assert {pair.prompt.text for pair in read.rows} == {f"{p}: {f}" for f, p in LAYOUTS[name].items() if p == part}
        assert place_problem(f"{folder}#{part}") is None
        assert place_of(f"{folder}#{part}") == Path(folder)
    with pytest.raises(FileError, match="has no part 'nowhere'"):
        read_comparisons(f"{folder}#nowhere")
    assert "has no part" in str(place_problem(f"{folder}#nowhere"))


def test_the_split_alone_names_a_part_where_only_one_ends_in_it(tmp_path: Path) -> None:
    for half in ("train", "test"):
        (tmp_path / "harmless").mkdir(exist_ok=True)
        jsonl(tmp_path / "harmless" / f"{half}.jsonl", [{"prompt": half, "first": "a", "second": "b"}])
    assert read_comparisons(f"{tmp_path}#train").rows[0].prompt.text == "train"


def test_a_saved_dataset_with_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    halves = {
        split: datasets.Dataset.from_list([{"prompt": split, "first": "a", "second": "b"}])
        for split in ("train", "test")
    }
    datasets.DatasetDict(halves).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(FileError, match="several splits"):
        read_comparisons(tmp_path / "d")
    assert read_comparisons(f"{tmp_path}/d#test").rows[0].prompt.text == "test"
    with pytest.raises(FileError, match="no split 'dev'"):
        read_comparisons(f"{tmp_path}/d#dev")


@pytest.mark.parametrize("name", ["./nowhere#train", "/nowhere/at-all#train", "../x#test"])
def test_a_folder_that_is_not_there_is_not_looked_up_on_the_hub(name: str) -> None:
    from aifeedback.data import place_problem

    assert "no such file" in str(place_problem(name))
    with pytest.raises(FileError, match="no such file"):
        read_comparisons(name)


# ── labels as they are measured and trained on ────────────────────────────────────────────────────────────────────


def test_verdicts_on_equal_and_empty_responses_count(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{n}", "first": "a", "second": "a", "p_first": 0.5, "judge": "m"} for n in range(4)]
    rows += [{"prompt": f"R{n}", "first": "a", "second": "b", "p_first": 1.0, "judge": "m"} for n in range(6)]
    rows += [{"prompt": "S", "first": "", "second": "b", "p_first": 0.0, "judge": "m"}, {"prompt": "T"}]
    read = load_judged(jsonl(tmp_path / "x.jsonl", rows))
    assert [row.p_first for row in read.rows] == [0.5] * 4 + [1.0] * 6 + [0.0]
    assert [s.row for s in read.report.skipped] == [12]
    assert len(read_labelled(tmp_path / "x.jsonl")) == 6


def test_the_preferred_responses_follow_the_label(tmp_path: Path) -> None:
    labels = [0.9, 0.2, 0.5, None]
    rows = [
        {"prompt": f"Q{n}", "first": "a", "second": "b", "p_first": p, "judge": "m", "human_p_first": 0.0}
        for n, p in enumerate(labels)
    ]
    read = load_preferred(jsonl(tmp_path / "x.jsonl", rows))
    assert [c.text for c in read.rows] == ["a", "b"]
    assert [(s.row, s.key) for s in read.report.skipped] == [(3, "p_first"), (4, "p_first")]
    people = [{"prompt": "Q", "chosen": "yes", "rejected": "no"}]
    assert [c.text for c in load_preferred(jsonl(tmp_path / "y.jsonl", people)).rows] == ["yes"]
    with pytest.raises(FileError, match="no pair in this file has a preferred response"):
        load_preferred(jsonl(tmp_path / "z.jsonl", [{"prompt": "Q", "first": "a", "second": "b"}]))


@pytest.mark.parametrize(("rows", "wanted", "test"), [(60, 200, 30), (60, 30, 30), (60, 20, 20), (3, 200, 1)])
def test_a_test_split_smaller_than_its_setting_is_reported(tmp_path: Path, rows: int, wanted: int, test: int) -> None:
    from aifeedback.steps.split import Split
    from aifeedback.steps.step import Context

    prompts = jsonl(tmp_path / "p.jsonl", [{"prompt": f"Q{n}"} for n in range(rows)])
    split = Split(prompts=str(prompts), test=wanted)
    figures = split.run(Context(tmp_path, tmp_path))
    assert split.forecast({str(prompts): rows}).leaves == {"train.jsonl": rows - test, "test.jsonl": test}
    assert (figures.train, figures.test, figures.test_wanted) == (
        rows - test, test, wanted if test < wanted else None,
    )  # fmt: skip
