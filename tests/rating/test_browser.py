"""The rating page in a real browser: keyboard alone, double clicks, payloads, phone width, no word to the outside."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aifeedback.rating.desk import Desk
from aifeedback.rating.items import items_of_comparisons
from aifeedback.records import Comparison, Completion, Prompt

from .desks import XSS, desk, pairs, ranked

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.server,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@contextmanager
def served(where: Desk) -> Iterator[str]:
    """The address of the page while it runs."""
    uvicorn = pytest.importorskip("uvicorn")
    from aifeedback.rating.app import create_app
    from aifeedback.rating.serve import listening

    with listening("127.0.0.1", 0) as door:
        server = uvicorn.Server(uvicorn.Config(create_app(where), log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=10)


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def opened(browser: Any, where: Desk, **options: Any) -> Iterator[Any]:
    with served(where) as address:
        context = browser.new_context(**options)
        context.set_default_timeout(120_000)  # a busy machine is no fault of the page
        page = context.new_page()
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(f"{address}/r/{where.book.invite(where.raters)[where.raters[0]]}")
        yield page
        assert all(url.startswith(address) for url in page.asked)
        context.close()


def test_pairs_are_rated_with_the_keyboard_alone(tmp_path: Path, browser: Any) -> None:
    where = desk(tmp_path, pairs(3))
    with opened(browser, where) as page:
        for key, comment in (("1", ""), ("2", "1 and 2, both fine"), ("3", "")):
            page.keyboard.press(key)
            if comment:
                page.keyboard.press("c")
                page.keyboard.type(comment)
                with page.expect_navigation():
                    page.keyboard.press("Control+Enter")
            else:
                with page.expect_navigation():
                    page.keyboard.press("Enter")
        assert "everything is rated" in page.inner_text("main")
    ratings = where.book.ratings()
    assert [r.choice for r in ratings][2] == "tie"
    assert [r.choice for r in ratings][:2] == [("first", "second")[ratings[i].order_shown[i]] for i in range(2)]
    assert ratings[1].comment == "1 and 2, both fine"  # typed digits choose nothing


def test_rankings_are_given_with_the_keyboard_alone(tmp_path: Path, browser: Any) -> None:
    where = desk(tmp_path, ranked())
    with opened(browser, where) as page:
        for key in ("2", "1", "3"):
            page.keyboard.press(key)
        page.keyboard.press("ArrowUp")
        page.keyboard.press("2")  # the second of them after all
        with page.expect_navigation():
            page.keyboard.press("Enter")
    rating = where.book.ratings()[0]
    assert rating.ranking is not None
    assert [rating.ranking[i] for i in rating.order_shown] == [2, 2, 3]


def test_payloads_are_text_and_nothing_runs(tmp_path: Path, browser: Any) -> None:
    prompt = Prompt.of(XSS)
    pair = Comparison.of(prompt, *(Completion.of(prompt, XSS + end, source="m") for end in "ab"))
    with opened(browser, desk(tmp_path, items_of_comparisons([pair]))) as page:
        assert page.title() == "Rating"
        assert page.inner_text(".prompt .text") == XSS
        assert page.locator("main img").count() == 0


def test_a_double_click_stores_one_rating_and_skips_none(tmp_path: Path, browser: Any) -> None:
    where = desk(tmp_path, pairs(3))
    with opened(browser, where) as page:
        page.keyboard.press("1")
        with page.expect_navigation():
            page.dblclick(".go button")
        page.wait_for_load_state()
        assert "1 of 3 done" in page.inner_text("main")
    assert len(where.book.ratings()) == 1


def test_harmful_texts_are_hidden_until_asked_for_and_counted(tmp_path: Path, browser: Any) -> None:
    where = desk(tmp_path, pairs(1, harmful=True, text="Terrible"), most_harmful=5)
    with opened(browser, where) as page:
        assert "Terrible" not in page.content()
        assert "blur" in page.eval_on_selector(".prompt .text", "e => getComputedStyle(e).filter")
        with page.expect_navigation():
            page.keyboard.press("s")
        assert "Terrible 0" in page.inner_text(".prompt")
        assert "1 of at most 5" in page.inner_text("header")
        assert page.eval_on_selector(".prompt .text", "e => getComputedStyle(e).filter") == "none"
    assert len(where.book.exposed_to("anna")) == 1


def test_it_works_without_scripts(tmp_path: Path, browser: Any) -> None:
    where = desk(tmp_path, pairs(1))
    with opened(browser, where, java_script_enabled=False) as page:
        page.check("input[value=tie]")
        with page.expect_navigation():
            page.click(".go button")
    assert where.book.ratings()[0].choice == "tie"


def test_another_site_cannot_post_a_rating(tmp_path: Path, browser: Any) -> None:
    """A page of another origin sends the very form; the browser names that origin, and the cookie stays at home."""
    where = desk(tmp_path, pairs(1))
    with opened(browser, where) as page:
        form = page.eval_on_selector("form.rate", "e => Object.fromEntries(new FormData(e))")
        address = page.url
        page.goto("about:blank")
        inputs = "".join(f'<input name="{k}" value="{v}">' for k, v in {**form, "choice": "0"}.items())
        page.set_content(f'<form method="post" action="{address}rate">{inputs}<button>go</button></form>')
        with page.expect_response(lambda response: response.url.endswith("/rate")) as answer:
            page.click("button")
        assert answer.value.status == 403
    assert where.book.ratings() == []


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out_at_phone_and_desktop_width(tmp_path: Path, browser: Any, width: int) -> None:
    long = pairs(1, text="averyveryverylongwordthatcannotbebroken" * 10)
    with opened(browser, desk(tmp_path, [*long, *ranked()]), viewport={"width": width, "height": 800}) as page:
        for _ in range(2):
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            with page.expect_navigation():
                page.keyboard.press("l")


def test_on_paper_a_long_prompt_is_whole(tmp_path: Path, browser: Any) -> None:
    with opened(browser, desk(tmp_path, pairs(1, text="word " * 3000))) as page:
        page.emulate_media(media="print")
        box = page.locator(".prompt")
        assert box.evaluate("e => e.scrollHeight <= e.clientHeight + 1")
        assert not page.locator("button[type=submit]").last.is_visible()
