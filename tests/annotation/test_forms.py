"""Nothing that a rater entered is lost or bent: contradictions, refusals, expiry, skipping, corrections, two windows."""

from __future__ import annotations

import html
import re
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from aifeedback.annotation.app import create_app
from aifeedback.annotation.assignment import Assignment, Guidelines, entry_of
from aifeedback.annotation.items import SCALES, items_of_comparisons, single_items
from aifeedback.annotation.store import RatingStore, StoreUnavailable
from aifeedback.types import Comparison, Completion, Prompt, Rating

from .pages import HOST, assignment, fields, pairs, ranked
from .test_app import entered, visitor


def checked(page: str) -> set[tuple[str, str]]:
    return set(re.findall(r'name="([\w-]+)" value="([^"]*)"[^>]* checked', page))


def all_fields(page: str) -> dict[str, str]:
    """Every hidden field of the page's last form."""
    last = page[page.rindex("<form") :]
    return dict(re.findall(r'type="hidden" name="([\w-]+)" value="([^"]*)"', last))


def singles(asks: str = "score", text: str = "an answer") -> list:  # type: ignore[type-arg]
    prompt = Prompt.of("Q")
    return single_items([prompt], [Completion.of(prompt, text, source="m")], SCALES[asks])


# ── contradictions ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_ranking_beside_cannot_tell_is_refused_and_shown_again(tmp_path: Path) -> None:
    where = assignment(tmp_path, ranked())
    client = entered(where)
    ranks = {"rank-0": "1", "rank-1": "2", "rank-2": "3"}
    answer = client.post("/rate", data={**fields(client.get("/").text), **ranks, "choice": "cannot_tell"})
    assert answer.status_code == 422
    assert "keep one of the two" in answer.text
    assert checked(answer.text) == {*ranks.items(), ("choice", "cannot_tell")}
    assert where.store.ratings() == []


def test_a_part_of_a_ranking_beside_cannot_tell_is_refused_too(tmp_path: Path) -> None:
    where = assignment(tmp_path, ranked())
    client = entered(where)
    answer = client.post("/rate", data={**fields(client.get("/").text), "rank-1": "2", "choice": "cannot_tell"})
    assert answer.status_code == 422
    assert where.store.ratings() == []


def test_a_score_beside_cannot_tell_is_refused(tmp_path: Path) -> None:
    where = assignment(tmp_path, singles())
    client = entered(where)
    answer = client.post("/rate", data={**fields(client.get("/").text), "value": "7", "choice": "cannot_tell"})
    assert answer.status_code == 422
    assert checked(answer.text) == {("value", "7"), ("choice", "cannot_tell")}


def test_two_choices_in_one_form_are_refused(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(1))
    client = entered(where)
    answer = client.post("/rate", data={**fields(client.get("/").text), "choice": ["0", "1"]})
    assert answer.status_code == 422
    assert "contradict" in answer.text
    assert where.store.ratings() == []


def test_a_comment_that_is_too_long_is_refused_whole_not_cut(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(2))
    client = entered(where)
    answer = client.post("/rate", data={**fields(client.get("/").text), "choice": "0", "comment": "x" * 2001})
    assert answer.status_code == 422
    assert "x" * 2001 in answer.text
    lines = "\r\n".join(["a"] * 1000)  # 1,999 characters as typed, 2,998 as browsers send them
    client.post("/rate", data={**fields(client.get("/").text), "choice": "0", "comment": lines})
    assert where.store.ratings()[0].comment == "\n".join(["a"] * 1000)


# ── refused forms keep what was entered ───────────────────────────────────────────────────────────────────────────


def test_a_comment_without_a_choice_is_shown_again(tmp_path: Path) -> None:
    client = entered(assignment(tmp_path, pairs(1)))
    answer = client.post("/rate", data={**fields(client.get("/").text), "comment": "because <b>"})
    assert answer.status_code == 422
    assert "because &lt;b&gt;</textarea>" in answer.text


def test_ranks_given_are_shown_again_where_one_is_missing(tmp_path: Path) -> None:
    client = entered(assignment(tmp_path, ranked()))
    answer = client.post("/rate", data={**fields(client.get("/").text), "rank-0": "3", "rank-2": "1", "comment": "hm"})
    assert "1 of 3 are missing" in answer.text
    assert checked(answer.text) == {("rank-0", "3"), ("rank-2", "1")}
    assert "hm</textarea>" in answer.text


def test_an_expired_form_can_be_saved_with_one_more_click(tmp_path: Path) -> None:
    clock = [1e9]
    where = assignment(tmp_path, pairs(1), now=lambda: clock[0])
    client = entered(where)
    form = fields(client.get("/").text)
    clock[0] += 25 * 3600
    answer = client.post("/rate", data={**form, "choice": "tie", "comment": "kept"})
    assert checked(answer.text) == {("choice", "tie")}
    assert "kept</textarea>" in answer.text
    client.post("/rate", data={**fields(answer.text), "choice": "tie", "comment": "kept"})
    assert where.store.ratings()[0].comment == "kept"


@pytest.mark.parametrize("choice", ["0", "1"])
def test_a_form_from_before_a_restart_with_another_seed_means_what_it_showed(tmp_path: Path, choice: str) -> None:
    """The order of A and B may differ now: the stored side is the one that was shown then."""
    item = pairs(1)[0]
    for seed in range(8):
        before = assignment(tmp_path / f"{seed}", [item], seed=seed)
        page = entered(before).get("/").text
        form = {**fields(page), "order": re.search(r'name="order" value="([^"]*)"', page)[1]}  # type: ignore[index]
        shown = re.findall(r"(red|blue) answer", page)
        token = before.store.invite(["anna"])["anna"]
        after = assignment(tmp_path / f"{seed}", [item], seed=seed + 100)
        client = visitor(after)
        client.get(f"/r/{token}")
        client.post("/rate", data={**form, "choice": choice})
        rating = after.store.ratings()[0]
        said = item.answers[("first", "second").index(rating.choice or "")].text.split()[0]
        assert said == list(dict.fromkeys(shown))[int(choice)]


def test_a_form_of_an_item_that_went_to_somebody_else_gives_the_comment_back(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(2))
    form = fields(entered(where).get("/").text)
    rest = assignment(tmp_path, [i for i in where.items if i.id != form["item"]])
    answer = entered(rest).post("/rate", data={**form, "choice": "0", "comment": "a long thought"})
    assert answer.status_code == 422
    assert "a long thought" in answer.text
    assert rest.store.ratings() == []


def test_who_lost_their_link_gets_the_comment_back(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(1))
    client = entered(where)
    form = fields(client.get("/").text)
    where.store.invite(["anna"])  # a new link; the old one stops working
    answer = client.post("/rate", data={**form, "choice": "0", "comment": "a long thought"})
    assert answer.status_code == 403
    assert "a long thought" in answer.text
    assert where.store.ratings() == []


# ── skipping ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_skipped_items_queue_up_behind_all_others_and_are_counted(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(4))
    client = entered(where)
    seen = []
    for _ in range(6):
        form = fields(client.get("/").text)
        seen.append(form["item"])
        page = client.post("/skip", data=form).text
    assert len(set(seen[:4])) == 4
    assert seen[4:] == seen[:2]
    assert "4 skipped" in page
    client.post("/rate", data={**fields(page), "choice": "0"})
    assert "1 of 4 done · 3 skipped" in client.get("/").text


def test_the_skip_queue_survives_a_restart_with_its_drafts(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(2))
    client = entered(where)
    form = fields(client.get("/").text)
    client.post("/skip", data={**form, "choice": "tie", "comment": "unsure yet"})
    where.store.close()
    again = assignment(tmp_path, pairs(2))
    client = entered(again)
    page = client.get("/").text
    assert "1 skipped" in page
    assert fields(page)["item"] != form["item"]
    client.post("/rate", data={**fields(page), "choice": "0"})
    page = client.get("/").text
    assert fields(page)["item"] == form["item"]
    assert checked(page) == {("choice", "tie")}
    assert "unsure yet</textarea>" in page


def test_skipping_needs_a_form_of_the_page(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(2))
    client = entered(where)
    form = fields(client.get("/").text)
    assert client.post("/skip", data={**form, "signature": "0" * 64}).status_code == 422
    assert client.post("/skip", data=form, headers={"origin": "https://evil.example"}).status_code == 403
    assert where.store.skipped_by("anna") == {}


# ── corrections, overview, two windows ────────────────────────────────────────────────────────────────────────────


def test_a_rating_is_corrected_by_a_new_row(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(1))
    client = entered(where)
    form = fields(client.get("/").text)
    client.post("/rate", data={**form, "choice": "0", "comment": "first thought"})
    mine = client.get("/mine").text
    assert "A is better" in mine
    assert "first thought" in mine
    page = client.get(f"/item?id={form['item']}").text
    assert checked(page) == {("choice", "0")}
    correction = {**fields(page), "revision": "1", "choice": "1", "comment": "second thought"}
    for _ in range(2):  # a double click
        client.post("/rate", data=correction)
    ratings = where.store.ratings()
    assert [(r.revision, r.comment) for r in ratings] == [(0, "first thought"), (1, "second thought")]
    assert {ratings[0].choice, ratings[1].choice} == {"first", "second"}
    assert "B is better" in client.get("/mine").text
    assert where.progress() == (1, 1)


def test_a_second_window_with_another_answer_asks_before_it_replaces(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(2))
    client = entered(where)
    form = fields(client.get("/").text)
    client.post("/rate", data={**form, "choice": "0"})
    answer = client.post("/rate", data={**form, "choice": "1", "comment": "other window"})
    assert answer.status_code == 409
    assert checked(answer.text) == {("choice", "1")}
    assert "other window</textarea>" in answer.text
    assert len(where.store.ratings()) == 1
    client.post("/rate", data={**fields(answer.text), "revision": "1", "choice": "1", "comment": "other window"})
    assert [r.revision for r in where.store.ratings()] == [0, 1]


def test_a_correction_cannot_be_made_from_a_first_form(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(1))
    client = entered(where)
    form = fields(client.get("/").text)
    assert client.post("/rate", data={**form, "choice": "0", "revision": "5"}).status_code == 422
    assert where.store.ratings() == []


def test_two_raters_and_two_projects_share_a_browser(tmp_path: Path) -> None:
    """Cookies know no ports: links of another rater or another project must not log the first one out."""
    one, other = (
        assignment(tmp_path / "a", pairs(1), ("anna", "ben")),
        assignment(tmp_path / "b", pairs(1, text="Other")),
    )
    tokens, others = one.store.invite(one.raters), other.store.invite(other.raters)
    client = visitor(one)
    homes = {name: client.get(f"/r/{token}").url.path for name, token in tokens.items()}
    second = TestClient(create_app(other), base_url=HOST, follow_redirects=True, cookies=client.cookies)
    second.cookies = client.cookies
    second.get(f"/r/{others['anna']}")
    pages = {name: client.get(home).text for name, home in homes.items()}
    for name, page in pages.items():
        assert f">{name}<" in page
        client.post(f"{homes[name]}rate", data={**fields(page), "choice": "tie"})
    assert sorted(r.rater for r in one.store.ratings()) == ["anna", "ben"]
    assert client.get(homes["anna"].replace("/u/", "/u/x")).status_code == 403


def test_raters_see_their_own_ratings_alone(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(1), ("anna", "ben"))
    tokens = where.store.invite(where.raters)
    anna, ben = visitor(where), visitor(where)
    anna.get(f"/r/{tokens['anna']}")
    ben.get(f"/r/{tokens['ben']}")
    anna.post("/rate", data={**fields(anna.get("/").text), "choice": "0", "comment": "secret"})
    assert "secret" not in ben.get("/mine").text
    assert visitor(where).get("/mine").status_code == 403
    assert visitor(where).get(f"/item?id={where.items[0].id}").status_code == 403


# ── a store that cannot be written ────────────────────────────────────────────────────────────────────────────────


def impatient(folder: Path, items: list, **settings: object) -> Assignment:  # type: ignore[type-arg]
    return Assignment(RatingStore(folder / "ratings.sqlite", patience_s=0.3), items, ("anna",), **settings)  # type: ignore[arg-type]


def test_a_locked_file_of_ratings_holds_up_nobody_and_loses_nothing(tmp_path: Path) -> None:
    where = impatient(tmp_path, pairs(2))
    client = entered(where)
    form = fields(client.get("/").text)
    other = sqlite3.connect(tmp_path / "ratings.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answers = []
    sent = threading.Thread(
        target=lambda: answers.append(client.post("/rate", data={**form, "choice": "tie", "comment": "kept"}))
    )
    sent.start()
    started = time.monotonic()
    assert client.get("/").status_code == 200  # readers do not wait
    assert time.monotonic() - started < 5
    sent.join(timeout=60)
    assert answers[0].status_code == 503
    assert "Another program" in answers[0].text
    assert "kept</textarea>" in answers[0].text
    other.execute("ROLLBACK")
    client.post("/rate", data={**fields(answers[0].text), "choice": "tie", "comment": "kept"})
    assert [r.comment for r in where.store.ratings()] == ["kept"]


def test_a_full_disk_gives_the_form_back(tmp_path: Path) -> None:
    where = impatient(tmp_path, pairs(1))
    client = entered(where)
    form = fields(client.get("/").text)
    pages = where.store._db.execute("PRAGMA page_count").fetchone()[0]
    where.store._db.execute(f"PRAGMA max_page_count = {pages}")
    long = "ü" * 1900  # more than a page holds
    refused = client.post("/rate", data={**form, "choice": "tie", "comment": long})
    assert refused.status_code == 503
    assert "disk of this server is full" in refused.text
    assert long in refused.text


def test_a_full_disk_on_a_ranking_keeps_the_ranks(tmp_path: Path) -> None:
    where = impatient(tmp_path, ranked())
    client = entered(where)
    form = fields(client.get("/").text)
    other = sqlite3.connect(tmp_path / "ratings.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ranks = {"rank-0": "2", "rank-1": "1", "rank-2": "2"}
    answer = client.post("/rate", data={**form, **ranks})
    other.close()
    assert answer.status_code == 503
    assert checked(answer.text) == set(ranks.items())


@pytest.mark.parametrize("act", ["skip", "correction"])
def test_whatever_is_saved_while_the_file_is_locked_comes_back_as_it_was(tmp_path: Path, act: str) -> None:
    where = impatient(tmp_path, pairs(2))
    client = entered(where)
    form = fields(client.get("/").text)
    if act == "correction":
        client.post("/rate", data={**form, "choice": "0"})
        form = all_fields(client.get(f"/item?id={form['item']}").text)
    sent = {**form, "choice": "tie", "comment": "second thoughts"}
    other = sqlite3.connect(tmp_path / "ratings.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answer = client.post("/skip" if act == "skip" else "/rate", data=sent)
    other.close()
    assert answer.status_code == 503
    assert checked(answer.text) == {("choice", "tie")}
    assert "second thoughts</textarea>" in answer.text
    client.post("/rate", data={**sent, **all_fields(answer.text)})
    stored = where.store.ratings()[-1]
    assert (stored.choice, stored.comment, stored.revision) == ("tie", "second thoughts", int(act == "correction"))


def test_a_harmful_text_stays_hidden_where_its_view_cannot_be_counted(tmp_path: Path) -> None:
    where = impatient(tmp_path, pairs(1, harmful=True, text="Terrible"), most_harmful=1)
    client = entered(where)
    form = fields(client.get("/").text)
    other = sqlite3.connect(tmp_path / "ratings.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answer = client.post("/reveal", data=form)
    other.close()
    assert answer.status_code == 503
    assert "Terrible" not in answer.text
    assert where.store.exposed_to("anna") == set()


@pytest.mark.parametrize("kind", ["pair", "ranking", "score"])
def test_a_store_that_cannot_even_be_read_gives_a_page_that_sends_the_same_form_again(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = {"pair": pairs(1), "ranking": ranked(), "score": singles()}[kind]
    verdict = {
        "pair": {"choice": "tie"},
        "ranking": {"rank-0": "2", "rank-1": "1", "rank-2": "2"},
        "score": {"value": "7"},
    }[kind]
    where = assignment(tmp_path, items)
    client = entered(where)
    comment = 'one "line"\nand </textarea> another'
    sent = {**all_fields(client.get("/").text), **verdict, "comment": comment}

    def gone(*_: object) -> None:
        raise StoreUnavailable(where.store.path, sqlite3.OperationalError("disk I/O error"))

    with monkeypatch.context() as patch:
        patch.setattr(where.store, "_read", gone)
        shown, refused = client.get("/"), client.post("/rate", data=sent)
    assert (shown.status_code, refused.status_code) == (503, 503)
    assert "kept in this browser" in shown.text
    assert 'action="rate"' in refused.text
    again = all_fields(refused.text)
    assert again == {key: value for key, value in sent.items() if key != "comment"}
    assert html.unescape(refused.text.partition('dir="auto">\n')[2].partition("</textarea>")[0]) == comment
    client.post("/rate", data={**again, "comment": comment})
    (stored,) = where.store.ratings()
    assert entry_of(stored) == {**verdict, "comment": comment}


def test_an_older_file_of_ratings_is_upgraded_with_its_rows(tmp_path: Path) -> None:
    rating = Rating(item_id="i", rater="anna", choice="first", order_shown=(0, 1), at="2026-01-01T00:00:00+00:00")
    record = '{"item_id":"i","rater":"anna","choice":"first","ranking":null,"order_shown":[0,1],"seconds":null,' \
             '"at":"2026-01-01T00:00:00+00:00","comment":null}'  # fmt: skip
    from aifeedback.types import content_id

    old = sqlite3.connect(tmp_path / "r.sqlite")
    old.executescript(
        "CREATE TABLE ratings (seq INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL, rater TEXT NOT NULL, "
        "record TEXT NOT NULL, digest TEXT NOT NULL, UNIQUE (item_id, rater));"
        "CREATE TRIGGER ratings_keep BEFORE DELETE ON ratings BEGIN SELECT RAISE(ABORT, 'append-only'); END;"
    )
    old.execute("INSERT INTO ratings VALUES (1, 'i', 'anna', ?, ?)", (record, content_id("", record)))
    old.commit()
    old.close()
    store = RatingStore(tmp_path / "r.sqlite")
    assert store.ratings() == [rating]
    assert store.add(rating.model_copy(update={"revision": 1}))
    assert not store.add(rating)
    with pytest.raises(sqlite3.DatabaseError, match="append-only"):
        store._db.execute("DELETE FROM ratings")


def test_identical_pairs_in_two_orders_are_one_item() -> None:
    prompt = Prompt.of("Q")
    pair = Comparison.of(prompt, *(Completion.of(prompt, t, source=t) for t in "ab"))
    assert len(items_of_comparisons([pair, pair.swapped()])) == 1


# ── the standard that a rater saw ────────────────────────────────────────────────────────────────────────────────


def test_each_rating_keeps_the_version_of_the_guidelines_that_were_in_view(tmp_path: Path) -> None:
    items = pairs(2)
    first = assignment(tmp_path, items, guidelines=Guidelines("tone", "1", "Be kind."))
    client = entered(first)
    client.post("/rate", data={**fields(client.get("/").text), "choice": "0"})
    second = Assignment(first.store, items, ["anna"], guidelines=Guidelines("tone", "2", "Be brief."))
    client = entered(second)
    client.post("/rate", data={**fields(client.get("/").text), "choice": "0"})
    assert [rating.standard for rating in first.store.ratings()] == ["tone 1", "tone 2"]
    assert assignment(tmp_path / "b", items).guidelines is None
