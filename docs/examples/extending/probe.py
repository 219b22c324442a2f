"""A probe: does the judge prefer a response that ends in exclamation marks? Run it with `audit --probe python:probe.py:loud`."""

from __future__ import annotations

from aifeedback.audit.finding import Finding, ProbeInput, of_estimate, unmeasured
from aifeedback.metrics import win_rate
from aifeedback.types import Comparison, Completion


def loud(inputs: ProbeInput) -> list[Finding]:
    """Give the first response of each pair three exclamation marks and compare it with itself."""
    pairs = [inputs.comparisons[i] for i in inputs.drawn()]
    preferences = inputs.ask([_against_itself(pair) for pair in pairs])
    share = win_rate([preference.p_first for preference in preferences], hard=True)
    if not share.is_known:
        return [unmeasured("loud", "form", "Exclamation marks", "no verdict could be read")]
    return [
        of_estimate(
            share,
            probe="loud",
            group="bias",
            title="Exclamation marks",
            sentence=f"Three exclamation marks win {100 * share.value:.0f} % of the pairs.",
            ideal=0.5,
            p_value=share.p_value,
            calls=len(pairs),
        )
    ]


def _against_itself(pair: Comparison) -> Comparison:
    loud = Completion.of(pair.prompt, f"{pair.first.text}!!!", source="loud")
    return Comparison.of(pair.prompt, loud, pair.first)
