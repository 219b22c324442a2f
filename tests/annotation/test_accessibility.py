"""Nobody is kept from rating: axe finds no serious fault on any page, and the accessibility tree names every control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aifeedback.annotation.assignment import Guidelines
from aifeedback.annotation.items import SCALES, Item, items_of_comparisons, single_items
from aifeedback.annotation.store import StoreUnavailable
from aifeedback.types import Comparison, Completion, Prompt

from .pages import assignment, pairs, ranked
from .test_browser import browser, opened, pytestmark

__all__ = ["browser", "pytestmark"]

SERIOUS = ("serious", "critical")


def dialogue() -> list[Item]:
    """Turns, a list, code and a table, from right to left and from left to right."""
    rich = "- شاي\n- قهوة\n\n```python\nprint('wide') # " + "x" * 200 + "\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    prompt = Prompt.of([{"role": "system", "content": "ما هو؟"}, {"role": "user", "content": rich}])
    answers = [Completion.of(prompt, text, source="m") for text in (rich, "# A heading\n\n> quoted")]
    return items_of_comparisons([Comparison.of(prompt, *answers)])


def singles(kind: str) -> list[Item]:
    prompt = Prompt.of("Single")
    return single_items([prompt], [Completion.of(prompt, "An answer.", source="m")], SCALES[kind])


def unreadable(*_: object) -> None:
    raise StoreUnavailable("ratings.sqlite", None)


def faults(page: Any) -> list[str]:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    violations = axe.run(page).response["violations"]
    return [
        f"{one['impact']} {one['id']}: {node['html'][:200]}"
        for one in violations
        if one["impact"] in SERIOUS
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_axe_finds_no_serious_fault(
    tmp_path: Path, browser: Any, scheme: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [
        *pairs(1),
        *pairs(1, harmful=True, text="Terrible"),
        *ranked(),
        *dialogue(),
        *singles("score"),
        *singles("harmful"),
    ]
    rules = Guidelines("Rules", "1", "# How to rate\n\nChoose the truer one.")
    where = assignment(tmp_path, items, guidelines=rules, most_harmful=5)
    seen: dict[str, list[str]] = {}
    with opened(browser, where, viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
        home = page.url
        for item in items:
            page.goto(f"{home}item?id={item.id}")
            seen[item.id] = faults(page)
        page.goto(f"{home}item?id={items[0].id}")
        with page.expect_navigation():
            page.click(".go button:first-child")  # nothing chosen: a message
        seen["problem"] = faults(page)
        page.keyboard.press("1")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        page.goto(f"{home}mine")
        seen["mine"] = faults(page)
        page.goto(f"{home.partition('/u/')[0]}/r/unknown")
        seen["stranger"] = faults(page)
        page.goto(f"{home}item?id={items[0].id}")
        monkeypatch.setattr(where.store, "_read", unreadable)
        with page.expect_navigation():
            page.keyboard.press("Enter")
        assert "try again" in page.inner_text("main")
        seen["trouble"] = faults(page)
    assert {place: found for place, found in seen.items() if found} == {}


def test_the_tree_names_every_control_and_the_keyboard_reaches_it(tmp_path: Path, browser: Any) -> None:
    """What a screen reader is given: each control has a name, each choice a group with one, and Tab shows its focus."""
    items = [*pairs(1), *ranked(), *singles("score"), *pairs(1, harmful=True, text="Terrible")]
    rules = Guidelines("Rules", "1", "Choose the truer one.")
    with opened(browser, assignment(tmp_path, items, guidelines=rules)) as page:
        home = page.url
        for item in items:
            page.goto(f"{home}item?id={item.id}")
            tree = controls(page)
            assert {role for role, *_ in tree} >= {"button", "link", "radio"}
            assert [one for one in tree if not one[1]] == []
            assert [one for one in tree if one[0] == "radio" and not one[2]] == []
            assert len({one for one in tree if one[0] == "radio"}) == sum(one[0] == "radio" for one in tree)
            wanted = set(page.evaluate(GROUPS))
            reached: set[str] = set()
            for _ in range(60):
                page.keyboard.press("Tab")
                at = page.evaluate(FOCUSED)
                if at is None:
                    break
                assert at["outline"], at
                reached.add(at["group"])
            assert wanted <= reached, wanted - reached


def controls(page: Any) -> list[tuple[str, str, str]]:
    """Role, name, and name of the group of every control in the browser's accessibility tree."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    known = {node["nodeId"]: node for node in nodes}

    def value(node: dict[str, Any], key: str) -> str:
        return str(node.get(key, {}).get("value", "")).strip()

    def group(node: dict[str, Any]) -> str:
        above = known.get(node.get("parentId", ""))
        if above is None:
            return ""
        return value(above, "name") if value(above, "role") in ("group", "radiogroup") else group(above)

    return [
        (value(node, "role"), value(node, "name"), group(node))
        for node in nodes
        if not node["ignored"] and value(node, "role") in ROLES
    ]


def test_three_kinds_are_rated_by_tab_and_space_alone(tmp_path: Path, browser: Any) -> None:
    """Without the page's shortcuts: what every browser offers is enough."""
    where = assignment(tmp_path, [*pairs(1), *ranked(), *singles("score")])
    with opened(browser, where) as page:
        for _ in range(3):
            groups = page.evaluate(
                "[...new Set([...document.querySelectorAll('form.rate input[type=radio]')].map(e => e.name))]"
            )
            for group in [name for name in groups if name.startswith("rank-")] or groups[:1]:
                _tab_to(page, f"e => e.name === '{group}'")
                page.keyboard.press("Space")
            _tab_to(page, "e => e.type === 'submit' && e.closest('.go') !== null")
            with page.expect_navigation():
                page.keyboard.press("Enter")
        assert "everything is rated" in page.inner_text("main")
    assert len(where.store.ratings()) == 3


def _tab_to(page: Any, wanted: str) -> None:
    for _ in range(80):
        if page.evaluate(f"({wanted})(document.activeElement)"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab never reached {wanted}")


ROLES = ("button", "checkbox", "link", "radio", "textbox", "DisclosureTriangle", "progressbar", "region")
GROUPS = """() => [...document.querySelectorAll('input:not([type=hidden]), button, textarea, a, summary, [tabindex]')]
  .filter(e => e.checkVisibility())
  .map(e => e.type === 'radio' ? 'radio ' + e.name : e.tagName + ' ' + (e.id || e.name || e.innerText || e.value))"""
FOCUSED = """() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const style = getComputedStyle(e), label = e.closest('label');
  const drawn = s => (s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0) || s.boxShadow !== 'none';
  return {
    group: e.type === 'radio' ? 'radio ' + e.name : e.tagName + ' ' + (e.id || e.name || e.innerText || e.value),
    outline: drawn(style) || (label !== null && drawn(getComputedStyle(label))),
  };
}"""
