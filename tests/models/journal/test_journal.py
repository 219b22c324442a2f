"""The journal: what is committed stays, once per key, and an edited row is found."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import threading
from pathlib import Path

import pytest

from aifeedback.errors import JournalError
from aifeedback.models.journal import Head, Journal, content_key, prompt_hash, setting_digest
from models.journal.entries import SETTING, entry, write, write_beyond_the_limit

CONTEXT = multiprocessing.get_context("fork")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def filled(path: Path, rows: int = 5) -> Head:
    with Journal(path) as journal:
        journal.append([entry(n) for n in range(rows)])
        return journal.head()


def test_what_was_appended_is_found_and_survives_closing(path: Path) -> None:
    head = filled(path)
    with Journal(path) as journal:
        assert journal.head() == head == journal.verify()
        assert journal.find([entry(2).key, b"?" * 32]) == {entry(2).key: entry(2)}
        assert [row.entry for row in journal.rows()] == [entry(n) for n in range(5)]
        assert [row.entry for row in journal.by_call_id(entry(3).key.hex()[:16])] == [entry(3)]


def test_one_answer_per_key_and_the_first_one_is_kept(path: Path) -> None:
    with Journal(path) as journal:
        first = journal.append([entry(1)])
        second = journal.append([entry(1, answer="{}"), entry(2)])
        assert first == [entry(1)]
        assert second == [entry(1), entry(2)]
        assert journal.head().rows == 2


def test_a_failed_call_leaves_the_question_open(path: Path) -> None:
    failed = entry(1)._replace(outcome="timeout", is_final=False)
    with Journal(path) as journal:
        journal.append([failed, failed])
        assert journal.find([entry(1).key]) == {}
        journal.append([entry(1)])
        assert journal.find([entry(1).key]) == {entry(1).key: entry(1)}
        assert [row.entry.outcome for row in journal.calls(entry(1).key)] == ["timeout", "timeout", "ok"]
        assert journal.totals().problems == {"timeout": 2}
        assert journal.totals().answered == 1


def test_totals_count_every_call(path: Path) -> None:
    filled(path, 4)
    totals = Journal(path).totals()
    assert (totals.calls, totals.prompt_tokens) == (4, 0 + 1 + 2 + 3)
    assert totals.cost_usd == pytest.approx(0.001 * 6)


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE calls SET answer = '{\"logprobs\":[-9.0,-0.1]}' WHERE seq = 3",
        "UPDATE calls SET cost_usd = 0 WHERE seq = 3",
        "UPDATE calls SET is_final = 0 WHERE seq = 3",
        "UPDATE calls SET at = at + 1 WHERE seq = 3",
        "UPDATE calls SET raw = NULL WHERE seq = 3",
        "UPDATE calls SET digest = zeroblob(32) WHERE seq = 3",
        "UPDATE calls SET link = zeroblob(32) WHERE seq = 3",
        "DELETE FROM calls WHERE seq = 3",
        "DELETE FROM calls WHERE seq = 1",
        "UPDATE calls SET seq = 99 WHERE seq = 5",
        "UPDATE settings SET body = '{}'",
        "UPDATE meta SET value = 'other'",
        "DELETE FROM meta",
    ],
)
def test_an_edited_row_is_found(path: Path, edit: str) -> None:
    filled(path)
    with sqlite3.connect(path) as db:
        db.execute(edit)
    db.close()
    with pytest.raises(JournalError, match=r"row|chain|id|changed"):
        Journal(path).verify()


def test_an_edited_answer_is_not_even_read(path: Path) -> None:
    filled(path, 200)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE calls SET answer = '{}' WHERE seq = 3")
    db.close()
    journal = Journal(path)
    with pytest.raises(JournalError, match="row 3 was changed"):
        journal.find([entry(2).key])


def test_rows_cut_off_the_end_show_against_a_head_kept_elsewhere(path: Path) -> None:
    head = filled(path)
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM calls WHERE seq > 3")
    db.close()
    with Journal(path) as journal:
        journal.verify()
        with pytest.raises(JournalError, match="removed"):
            journal.verify(head)
        journal.append([entry(n) for n in (10, 11, 12)])
        with pytest.raises(JournalError, match="not the one noted"):
            journal.verify(head)


def test_growing_keeps_earlier_heads_valid(path: Path) -> None:
    empty = Journal(path).head()
    head = filled(path)
    with Journal(path) as journal:
        journal.append([entry(9)])
        assert journal.verify(head).rows == 6
        assert journal.verify(empty).rows == 6


def test_a_full_disk_stops_loudly_and_loses_nothing(path: Path) -> None:
    head = filled(path)
    journal = Journal(path)
    journal._connection().execute("PRAGMA max_page_count = 12")
    with pytest.raises(JournalError, match="free some disk space"):
        _append_until_it_fails(journal)
    journal.close()
    with Journal(path) as journal:
        assert journal.verify(head).rows >= 5
        assert len(journal.append([entry(n) for n in range(20_000, 20_100)])) == 100


def _append_until_it_fails(journal: Journal) -> None:
    for batch in range(100):
        journal.append([entry(100 * batch + n, answer="x" * 500) for n in range(100)])


def test_a_file_system_that_refuses_to_write(tmp_path: Path, path: Path) -> None:
    """A real refusal by the kernel in the middle of a commit; what was committed before is all there."""
    process = CONTEXT.Process(target=write_beyond_the_limit, args=(path, tmp_path / "told"))
    process.start()
    process.join()
    committed, _, message = (tmp_path / "told").read_text().partition("\n")
    assert "disk space" in message
    with Journal(path) as journal:
        assert journal.verify().rows == int(committed)


def test_a_child_after_fork_opens_its_own_connection(path: Path) -> None:
    journal = Journal(path)
    journal.append([entry(1)])
    child = os.fork()
    if child == 0:
        try:
            journal.append([entry(2)])
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    journal.append([entry(3)])
    assert journal.verify().rows == 3


def test_threads_may_share_one_journal(path: Path) -> None:
    journal = Journal(path)
    threads = [
        threading.Thread(target=lambda start=start: [journal.append([entry(start + n)]) for n in range(20)])
        for start in (0, 100, 200)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.verify().rows == 60


def test_a_prompt_is_distinguished_from_a_message_of_the_same_text() -> None:
    from aifeedback.types import Message

    user = prompt_hash([Message(role="user", content="x")])
    assert len({user, prompt_hash("x"), prompt_hash([Message(role="system", content="x")])}) == 3
    assert prompt_hash("\ud800") != prompt_hash("\udfff")
    setting = setting_digest(SETTING)
    assert content_key(setting, user) != content_key(setting_digest(SETTING + " "), user)


def eight_writers(path: Path, rows: int, batch: int) -> None:
    """Each writes rows of its own and, in a race with the others, one shared row for every ten."""
    barrier = f"{path}.go"
    processes = [CONTEXT.Process(target=write, args=(path, w, rows, batch, barrier)) for w in range(8)]
    for process in processes:
        process.start()
    Path(barrier).touch()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    with Journal(path) as journal:
        assert journal.verify().rows == 8 * rows + rows // 10
        keys = {row.entry.key for row in journal.rows()}
    assert len(keys) == 8 * rows + rows // 10


def test_eight_writers_lose_and_tear_nothing(path: Path) -> None:
    eight_writers(path, 100, 20)


@pytest.mark.campaign
def test_campaign_eight_writers(path: Path) -> None:
    eight_writers(path, 10_000, 50)
    print(Journal(path).head())
