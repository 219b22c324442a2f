"""What changed between two versions of a constitution."""

from __future__ import annotations

from aifeedback.prompts.constitution import Constitution
from aifeedback.prompts.lint import diff


def test_a_constitution_does_not_differ_from_itself() -> None:
    assert diff(Constitution.load("harmless"), Constitution.load("harmless")) == []


def test_every_kind_of_change() -> None:
    old = Constitution.load("honest")
    first, second, third, last = old.principles
    changed = first.model_copy(
        update={"text": "The response invents nothing.", "weight": 2.0, "tests": first.tests[:1]}
    )
    added = last.model_copy(update={"id": "names-sources", "title": "Names its sources"})
    new = old.model_copy(update={"version": "1.1", "use": "averaged", "principles": (changed, added, third, second)})
    changes = diff(old, new)
    assert [(c.kind, c.principle_id, c.field, c.changes_labels) for c in changes] == [
        ("changed", None, "version", False),
        ("changed", None, "use", True),
        ("changed", "no-invention", "text", True),
        ("changed", "no-invention", "weight", True),
        ("changed", "no-invention", "tests", False),
        ("added", "names-sources", None, True),
        ("removed", "is-an-ai", None, True),
    ]
    assert str(changes[0]) == "~ version: '1.0' → '1.1'"
    assert str(changes[4]) == "~ no-invention.tests: 2 cases → 1 cases"
    assert str(changes[5]) == "+ names-sources: Names its sources"
    assert str(changes[6]) == "- is-an-ai: Does not pretend to be a person"
