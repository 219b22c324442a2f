"""Whatever of a run is edited, exchanged, removed or cut off is found, given a page or a head that was kept."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.errors import FileError, JournalError
from aifeedback.models.journal import Journal, Spent, digests
from aifeedback.models.journal.digests import seal, verify
from trained_folders import call, finished_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return finished_run(tmp_path / "run")


def test_an_untouched_run_is_intact(run: Path) -> None:
    found = verify(run)
    assert (found.faults, found.unsealed) == ([], [])
    assert found.files == 5
    (run / "notes.txt").write_text("mine")  # what no step left is nobody's business
    assert verify(run).faults == []


EDITED = [
    "summary.json",
    "report.html",
    "stages/labels/labelled.jsonl",
    "stages/labels/figures.json",
    "stages/compare/preferences-judge.jsonl",
]


@pytest.mark.parametrize("name", EDITED)
@pytest.mark.parametrize("how", ["one byte", "cut", "removed", "emptied"])
def test_every_change_of_a_file_is_found(run: Path, name: str, how: str) -> None:
    file = run / name
    content = file.read_bytes()
    if how == "removed":
        file.unlink()
    else:
        file.write_bytes({"one byte": content[:-3] + b"0" + content[-2:], "cut": content[:-1], "emptied": b""}[how])
    assert any(name in fault for fault in verify(run).faults)


@pytest.mark.parametrize("content", [b"\xec\xff", b"[]", b"null", b'"x"', b""])
@pytest.mark.parametrize(
    "name", ["files.json", "report.html", "stages/labels/files.json", "stages/labels/figures.json"]
)
def test_what_cannot_be_read_is_a_fault_and_no_crash(run: Path, name: str, content: bytes) -> None:
    (run / name).write_bytes(content)
    assert any(f"{name} was changed" in fault for fault in verify(run).faults)


@pytest.mark.parametrize("folder", ["", "stages/labels", "stages/compare"])
def test_a_list_that_was_made_to_fit_is_found(run: Path, folder: str) -> None:
    place = run / folder
    name = next(iter(json.loads((place / "files.json").read_text())))
    (place / name).write_text("better figures")
    listed = json.loads((place / "files.json").read_text())
    (place / "files.json").write_text(json.dumps(listed | {name: digests.sha256(place / name)}))
    assert any("files.json was changed" in fault for fault in verify(run).faults)
    (place / "files.json").unlink()
    assert any("files.json is missing" in fault for fault in verify(run).faults)


def cut(journal: Path, rows: int) -> None:
    with sqlite3.connect(journal) as db:
        db.execute("DELETE FROM calls WHERE seq > (SELECT MAX(seq) FROM calls) - ?", (rows,))


@pytest.mark.parametrize("rows", [1, 2, 3, 6])
def test_a_cut_tail_is_found_without_a_head(run: Path, rows: int) -> None:
    cut(run / "journal.sqlite", rows)
    assert verify(run).faults


@pytest.mark.parametrize("witness", ["page", "file", "link"])
def test_a_tail_cut_with_all_its_traces_is_found_by_a_head(run: Path, tmp_path: Path, witness: str) -> None:
    """Calls, lists and pages are taken away together; what was kept elsewhere still tells."""
    link = next(iter(verify(run).heads.values())).link
    kept = tmp_path / "kept"
    page = shutil.copyfile(run / "report.html", tmp_path / "page.html")
    kept.write_text(json.dumps({"journal.sqlite": {"rows": 8, "link": link}}))
    cut(run / "journal.sqlite", 4)
    for file in [*run.rglob("files.json"), run / "report.html", run / "summary.json"]:
        file.unlink()
    assert verify(run).faults == []
    given = {"page": str(page), "file": str(kept), "link": link}[witness]
    assert any("is in no chain" in fault for fault in verify(run, digests.read_heads(given)).faults)


def test_a_rewritten_chain_is_found_by_a_head(run: Path) -> None:
    link = next(iter(verify(run).heads.values())).link
    (run / "journal.sqlite").unlink()
    with Journal(run / "journal.sqlite") as journal:
        journal.append([call(n) for n in range(5)])
    for folder in (run / "stages/labels", run / "stages/compare", run):
        seal(folder, run / "journal.sqlite")
    assert any("report.html prints" in fault for fault in verify(run).faults)
    assert verify(run, [link]).faults


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE calls SET answer = '{\"x\": 1}' WHERE seq = 2",
        "DELETE FROM calls WHERE seq = 3",
        "UPDATE calls SET kind = 'x'",
    ],
)
def test_edits_and_gaps_of_calls_are_found(run: Path, damage: str) -> None:
    with sqlite3.connect(run / "journal.sqlite") as db:
        db.execute(damage)
    assert verify(run).faults


def rated(folder: Path, count: int = 3) -> Path:
    from aifeedback.annotation.store import RatingStore
    from aifeedback.types import Rating

    store = RatingStore(folder / "ratings.sqlite")
    for n in range(count):
        store.add(Rating(item_id=f"i{n}", rater="ana", choice="first", order_shown=(0, 1), at="2026-01-01T00:00:00Z"))
    store.close()
    return folder


def damage_ratings(folder: Path, statement: str) -> None:
    with sqlite3.connect(folder / "ratings.sqlite") as db:
        for trigger in ("ratings_stay", "ratings_keep"):
            db.execute(f"DROP TRIGGER {trigger}")
        db.execute(statement)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE ratings SET record = replace(record, 'first', 'second') WHERE seq = 2",
        "UPDATE ratings SET rater = 'ben' WHERE seq = 1",
        "UPDATE ratings SET item_id = 'other' WHERE seq = 3",
        "DELETE FROM ratings WHERE seq = 2",
        "DELETE FROM ratings WHERE seq = 3",
    ],
)
def test_ratings_edited_removed_or_cut_are_found(tmp_path: Path, damage: str) -> None:
    assert verify(rated(tmp_path / "whole")).faults == []
    damage_ratings(rated(tmp_path / "bent"), damage)
    assert verify(tmp_path / "bent").faults


def test_calls_given_to_another_step_are_found(run: Path) -> None:
    with sqlite3.connect(run / "journal.sqlite") as db:
        db.execute("UPDATE steps SET step = 'compare' WHERE seq = 3")
    assert any("which step made which call" in fault for fault in verify(run).faults)


def test_lists_of_files_are_no_calls(run: Path) -> None:
    with Journal(run / "journal.sqlite") as journal:
        assert journal.head().rows == 8
        assert journal.totals().calls == 5
        assert journal.spent() == Spent(5, 30, 0.0)
        assert journal.spent("labels") == Spent(5, 30, 0.0)


def test_sealing_again_notes_only_what_changed(run: Path) -> None:
    def rows() -> int:
        with Journal(run / "journal.sqlite") as journal:
            return journal.head().rows

    before = rows()
    seal(run, run / "journal.sqlite")
    assert rows() == before
    first = (run / "summary.json").read_text()
    for text in ('{"win_rate": 0.7}', first):  # back to an earlier list: the last row counts
        (run / "summary.json").write_text(text)
        seal(run, run / "journal.sqlite")
        assert verify(run).faults == []
    assert rows() == before + 2


def test_the_command_ends_with_code_3_and_one_line_per_fault(run: Path) -> None:
    fine = CliRunner().invoke(app, ["audit", "verify", str(run), "--json", str(run.parent / "heads.json")])
    assert fine.exit_code == 0
    assert json.loads((run.parent / "heads.json").read_text())
    (run / "summary.json").write_text("{}")
    (run / "stages/labels/labelled.jsonl").write_text("")
    told = CliRunner().invoke(app, ["audit", "verify", str(run), "--head", str(run.parent / "heads.json")])
    assert isinstance(told.exception, JournalError)
    assert told.exception.exit_code == 3
    assert "summary.json was changed" in told.output
    assert "labelled.jsonl was changed" in told.output


@pytest.mark.parametrize("given", ["nothing.json", "empty.html"])
def test_a_head_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.html").write_text("<html></html>")
    with pytest.raises(FileError):
        digests.read_heads(given)


@pytest.fixture
def audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Question {n}?", "chosen": f"good answer {n}", "rejected": f"bad {n}"} for n in range(12)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def audit(*options: str) -> object:
        return CliRunner().invoke(app, ["audit", "--data", "pairs.jsonl", "--n", "6", *options])

    return audit


def test_a_page_prints_a_head_of_its_own_run(audited: Callable[..., object]) -> None:
    audited("fake:noisy", "--probe", "agreement", "-o", "one")
    assert digests.printed_heads(Path("one/report.html").read_text())
    assert verify(Path("one")).faults == []
    page = Path("one/report.html")
    page.write_text(page.read_text().replace("12", "13"))
    assert verify(Path("one")).faults


@pytest.mark.parametrize("edited", ["labels.jsonl.run/labelled.jsonl", "labels.jsonl", "labels.jsonl.run/figures.json"])
def test_repeating_a_finished_command_does_not_seal_an_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edited: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text('{"prompt": "Q?", "chosen": "a good answer", "rejected": "bad"}\n')
    command = ["label", "--data", "pairs.jsonl", "--judge", "fake:noisy", "-o", "labels.jsonl"]
    for _ in range(2):
        assert CliRunner().invoke(app, command).exit_code == 0
        assert verify(Path("labels.jsonl")).faults == [], "a repeated start is no edit"
    file = Path(edited)
    file.write_text(file.read_text().replace("fake:noisy", "fake:wiser"))
    again = CliRunner().invoke(app, command)
    assert "no calls made" in again.output
    faults = verify(Path("labels.jsonl.run")).faults
    assert faults if edited != "labels.jsonl" else faults == [], "the copy is made again from the run"


def test_figures_that_were_edited_are_computed_again(audited: Callable[..., object]) -> None:
    """Otherwise a gate would open, and a page be printed, from what somebody wrote there."""
    audited("fake:first", "--probe", "position", "-o", "one")
    true = Path("one/done.json").read_text()
    Path("one/done.json").write_text(true.replace('"bad"', '"fine"'))
    assert Path("one/done.json").read_text() != true
    closed = audited("fake:first", "--probe", "position", "--fail-on", "serious", "-o", "one")
    assert "position" in str(closed.exception)  # type: ignore[attr-defined]
    assert verify(Path("one")).faults == []


FIGURES = ("cost_usd", "prompt_tokens", "completion_tokens", "seconds", "at", "setting")


def damaged(run: Path, rng: random.Random) -> str:
    """One random edit, gap or cut; returns what it was."""
    target = rng.choice(("file", "file", "call", "call", "gap", "tail", "tail with its traces", "rating", "step"))
    journal, rows = run / "journal.sqlite", 8
    if target == "file":
        file = rng.choice([f for f in sorted(run.rglob("*")) if f.is_file() and "sqlite" not in f.name])
        content, at = file.read_bytes(), rng.randrange(file.stat().st_size)
        how = rng.choice(("changed", "cut", "longer", "removed"))
        if how == "removed":
            file.unlink()
        else:
            flipped = bytes([content[at] ^ 1 << rng.randrange(8)])
            file.write_bytes({"changed": content[:at] + flipped + content[at + 1 :], "cut": content[:at],
                              "longer": content[:at] + b"1" + content[at:]}[how])  # fmt: skip
        return f"{file.name} {how} at {at}"
    if target == "rating":
        row = rng.randint(1, 6)
        statement = rng.choice((f"DELETE FROM ratings WHERE seq = {row}", f"DELETE FROM ratings WHERE seq >= {row}",
                                f"UPDATE ratings SET record = replace(record, 'first', 'tie') WHERE seq = {row}",
                                f"UPDATE ratings SET rater = 'ben' WHERE seq = {row}"))  # fmt: skip
        damage_ratings(run, statement)
        return statement
    row = rng.randint(1, rows)
    statements = {
        "gap": f"DELETE FROM calls WHERE seq = {rng.randint(1, rows - 1)}",
        "step": f"UPDATE steps SET step = 'x' WHERE seq = {rng.randint(1, 5)}",
    }
    if target == "call":
        column = rng.choice((*FIGURES, "outcome", "answer", "kind", "raw", "key", "prompt_hash"))
        other = f"{column} + 1" if column in FIGURES else "'other'"
        statements["call"] = f"UPDATE calls SET {column} = {other} WHERE seq = {row}"
    cut = rng.randint(1, rows - 1)
    statement = statements.get(target, f"DELETE FROM calls WHERE seq > {rows - cut}")
    with contextlib.closing(sqlite3.connect(journal)) as db, db:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute(statement)
    if target == "tail with its traces":  # whoever removes calls also removes what tells of them
        for file in [*run.rglob("files.json"), run / "report.html", run / "summary.json"]:
            file.unlink()
    return f"{target}: {statement}"


@pytest.mark.parametrize(
    "seeds", [range(30), pytest.param(range(1000, 2000), marks=pytest.mark.campaign)], ids=["30", "1000"]
)
def test_campaign_every_edit_gap_and_cut_is_found_given_a_page_or_a_head_file(tmp_path: Path, seeds: range) -> None:
    whole = rated(finished_run(tmp_path / "whole"), 6)
    heads = tmp_path / "heads.json"
    known = verify(whole).heads
    heads.write_text(json.dumps({name: head._asdict() for name, head in known.items()}))
    page = tmp_path / "page.html"
    page.write_text(f"<html>{''.join(f'<p>head {head.link}</p>' for head in known.values())}</html>")
    witnesses = [digests.read_heads(str(file)) for file in (heads, page)]
    assert [verify(whole, links).faults for links in witnesses] == [[], []]
    missed = []
    for seed in seeds:
        rng, run = random.Random(seed), tmp_path / "run"
        shutil.copytree(whole, run)
        what = damaged(run, rng)
        try:
            found = verify(run, rng.choice(witnesses)).faults
        except FileError as refused:
            found = [str(refused)]
        missed += [] if found else [f"{seed}: {what}"]
        shutil.rmtree(run)
    print(f"{len(missed)} of {len(seeds)} missed")
    assert missed == []
