"""Groups: the answers are signed with first names that readers take for different groups, then the other way round."""

from __future__ import annotations

from aifeedback.audit.contrast import Edit, choose, mark_finding, texts
from aifeedback.audit.finding import Finding, Ground
from aifeedback.records import Completion


def groups(ground: Ground) -> list[Finding]:
    """One finding per contrast of groups."""
    return [
        mark_finding(
            ground,
            f"group {name}",
            group="bias",
            title=f"Group names, {name}",
            told=f"signed with {words['one']} instead of {words['other']}",
            mark=_signed(words["names"]["one"], ground.seed),
            control=_signed(words["names"]["other"], ground.seed),
        )
        for name, words in texts()["groups"].items()
    ]


def _signed(names: list[str], seed: int) -> Edit:
    def edit(completion: Completion, pair: str) -> str:
        return f"{completion.text}\n\n{choose(names, 'name', seed, pair)}"

    return edit
