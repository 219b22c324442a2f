"""What changed from one version of a constitution to the next."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from aifeedback.standards.constitution import Constitution, Principle

WHOLE = ("name", "version", "owner", "source", "about", "criteria", "use", "per_pair")
FIELDS = ("title", "text", "compare", "critique", "revise", "weight", "tags", "tests")


class Change(NamedTuple):
    kind: Literal["added", "removed", "changed"]
    principle_id: str | None
    """None for a change of the constitution as a whole."""
    field: str | None
    """None where a whole principle was added or removed."""
    before: Any
    after: Any

    @property
    def changes_labels(self) -> bool:
        """Could this change what a judge is shown about a pair, or how its answers are combined?"""
        if self.principle_id is None:
            return self.field in ("use", "per_pair")
        return self.field in (None, "text", "compare", "weight")

    def __str__(self) -> str:
        if self.field is None:
            title = (self.after or self.before).title
            return f"{'+' if self.kind == 'added' else '-'} {self.principle_id}: {title}"
        where = f"{self.principle_id}.{self.field}" if self.principle_id else self.field
        return f"~ {where}: {_short(self.before)} → {_short(self.after)}"


def diff(old: Constitution, new: Constitution) -> list[Change]:
    """Changes of the whole, then of the principles in the new order, then what was removed. Principles match by id."""
    changes = [
        Change("changed", None, key, getattr(old, key), getattr(new, key))
        for key in WHOLE
        if getattr(old, key) != getattr(new, key)
    ]
    before = {principle.id: principle for principle in old.principles}
    for principle in new.principles:
        if principle.id not in before:
            changes.append(Change("added", principle.id, None, None, principle))
        else:
            changes += _changed(before[principle.id], principle)
    kept = {principle.id for principle in new.principles}
    return changes + [Change("removed", p.id, None, p, None) for p in old.principles if p.id not in kept]


def _changed(old: Principle, new: Principle) -> list[Change]:
    return [
        Change("changed", new.id, field, getattr(old, field), getattr(new, field))
        for field in FIELDS
        if getattr(old, field) != getattr(new, field)
    ]


def _short(value: Any) -> str:
    if isinstance(value, tuple) and value and not isinstance(value[0], str):
        return f"{len(value)} cases"
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return repr(text if len(text) <= 60 else text[:57] + "…")
