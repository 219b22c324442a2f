"""Settings of policy gradient training, and the two ways to write its β."""

from __future__ import annotations

from torch import Tensor


def optimised_reward(reward_B: Tensor, k1_B: Tensor, *, beta: float, kl_form: str) -> Tensor:
    """R = (1−β)·r − β·k1 (paper) or r − β·k1 (usual); NaN rewards stay NaN. Shape (B,)."""
    weight = 1.0 - beta if kl_form == "paper" else 1.0
    return weight * reward_B - beta * k1_B


def other_form(beta: float, kl_form: str) -> str:
    """The same objective in the other form, as a sentence for people."""
    if kl_form == "paper":
        return f"(1−β)·r − β·KL with β = {beta:g} is r − β′·KL with β′ = {beta / (1 - beta):.4g}"
    return f"r − β·KL with β = {beta:g} is (1−β′)·r − β′·KL with β′ = {beta / (1 + beta):.4g}"
