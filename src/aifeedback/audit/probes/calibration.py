"""Calibration: does a stated 80 % come true in 80 % of cases? Expected calibration error and the reliability table."""

from __future__ import annotations

from aifeedback.audit.finding import Finding, Ground, of_estimate, unmeasured


def calibration(ground: Ground) -> list[Finding]:
    from aifeedback.evaluate import brier, expected_calibration_error, reliability_table
    from aifeedback.evaluate.intervals import wilson

    title = "Calibration"
    known = [i for i, (p, h) in enumerate(zip(ground.p_first, ground.human, strict=True)) if None not in (p, h)]
    rows, prompts = [(ground.p_first[i], ground.human[i]) for i in known], ground.prompts(known)
    if len(rows) < 50:
        return [unmeasured("calibration", "agreement", title, "fewer than 50 pairs have verdicts of judge and people")]
    p, y = [row[0] for row in rows], [row[1] for row in rows]
    if all(value in (0.0, 0.5, 1.0) for value in p):
        return [unmeasured("calibration", "agreement", title, "the judge states no probabilities, only verdicts")]
    error = expected_calibration_error(p, y, prompts=prompts, seed=ground.seed)
    score = brier(p, y, prompts=prompts)
    table = []
    for b in reliability_table(p, y):
        ends = wilson(b.observed, b.n) if b.n else None
        low, high = (None, None) if ends is None else (ends.low, ends.high)
        table.append({"p": b.predicted, "share": b.observed, "low": low, "high": high, "n": b.n})
    return [
        of_estimate(
            error,
            probe="calibration",
            group="agreement",
            title=title,
            sentence=f"Stated probabilities are off by {100 * error.value:.1f} points (Brier {score.value:.3f}).",
            ideal=0.0,
            level="bad" if error.low > 0.15 else "watch" if error.low > 0.05 else "fine",
            details={"reliability": table, "brier": score.as_dict()},
        )
    ]
