"""Whatever is sent to the rating page, it answers without an error of its own and stores nothing that was not signed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from aifeedback.annotation.app import HEADERS, create_app
from aifeedback.annotation.assignment import Assignment

from .pages import HOST, assignment, fields, pairs, ranked

schemathesis = pytest.importorskip("schemathesis")
TestClient = pytest.importorskip("starlette.testclient").TestClient

TEXT = {"type": "string", "maxLength": 40}
FORM = {
    "type": "object",
    "properties": dict.fromkeys(
        ("item", "order", "shown_at", "revision", "signature", "choice", "rank-0", "value", "comment"), TEXT
    ),
    "additionalProperties": TEXT,
}


def described() -> dict[str, Any]:
    """The page as OpenAPI: it does not publish one, because people and not programs are its users."""
    who = {"name": "who", "in": "path", "required": True, "schema": TEXT}
    query = {"name": "id", "in": "query", "schema": TEXT}
    saved = {"name": "saved", "in": "query", "schema": TEXT}
    cookie = {"name": "aifeedback_rater", "in": "cookie", "schema": TEXT}
    html = {str(status): {"description": "a page"} for status in (200, 303, 403, 404, 405, 409, 413, 422)}
    paths: dict[str, Any] = {
        f"{at}{page}": {"get": {"parameters": [*place, query, saved, cookie], "responses": html}}
        for at, place in (("/", []), ("/u/{who}/", [who]))
        for page in ("", "mine", "item", "keys.js", "alive")
    }
    paths["/r/{who}"] = {"get": {"parameters": [who], "responses": html}}
    body = {"content": {"application/x-www-form-urlencoded": {"schema": FORM}}, "required": True}
    for at, place in (("/", []), ("/u/{who}/", [who])):
        for act in ("rate", "skip", "reveal"):
            paths[f"{at}{act}"] = {"post": {"parameters": [*place, cookie], "requestBody": body, "responses": html}}
    return {"openapi": "3.0.3", "info": {"title": "rating", "version": "1"}, "paths": paths}


SCHEMA = schemathesis.openapi.from_dict(described())
BOUNDED = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Assignment:
    return assignment(tmp_path_factory.mktemp("fuzz"), [*pairs(2), *pairs(1, harmful=True, text="Bad"), *ranked()])


@pytest.fixture(scope="module")
def strangers(where: Assignment) -> Iterator[Any]:
    with TestClient(create_app(where), base_url=HOST, raise_server_exceptions=False, follow_redirects=False) as client:
        yield client


@pytest.fixture(scope="module")
def raters(where: Assignment) -> Iterator[Any]:
    """One who came in by the secret link: every request carries that cookie."""
    with TestClient(create_app(where), base_url=HOST, raise_server_exceptions=False, follow_redirects=False) as client:
        link = where.store.invite(where.raters)["anna"]
        client.headers["cookie"] = client.get(f"/r/{link}").headers["set-cookie"].partition(";")[0]
        yield client


def answer(case: Any, client: Any, **more: str) -> Any:
    sent = case.as_transport_kwargs(base_url=HOST)
    headers = {key: value for key, value in (sent.get("headers") or {}).items() if key.lower() != "cookie"}
    data = sent.get("data")
    if isinstance(data, dict):
        data = {**data, **more}
    return client.request(sent["method"], sent["url"], params=sent.get("params"), headers=headers, data=data)


def require_page(response: Any) -> None:
    assert response.status_code < 500, response.text[:500]
    assert response.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
    assert response.headers["cache-control"] == "no-store"


@SCHEMA.parametrize()
@BOUNDED
def test_strangers_get_a_page_and_change_nothing(case: Any, where: Assignment, strangers: Any) -> None:
    require_page(answer(case, strangers))
    assert where.store.ratings() == []


@SCHEMA.parametrize()
@BOUNDED
def test_a_rater_gets_a_page_and_stores_nothing_unsigned(case: Any, where: Assignment, raters: Any) -> None:
    response = answer(case, raters)
    require_page(response)
    if "{who}" not in case.path:  # a path of another rater's is closed to this one
        assert response.status_code != 403
    assert where.store.ratings() == []


@SCHEMA.include(path="/rate").parametrize()
@BOUNDED
def test_a_signed_form_with_anything_else_in_it_is_answered(case: Any, where: Assignment, raters: Any) -> None:
    """Everything that a browser sends is right but the verdict and the comment."""
    signed = fields(raters.get("/").text)
    require_page(answer(case, raters, **signed))
    for rating in where.store.ratings():
        assert rating.choice in ("first", "second", "tie", "cannot_tell")
