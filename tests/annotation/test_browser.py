"""The rating page in a real browser: keyboard alone, double clicks, payloads, phone width, no word to the outside."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aifeedback.annotation.assignment import Assignment, Guidelines
from aifeedback.annotation.items import SCALES, items_of_comparisons, items_of_completions, single_items
from aifeedback.annotation.store import RatingStore
from aifeedback.types import Comparison, Completion, Prompt

from .pages import XSS, assignment, pairs, ranked

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.server,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@contextmanager
def served(where: Assignment) -> Iterator[str]:
    """The address of the page while it runs."""
    uvicorn = pytest.importorskip("uvicorn")
    from aifeedback.annotation.app import create_app, listening

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
def opened(browser: Any, where: Assignment, **options: Any) -> Iterator[Any]:
    with served(where) as address:
        context = browser.new_context(**options)
        context.set_default_timeout(120_000)  # a busy machine is no fault of the page
        page = context.new_page()
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(f"{address}/r/{where.store.invite(where.raters)[where.raters[0]]}")
        yield page
        assert all(url.startswith(address) for url in page.asked)
        context.close()


def test_pairs_are_rated_with_the_keyboard_alone(tmp_path: Path, browser: Any) -> None:
    where = assignment(tmp_path, pairs(3))
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
    ratings = where.store.ratings()
    assert [r.choice for r in ratings][2] == "tie"
    assert [r.choice for r in ratings][:2] == [("first", "second")[ratings[i].order_shown[i]] for i in range(2)]
    assert ratings[1].comment == "1 and 2, both fine"  # typed digits choose nothing


def test_rankings_are_given_with_the_keyboard_alone(tmp_path: Path, browser: Any) -> None:
    where = assignment(tmp_path, ranked())
    with opened(browser, where) as page:
        for key in ("2", "1", "3"):
            page.keyboard.press(key)
        page.keyboard.press("ArrowUp")
        page.keyboard.press("2")  # the second of them after all
        with page.expect_navigation():
            page.keyboard.press("Enter")
    rating = where.store.ratings()[0]
    assert rating.ranking is not None
    assert [rating.ranking[i] for i in rating.order_shown] == [2, 2, 3]


def test_payloads_are_text_and_nothing_runs(tmp_path: Path, browser: Any) -> None:
    prompt = Prompt.of(XSS)
    pair = Comparison.of(prompt, *(Completion.of(prompt, XSS + end, source="m") for end in "ab"))
    with opened(browser, assignment(tmp_path, items_of_comparisons([pair]))) as page:
        assert page.title() == "Rating"
        assert page.inner_text(".prompt .text") == XSS
        assert page.locator("main img").count() == 0


def test_a_double_click_stores_one_rating_and_skips_none(tmp_path: Path, browser: Any) -> None:
    where = assignment(tmp_path, pairs(3))
    with opened(browser, where) as page:
        page.keyboard.press("1")
        with page.expect_navigation():
            page.dblclick(".go button")
        page.wait_for_load_state()
        assert "1 of 3 done" in page.inner_text("main")
    assert len(where.store.ratings()) == 1


def test_harmful_texts_are_hidden_until_asked_for_and_counted(tmp_path: Path, browser: Any) -> None:
    where = assignment(tmp_path, pairs(1, harmful=True, text="Terrible"), most_harmful=5)
    with opened(browser, where) as page:
        assert "Terrible" not in page.content()
        assert "blur" in page.eval_on_selector(".prompt .text", "e => getComputedStyle(e).filter")
        with page.expect_navigation():
            page.keyboard.press("s")
        assert "Terrible 0" in page.inner_text(".prompt")
        assert "1 of at most 5" in page.inner_text("header")
        assert page.eval_on_selector(".prompt .text", "e => getComputedStyle(e).filter") == "none"
    assert len(where.store.exposed_to("anna")) == 1


def test_it_works_without_scripts(tmp_path: Path, browser: Any) -> None:
    where = assignment(tmp_path, pairs(1))
    with opened(browser, where, java_script_enabled=False) as page:
        page.check("input[value=tie]")
        with page.expect_navigation():
            page.click(".go button")
    assert where.store.ratings()[0].choice == "tie"


def test_another_site_cannot_post_a_rating(tmp_path: Path, browser: Any) -> None:
    """A page of another origin sends the very form; the browser names that origin, and the cookie stays at home."""
    where = assignment(tmp_path, pairs(1))
    with opened(browser, where) as page:
        form = page.eval_on_selector("form.rate", "e => Object.fromEntries(new FormData(e))")
        address = page.url
        page.goto("about:blank")
        inputs = "".join(f'<input name="{k}" value="{v}">' for k, v in {**form, "choice": "0"}.items())
        page.set_content(f'<form method="post" action="{address}rate">{inputs}<button>go</button></form>')
        with page.expect_response(lambda response: response.url.endswith("/rate")) as answer:
            page.click("button")
        assert answer.value.status == 403
    assert where.store.ratings() == []


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out_at_phone_and_desktop_width(tmp_path: Path, browser: Any, width: int) -> None:
    long = pairs(1, text="averyveryverylongwordthatcannotbebroken" * 10)
    with opened(browser, assignment(tmp_path, [*long, *ranked()]), viewport={"width": width, "height": 800}) as page:
        for _ in range(2):
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            with page.expect_navigation():
                page.keyboard.press("l")


def test_on_paper_a_long_prompt_is_whole(tmp_path: Path, browser: Any) -> None:
    with opened(browser, assignment(tmp_path, pairs(1, text="word " * 3000))) as page:
        page.emulate_media(media="print")
        box = page.locator(".prompt")
        assert box.evaluate("e => e.scrollHeight <= e.clientHeight + 1")
        assert not page.locator("button[type=submit]").last.is_visible()


# ── what was entered stays ────────────────────────────────────────────────────────────────────────────────────────


def test_cannot_tell_and_ranks_exclude_each_other(tmp_path: Path, browser: Any) -> None:
    where = assignment(tmp_path, ranked())
    with opened(browser, where) as page:
        page.keyboard.press("0")
        for key in "123":
            page.keyboard.press(key)
        assert not page.is_checked("input[value=cannot_tell]")
        page.keyboard.press("0")
        assert page.locator(".ranks input:checked").count() == 0
        for key in ("ArrowUp", "ArrowUp", "ArrowUp", "3", "2", "1"):
            page.keyboard.press(key)
        with page.expect_navigation():
            page.keyboard.press("Enter")
    rating = where.store.ratings()[0]
    assert rating.choice is None
    assert rating.ranking is not None
    assert [rating.ranking[i] for i in rating.order_shown] == [3, 2, 1]


def test_a_draft_survives_a_reload_a_new_tab_and_the_way_back(tmp_path: Path, browser: Any) -> None:
    where = assignment(tmp_path, pairs(2))
    with opened(browser, where) as page:
        page.check("input[value=tie]")
        page.fill("#comment", "half a thought")
        page.reload()
        assert page.is_checked("input[value=tie]")
        assert page.input_value("#comment") == "half a thought"
        other = page.context.new_page()
        other.goto(page.url)
        assert other.input_value("#comment") == "half a thought"
        other.close()
        page.goto("about:blank")
        page.go_back()
        assert page.input_value("#comment") == "half a thought"
        with page.expect_navigation():
            page.click(".go button:first-child")
        assert page.input_value("#comment") == ""
        assert not page.evaluate("Object.keys(localStorage).some(key => localStorage[key].includes('half'))")
    assert where.store.ratings()[0].comment == "half a thought"


def test_while_the_server_is_away_nothing_is_sent_and_nothing_is_lost(tmp_path: Path, browser: Any) -> None:
    where = assignment(tmp_path, pairs(1))
    context = browser.new_context()
    page = context.new_page()
    with served(where) as address:
        page.goto(f"{address}/r/{where.store.invite(where.raters)[where.raters[0]]}")
    page.check("input[value=tie]")
    page.fill("#comment", "written in a tunnel")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".unsent:visible")
    assert page.input_value("#comment") == "written in a tunnel"
    assert page.evaluate("Object.keys(localStorage).some(key => localStorage[key].includes('tunnel'))")
    context.close()


def test_a_locked_file_of_ratings_keeps_the_draft_and_one_more_key_saves_it(tmp_path: Path, browser: Any) -> None:
    store = RatingStore(tmp_path / "ratings.sqlite", patience_s=0.3)
    where = Assignment(store, pairs(2), ("anna",))
    other = sqlite3.connect(tmp_path / "ratings.sqlite", isolation_level=None)
    with opened(browser, where) as page:
        home = page.url
        page.keyboard.press("3")
        page.fill("#comment", "half a thought")
        other.execute("BEGIN IMMEDIATE")
        with page.expect_navigation():
            page.keyboard.press("Control+Enter")
        assert "Another program" in page.inner_text("[role=alert]:visible")
        assert page.is_checked("input[value=tie]")
        page.goto(home)  # given up, and opened again
        assert page.is_checked("input[value=tie]")
        assert page.input_value("#comment") == "half a thought"
        other.close()
        with page.expect_navigation():
            page.keyboard.press("Enter")
        assert "1 of 2 done" in page.inner_text("main")
        assert page.input_value("#comment") == ""
    (stored,) = where.store.ratings()
    assert (stored.choice, stored.comment) == ("tie", "half a thought")


def test_the_mark_stays_on_the_screen_while_eight_responses_are_ranked(tmp_path: Path, browser: Any) -> None:
    prompts = [Prompt.of("Rank")] * 8
    answers = [Completion.of(p, f"{i} " + "word " * 150, source="m") for i, p in enumerate(prompts)]
    where = assignment(tmp_path, items_of_completions(prompts, answers))
    with opened(browser, where, viewport={"width": 400, "height": 1500}) as page:
        for key in "12345678":
            page.keyboard.press(key)
            box = page.locator(".answer.here").bounding_box()
            assert box["y"] >= -1
            assert box["y"] + box["height"] <= 1501


def test_a_long_prompt_says_that_it_scrolls_and_scrolls_by_keyboard(tmp_path: Path, browser: Any) -> None:
    with opened(browser, assignment(tmp_path, pairs(1, text="word " * 3000))) as page:
        assert page.is_visible(".more")
        page.focus(".scroll")
        page.keyboard.press("End")
        page.wait_for_selector(".more", state="hidden")
    with opened(browser, assignment(tmp_path / "short", pairs(1))) as page:
        assert not page.is_visible(".more")


def test_plain_text_can_be_switched_on_and_stays_on(tmp_path: Path, browser: Any) -> None:
    prompt = Prompt.of("*Which*?")
    pair = Comparison.of(prompt, *(Completion.of(prompt, f"**{t}**", source="m") for t in "ab"))
    with opened(browser, assignment(tmp_path, [*items_of_comparisons([pair])])) as page:
        assert page.inner_text(".prompt .text") == "Which?"
        page.keyboard.press("p")
        assert page.inner_text(".prompt .text") == "*Which*?"
        page.reload()
        assert page.inner_text(".prompt .text") == "*Which*?"


def test_right_to_left_text_runs_from_the_right(tmp_path: Path, browser: Any) -> None:
    prompt = Prompt.of("ما هي عاصمة مصر؟\n\nEnglish paragraph.")
    pair = Comparison.of(prompt, *(Completion.of(prompt, t, source="m") for t in ("القاهرة.", "plain text")))
    with opened(
        browser, assignment(tmp_path, items_of_comparisons([pair])), viewport={"width": 400, "height": 900}
    ) as page:
        directions = page.eval_on_selector_all(".prompt .rich p", "all => all.map(e => getComputedStyle(e).direction)")
        assert directions == ["rtl", "ltr"]
        assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_rating_is_looked_up_and_changed_with_the_keyboard(tmp_path: Path, browser: Any) -> None:
    where = assignment(tmp_path, pairs(2))
    with opened(browser, where) as page:
        page.keyboard.press("1")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        with page.expect_navigation():
            page.keyboard.press("m")
        page.focus("text=Change")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        page.keyboard.press("2")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        assert "B is better" in page.inner_text("main")
    assert [r.revision for r in where.store.ratings()] == [0, 1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_code_tables_and_scales_never_scroll_the_page_sideways(
    tmp_path: Path, browser: Any, width: int, scheme: str
) -> None:
    wide = "```python\n" + "x = 1; " * 60 + "\n```\n\n|" + "column|" * 30 + "\n|" + "-|" * 30 + "\n|" + "1|" * 30
    prompt = Prompt.of([{"role": "user", "content": wide}, {"role": "assistant", "content": "w" * 300}])
    answers = [Completion.of(prompt, f"{t}\n\n{wide}", source="m") for t in "ab"]
    items = [
        *items_of_comparisons([Comparison.of(prompt, *answers)]),
        *single_items([prompt], answers[:1], SCALES["score"]),
    ]
    where = assignment(tmp_path, items, guidelines=Guidelines("rules" * 30, "1", wide))
    with opened(browser, where, viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
        for item in items:
            page.goto(f"{page.url.partition('item')[0]}item?id={item.id}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
