"""Every page in a real browser, at the width of a phone and of a screen: nothing scrolls sideways, plots fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aifeedback.reports.judge_report import write_judge_report
from aifeedback.reports.run_report import write_report

from .sample import est, policy, summary
from .test_judge_page import AGREES, FOOLED, POSITION, SURE, audit
from .test_safety_part import told as safety_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
LONG = "a-policy-with-a-name-that-is-far-too-long-to-fit-beside-any-plot-on-any-page-" * 2


def run(folder: Path) -> Path:
    return write_report(summary(safety=safety_run()["safety"], deciding={"share": est(0.4)}), folder)


def long_names(folder: Path) -> Path:
    told = summary()
    told["policies"][LONG] = policy(0.6, 0.4, 200, 1.0)
    told["head_to_head"] = {f"{LONG}_vs_rlaif": est(0.6)}
    told["stages"][LONG] = told["stages"].pop("rlaif")
    told["judge"][LONG] = 0.3
    return write_report(told, folder)


def nothing_measured(folder: Path) -> Path:
    return write_report({}, folder)


def one_judge(folder: Path) -> Path:
    return write_judge_report([audit(AGREES, POSITION, FOOLED, SURE)], folder / "judge.html")


def many_judges(folder: Path) -> Path:
    names = ("lab:judge", "openai:a-model-with-a-rather-long-name-2026-11", "hf:/x/y/judge-7b", "rm:z", "people:lab")
    return write_judge_report([audit(AGREES, POSITION, FOOLED, SURE, name=n) for n in names], folder / "judges.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.parametrize("made", [run, long_names, nothing_measured, one_judge, many_judges])
def test_no_page_scrolls_sideways_and_every_plot_is_legible(
    tmp_path: Path, browser: Any, made: Callable[[Path], Path]
) -> None:
    address = made(tmp_path).as_uri()
    for width in (400, 1280):
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.set_default_timeout(120_000)  # a busy machine is no fault of the page
            page.goto(address)
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            scrolls, fits = page.evaluate(
                "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            )
            assert scrolls <= fits, (made.__name__, width)
            plots = page.evaluate(
                """[...document.querySelectorAll('.plot svg')].filter(s => s.getClientRects().length).map(s => {
                    const box = s.getBoundingClientRect(), column = s.closest('figure').getBoundingClientRect();
                    const text = [...s.querySelectorAll('text')].map(t => parseFloat(getComputedStyle(t).fontSize));
                    return [box.width / column.width, Math.min(...text) * box.width / s.viewBox.baseVal.width];
                })"""
            )
            assert all(share >= 0.9 for share, _ in plots), (made.__name__, width, plots)
            assert all(pixels >= 9.5 for _, pixels in plots), (made.__name__, width, plots)
            page.close()


def test_a_printed_page_keeps_the_wide_plots(tmp_path: Path, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 900})
    page.goto(run(tmp_path).as_uri())
    shown = "getComputedStyle(document.querySelector('.{}')).display"
    assert page.evaluate(shown.format("narrow-plot")) == "block"
    page.emulate_media(media="print")
    assert page.evaluate(shown.format("narrow-plot")) == "none"
    assert page.evaluate(shown.format("wide-plot")) == "block"
    page.close()
