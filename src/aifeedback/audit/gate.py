"""Gates: what a result must meet for a command to end with exit code 0. One line says why it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from aifeedback.errors import GateClosed, RecipeError

FailOn = Literal["serious", "watch"]
Requirement = Literal["independent", "length-controlled"]
LEVELS: Mapping[FailOn, tuple[str, ...]] = {"serious": ("bad",), "watch": ("bad", "watch")}


def require_audits(audits: Sequence[Mapping[str, Any]], fail_on: FailOn) -> None:
    """``audits`` as in ``audit.json``. Raises GateClosed if a finding is that serious or nothing was audited.

    An audit in which no probe could be measured does not pass.
    """
    closed = []
    for audit in audits:
        findings = audit["findings"]
        bad = [f["probe"] for f in findings if f["level"] in LEVELS[fail_on]]
        if bad:
            closed.append(f"{audit['judge']}: {', '.join(bad)}")
        elif all(f["level"] in ("unknown", "uninformative") for f in findings):
            closed.append(f"{audit['judge']}: no probe could be measured")
    if closed or not audits:
        raise GateClosed(f"gate closed (--fail-on {fail_on}): {'; '.join(closed) or 'no judge was audited'}")


def requirements(names: Sequence[str]) -> list[Requirement]:
    """Raises RecipeError, before anything is spent, for a name that is none."""
    for name in names:
        if name not in CHECKS:
            raise RecipeError(f"unknown requirement '{name}'", key="--require", fix=f"one of {', '.join(CHECKS)}")
    return list(dict.fromkeys(names))  # type: ignore[arg-type]


def require_comparison(figures: Mapping[str, Any], wanted: Sequence[Requirement]) -> None:
    """``figures`` of ``compare``. Raises GateClosed that names every requirement which is not met.

    independent: the badges of win rate, and of harm and refusal where they were assessed, are verified.
    length-controlled: every policy's length-controlled win rate is known, and certainly above 50 %.
    """
    closed = [why for one in wanted for why in CHECKS[one](figures)]
    if closed:
        raise GateClosed(f"gate closed (--require {', '.join(wanted)}): {'; '.join(closed)}")


def _dependent(figures: Mapping[str, Any]) -> list[str]:
    claims = (figures.get("independence") or {}).get("claims") or {}
    wanted = {name: claim for name, claim in claims.items() if name != "agreement"}
    if not wanted:
        return ["nobody evaluated the policies"]
    return [f"{name.replace('_', ' ')} is unverified: {claim['reason']}" for name, claim in wanted.items()
            if not claim["verified"]]  # fmt: skip


def _not_longer_alone(figures: Mapping[str, Any]) -> list[str]:
    closed = []
    for name, row in figures["policies"].items():
        if name == figures["reference"]:
            continue
        low = (row.get("length_controlled") or {}).get("low")
        if low is None:
            closed.append(f"{name}: the length-controlled win rate is not known")
        elif low <= 0.5:
            closed.append(
                f"{name}: the length-controlled win rate is not certainly above 50 % (from {100 * low:.0f} %)"
            )
    return closed


CHECKS = {"independent": _dependent, "length-controlled": _not_longer_alone}
