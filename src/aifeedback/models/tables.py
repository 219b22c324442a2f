"""Label probabilities from the top log-probabilities that a server shows: the same event as in ``engine.labels``.

A table maps token texts to log-probabilities at one position. Mostly one table is enough. Where a label may be spelled
by several tokens ("1", "0"), the position after its start is read too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from aifeedback.models.wire import add_logs

Tables = Mapping[str, Mapping[str, float]]
"""Text that the answer already begins with → table of the position after it; "" is the prompt's end."""


class LabelSet(NamedTuple):
    """Labels, and whether a space may stand before them."""

    labels: tuple[str, ...]
    either_space: bool = True

    def which(self, spelled: str) -> int | None:
        """Index of the label that a text is; an exact spelling goes before one with a space."""
        if spelled in self.labels:
            return self.labels.index(spelled)
        return next((i for i, label in enumerate(self.labels) if spelled in self.forms(label)), None)

    def begun(self, spelled: str) -> list[int]:
        """Labels that a text is the beginning of, without being all of them."""
        return [
            i
            for i, label in enumerate(self.labels)
            if any(form != spelled and form.startswith(spelled) for form in self.forms(label))
        ]

    def forms(self, label: str) -> tuple[str, ...]:
        return (label, f" {label}") if self.either_space and not label.startswith(" ") else (label,)


def to_follow(table: Mapping[str, float], label_set: LabelSet, started: str = "") -> list[str]:
    """Texts after which another position must be read: beginnings of a label that no token of the table spells."""
    spelled = {label_set.which(started + token) for token in table}
    return [
        started + token for token in table if any(which not in spelled for which in label_set.begun(started + token))
    ]


def label_logprobs(tables: Tables, label_set: LabelSet) -> list[float | None]:
    """log P(label) for each label; None where no shown sequence spells it, or a position it depends on was not read.

    All shown token sequences that spell a label count, less those that go on to spell a longer label of the set.
    """
    masses: dict[int, float] = {}
    unknown: set[int] = set()
    for spelled, logprob in _sequences(tables, label_set, "", 0.0, unknown):
        which = label_set.which(spelled)
        if which is not None:
            masses[which] = add_logs(masses.get(which), logprob)
    return [None if i in unknown else masses.get(i) for i in range(len(label_set.labels))]


def _sequences(
    tables: Tables, label_set: LabelSet, started: str, logprob: float, unknown: set[int]
) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    needed = to_follow(tables[started], label_set, started)
    for token, value in tables[started].items():
        spelled, here = started + token, logprob + value
        if spelled in tables:
            longer = _sequences(tables, label_set, spelled, here, unknown)
            reached = [(s, p) for s, p in longer if label_set.which(s) is not None]
            found += reached
            left = 1.0 - math.fsum(math.exp(p - here) for _, p in reached)
            if left > 0.0:
                found.append((spelled, here + math.log(left)))
            continue
        if spelled in needed:
            which = label_set.which(spelled)
            if which is not None:
                unknown.add(which)
        found.append((spelled, here))
    return found
