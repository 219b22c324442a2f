"""The rating page: server-rendered, one item at a time, one secret link per rater; and the command that serves it.

What keeps others out: a token per rater, exchanged once for a cookie that scripts and other sites cannot use; a form
signed for this rater, item, order and time; Origin and Host are checked; nothing may frame the page, and no script runs
but ``keys.js``; the store holds one rating per rater and item, so a double click or a second tab stores nothing more,
and a correction is a new row that names the one it replaces. Texts of harmful items are not sent before the rater asks
to see them.

Every rater has a path of their own (``/u/…/``) with its cookie, so that two windows or two projects in one browser do
not meet. Whatever a refused form held is shown again. Nothing waits for the disk on the event loop.

Texts are Markdown rendered without HTML, links or images, every block in its own direction.
"""

from __future__ import annotations

import json
import os
import re
import socket
import unicodedata
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from markupsafe import Markup

from aifeedback.annotation.assignment import (
    LOOPBACK,
    Assignment,
    Guidelines,
    entered,
    entry_of,
    feedback,
    order_of,
    read_form,
    same_verdict,
    signed_item,
    signed_parts,
    stamp,
)
from aifeedback.annotation.items import Item, Route
from aifeedback.annotation.results import summarise
from aifeedback.annotation.store import RatingStore, StoreUnavailable
from aifeedback.errors import InputError, MissingExtra
from aifeedback.reports.page import visible
from aifeedback.storage import make_folder
from aifeedback.types import Rating

try:
    import anyio
    from anyio.to_thread import run_sync
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware
except ModuleNotFoundError:
    raise MissingExtra("fastapi", "web") from None


JOINERS = "\u200c\u200d"
"""Zero-width characters that spell words in Persian, Arabic and Indic scripts."""
MARKS = "\u200e\u200f\u061c"
"""Direction marks of ordinary right-to-left text."""
_BREAKS = {ord("\n"): None, ord("\t"): None}
BLOCKS = ("paragraph_open", "heading_open", "bullet_list_open", "ordered_list_open", "blockquote_open", "th_open",
          "td_open")  # fmt: skip


def readable(text: str) -> str:
    """``text`` with its hidden characters made visible, except those that its script is written with."""
    if text.translate(_BREAKS).isprintable():  # a page spends most of its time here
        return text
    has_rtl = any(unicodedata.bidirectional(c) in ("R", "AL") for c in text)
    return "".join(c if _is_spelling(c, text[i - 1] if i else "", has_rtl) else visible(c) for i, c in enumerate(text))


def _is_spelling(character: str, before: str, has_rtl: bool) -> bool:
    if character in MARKS and has_rtl:
        return True
    if character not in JOINERS or not before:
        return False
    return unicodedata.category(before)[0] in "LM" and not unicodedata.name(before, "LATIN").startswith("LATIN")


def rich(text: str) -> Markup:
    """Markdown as HTML that cannot load, link or run anything; line breaks stay where they are."""
    return Markup(_markdown().render(readable(text)))


@lru_cache(maxsize=1)
def _markdown() -> Any:
    try:
        from markdown_it import MarkdownIt
    except ModuleNotFoundError:
        raise MissingExtra("markdown-it-py", "web") from None

    # links and images stay as they were typed: a rater must see where they lead, and must not be led there
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.disable(["link", "image", "autolink", "reference", "html_block", "html_inline", "code"])
    parser.core.ruler.push("direction", _with_direction)
    for name in ("fence", "code_block"):
        parser.add_render_rule(name, _code)
    for name in ("softbreak", "hardbreak"):
        parser.add_render_rule(name, _line_break)
    return parser


def _with_direction(state: Any) -> None:
    for token in state.tokens:
        if token.type in BLOCKS:
            token.attrSet("dir", "auto")


def _code(_renderer: Any, tokens: Sequence[Any], place: int, *_: Any) -> str:
    token = tokens[place]
    language = Markup.escape(token.info.split()[0]) if token.info.strip() else ""
    name = f'<div class="language">{language}</div>' if language else ""
    # tabindex: wide code scrolls sideways, also by keyboard
    return (
        f'<div class="code">{name}<pre tabindex="0" dir="ltr"><code>{Markup.escape(token.content)}</code></pre></div>'
    )


def _line_break(*_: Any) -> str:
    return "\n"


COOKIE = "aifeedback_rater"
LARGEST_FORM = 64 * 1024
WRITERS = 8
"""Requests that may wait for the store at once; the others wait without holding a thread that readers need."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # not no-referrer: browsers would then send "Origin: null" with our own forms
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
SIGNED = ("item", "shown_at", "signature", "order", "revision")
"""Fields of a form that say what it is about; the others are what a rater entered."""
Act = Callable[[Assignment, str, Mapping[str, str]], "Page"]


class Page(NamedTuple):
    """What a request ends in: a page, or another address relative to the rater's own."""

    html: str = ""
    status: int = 200
    goto: str | None = None


def create_app(assignment: Assignment) -> FastAPI:
    """The application. Raises MissingExtra, on import, where the web extra is not installed."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*assignment.hosts], www_redirect=False)
    cookie = f"{COOKIE}_{assignment.store.public_id()}"
    writers = anyio.CapacityLimiter(WRITERS)

    @app.middleware("http")
    async def _closed(request: Request, call_next: Any) -> Response:
        refused = _refusal(request)
        response = refused if refused is not None else await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(StoreUnavailable)
    async def _unavailable(request: Request, cause: StoreUnavailable) -> Response:
        return _trouble(cause)

    @app.get("/r/{token}")
    def enter(token: str) -> Response:
        rater = assignment.store.rater_of(token)
        if rater is None:
            return _stranger()
        home = f"/u/{assignment.store.public_id(rater)}/"
        response = RedirectResponse(home, status_code=303)
        for path in (home, "/"):
            response.set_cookie(cookie, token, httponly=True, samesite="lax", path=path, max_age=30 * 24 * 3600)
        return response

    @app.get("/keys.js")
    @app.get("/u/{who}/keys.js")
    def keys() -> Response:
        return Response(_source("keys.js"), media_type="text/javascript")

    @app.get("/alive")
    @app.get("/u/{who}/alive")
    def alive() -> Response:
        return PlainTextResponse("yes")

    def shown(page: Callable[[str], Page], request: Request, who: str) -> Response:
        rater = _rater(assignment, request, cookie, who)
        return _stranger() if rater is None else _response(page(rater), who)

    @app.get("/")
    @app.get("/u/{who}/")
    def show(request: Request, who: str = "", saved: str = "") -> Response:
        return shown(partial(_next, assignment, saved=saved), request, who)

    @app.get("/mine")
    @app.get("/u/{who}/mine")
    def mine(request: Request, who: str = "") -> Response:
        return shown(partial(_mine, assignment), request, who)

    @app.get("/item")
    @app.get("/u/{who}/item")
    def again(request: Request, id: str = "", who: str = "") -> Response:
        return shown(partial(_again, assignment, item_id=id), request, who)

    async def taken(act: Act, request: Request, who: str) -> Response:
        """A rater's form: ``act`` does what it says, in a thread, as soon as one of the writers is free."""
        form = await _form(request)
        try:
            rater = await run_sync(_rater, assignment, request, cookie, who)
            if rater is None:
                return _stranger(form)
            try:
                with anyio.fail_after(assignment.store.patience_s):
                    await writers.acquire_on_behalf_of(request)
            except TimeoutError:
                busy = StoreUnavailable(assignment.store.path, None)
                return _response(await run_sync(_refused, assignment, rater, form, busy.reason), who)
            try:
                return _response(await run_sync(_careful, act, assignment, rater, form), who)
            finally:
                writers.release_on_behalf_of(request)
        except StoreUnavailable as cause:  # not even the item can be read to be shown again
            return _trouble(cause, form, action=request.url.path.rpartition("/")[2])

    @app.post("/reveal")
    @app.post("/u/{who}/reveal")
    async def reveal(request: Request, who: str = "") -> Response:
        return await taken(_reveal, request, who)

    @app.post("/skip")
    @app.post("/u/{who}/skip")
    async def skip(request: Request, who: str = "") -> Response:
        return await taken(_skip, request, who)

    @app.post("/rate")
    @app.post("/u/{who}/rate")
    async def rate(request: Request, who: str = "") -> Response:
        return await taken(_rate, request, who)

    return app


def _rater(assignment: Assignment, request: Request, cookie: str, who: str) -> str | None:
    """Whose cookie this request carries; on a rater's path only theirs counts."""
    for token in _cookies(request, cookie):
        rater = assignment.store.rater_of(token)
        if rater is not None and (not who or assignment.store.public_id(rater) == who):
            return rater
    return None


def _cookies(request: Request, name: str) -> list[str]:
    """All cookies of this name: browsers send one for the rater's path and one for the whole page."""
    parts = [part.strip().partition("=") for part in request.headers.get("cookie", "").split(";")]
    return [value.strip('"') for key, _, value in parts if key == name]


def _response(page: Page, who: str) -> Response:
    if page.goto is not None:
        return RedirectResponse((f"/u/{who}/" if who else "/") + page.goto, status_code=303)
    return HTMLResponse(page.html, status_code=page.status)


def _careful(act: Act, assignment: Assignment, rater: str, form: Mapping[str, str]) -> Page:
    try:
        return act(assignment, rater, form)
    except StoreUnavailable as cause:
        return _refused(assignment, rater, form, cause.reason)


def _refused(assignment: Assignment, rater: str, form: Mapping[str, str], reason: str) -> Page:
    """The form again with everything entered, because saving failed."""
    problem = f"{reason} Your answer is not saved yet; it is kept below. Please wait a moment and save again."
    return _form_again(assignment, rater, form, problem, 503)


def _form_again(assignment: Assignment, rater: str, form: Mapping[str, str], problem: str, status: int) -> Page:
    item = assignment.item(rater, form.get("item", ""))
    if item is None:
        return Page(_next(assignment, rater, problem=problem, lost=form.get("comment", "")).html, status)
    order, now = order_of(assignment, rater, item, form), item.order_for(rater, assignment.seed)
    latest = assignment.latest(rater, item)
    if latest is not None:
        now = latest.order_shown
    entry = _moved(entered(form), order, now)
    return Page(_item(assignment, rater, item, entry=entry, problem=problem, latest=latest), status)


def _moved(entry: Mapping[str, str], order: tuple[int, ...], now: tuple[int, ...]) -> dict[str, str]:
    """What was entered about responses in one order, for a form that shows them in another."""
    places = {str(place): str(now.index(index)) for place, index in enumerate(order)}
    moved = {}
    for key, value in entry.items():
        if key == "choice":
            value = places.get(value, value)
        elif key.startswith("rank-"):
            key = f"rank-{places.get(key[5:], key[5:])}"
        moved[key] = value
    return moved


def _reveal(assignment: Assignment, rater: str, form: Mapping[str, str]) -> Page:
    item, problem = signed_item(assignment, rater, form)
    if problem or item is None:
        return _form_again(assignment, rater, form, problem, 422)
    if item.is_harmful:
        assignment.store.expose(rater, item.id, stamp(assignment), most=assignment.most_harmful)
    return Page(goto="" if assignment.next_for(rater) == item else f"item?id={item.id}")


def _skip(assignment: Assignment, rater: str, form: Mapping[str, str]) -> Page:
    item, problem = signed_item(assignment, rater, form)
    if problem or item is None:
        return _form_again(assignment, rater, form, problem, 422)
    now = item.order_for(rater, assignment.seed)
    assignment.store.skip(rater, item.id, _moved(entered(form), order_of(assignment, rater, item, form), now))
    return Page(goto="")


def _rate(assignment: Assignment, rater: str, form: Mapping[str, str]) -> Page:
    rating, problem, item = read_form(assignment, rater, form)
    if rating is None or item is None:
        return _form_again(assignment, rater, form, problem, 422)
    if not assignment.save(rating):
        latest = assignment.latest(rater, item)
        if latest is None or not same_verdict(latest, assignment.catalogue.match(rating) or rating):
            problem = "You have rated this item already, perhaps in another window. Save to replace that rating."
            return _form_again(assignment, rater, form, problem, 409)
    return Page(goto="mine" if rating.revision else f"?saved={item.id}")


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form; several different values of one field are kept, one a line."""
    fields: dict[str, str] = {}
    for key, value in (await request.form()).multi_items():
        text = str(value)
        fields[key] = text if fields.get(key, text) == text else f"{fields[key]}\n{text}"
    return fields


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


def _stranger(form: Mapping[str, str] | None = None) -> Response:
    return HTMLResponse(_render("stranger.html.j2", lost=(form or {}).get("comment", "")), status_code=403)


def _trouble(cause: StoreUnavailable, form: Mapping[str, str] | None = None, *, action: str = "") -> Response:
    """The page where the store cannot be read; it holds a form that was sent, to be sent again as it was."""
    sent = {} if form is None else {key: form[key] for key in SIGNED if key in form} | entered(form)
    comment = sent.pop("comment", "")
    page = _render("trouble.html.j2", reason=cause.reason, sent=sent, comment=comment, action=action)
    return HTMLResponse(page, status_code=503)


def _next(assignment: Assignment, rater: str, *, saved: str = "", problem: str = "", lost: str = "") -> Page:
    """The next item, or thanks; after a calibration item, how it was decided."""
    waiting = assignment.waiting(rater)
    known = assignment.item(rater, saved) if saved in assignment.done(rater) else None
    latest = assignment.latest(rater, known) if known is not None and known.purpose == "calibration" else None
    around: dict[str, Any] = {
        "problem": problem,
        "lost": lost,
        "saved": saved if known is not None else "",
        "feedback": feedback(known, latest) if known is not None and latest is not None else None,
    }
    if not waiting:
        return Page(_render("done.html.j2", **_progress(assignment, rater), **around))
    entry = assignment.store.draft(rater, waiting[0].id)
    return Page(_item(assignment, rater, waiting[0], entry=entry, is_last=len(waiting) == 1, **around))


def _again(assignment: Assignment, rater: str, *, item_id: str) -> Page:
    """One item by its id: to correct its rating, or to rate it now."""
    item = assignment.item(rater, item_id)
    if item is None or item in assignment.held_back(rater):
        return Page(goto="")
    latest = assignment.latest(rater, item)
    if latest is not None and item.purpose == "calibration":
        return Page(goto="mine")  # its agreed verdict has been shown
    entry = assignment.store.draft(rater, item.id) if latest is None else entry_of(latest)
    return Page(_item(assignment, rater, item, entry=entry, latest=latest))


def _mine(assignment: Assignment, rater: str) -> Page:
    rows = [
        {
            "id": item.id,
            "prompt": "(hidden)" if item.is_harmful else _short(item.prompt.text),
            "verdict": _in_words(item, rating),
            "comment": rating.comment or "",
            "at": rating.at[:16].replace("T", " "),
            "corrected": rating.revision,
            "is_open": item.purpose != "calibration",
        }
        for item, rating in assignment.rated(rater)
        if assignment.item(rater, item.id) is not None
    ]
    skipped, done = assignment.store.skipped_by(rater), assignment.done(rater)
    waiting = [
        {"id": item.id, "prompt": "(hidden)" if item.is_harmful else _short(item.prompt.text)}
        for item in assignment.queues.get(rater, ())
        if item.id in skipped and item.id not in done
    ]
    return Page(_render("mine.html.j2", rows=rows, waiting=waiting, **_progress(assignment, rater)))


def _short(text: str) -> str:
    line = " ".join(readable(text).split())
    return line if len(line) <= 100 else f"{line[:99]}…"


def _in_words(item: Item, rating: Rating) -> str:
    if rating.choice == "cannot_tell":
        return "cannot tell"
    if rating.choice == "tie":
        return "equally good"
    if rating.choice is not None:
        return f"{'AB'[rating.order_shown.index(('first', 'second').index(rating.choice))]} is better"
    if rating.ranking is not None:
        return ", ".join(f"{'ABCDEFGH'[p]} {rating.ranking[i]}" for p, i in enumerate(rating.order_shown))
    if item.scale is not None and item.scale.is_yes_no:
        return "yes" if rating.value else "no"
    return f"{rating.value:g}"


def _progress(assignment: Assignment, rater: str) -> dict[str, Any]:
    done, own, skipped = assignment.done(rater), assignment.queues.get(rater, []), assignment.store.skipped_by(rater)
    return {
        "done": sum(i.id in done for i in own),
        "total": len(own),
        "skipped": sum(i.id in skipped and i.id not in done for i in own),
        "held": len(assignment.held_back(rater)),
        "seen": len(assignment.store.exposed_to(rater)),
        "most": assignment.most_harmful,
        "rater": rater,
        "guidelines": assignment.guidelines,
        "guidelines_text": rich(assignment.guidelines.text) if assignment.guidelines else "",
        "draft_of": f"{assignment.store.public_id()}/{assignment.store.public_id(rater)}",
    }


def _item(
    assignment: Assignment,
    rater: str,
    item: Item,
    *,
    entry: Mapping[str, str],
    problem: str = "",
    latest: Rating | None = None,
    is_last: bool = False,
    **around: Any,
) -> str:
    """The page of one item, with what was entered; ``latest`` is the rating that this form would replace."""
    hidden = assignment.is_hidden(rater, item)
    order = latest.order_shown if latest is not None else item.order_for(rater, assignment.seed)
    revision = 0 if latest is None else latest.revision + 1
    shown_at = f"{assignment.now():.3f}"
    return _render(
        "item.html.j2",
        **_progress(assignment, rater),
        **{"lost": "", "saved": "", "feedback": None, **around},
        problem=problem,
        item=item,
        turns=[_turn(m.role, m.content, hidden) for m in item.prompt.messages],
        answers=[_turn("", item.answers[index].text, hidden) for index in order],
        question=assignment.question_for(item),
        values=[] if item.scale is None else list(range(item.scale.low, item.scale.high + 1)),
        entry=entry,
        hidden=hidden,
        is_last=is_last,
        revision=revision,
        shown_at=shown_at,
        order=item.written(order),
        signature=assignment.store.sign(*signed_parts(rater, item, order, shown_at, revision)),
        letters="ABCDEFGH",
    )


def _turn(role: str, text: str, hidden: bool) -> dict[str, Any]:
    """A text as Markdown and as it is; of a hidden one only the shape is sent."""
    if hidden:
        blocks = re.sub(r"\S", "▒", text[:600])
        return {"role": role, "rich": blocks, "plain": blocks}
    return {"role": role, "rich": rich(text), "plain": readable(text)}


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


def _source(name: str) -> str:
    return (files("aifeedback.annotation") / "templates" / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def serve(
    items: Sequence[Item],
    raters: Sequence[str],
    where: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    names: Sequence[str] = (),
    links: str | Path | None = None,
    question: str = "Which response is better?",
    guidelines: Guidelines | None = None,
    most_harmful: int | None = None,
    volunteers: Sequence[str] | None = None,
    roles: Mapping[str, frozenset[str]] | None = None,
    routes: Sequence[Route] = (),
    per_item: int | None = None,
    calibration: Sequence[Item] = (),
    gold: Sequence[Item] = (),
    repeat_share: float = 0.0,
    seed: int = 0,
    tell: Callable[[str], None] = print,
    saved: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Serve until interrupted; return the summary of all ratings in the store.

    ``links`` is a file for the secret links, readable by its owner only: a later start keeps those in it. Without it
    every start makes new links and earlier ones stop working. On another ``host`` than loopback the page is open to the
    network: put TLS in front of it, and name the hosts that browsers will use (``names``). ``port`` 0 takes a free one.
    Raises InputError where nobody is to rate, nothing is to be rated, or the port is taken.
    """
    try:
        import uvicorn
    except ModuleNotFoundError:
        raise MissingExtra("uvicorn", "web") from None

    if not items or not raters:
        what = "there is nothing to rate" if not items else "no rater is named"
        raise InputError(what, key="items" if not items else "raters", fix="give at least one")
    own = [] if host in ("0.0.0.0", "::") else [host]
    known: list[str] = [*LOOPBACK, *names, *own]
    store = RatingStore(where)
    try:
        assignment = Assignment(
            store,
            items,
            raters,
            question=question,
            guidelines=guidelines,
            most_harmful=most_harmful,
            volunteers=volunteers,
            roles=roles or {},
            routes=routes,
            per_item=per_item,
            calibration=calibration,
            gold=gold,
            repeat_share=repeat_share,
            seed=seed,
            hosts=tuple(dict.fromkeys(known)),
            saved=saved,
        )
        if short := assignment.short():
            tell(f"! {short} items have fewer raters who may rate them than the {per_item} wanted")
        with listening(host, port) as listener:
            tokens = store.invite(raters, keep=_kept(links))
            if links is not None:
                _keep(links, tokens)
            shown, open_port = (names[0] if names else host), listener.getsockname()[1]
            for rater, token in tokens.items():
                tell(f"{rater}: http://{f'[{shown}]' if ':' in shown else shown}:{open_port}/r/{token}")
            saved(*assignment.progress())
            # the access log would hold the secret links
            config = uvicorn.Config(create_app(assignment), log_level="warning", access_log=False, server_header=False)
            with suppress(KeyboardInterrupt):  # how a person ends it
                uvicorn.Server(config).run(sockets=[listener])
        return summarise(items, store.ratings())
    finally:
        store.close()


class Running(NamedTuple):
    assignment: Assignment
    links: dict[str, str]
    """Rater → secret link."""


@contextmanager
def running(assignment: Assignment) -> Generator[Running]:
    """The page on a free loopback port, in a thread, until the block ends: for tests and simulated raters."""
    import threading
    import time

    import uvicorn

    with listening("127.0.0.1", 0) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        tokens = assignment.store.invite(assignment.raters)
        config = uvicorn.Config(create_app(assignment), log_level="warning", access_log=False, server_header=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield Running(assignment, {rater: f"{address}/r/{token}" for rater, token in tokens.items()})
        finally:
            server.should_exit = True
            thread.join(timeout=10)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises InputError where the address cannot be opened."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as cause:
        raise InputError(
            f"{host}:{port} cannot be opened: {cause.strerror}", key="port", fix="give another --port"
        ) from None


def _kept(links: str | Path | None) -> dict[str, str]:
    path = Path(links) if links is not None else None
    if path is None or not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return {str(name): str(token) for name, token in content.items()} if isinstance(content, dict) else {}


def _keep(links: str | Path, tokens: dict[str, str]) -> None:
    path = Path(links)
    make_folder(path.parent)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        json.dump(tokens, file, indent=1)
    partial.replace(path)
