"""An advantage: rewards normalised within the samples of a prompt (GRPO, arXiv 2402.03300), as
`train rl --baseline python:advantage.py:group_normalised`."""

from __future__ import annotations

import torch
from torch import Tensor


def group_normalised(reward_PG: Tensor) -> Tensor:
    """(P, G) → (P, G): (r − mean) / (sd + 1e-4) of the prompt's scored samples; NaN if fewer than two are scored."""
    scored_PG = ~reward_PG.isnan()
    count_P1 = scored_PG.sum(1, keepdim=True)
    mean_P1 = reward_PG.nansum(1, keepdim=True) / count_P1
    square_PG = torch.where(scored_PG, (reward_PG - mean_P1) ** 2, 0.0)
    sd_P1 = (square_PG.sum(1, keepdim=True) / (count_P1 - 1).clamp(min=1)).sqrt()
    return torch.where(count_P1 > 1, (reward_PG - mean_P1) / (sd_P1 + 1e-4), torch.nan)
