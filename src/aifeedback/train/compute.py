"""Where training gets hidden states and log-probabilities from: one place to switch how they are computed."""

from __future__ import annotations

from aifeedback.train.plain import hidden_states, last_hidden, sequence_logprobs

__all__ = ["hidden_states", "last_hidden", "sequence_logprobs"]
