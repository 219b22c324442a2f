"""Settings of policy gradient training, and the two ways to write its β."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from aifeedback.train.baselines import BaselineName
from aifeedback.train.loop import LoopConfig


class RLConfig(LoopConfig):
    """Settings of ``train_rl``. Defaults are the published ones."""

    epochs: float = Field(default=8.0, gt=0.0)
    """Passes over the prompts where ``steps`` is not given."""
    prompts_per_step: int = Field(default=128, ge=1)
    """Prompts per optimizer step, over all processes together."""
    samples_per_prompt: int = Field(default=1, ge=1)
    """Completions of each prompt in a step."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Longer prompts are left out and counted; None: as the context window allows."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Completions are cut here; see ``missing_eos_penalty``."""
    temperature: float = Field(default=0.9, gt=0.0)
    """Of sampling, and of every log-probability in gradient and KL."""
    beta: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Weight of the KL to the reference, in the form that ``kl_form`` names."""
    kl_form: Literal["paper", "usual"] = "paper"
    """paper: (1−β)·r − β·KL. usual: r − β·KL."""
    baseline: BaselineName | None = None
    """None: leave_one_out with several samples per prompt, the published learned value with one."""
    missing_eos_penalty: float = Field(default=0.0, ge=0.0)
    """Subtracted from the (z-scored) reward of a completion that was cut before it ended by itself."""
    zscore_samples: int | None = Field(default=None, ge=2)
    """Reward is replaced by (r − mean)/sd with mean and sd of this many reference samples, fixed before step 1."""
    normalise_advantage: bool = False
    """Divides advantages by their standard deviation within the step. Biases the gradient (arXiv 2503.20783); off."""
    value_weight: float = Field(default=0.5, ge=0.0)
    """Weight of the value loss beside the policy loss; the value network shares no weights with the policy."""
    value_learning_rate: float | None = Field(default=None, gt=0.0)
    """Peak learning rate of the value network; None: that of the policy."""
    value_warmup_steps: int = Field(default=0, ge=0)
    """Steps at the start in which only the value network learns."""

    trl: dict[str, Any] = Field(default_factory=dict)
    """Further options of TRL's ``RLOOConfig`` by name, for the engine trl: ``use_vllm``, ``gradient_checkpointing`` …"""

    @model_validator(mode="after")
    def _baseline_fits(self) -> RLConfig:
        if self.baseline == "leave_one_out" and self.samples_per_prompt < 2:
            raise ValueError("leave_one_out needs samples_per_prompt of at least 2: one sample has no others")
        return self

    @model_validator(mode="after")
    def _value_settings_are_used(self) -> RLConfig:
        given = [name for name in ("value_learning_rate", "value_warmup_steps") if getattr(self, name)]
        if given and self.chosen_baseline != "value":
            raise ValueError(f"{', '.join(given)}: only the baseline 'value' has a value network")
        return self

    @property
    def chosen_baseline(self) -> BaselineName:
        return self.baseline or ("leave_one_out" if self.samples_per_prompt > 1 else "value")


def optimised_reward(reward_B: Tensor, k1_B: Tensor, *, beta: float, kl_form: str) -> Tensor:
    """R = (1−β)·r − β·k1 (paper) or r − β·k1 (usual); NaN rewards stay NaN. Shape (B,)."""
    weight = 1.0 - beta if kl_form == "paper" else 1.0
    return weight * reward_B - beta * k1_B


def other_form(beta: float, kl_form: str) -> str:
    """The same objective in the other form, as a sentence for people."""
    if kl_form == "paper":
        return f"(1−β)·r − β·KL with β = {beta:g} is r − β′·KL with β′ = {beta / (1 - beta):.4g}"
    return f"r − β·KL with β = {beta:g} is (1−β′)·r − β′·KL with β′ = {beta / (1 + beta):.4g}"
