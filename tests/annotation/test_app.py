"""The rating page lets no one in, shows texts as texts, and stores one rating per rater and item."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from aifeedback.annotation.app import COOKIE, create_app
from aifeedback.annotation.assignment import NOT_READ, Assignment
from aifeedback.annotation.items import items_of_comparisons
from aifeedback.errors import InputError
from aifeedback.types import Comparison, Completion, Prompt

from .pages import HOST, XSS, assignment, fields, pairs, ranked


def visitor(where: Assignment) -> TestClient:
    return TestClient(create_app(where), base_url=HOST, follow_redirects=True)


def entered(where: Assignment, rater: str = "anna") -> TestClient:
    client = visitor(where)
    token = where.store.invite(where.raters)[rater]
    assert client.get(f"/r/{token}").status_code == 200
    return client


def test_a_person_rates_by_their_own_link(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(2))
    client = entered(where)
    for done in range(2):
        page = client.get("/").text
        assert f"{done} of 2 done" in page
        client.post("/rate", data={**fields(page), "choice": "0", "comment": " clear "})
    assert "everything is rated" in client.get("/").text
    ratings = where.store.ratings()
    assert [r.rater for r in ratings] == ["anna", "anna"]
    assert all(
        r.choice == ("first", "second")[r.order_shown[0]] for r in ratings
    )  # the place shown, told as storage side
    assert ratings[0].comment == "clear"
    assert ratings[0].seconds is not None


def test_without_an_own_token_there_is_nothing_to_see_or_to_rate(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(1))
    form = fields(entered(where).get("/").text)
    for cookie in (None, "guess", "anna", ""):
        client = visitor(where)
        if cookie is not None:
            client.cookies.set(COOKIE, cookie)
        page = client.get("/")
        assert page.status_code == 403
        assert "Question" not in page.text
        for path in ("/rate", "/reveal"):
            assert client.post(path, data={**form, "choice": "0"}).status_code == 403
    assert visitor(where).get("/r/nonsense").status_code == 403
    assert where.store.ratings() == []


def test_a_form_of_someone_else_or_a_changed_one_is_refused(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(2), ("anna", "ben"))
    tokens = where.store.invite(where.raters)
    anna, ben = visitor(where), visitor(where)
    anna.get(f"/r/{tokens['anna']}")
    ben.get(f"/r/{tokens['ben']}")
    form = fields(anna.get("/").text)
    other = next(item.id for item in where.items if item.id != form["item"])
    for client, sent in (
        (ben, form),
        (anna, {**form, "item": other}),
        (anna, {**form, "item": "unknown"}),
        (anna, {**form, "shown_at": "0"}),
        (anna, {**form, "signature": "0" * 64}),
        (anna, {"item": form["item"]}),
        (anna, {**form, "signature": "ü\ud800".encode("utf-8", "replace").decode()}),
    ):
        assert client.post("/rate", data={**sent, "choice": "0"}).status_code == 422
    assert anna.post("/rate", data={**form, "choice": "7"}).status_code == 422
    assert anna.post("/rate", data=form).status_code == 422
    assert where.store.ratings() == []


def test_a_form_lasts_a_day(tmp_path: Path) -> None:
    clock = [1e9]
    where = assignment(tmp_path, pairs(1), now=lambda: clock[0])
    client = entered(where)
    form = fields(client.get("/").text)
    clock[0] += 25 * 3600
    assert "more than a day old" in client.post("/rate", data={**form, "choice": "0"}).text
    clock[0] = 1e9 - 10
    assert client.post("/rate", data={**form, "choice": "0"}).status_code == 422
    assert where.store.ratings() == []


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_forms_posted_from_elsewhere_are_refused(tmp_path: Path, headers: dict[str, str]) -> None:
    where = assignment(tmp_path, pairs(1))
    client = entered(where)
    form = fields(client.get("/").text)
    assert client.post("/rate", data={**form, "choice": "0"}, headers=headers).status_code == 403
    assert where.store.ratings() == []
    own = {"origin": HOST, "sec-fetch-site": "same-origin"}
    assert client.post("/rate", data={**form, "choice": "0"}, headers=own).status_code == 200
    assert len(where.store.ratings()) == 1


def test_other_hosts_methods_and_huge_forms_are_refused(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(1))
    client = entered(where)
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400  # DNS rebinding
    assert client.put("/rate").status_code == 405
    assert client.post("/rate", data={"comment": "x" * 70_000}).status_code == 413
    for path in ("/docs", "/openapi.json", "/redoc"):
        assert client.get(path).status_code == 404


def test_texts_are_shown_as_texts(tmp_path: Path) -> None:
    prompt = Prompt.of(XSS)
    pair = Comparison.of(prompt, *(Completion.of(prompt, XSS + end, source="m") for end in ("a\u202eb", "b")))
    where = assignment(tmp_path, items_of_comparisons([pair]), question=XSS)
    response = entered(where).get("/")
    assert "<script>document" not in response.text
    assert "<img" not in response.text
    assert "{{ 7*7 }}" in response.text
    assert "⟨U+202E⟩" in response.text
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src 'self'" in policy  # no inline script runs, whatever a text says
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers["cache-control"] == "no-store"


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(1))
    token = where.store.invite(["anna"])["anna"]
    header = visitor(where).get(f"/r/{token}", follow_redirects=False).headers["set-cookie"].casefold()
    assert "httponly" in header
    assert "samesite=lax" in header


def test_a_double_click_or_a_second_tab_stores_one_rating(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(2))
    client = entered(where)
    one, other = fields(client.get("/").text), fields(client.get("/").text)
    assert one["item"] == other["item"]
    client.post("/rate", data={**one, "choice": "0"})
    client.post("/rate", data={**one, "choice": "0"})
    client.post("/rate", data={**other, "choice": "1"})
    assert len(where.store.ratings()) == 1


def test_sources_are_never_shown(tmp_path: Path) -> None:
    prompt = Prompt.of("Q")
    answers = [Completion.of(prompt, f"text {i}", source="secret-model") for i in range(2)]
    where = assignment(tmp_path, items_of_comparisons([Comparison.of(prompt, *answers)]))
    assert "secret" not in entered(where).get("/").text


def test_half_of_the_raters_see_the_other_order(tmp_path: Path) -> None:
    names = tuple(f"r{i}" for i in range(200))
    item = pairs(1)[0]
    first = sum(item.order_for(name, 0)[0] == 0 for name in names)
    assert 70 <= first <= 130  # 100 ± 4 standard errors
    assert assignment(tmp_path, [item], names).queues["r0"] == [item]


def test_answers_are_ranked_whole_or_not_at_all(tmp_path: Path) -> None:
    where = assignment(tmp_path, ranked())
    client = entered(where)
    form = fields(client.get("/").text)
    assert client.post("/rate", data={**form, "rank-0": "1", "rank-1": "2"}).status_code == 422
    assert client.post("/rate", data={**form, "rank-0": "1", "rank-1": "2", "rank-2": "4"}).status_code == 422
    client.post("/rate", data={**form, "rank-0": "1", "rank-1": "2", "rank-2": "2"})
    rating = where.store.ratings()[0]
    assert rating.ranking is not None
    assert [rating.ranking[i] for i in rating.order_shown] == [1, 2, 2]


def test_later_puts_an_item_last(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(2))
    client = entered(where)
    form = fields(client.get("/").text)
    assert fields(client.post("/skip", data=form).text)["item"] != form["item"]


def test_rating_resumes_where_it_stopped(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(3))
    client = entered(where)
    client.post("/rate", data={**fields(client.get("/").text), "choice": "tie"})
    where.store.close()
    again = assignment(tmp_path, pairs(3))
    assert "1 of 3 done" in entered(again).get("/").text
    assert again.progress() == (1, 3)


# ── harmful texts ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_harmful_texts_are_not_even_sent_before_they_are_asked_for(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(1, harmful=True, text="Terrible"))
    client = entered(where)
    page = client.get("/").text
    assert "Terrible" not in page
    assert "red answer" not in page
    assert "blue answer" not in page
    form = fields(page)
    assert client.post("/rate", data={**form, "choice": "0"}).status_code == 422  # unread texts cannot be compared
    shown = client.post("/reveal", data=form).text
    assert "Terrible" in shown
    assert where.store.exposed_to("anna") == {where.items[0].id}
    client.post("/reveal", data=form)
    assert len(where.store.exposed_to("anna")) == 1
    client.post("/rate", data={**fields(shown), "choice": "0"})
    assert where.store.ratings()[0].choice in ("first", "second")


def test_harmful_texts_may_be_left_unread(tmp_path: Path) -> None:
    where = assignment(tmp_path, pairs(1, harmful=True))
    client = entered(where)
    client.post("/rate", data={**fields(client.get("/").text), "choice": "cannot_tell", "comment": "x"})
    rating = where.store.ratings()[0]
    assert (rating.choice, rating.comment) == ("cannot_tell", NOT_READ)
    assert where.store.exposed_to("anna") == set()


def test_the_cap_on_harmful_texts_holds_for_each_person(tmp_path: Path) -> None:
    items = [*pairs(4, harmful=True, text="Terrible"), *pairs(2)]
    where = assignment(tmp_path, items, ("anna", "ben"), most_harmful=2)
    client = entered(where)
    forms = {}
    for item in items[:4]:
        order, at = item.order_for("anna", 0), f"{where.now():.3f}"
        forms[item.id] = {"item": item.id, "shown_at": at, "signature": where.store.sign("anna", item.id, order, at)}
    for form in forms.values():  # four tabs at once
        client.post("/reveal", data=form)
    assert len(where.store.exposed_to("anna")) == 2
    for _ in range(4):
        page = client.get("/").text
        client.post("/rate", data={**fields(page), "choice": "0"})
    assert len(where.store.ratings()) == 4  # two harmful ones and the two others
    end = client.get("/").text
    assert "that is enough" in end
    assert "The 2 that would be left" in end
    assert where.held_back("ben") == []


def test_harmful_items_go_to_volunteers_alone(tmp_path: Path) -> None:
    items = [*pairs(3, harmful=True), *pairs(3, text="Other")]
    where = assignment(tmp_path, items, ("anna", "ben"), volunteers=["ben"])
    assert [i.is_harmful for i in where.queues["anna"]] == [False] * 3
    assert len(where.queues["ben"]) == 6
    with pytest.raises(InputError, match="'carl' is not a rater"):
        assignment(tmp_path, items, ("anna",), volunteers=["carl"])
