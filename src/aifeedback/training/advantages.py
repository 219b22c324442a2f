"""Advantages: what a sample's reward becomes before it weighs the gradient.

REINFORCE (Williams 1992): E[∇log π(y)·(R(y) − b)] does not depend on b as long as b does not depend on the sample it is
subtracted from. The first four keep to that: **no bias**, the same expected gradient with another variance.

- ``none``: b = 0.
- ``running_mean``: b = mean reward of *past* steps, recent ones weighing more (time constant about 20 steps).
- ``value``: b_t = V(x_t), a network that sees prompt and tokens before t, as published for RLAIF (Lee et al. 2023).
  Where we differ: V is the running mean of past rewards plus the network, which learns what the mean leaves over. The
  mean is right within a few steps at any learning rate; a network alone needs thousands of steps at 1e-5 to reach it.
- ``leave_one_out``: b = mean reward of the *other* samples of the prompt (RLOO; Kool et al. 2019, Ahmadian et al. 2024,
  arXiv 2402.14740). A prompt with one scored sample has none, and that sample is left out.
- ``grpo``: (R − mean)/(sd + 1e-4) of the prompt's samples (Shao et al. 2024, arXiv 2402.03300). **Biased**: dividing by
  sd weighs prompts on which the samples agree more (arXiv 2503.20783), so it is not the gradient of the mean reward.
  The mean includes the sample itself, which only shrinks the gradient, by (G − 1)/G.
- ``gdpo``: ``grpo`` of every criterion by itself, their weighted sum, and that divided by its own deviation within the
  step (GDPO, arXiv 2601.05242): a criterion with a large spread does not drown the others. **Biased** as ``grpo``, and
  towards criteria on which samples hardly differ: their spread is scaled up to that of the others.

A reward of NaN means not scored: it enters no baseline and gets no advantage.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from aifeedback.inference.passes import recomputing
from aifeedback.refs import AdvantageRef
from aifeedback.training import compute
from aifeedback.training.settings import BaselineName

DECAY = 0.95
GROUP_EPSILON = 1e-4
"""Added to the standard deviation of a group: samples that agree have an advantage of zero."""


class Baseline(Protocol):
    """What to subtract, per sample, before the gradient step; may learn from the rewards of each step.

    One that does more than subtract has a method ``divisor(reward_PG)`` too, by which R − b is divided.
    """

    learned: bool
    """Whether a value network is trained and subtracted at every token, in addition to ``subtrahend``."""

    def subtrahend(self, reward_PG: Tensor) -> Tensor:
        """(P, G), NaN where a sample has no reward or no baseline: such a sample is left out of the gradient."""
        ...

    def observe(self, reward_PG: Tensor) -> None:
        """Called once per step with the rewards of all processes, after ``subtrahend``."""
        ...

    def state(self) -> Mapping[str, Tensor]: ...

    def load_state(self, state: Mapping[str, Tensor]) -> None: ...


class Stateless:
    """No memory of past steps."""

    learned = False

    def observe(self, reward_PG: Tensor) -> None:
        del reward_PG

    def state(self) -> Mapping[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        del state


class NoBaseline(Stateless):
    """b = 0."""

    def subtrahend(self, reward_PG: Tensor) -> Tensor:
        return torch.where(reward_PG.isnan(), reward_PG, 0.0)


class LeaveOneOut(Stateless):
    """b = mean of the other scored samples of the same prompt."""

    def subtrahend(self, reward_PG: Tensor) -> Tensor:
        scored_PG = ~reward_PG.isnan()
        known_PG = torch.where(scored_PG, reward_PG, 0.0)
        others_PG = scored_PG.sum(1, keepdim=True) - 1
        mean_PG = (known_PG.sum(1, keepdim=True) - known_PG) / others_PG.clamp(min=1)
        return torch.where(scored_PG & (others_PG > 0), mean_PG, torch.nan)


class GroupNormalised(Stateless):
    """b = mean of the prompt's scored samples, itself included; R − b is divided by their standard deviation."""

    def subtrahend(self, reward_PG: Tensor) -> Tensor:
        mean_PG = torch.nanmean(reward_PG, 1, keepdim=True).expand_as(reward_PG)
        return torch.where(~reward_PG.isnan() & (_scored(reward_PG) > 1), mean_PG, torch.nan)

    def divisor(self, reward_PG: Tensor) -> Tensor:
        """(P, 1), with n − 1 in the denominator of the variance, as common implementations have it."""
        square_PG = (reward_PG - torch.nanmean(reward_PG, 1, keepdim=True)).square()
        return (square_PG.nansum(1, keepdim=True) / (_scored(reward_PG) - 1).clamp(min=1)).sqrt() + GROUP_EPSILON


class GroupDecoupled(GroupNormalised):
    """Every criterion normalised within its group before they are added; of one criterion, as ``GroupNormalised``."""

    def of_criteria(self, reward_PGC: Tensor, weights: Sequence[float]) -> Tensor:
        """(P, G) advantages; a sample that a criterion does not score counts for none of them."""
        known_PG1 = ~reward_PGC.isnan().any(-1, keepdim=True)
        columns = torch.where(known_PG1, reward_PGC, torch.nan).unbind(-1)
        parts = [(r_PG - self.subtrahend(r_PG)) / self.divisor(r_PG) for r_PG in columns]
        total_PG = torch.stack([weight * part for weight, part in zip(weights, parts, strict=True)]).sum(0)
        known = total_PG[~total_PG.isnan()]
        spread = known.std() if len(known) > 1 else known.new_zeros(())
        return (total_PG - known.mean()) / (spread + GROUP_EPSILON)


def _scored(reward_PG: Tensor) -> Tensor:
    return (~reward_PG.isnan()).sum(1, keepdim=True)


class RunningMean:
    """b = exponentially weighted mean of past steps' mean rewards; 0 at the first step."""

    learned = False

    def __init__(self) -> None:
        self.total = torch.zeros((), dtype=torch.float64)
        self.weight = torch.zeros((), dtype=torch.float64)

    def subtrahend(self, reward_PG: Tensor) -> Tensor:
        mean = float(self.total / self.weight) if self.weight > 0 else 0.0
        return torch.where(reward_PG.isnan(), reward_PG, mean)

    def observe(self, reward_PG: Tensor) -> None:
        scored = reward_PG[~reward_PG.isnan()]
        if len(scored):
            self.total = DECAY * self.total + scored.double().mean()
            self.weight = DECAY * self.weight + 1.0

    def state(self) -> Mapping[str, Tensor]:
        return {"total": self.total, "weight": self.weight}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.total, self.weight = state["total"], state["weight"]


class LearnedValue(RunningMean):
    """b = the running mean here; what the network adds at x_t is subtracted where it is computed, in the gradient pass.

    At the first step, which has no past, the network alone is the baseline.
    """

    learned = True


class Value(nn.Module):
    """V(x_t): the SFT network with a scalar head that starts at zero, read before each completion token."""

    def __init__(self, model: Any, *, recomputes: bool = False) -> None:
        super().__init__()
        self.body = copy.deepcopy(model.base_model)
        self.recomputes = recomputes
        """Whether the backward pass computes the layers again instead of keeping what is in them."""
        bf16 = torch.bfloat16 if model.dtype == torch.bfloat16 else None
        self.head = nn.Linear(model.config.get_text_config().hidden_size, 1, dtype=bf16)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]]) -> Tensor:
        """Values of all completion tokens in a row, (sum of lengths,)."""
        pairs = list(zip(prompt_ids, completion_ids, strict=True))
        ids_BT, mask_BT = compute.pad([[*p, *c] for p, c in pairs], device=self.head.weight.device)
        with recomputing(self.body, wanted=self.recomputes):
            hidden_BTD = self.body(input_ids=ids_BT, attention_mask=mask_BT.long(), use_cache=False).last_hidden_state
        rows = [i for i, (_, c) in enumerate(pairs) for _ in c]
        places = [len(p) - 1 + t for p, c in pairs for t in range(len(c))]
        value_T = self.head(hidden_BTD[rows, places]).squeeze(-1)
        return value_T.float() if value_T.dtype == torch.bfloat16 else value_T


class FromFunction(Stateless):
    """A function from outside: rewards (P, G) in, advantages (P, G) out; a sample with NaN is left out."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def subtrahend(self, reward_PG: Tensor) -> Tensor:
        return reward_PG - self.function(reward_PG)


def make_baseline(name: BaselineName | AdvantageRef) -> Baseline:
    """A fresh baseline by name; one from outside is a class like those here, or a function of the rewards."""
    kinds: dict[str, Callable[[], Baseline]] = {
        "none": NoBaseline,
        "running_mean": RunningMean,
        "value": LearnedValue,
        "leave_one_out": LeaveOneOut,
        "grpo": GroupNormalised,
        "gdpo": GroupDecoupled,
    }
    if name in kinds:
        return kinds[name]()
    factory = AdvantageRef(name).load()
    if not inspect.isclass(factory):
        return FromFunction(factory)
    made: Any = factory
    return made()
