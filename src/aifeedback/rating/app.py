"""The rating page: server-rendered, no script, one item at a time, each person by an own secret link.

What keeps others out (R20): a token per rater, exchanged once for a cookie that scripts and other sites cannot use; a
form signed for this rater, item, order and time; Origin and Host are checked; nothing may frame or script the page;
and the book holds one rating per person and item, so a double click or a second tab stores nothing more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from aifeedback.audit.page import visible
from aifeedback.errors import MissingExtra
from aifeedback.rating.book import RatingBook
from aifeedback.rating.items import Item, shares
from aifeedback.records import Rating

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
COOKIE = "aifeedback_rater"
LONGEST_COMMENT = 2000
LARGEST_FORM = 64 * 1024
FORM_LASTS_S = 24 * 3600.0
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Desk:
    """Everything the page needs to know."""

    book: RatingBook
    items: Sequence[Item]
    raters: Sequence[str]
    question: str = "Which response is better?"
    blur: bool = False
    """Texts stay blurred until clicked; for harmful content."""
    per_item: int | None = None
    """Raters per item; everyone rates everything when not given."""
    seed: int = 0
    hosts: Sequence[str] = LOOPBACK
    """Host names that requests may carry."""
    now: Callable[[], float] = time.time
    """Seconds since 1970."""
    given: Mapping[str, list[Item]] = field(init=False)

    def __post_init__(self) -> None:
        split = shares(self.items, self.raters, per_item=self.per_item, seed=self.seed)
        object.__setattr__(self, "given", split)

    def next_for(self, rater: str, skip: str = "") -> Item | None:
        """The first item of this person's share that is not rated yet; a skipped one comes last."""
        done = self.book.rated_by(rater)
        waiting = [item for item in self.given.get(rater, ()) if item.id not in done]
        return next((item for item in waiting if item.id != skip), waiting[0] if waiting else None)

    def item(self, rater: str, item_id: str) -> Item | None:
        return next((item for item in self.given.get(rater, ()) if item.id == item_id), None)


def create_app(desk: Desk) -> Any:
    """The FastAPI application. Raises MissingExtra where the web extra is not installed."""
    try:
        from fastapi import FastAPI, Request
        from fastapi.responses import HTMLResponse, RedirectResponse
        from starlette.middleware.trustedhost import TrustedHostMiddleware
    except ImportError:
        raise MissingExtra("fastapi", "web") from None

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*desk.hosts], www_redirect=False)

    @app.middleware("http")
    async def _closed(request: Request, call_next: Any) -> Any:
        refused = _refusal(request)
        response = refused if refused is not None else await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.get("/r/{token}")
    def enter(token: str) -> Any:
        if desk.book.rater_of(token) is None:
            return _stranger()
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(COOKIE, token, httponly=True, samesite="lax", path="/", max_age=30 * 24 * 3600)
        return response

    @app.get("/")
    def show(request: Request, skip: str = "") -> Any:
        rater = desk.book.rater_of(request.cookies.get(COOKIE))
        return _stranger() if rater is None else HTMLResponse(_page(desk, rater, skip))

    @app.post("/rate")
    async def rate(request: Request) -> Any:
        rater = desk.book.rater_of(request.cookies.get(COOKIE))
        if rater is None:
            return _stranger()
        form = {key: str(value) for key, value in (await request.form()).items()}
        rating, problem = read_form(desk, rater, form)
        if rating is None:
            return HTMLResponse(_page(desk, rater, "", problem), status_code=422)
        desk.book.add(rating)
        return RedirectResponse("/", status_code=303)

    return app


def read_form(desk: Desk, rater: str, form: Mapping[str, str]) -> tuple[Rating | None, str]:
    """The rating that a form holds, or None and what is wrong with it."""
    item = desk.item(rater, form.get("item", ""))
    if item is None:
        return None, "This item is not one of yours."
    shown_at, order = form.get("shown_at", ""), item.order_for(rater, desk.seed)
    if not desk.book.is_signed(form.get("signature", ""), rater, item.id, order, shown_at):
        return None, "This form was not made for you, or it was changed. Please answer the question below."
    seconds = desk.now() - float(shown_at)
    if not 0 <= seconds <= FORM_LASTS_S:
        return None, "This form is more than a day old. Please answer the question below."
    choice, ranking = _pair_choice(form, order) if item.is_pair else _ranking(form, order)
    if choice is None and ranking is None:
        return None, "Please choose an answer first." if item.is_pair else "Please give every response a rank first."
    rating = Rating(
        item_id=item.id,
        rater=rater,
        choice=choice,
        ranking=ranking,
        order_shown=order,
        seconds=round(seconds, 1),
        at=datetime.fromtimestamp(desk.now(), UTC).isoformat(timespec="seconds"),
        comment=form.get("comment", "").strip()[:LONGEST_COMMENT] or None,
    )
    return rating, ""


def _pair_choice(form: Mapping[str, str], order: Sequence[int]) -> tuple[Any, None]:
    """Storage side of the chosen place, tie or cannot_tell; None where nothing was chosen."""
    chosen = form.get("choice", "")
    if chosen in ("tie", "cannot_tell"):
        return chosen, None
    if chosen in ("0", "1"):
        return ("first", "second")[order[int(chosen)]], None
    return None, None


def _ranking(form: Mapping[str, str], order: Sequence[int]) -> tuple[Any, tuple[int, ...] | None]:
    """Rank of each answer in storage order; ties allowed; everything must be ranked, or nothing with 'cannot tell'."""
    if form.get("choice") == "cannot_tell":
        return "cannot_tell", None
    ranks = [form.get(f"rank-{place}", "") for place in range(len(order))]
    if any(rank not in {str(r) for r in range(1, len(order) + 1)} for rank in ranks):
        return None, None
    stored = [0] * len(order)
    for place, rank in enumerate(ranks):
        stored[order[place]] = int(rank)
    return None, tuple(stored)


def _refusal(request: Any) -> Any:
    """A form posted from another site, or one that is too large, is refused before anything reads it."""
    from fastapi.responses import PlainTextResponse

    if request.method not in ("GET", "HEAD", "POST"):
        return PlainTextResponse("not allowed", status_code=405)
    if request.method != "POST":
        return None
    if int(request.headers.get("content-length") or LARGEST_FORM + 1) > LARGEST_FORM:
        return PlainTextResponse("too large", status_code=413)
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    is_foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if is_foreign or site in ("cross-site", "same-site"):
        return PlainTextResponse("forms are taken from this page only", status_code=403)
    return None


def _stranger() -> Any:
    from fastapi.responses import HTMLResponse

    return HTMLResponse(_render("stranger.html.j2"), status_code=403)


def _page(desk: Desk, rater: str, skip: str, problem: str = "") -> str:
    done, own = desk.book.rated_by(rater), desk.given.get(rater, [])
    item = desk.next_for(rater, skip)
    counted = {"done": sum(i.id in done for i in own), "total": len(own), "rater": rater, "problem": problem}
    if item is None:
        return _render("done.html.j2", **counted)
    order = item.order_for(rater, desk.seed)
    shown_at = f"{desk.now():.3f}"
    return _render(
        "item.html.j2",
        **counted,
        item=item,
        answers=[item.answers[index].text for index in order],
        question=desk.question,
        blur=desk.blur,
        shown_at=shown_at,
        signature=desk.book.sign(rater, item.id, order, shown_at),
        letters="ABCDEFGH",
    )


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def source(name: str) -> str:
        return (files("aifeedback.rating") / "templates" / name).read_text(encoding="utf-8")

    environment = Environment(loader=FunctionLoader(source), autoescape=True, undefined=StrictUndefined)
    environment.filters["visible"] = visible
    return environment
