"""Rows of every format with planted parts: each part is used or its row skipped with a reason, and forms are kept."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aifeedback.data import (
    labelled,
    read_comparisons,
    read_completions,
    read_labelled,
    write_completions,
    write_labelled,
    write_rows,
)
from aifeedback.types import Preference

Choose = Callable[[Sequence[Any]], Any]
UNKNOWN = (None, "", float("nan"))
WORDS = {"first": 1.0, "B": 0.0, "model_a": 1.0, "tie (bothbad)": 0.5, "both_bad": 0.5, "both good": 0.5, "Tie": 0.5}


class Planted(NamedTuple):
    row: dict[str, Any]
    marks: tuple[str, ...]
    """Texts that the records must hold, all of them."""
    p_first: float | None
    """About the responses 'yes' (better or first) and 'no'."""
    is_chat: bool
    may_be_lost: bool


class Plant:
    """One row under construction: gives out marks, and remembers which parts the row holds."""

    def __init__(self, choose: Choose, number: int) -> None:
        self.choose, self.number = choose, number
        self.marks: list[str] = []
        self.is_chat = self.may_be_lost = False

    def mark(self) -> str:
        self.marks.append(f"<{self.number}.{len(self.marks)}>")
        return self.marks[-1]

    def turns(self) -> list[dict[str, str]]:
        """A dialogue that ends with a request."""
        roles = self.choose([["user"], ["user"], ["system", "user"], ["user", "assistant", "user"]])
        return [{"role": role, "content": self.mark()} for role in roles]

    def prompt(self) -> Any:
        """A prompt as text, messages or a transcript."""
        form = self.choose(["text", "text", "messages", "parts", "transcript"])
        if form == "text":
            return self.mark()
        self.is_chat = True
        turns = self.turns()
        if form == "parts":
            return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
        return turns if form == "messages" else transcript(turns) + "\n\nAssistant:"

    def beside(self, own: Sequence[str] = ()) -> dict[str, Any]:
        """Columns beside the pair that hold parts of the conversation, or nothing."""
        columns: dict[str, Any] = {}
        if (kind := self.choose(["", "", "none", "text"])) and "system" not in own:
            columns["system"] = self.choose([None, ""]) if kind == "none" else self.mark()
            self.is_chat = True
            # a dialogue may have a system message of its own, and two of them differ
            self.may_be_lost |= kind == "text"
        if (kind := self.choose(["", "", "", "none", "pairs", "messages"])) and "history" not in own:
            turns = [] if kind == "none" else [self.mark(), self.mark()]
            messages = [{"role": r, "content": t} for r, t in zip(("user", "assistant"), turns, strict=False)]
            columns["history"] = [turns] if kind == "pairs" else messages
            self.is_chat = True
        for name in ("tools", "context", "messages"):
            kind = self.choose(["", "", "", "", "", "", "none", "some"])
            if not kind or name in own:
                continue
            columns[name] = self.choose([None, "", "[]"]) if kind == "none" else self.unplaced(name)
        return columns

    def unplaced(self, name: str) -> Any:
        self.may_be_lost = True
        text = self.mark()
        lists = {"tools": [{"name": text}], "messages": [{"role": "user", "content": text}]}
        return lists.get(name, text)

    def responses(self, prompt: Any) -> tuple[Any, Any]:
        """Two responses: plain, as messages, as whole dialogues, with further turns in common, or diverging early."""
        forms = ["text", "text", "text", "message", "dialogue", "longer"] * 3
        form = self.choose([*forms, "diverging"])
        yes, no = f"yes {self.mark()}", f"no {self.mark()}"
        if form == "text" or (form == "dialogue" and not is_list(prompt)):
            return yes, no
        self.is_chat = True
        before: list[dict[str, Any]] = list(prompt) if form == "dialogue" else []
        if form in ("longer", "diverging"):
            before = [{"role": "assistant", "content": self.mark()}, {"role": "user", "content": self.mark()}]
        other = before
        if form == "diverging":
            self.may_be_lost = True
            other = [{"role": "assistant", "content": self.mark()}, before[-1]]
        return [*before, assistant(yes)], [*other, assistant(no)]

    def verdict(self, spelled: dict[Any, float | None]) -> tuple[Any, float | None]:
        value = self.choose([*spelled, *UNKNOWN])
        return value, spelled.get(value) if value in spelled else None

    def done(self, row: dict[str, Any], p_first: float | None = None) -> Planted:
        return Planted(row, tuple(self.marks), p_first, self.is_chat, self.may_be_lost)


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def is_list(value: Any) -> bool:
    return isinstance(value, list)


def transcript(turns: list[dict[str, str]]) -> str:
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    return "".join(f"\n\n{names[turn['role']]}: {turn['content']}" for turn in turns)


def chosen(plant: Plant) -> Planted:
    prompt = plant.prompt()
    yes, no = plant.responses(prompt)
    return plant.done({"prompt": prompt, "chosen": yes, "rejected": no, **plant.beside()}, 1.0)


def implicit(plant: Plant) -> Planted:
    turns, yes, no = plant.turns(), f"yes {plant.mark()}", f"no {plant.mark()}"
    plant.is_chat = True
    sides = [[*turns, assistant(text)] for text in (yes, no)]
    if plant.choose([True, False]) and turns[0]["role"] == "user":
        sides = [transcript(side) for side in sides]  # type: ignore[misc]
    return plant.done({"chosen": sides[0], "rejected": sides[1], **plant.beside()}, 1.0)


def stored(plant: Plant) -> Planted:
    prompt = plant.prompt()
    yes, no = plant.responses(prompt)
    column, spelled = plant.choose([("label", WORDS), ("human_p_first", {"0.25": 0.25, 1: 1.0, 0.5: 0.5, 0.0: 0.0})])
    value, p_first = plant.verdict(spelled)
    return plant.done({"prompt": prompt, "first": yes, "second": no, column: value, **plant.beside()}, p_first)


def voted(plant: Plant) -> Planted:
    turns = plant.turns()
    sides = [[*turns, assistant(f"{text} {plant.mark()}")] for text in ("yes", "no")]
    plant.is_chat = True
    value, p_first = plant.verdict(WORDS)
    row = {"conversation_a": sides[0], "conversation_b": sides[1], "winner": value}
    return plant.done({**row, **plant.beside()}, p_first)


def indexed(
    prompt: str, names: tuple[str, str], column: str, spelled: dict[Any, float], *, own: Sequence[str] = ()
) -> Callable[[Plant], Planted]:
    def build(plant: Plant) -> Planted:
        yes, no = f"yes {plant.mark()}", f"no {plant.mark()}"
        value, p_first = plant.verdict({**spelled, **{float(key): p for key, p in spelled.items()}})
        value = plant.choose([value, str(value)]) if isinstance(value, (int, float)) and value == value else value
        row = {prompt: plant.mark(), names[0]: yes, names[1]: no, column: value}
        return plant.done({**row, **plant.beside((prompt, *own))}, p_first)

    return build


def summarised(plant: Plant) -> Planted:
    post, summaries = (
        {"post": plant.mark(), "title": plant.mark()},
        [{"text": f"{t} {plant.mark()}"} for t in ("yes", "no")],
    )
    value, p_first = plant.verdict({0: 1.0, 1: 0.0, "1.0": 0.0})
    return plant.done({"info": post, "summaries": summaries, "choice": value, **plant.beside()}, p_first)


def scored(plant: Plant) -> Planted:
    responses = [
        {"response": f"{t} {plant.mark()}", "overall_score": plant.choose([1, 2.5, None])} for t in ("yes", "no")
    ]
    return plant.done({"instruction": plant.mark(), "completions": responses, **plant.beside(("instruction",))})


FORMATS: dict[str, Callable[[Plant], Planted]] = {
    "chosen, rejected": chosen,
    "implicit prompt": implicit,
    "prompt, first, second": stored,
    "votes": voted,
    "PKU-SafeRLHF": indexed("prompt", ("response_0", "response_1"), "better_response_id", {0: 1.0, 1: 0.0}),
    "SHP": indexed("history", ("human_ref_A", "human_ref_B"), "labels", {1: 1.0, 0: 0.0}),
    "LLMBar": indexed("input", ("output_1", "output_2"), "label", {1: 1.0, 2: 0.0}),
    "PandaLM": indexed("instruction", ("response1", "response2"), "annotator1", {0: 0.5, 1: 1.0, 2: 0.0}),
    "HelpSteer3": indexed("context", ("response1", "response2"), "overall_preference", {-3: 1.0, 0: 0.5, 2: 0.0}),
    "HelpSteer2": indexed("prompt", ("response_1", "response_2"), "preference_strength", {-1: 1.0, 0: 0.5, 3: 0.0}),
    "summarize_from_feedback": summarised,
    "UltraFeedback": scored,
}
NESTED = {"summarize_from_feedback", "UltraFeedback"}
"""Formats that a CSV file cannot hold."""


def write(path: Path, rows: list[dict[str, Any]], choose: Choose) -> None:
    if path.suffix == ".csv":
        spelled = choose([json.dumps, repr])
        names = list(dict.fromkeys(name for row in rows for name in row))
        with path.open("w", newline="", encoding=choose(["utf-8", "utf-16"])) as stream:
            writer = csv.writer(stream, delimiter=choose([",", ";", "\t"]))
            writer.writerow(names)
            for row in rows:
                cells = [row.get(name) for name in names]
                cells = ["" if cell is None else spelled(cell) if isinstance(cell, list) else cell for cell in cells]
                writer.writerow(cells)
    elif path.suffix == ".parquet":
        write_rows(path, rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def check_pairs(folder: Path, name: str, count: int, choose: Choose) -> int:
    """Write ``count`` rows of a format, read them and write the labels; return how many rows were read."""
    planted = [FORMATS[name](Plant(choose, number)) for number in range(count)]
    sound = [FORMATS[name](Plant(lambda options: options[0], count + number)) for number in range(count + 2)]
    everything = [*planted, *sound]  # a file of mostly unusable rows is refused as a whole, which is not the subject
    ending = choose(["jsonl", "parquet"] if name in NESTED else ["jsonl", "parquet", "csv"])
    path = folder / f"rows.{ending}"
    write(path, [p.row for p in everything], choose)
    read = read_comparisons(path, seed=choose([0, 1]))
    assert len(read.rows) + len(read.report.skipped) == len(everything)
    lost = {s.row: s for s in read.report.skipped}
    kept = [p for number, p in enumerate(everything, 1) if number not in lost]
    for number, skipped in lost.items():
        assert everything[number - 1].may_be_lost, (everything[number - 1], skipped)
        assert skipped.reason
    for plant, pair, human in zip(kept, read.rows, read.human, strict=True):
        texts = [*(m.content for m in pair.prompt.messages), pair.first.text, pair.second.text]
        missing = [mark for mark in plant.marks if not any(mark in text for text in texts)]
        assert not missing, (plant, texts)
        assert pair.prompt.is_chat == plant.is_chat or (ending != "jsonl" and pair.prompt.is_chat), plant
        p_first = plant.p_first if pair.first.text.startswith("yes") or plant.p_first is None else 1.0 - plant.p_first
        assert human == p_first, (plant, human)
    labels = [Preference(comparison_id=pair.id, source="fake:x", p_first=0.75) for pair in read.rows]
    out = folder / f"out.{choose(['jsonl', 'parquet'])}"
    write_labelled(out, labelled(read, labels))
    again = read_labelled(out)
    assert [row.comparison for row in again] == list(read.rows)
    for row, human, plant in zip(again, read.human, kept, strict=True):
        assert row.human_p_first == human, (plant, row)
    if out.suffix == ".jsonl":
        for pair, line in zip(read.rows, out.read_text().splitlines(), strict=True):
            row = json.loads(line)
            is_chat = pair.prompt.is_chat or pair.prompt.is_dialogue
            assert all(isinstance(row[key], list) == is_chat for key in ("prompt", "chosen", "rejected")), row
    return len(everything)


def completed(plant: Plant) -> Planted:
    kind = plant.choose(["prompt", "messages", "conversations", "alpaca"])
    if kind == "alpaca":
        row = {"instruction": plant.mark(), "input": plant.choose(["", plant.mark()]), "output": f"yes {plant.mark()}"}
        if not row["input"]:
            plant.marks.remove(f"<{plant.number}.1>")
        return plant.done({**row, **plant.beside(("context",))})
    if kind == "prompt":
        prompt = plant.prompt()
        response, _ = plant.responses(prompt)
        plant.marks = [m for m in plant.marks if m in json.dumps([prompt, response])]
        return plant.done({"prompt": prompt, "completion": response, **plant.beside()})
    plant.is_chat = True
    turns = [*plant.turns(), assistant(f"yes {plant.mark()}")]
    if kind == "conversations":
        turns = [{"from": turn["role"], "value": turn["content"]} for turn in turns]
    return plant.done({kind: turns, **plant.beside(("messages",))})


def check_completions(folder: Path, count: int, choose: Choose) -> int:
    planted = [completed(Plant(choose, number)) for number in range(count)]
    planted += [completed(Plant(lambda options: options[0], count + number)) for number in range(count + 2)]
    path = folder / "completions.jsonl"
    write(path, [p.row for p in planted], choose)
    read = read_completions(path)
    lost = {s.row for s in read.report.skipped}
    assert all(planted[number - 1].may_be_lost for number in lost), read.report.skipped
    kept = [p for number, p in enumerate(planted, 1) if number not in lost]
    for plant, prompt, response in zip(kept, read.prompts, read.rows, strict=True):
        texts = [*(m.content for m in prompt.messages), response.text]
        assert all(any(mark in text for text in texts) for mark in plant.marks), (plant, texts)
        assert response.text.startswith("yes"), plant
        assert prompt.is_chat == plant.is_chat, plant
    write_completions(folder / "again.jsonl", read.prompts, read.rows)
    again = read_completions(folder / "again.jsonl")
    assert again.prompts == read.prompts
    assert [c.text for c in again.rows] == [c.text for c in read.rows]
    return len(planted)


@pytest.mark.parametrize("name", [*FORMATS, "completions"])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=6, deadline=None, derandomize=True)
def test_nothing_that_is_read_is_lost_in_silence(
    tmp_path_factory: pytest.TempPathFactory, name: str, seed: int
) -> None:
    pytest.importorskip("pyarrow")
    folder, choose = tmp_path_factory.mktemp("rows"), random.Random(seed).choice
    if name == "completions":
        check_completions(folder, 30, choose)
    else:
        check_pairs(folder, name, 30, choose)


@pytest.mark.campaign
def test_nothing_of_a_hundred_thousand_rows_is_lost_in_silence(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    drawn = random.Random(0)
    rows = 0
    while rows < 100_000:
        for name in FORMATS:
            rows += check_pairs(tmp_path, name, 300, drawn.choice)
        rows += check_completions(tmp_path, 300, drawn.choice)
