"""One rating per person and item; nobody rates without an own token; in a SQLite file and in a real PostgreSQL server."""

from __future__ import annotations

import multiprocessing
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aifeedback.annotation import database
from aifeedback.annotation.app import create_app
from aifeedback.annotation.assignment import Assignment
from aifeedback.annotation.store import RatingStore, StoreUnavailable
from aifeedback.errors import InputError, JournalError, MissingExtra
from aifeedback.types import Rating

from .pages import HOST, fields, pairs
from .postgres import Server
from .test_app import visitor

AT = "2026-01-01T00:00:00+00:00"


def rating(item: str = "i", rater: str = "anna", **more: Any) -> Rating:
    return Rating(**{"item_id": item, "rater": rater, "choice": "first", "order_shown": (0, 1), "at": AT, **more})


def test_a_second_rating_of_one_item_is_not_stored(place: str) -> None:
    with closing(RatingStore(place)) as store:
        assert store.add(rating())
        assert not store.add(rating(choice="second"))
        assert store.add(rating(choice="second", revision=1))
        assert store.add(rating(rater="ben"))
        assert store.ratings() == [rating(), rating(choice="second", revision=1), rating(rater="ben")]
        assert store.ratings_of("anna") == store.ratings()[:2]
        assert store.rated_by("anna") == {"i"}
        assert store.raters_of() == {"i": {"anna", "ben"}}


def test_only_the_newest_token_opens_the_page(place: str) -> None:
    with closing(RatingStore(place)) as store:
        old = store.invite(["anna"])["anna"]
        new = store.invite(["anna"])["anna"]
        assert [store.rater_of(token) for token in (old, new, "", None)] == [None, "anna", None, None]
        assert store.invite(["anna"], keep={"anna": new})["anna"] == new


def test_drafts_skips_and_exposures_outlive_a_restart(place: str) -> None:
    with closing(RatingStore(place)) as store:
        store.skip("anna", "i", {"comment": "hm? %s"})
        store.skip("anna", "j", {})
        store.skip("anna", "i", {"comment": "later"})
        assert [store.expose("anna", item, AT, most=2) for item in "abba"] == [True, True, True, True]
        assert not store.expose("anna", "c", AT, most=2)
        signature = store.sign("form", 1)
    with closing(RatingStore(place)) as store:
        assert store.draft("anna", "i") == {"comment": "later"}
        assert sorted(store.skipped_by("anna"), key=store.skipped_by("anna").__getitem__) == ["j", "i"]
        assert store.exposed_to("anna") == {"a", "b"}
        assert store.is_signed(signature, "form", 1)
        store.add(rating())
        assert store.draft("anna", "i") == {}


@pytest.mark.parametrize("statement", ["UPDATE ratings SET rater = 'ben'", "DELETE FROM ratings"])
def test_ratings_cannot_be_changed_or_removed(place: str, statement: str) -> None:
    with closing(RatingStore(place)) as store:
        store.add(rating())
        with pytest.raises(Exception, match="append-only"), store._writing() as db:
            db.execute(statement)
        assert store.ratings() == [rating()]


def test_an_edit_behind_the_stores_back_is_found(place: str) -> None:
    with closing(RatingStore(place)) as store:
        for item in "abc":
            store.add(rating(item))
        on = " ON ratings" if database.is_url(place) else ""
        with store._writing() as db:
            db.execute(f"DROP TRIGGER ratings_stay{on}")
            db.execute("UPDATE ratings SET record = replace(record, 'first', 'second') WHERE item_id = 'b'")
        with pytest.raises(JournalError, match="rating 2 was changed"):
            store.ratings()


def _many(place: str, rater: str) -> None:
    with closing(RatingStore(place, patience_s=30)) as store:
        for number in range(20):
            store.add(rating(f"i{number}", rater))
            store.add(rating(f"i{number}", "everybody", comment=rater))


def test_writers_in_several_processes_lose_and_double_nothing(place: str) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_many, args=(place, f"r{k}")) for k in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    with closing(RatingStore(place)) as store:
        ratings = store.ratings()  # raises where the chain of digests is broken
        assert len(ratings) == 2 * 20 + 20
        assert len({(r.item_id, r.rater) for r in ratings}) == len(ratings)


def test_another_writers_lock_makes_nobody_wait_for_long(place: str) -> None:
    with closing(RatingStore(place)) as other, closing(RatingStore(place, patience_s=0.3)) as store:
        store.add(rating("a"))
        with other._writing():
            with pytest.raises(StoreUnavailable) as refused:
                store.add(rating("b"))
            assert "another program" in refused.value.reason.lower()
            assert store.rated_by("anna") == {"a"}
        assert store.add(rating("b"))


# ── PostgreSQL alone ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow  # the server recovers as after a loss of power
def test_a_server_that_went_away_gives_the_form_back_and_is_used_again_when_it_is_there(
    postgres: Server, tmp_path: Path
) -> None:
    items = pairs(2)
    where = Assignment(RatingStore(postgres.new_database("away"), patience_s=2), items, ["anna"])
    client = visitor(where)
    client.get(f"/r/{where.store.invite(['anna'])['anna']}")
    form = fields(client.get("/").text)
    postgres.stop()
    try:
        refused = client.post("/rate", data={**form, "choice": "1", "comment": "keep this"})
        assert refused.status_code == 503
        assert "keep this</textarea>" in refused.text
    finally:
        postgres.start()
    saved = client.post("/rate", data={**form, "choice": "1", "comment": "keep this"})
    assert saved.status_code == 200
    (stored,) = where.store.ratings()
    assert stored.comment == "keep this"
    assert where.store.rated_by("anna") == {stored.item_id}
    where.store.close()


def test_a_full_disk_of_the_server_gives_the_form_back(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg

    where = Assignment(RatingStore(postgres.new_database("full")), pairs(1), ["anna"])
    client = visitor(where)
    client.get(f"/r/{where.store.invite(['anna'])['anna']}")
    form = fields(client.get("/").text)

    def full(*_: object) -> None:
        raise psycopg.errors.DiskFull("could not extend file: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(where.store, "add", lambda rating: _unavailable(where.store, full))
        refused = client.post("/rate", data={**form, "choice": "1", "comment": "keep this"})
    assert refused.status_code == 503
    assert "disk of this server is full" in refused.text
    assert "keep this" in refused.text
    assert client.post("/rate", data={**form, "choice": "1"}).status_code == 200
    where.store.close()


def _unavailable(store: RatingStore, fault: Any) -> bool:
    with store._writing():
        fault()
    return True


def test_a_url_names_its_server_but_no_password_in_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://ana:secret@127.0.0.1:1/study?connect_timeout=2"
    assert database.shown(url) == "postgresql://127.0.0.1/study"
    pytest.importorskip("psycopg")
    with pytest.raises(JournalError) as refused:
        RatingStore(url)
    assert "secret" not in str(refused.value)
    with pytest.raises(InputError, match="not a PostgreSQL URL"):
        RatingStore("postgresql://127.0.0.1/study?colour=blue")
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(MissingExtra, match="postgres"):
        RatingStore(url)


def test_two_studies_of_one_database_have_a_schema_each(postgres: Server) -> None:
    import psycopg

    url = postgres.new_database("two")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA a")
        connection.execute("CREATE SCHEMA b")
    books = [RatingStore(f"{url}?options=-csearch_path%3D{name}") for name in "ab"]
    books[0].add(rating())
    assert [len(store.ratings()) for store in books] == [1, 0]
    for store in books:
        store.close()


def test_the_page_is_the_same_over_both(place: str) -> None:
    where = Assignment(RatingStore(place), pairs(3), ["anna", "ben"])
    tokens = where.store.invite(["anna", "ben"])
    threads = [threading.Thread(target=_rate_all, args=(where, token)) for token in tokens.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(where.store.ratings()) == 6
    assert create_app(where).title
    where.store.close()


def _rate_all(where: Assignment, token: str) -> None:
    client = visitor(where)
    page = client.get(f"{HOST}/r/{token}").text
    while form := fields(page):
        page = client.post("/rate", data={**form, "choice": "0"}).text
