"""The rating page: server-rendered, one item at a time, each person by an own secret link.

What keeps others out (R20): a token per rater, exchanged once for a cookie that scripts and other sites cannot use; a
form signed for this rater, item, order and time; Origin and Host are checked; nothing may frame the page, and no script
runs but ``keys.js``, which only presses buttons; the book holds one rating per person and item, so a double click or a
second tab stores nothing more. Texts of harmful items are not even sent before the person asks to see them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from aifeedback.audit.page import visible
from aifeedback.errors import MissingExtra
from aifeedback.rating.desk import Desk, read_form, signed_item, stamp

try:
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware
except ModuleNotFoundError:
    raise MissingExtra("fastapi", "web") from None

COOKIE = "aifeedback_rater"
LARGEST_FORM = 64 * 1024
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # not no-referrer: browsers would then send "Origin: null" with our own forms
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def create_app(desk: Desk) -> FastAPI:
    """The application. Raises MissingExtra, on import, where the web extra is not installed."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*desk.hosts], www_redirect=False)

    @app.middleware("http")
    async def _closed(request: Request, call_next: Any) -> Response:
        refused = _refusal(request)
        response = refused if refused is not None else await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.get("/r/{token}")
    def enter(token: str) -> Response:
        if desk.book.rater_of(token) is None:
            return _stranger()
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(COOKIE, token, httponly=True, samesite="lax", path="/", max_age=30 * 24 * 3600)
        return response

    @app.get("/")
    def show(request: Request, skip: str = "") -> Response:
        rater = desk.book.rater_of(request.cookies.get(COOKIE))
        return _stranger() if rater is None else HTMLResponse(_page(desk, rater, skip))

    @app.get("/keys.js")
    def keys() -> Response:
        return Response(_source("keys.js"), media_type="text/javascript")

    @app.post("/reveal")
    async def reveal(request: Request) -> Response:
        return await _taken(desk, request, _reveal)

    @app.post("/rate")
    async def rate(request: Request) -> Response:
        return await _taken(desk, request, _rate)

    return app


async def _taken(desk: Desk, request: Request, act: Callable[[Desk, str, Mapping[str, str]], str]) -> Response:
    """A rater's form: ``act`` does what it says and returns what is wrong with it, or nothing; then the next item."""
    rater, form = desk.book.rater_of(request.cookies.get(COOKIE)), await _form(request)
    if rater is None:
        return _stranger()
    problem = act(desk, rater, form)
    if problem:
        return HTMLResponse(_page(desk, rater, "", problem), status_code=422)
    return RedirectResponse("/", status_code=303)


def _reveal(desk: Desk, rater: str, form: Mapping[str, str]) -> str:
    item, problem = signed_item(desk, rater, form)
    if item is not None and item.is_harmful:
        desk.book.expose(rater, item.id, stamp(desk), most=desk.most_harmful)
    return problem


def _rate(desk: Desk, rater: str, form: Mapping[str, str]) -> str:
    rating, problem = read_form(desk, rater, form)
    if rating is not None and desk.book.add(rating):
        desk.saved(*desk.progress())
    return problem


async def _form(request: Request) -> dict[str, str]:
    return {key: str(value) for key, value in (await request.form()).items()}


def _refusal(request: Request) -> Response | None:
    """A form posted from another site, or one that is too large, is refused before anything reads it."""
    if request.method not in ("GET", "HEAD", "POST"):
        return PlainTextResponse("not allowed", status_code=405)
    if request.method != "POST":
        return None
    length = request.headers.get("content-length", "")
    if not length.isdigit() or int(length) > LARGEST_FORM:
        return PlainTextResponse("too large", status_code=413)
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    is_foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if is_foreign or site in ("cross-site", "same-site"):
        return PlainTextResponse("forms are taken from this page only", status_code=403)
    return None


def _stranger() -> Response:
    return HTMLResponse(_render("stranger.html.j2"), status_code=403)


def _page(desk: Desk, rater: str, skip: str, problem: str = "") -> str:
    done, own = desk.book.rated_by(rater), desk.given.get(rater, [])
    item = desk.next_for(rater, skip)
    counted = {
        "done": sum(i.id in done for i in own),
        "total": len(own),
        "held": len(desk.held_back(rater)),
        "seen": len(desk.book.exposed_to(rater)),
        "most": desk.most_harmful,
        "rater": rater,
        "problem": problem,
    }
    if item is None:
        return _render("done.html.j2", **counted)
    order, hidden = item.order_for(rater, desk.seed), desk.is_hidden(rater, item)
    shown_at = f"{desk.now():.3f}"
    shape = _blocks if hidden else visible
    return _render(
        "item.html.j2",
        **counted,
        item=item,
        prompt=shape(item.prompt.text),
        answers=[shape(item.answers[index].text) for index in order],
        question=desk.question,
        hidden=hidden,
        is_last=len(desk.waiting(rater)) == 1,
        shown_at=shown_at,
        signature=desk.book.sign(rater, item.id, order, shown_at),
        letters="ABCDEFGH",
    )


def _blocks(text: str) -> str:
    """The shape of a text without its words: what stands in for one that is hidden."""
    return re.sub(r"\S", "▒", text[:600])


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


def _source(name: str) -> str:
    return (files("aifeedback.rating") / "templates" / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined)
