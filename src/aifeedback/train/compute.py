"""Where training gets hidden states and log-probabilities from: what sequences share is computed once."""

from __future__ import annotations

from aifeedback.engine.forward import last_hidden, sequence_logprobs
from aifeedback.train.plain import hidden_states

__all__ = ["hidden_states", "last_hidden", "sequence_logprobs"]
