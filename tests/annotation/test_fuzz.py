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
CHECKS = pytest.importorskip("schemathesis.checks")
CONFORMS = [CHECKS.not_a_server_error, CHECKS.status_code_conformance, CHECKS.content_type_conformance]
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
    paths: dict[str, Any] = {
        f"{at}{page}": {"get": {"parameters": [*place, query, saved, cookie], "responses": responses(*statuses)}}
        for at, place in (("/", []), ("/u/{who}/", [who]))
        for page, statuses in (("", (200, 403)), ("mine", (200, 403)), ("item", (200, 303, 403)))
    }
    for page, media in (("keys.js", "text/javascript"), ("alive", "text/plain")):
        for at, place in (("/", []), ("/u/{who}/", [who])):
            paths[f"{at}{page}"] = {"get": {"parameters": place, "responses": responses(200, media=media)}}
    paths["/r/{who}"] = {"get": {"parameters": [who], "responses": responses(303, 403)}}
    body = {"content": {"application/x-www-form-urlencoded": {"schema": FORM}}, "required": True}
    for at, place in (("/", []), ("/u/{who}/", [who])):
        for act in ("rate", "skip", "reveal"):
            answers = responses(303, 403, 409, 422)
            paths[f"{at}{act}"] = {"post": {"parameters": [*place, cookie], "requestBody": body, "responses": answers}}
    return {"openapi": "3.0.3", "info": {"title": "rating", "version": "1"}, "paths": paths}


def responses(*statuses: int, media: str = "text/html") -> dict[str, Any]:
    pages = {"content": {media: {"schema": {"type": "string"}}}}
    return {str(status): {"description": "", **({} if status == 303 else pages)} for status in statuses}


SCHEMA = schemathesis.openapi.from_dict(described())


def bounded(examples: int) -> settings:
    return settings(
        max_examples=examples,
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


def require_page(case: Any, response: Any) -> None:
    """No error of the page's own, a status and a media type as described, and closed to whatever a text might load."""
    case.validate_response(response, checks=CONFORMS)
    assert response.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
    assert response.headers["cache-control"] == "no-store"


@SCHEMA.parametrize()
@bounded(3)
def test_strangers_get_a_page_and_change_nothing(case: Any, where: Assignment, strangers: Any) -> None:
    require_page(case, answer(case, strangers))
    assert where.store.ratings() == []


@SCHEMA.parametrize()
@bounded(5)
def test_a_rater_gets_a_page_and_stores_nothing_unsigned(case: Any, where: Assignment, raters: Any) -> None:
    response = answer(case, raters)
    require_page(case, response)
    if "{who}" not in case.path:  # a path of another rater's is closed to this one
        assert response.status_code != 403
    assert where.store.ratings() == []


@SCHEMA.include(path_regex="^/(rate|skip|reveal)$").parametrize()
@bounded(10)
def test_a_signed_form_with_anything_else_in_it_is_answered(case: Any, where: Assignment, raters: Any) -> None:
    """Everything that a browser sends is right but the verdict and the comment."""
    signed = fields(raters.get("/").text)
    require_page(case, answer(case, raters, **signed))
    for rating in where.store.ratings():
        assert rating.choice in ("first", "second", "tie", "cannot_tell")


@pytest.mark.parametrize(
    ("media", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"--y\r\nnothing"),
        (
            "multipart/form-data; boundary=x; charset=nonsense",
            b'--x\r\nContent-Disposition: form-data; name="item"\r\n\r\n\xff\r\n--x--',
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="comment"; filename="a"\r\n\r\n\0\r\n--x--',
        ),
        ("application/json", b'{"item": 1}'),
        ("application/x-www-form-urlencoded", b"item=%ff%00&choice=%ud800&&&=&signature=%c3%28"),
        ("\xff", b""),
    ],
)
def test_bodies_that_no_form_of_the_page_sends_are_refused(media: str, body: bytes, raters: Any) -> None:
    response = raters.post("/rate", content=body, headers={"content-type": media.encode("latin-1")})
    assert response.status_code in (400, 422), response.text[:300]
