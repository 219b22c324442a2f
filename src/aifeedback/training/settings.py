"""Settings of every trainer, free of torch: a recipe is checked and a command's help printed without loading it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, Field, field_validator, model_validator

from aifeedback.config import Cli, Config
from aifeedback.refs import AdvantageRef, ModelRef


class OptimConfig(Config):
    """How weights move."""

    optimizer: Literal["adafactor", "adamw"] = "adafactor"
    """Adafactor is the published choice and keeps almost no state; AdamW often needs fewer steps from scratch."""
    learning_rate: Annotated[float, Cli(("--lr", "--learning-rate"))] = Field(default=1e-5, gt=0.0)
    """Peak of the schedule. 1e-5 is the published value for large models; tiny ones want 1e-4..3e-3."""
    schedule: Literal["constant", "linear", "cosine", "trapezoid"] = "constant"
    """How the rate falls after warm-up; all but constant reach zero after the last step."""
    decay_share: float = Field(default=0.4, gt=0.0, le=1.0)
    """trapezoid: the last share of all steps, over which the rate falls linearly; constant before."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the rate rises linearly from zero."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled decay per unit of learning rate, on matrices only."""
    max_grad_norm: float | None = Field(default=1.0, gt=0.0)
    """Gradients longer than this are scaled down to it; None is off."""


class LoraSettings(Config):
    """Which adapters are trained instead of the weights."""

    rank: int = Field(default=16, ge=1)
    """Width of the low-rank product."""
    alpha: float = Field(default=32.0, gt=0.0)
    """The product is scaled by alpha/rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout before the adapter."""
    targets: tuple[str, ...] | None = None
    """Names of the linear layers to adapt; None takes all of them but the output head."""


class LoopConfig(OptimConfig):
    """What every kind of training has in common."""

    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; None takes as many as ``epochs`` need."""
    epochs: float = Field(default=1.0, gt=0.0)
    """Passes over the data where ``steps`` is not given."""
    forward_tokens: int = Field(default=16_384, ge=1)
    """Most tokens in one forward pass of one process; a larger batch is accumulated over several."""
    seed: int = 0
    """Seeds data order, new weights, dropout and sampling."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on a GPU that has it, fp32 elsewhere. Weights and optimizer stay fp32."""
    weights: Literal["fp32", "bf16"] = "fp32"
    """Type of the weights in memory. bf16: the optimizer keeps the missing 16 bits of what is trained; what is frozen
    (under LoRA, and the reference) takes half."""
    gradient_checkpointing: bool = False
    """Keeps the inputs of layers alone for the backward pass and computes the rest again: less memory, one forward pass
    more."""
    lora: LoraSettings | None = None
    """Trains low-rank adapters instead of all weights; the saved folder has them merged."""
    shard: bool = False
    """Shards weights over processes (FSDP2) instead of copying them (DDP)."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(default=1, ge=0)
    """How many of the newest checkpoints stay on disk, the last one also after the run, so that a run with more ``steps``
    resumes from it; 0 keeps none after the run."""
    evaluate_every: int | None = Field(default=None, ge=1)
    """Steps between evaluations on held-out rows; None evaluates once, at the end."""
    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """Where figures go besides metrics.jsonl."""

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if self.shard and self.weights == "bf16":
            raise ValueError("weights: bf16 weights cannot be sharded; set precision to bf16 instead")
        return self


class RowConfig(LoopConfig):
    """Settings of training on rows of a file."""

    batch: int = Field(default=32, ge=1)
    """Rows per optimizer step, over all processes together."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Rows with a longer prompt are left out and counted; None: as the context window allows."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """Rows with a longer completion (its end token included) are left out and counted; None: as the window allows."""
    balance_by: str | None = None
    """A tag of the prompt: every value of it is drawn equally often."""
    patience: int | None = Field(default=None, ge=1)
    """Stops after this many evaluations without better held-out loss or accuracy; None never."""


class SftConfig(RowConfig):
    """Settings of ``train_sft``: the published ones are one epoch, batch 128, Adafactor at 1e-5."""

    loss_on: Literal["last", "all"] = "last"
    """The assistant turns of a dialogue that carry loss: the last one, or all of them."""


class RewardModelConfig(RowConfig):
    """Settings of ``fit_reward_model``; published: Adafactor at 1e-5, batch 128 or 32, 2–3 epochs until a plateau."""

    epochs: float = 2.0
    """Passes over the data where ``steps`` is not given."""
    margin: float = Field(default=0.0, ge=0.0)
    """The better response must lead by this much: −log σ(Δ − margin). A row's own ``margin`` takes its place."""
    centre_weight: float = Field(default=0.0, ge=0.0)
    """Weight of (r₁ + r₂)², which holds rewards around zero while training (arXiv 2312.09244)."""


class DpoConfig(RowConfig):
    """Settings of ``train_dpo``."""

    beta: float = Field(default=0.1, gt=0.0)
    """How strongly the policy is held to the reference; larger holds more."""
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """sigmoid is DPO; ipo regresses the log-ratio on ±1/(2β), which hard labels cannot push to infinity."""


class KtoConfig(RowConfig):
    """Settings of ``train_kto``."""

    beta: float = Field(default=0.1, gt=0.0)
    """How strongly the policy is held to the reference; larger holds more."""
    good_weight: float = Field(default=1.0, ge=0.0)
    """Weight of good verdicts; with few of them raise it, so that good_weight × good ≈ bad_weight × bad."""
    bad_weight: float = Field(default=1.0, ge=0.0)
    """Weight of bad verdicts."""


class SampledConfig(LoopConfig):
    """Settings of training on the policy's own samples."""

    prompts_per_step: int = Field(default=128, ge=1)
    """Prompts per step, over all processes together."""
    samples_per_prompt: int = Field(default=1, ge=1)
    """Completions of each prompt in a step."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Longer prompts are left out and counted; None: as the context window allows."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Completions are cut here; see ``missing_eos_penalty``."""
    temperature: float = Field(default=0.9, gt=0.0)
    """Of sampling, and of every log-probability in gradient and KL."""


class DistillConfig(SampledConfig):
    """Settings of ``train_distill``."""

    temperature: float = Field(default=1.0, gt=0.0)
    """Of sampling, and of both distributions that are compared."""
    credit: Literal["token", "response"] = "token"
    """token: each next-token distribution moves towards the teacher's on the prefix that was written. response: prefixes
    after which the two differ become less likely too, which is the exact gradient of the KL of whole responses, and
    varies more."""


BaselineName = Literal["none", "running_mean", "value", "leave_one_out", "grpo", "gdpo"]
"""The shipped ones (``advantages.py``)."""
IN_GROUPS = ("leave_one_out", "grpo", "gdpo")
"""Those that compare the samples of one prompt with each other."""


class RLConfig(SampledConfig):
    """Settings of ``train_rl``. Defaults are the published ones."""

    epochs: float = Field(default=8.0, gt=0.0)
    """Passes over the prompts where ``steps`` is not given."""
    beta: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Weight of the KL to the reference, in the form that ``kl_form`` names."""
    kl_form: Literal["paper", "usual"] = "paper"
    """paper: (1−β)·r − β·KL. usual: r − β·KL."""
    kl_term: Literal["reward", "k1", "k3"] = "reward"
    """Where the KL enters. reward: k1 in the reward, the exact gradient of KL(π‖π_ref). k1: as a loss, whose expected
    gradient is zero. k3: as a loss, which descends KL(π_ref‖π) token by token on the prefixes that π writes."""
    baseline: Annotated[AdvantageRef | None, Cli(("--baseline", "--advantages"))] = Field(
        default=None, validation_alias=AliasChoices("baseline", "advantages")
    )
    """How rewards become advantages (also ``advantages``); by default leave_one_out (RLOO) with several samples per
    prompt, value with one."""
    updates_per_rollout: int = Field(default=1, ge=1)
    """Optimizer updates on the samples of one step; with several, each is weighed with its importance ratio."""
    clip_range: float | None = Field(default=None, gt=0.0)
    """ε: no gradient where the ratio π/π_old has left [1−ε, 1+ε] in the direction of the advantage (PPO); None: off."""
    importance_level: Literal["token", "sequence"] = "token"
    """Ratios of each token alone (PPO), which leaves out how likely its prefix has become, or of the whole response,
    which is exact and varies more."""
    importance_cap: float | None = Field(default=None, ge=1.0)
    """Computes the samples' log-probabilities again and weighs them with min(π/π_sampler, cap), for samples drawn by
    another engine or in another precision; None: no weights."""
    length_normalisation: Literal["none", "response", "batch"] = "none"
    """Divides a response's loss by its own length (published GRPO; biased, arXiv 2503.20783) or by the step's mean
    length."""
    mask_truncated: bool = False
    """Leaves responses that were cut at ``max_new_tokens`` out of baseline and gradient."""
    missing_eos_penalty: float = Field(default=0.0, ge=0.0)
    """Subtracted from the (z-scored) reward of a truncated completion."""
    zscore_samples: int | None = Field(default=None, ge=2)
    """Reward is replaced by (r − mean)/sd with mean and sd of this many reference samples, fixed before step 1."""
    normalise_advantage: bool = False
    """Divides advantages by their standard deviation within the step. Biases the gradient (arXiv 2503.20783); off."""
    keep_rollouts: int = Field(default=4, ge=0)
    """Samples of every step to keep with their rewards in training/rollouts.jsonl, for `aifeedback show`."""
    value_weight: float = Field(default=0.5, ge=0.0)
    """Weight of the value loss relative to the policy loss; the two networks share no weights."""
    value_learning_rate: float | None = Field(default=None, gt=0.0)
    """Peak learning rate of the value network; None: that of the policy."""
    value_warmup_steps: int = Field(default=0, ge=0)
    """Steps at the start in which only the value network learns."""
    value_max_grad_norm: float | None = Field(default=None, gt=0.0)
    """Separate gradient clipping for the value network; None clips both together at ``max_grad_norm``."""

    trl: dict[str, Any] = Field(default_factory=dict)
    """Further options of TRL's ``RLOOConfig`` by name, for the engine trl: ``use_vllm``, ``gradient_checkpointing`` …"""

    @model_validator(mode="after")
    def _baseline_fits(self) -> RLConfig:
        if self.baseline and (problem := self.baseline.problem()):
            raise ValueError(f"baseline: {problem}")
        if self.baseline in IN_GROUPS and self.samples_per_prompt < 2:
            raise ValueError(f"{self.baseline} needs samples_per_prompt of at least 2: one sample has no others")
        if self.baseline == "gdpo":
            if self.beta and self.kl_term == "reward":
                raise ValueError(
                    "gdpo normalises each criterion, so the KL cannot be one: set kl_term to k3, or beta to 0"
                )
            if self.missing_eos_penalty or self.zscore_samples:
                raise ValueError("gdpo normalises each criterion: missing_eos_penalty and zscore_samples do not apply")
        if self.mask_truncated and self.missing_eos_penalty:
            raise ValueError("mask_truncated leaves out the very responses that missing_eos_penalty is for")
        return self

    @model_validator(mode="after")
    def _value_settings_are_used(self) -> RLConfig:
        own = ("value_learning_rate", "value_warmup_steps", "value_max_grad_norm")
        names = [name for name in own if getattr(self, name)]
        if names and self.chosen_baseline != "value":
            raise ValueError(f"{', '.join(names)}: only the baseline 'value' has a value network")
        return self

    @property
    def chosen_baseline(self) -> AdvantageRef:
        return self.baseline or AdvantageRef("leave_one_out" if self.samples_per_prompt > 1 else "value")


class RolloutServer(Config):
    """A server that draws the samples of ``train_rl``, and how it gets the policy's weights."""

    model: Annotated[ModelRef, Cli(("--rollouts",), metavar="MODEL")]
    """Let an OpenAI-compatible server draw the samples: openai:NAME. It has to return token ids, as vLLM does."""
    base_url: Annotated[str | None, Cli(("--rollouts-url",), metavar="URL")] = None
    """Address of that server."""
    reload: Annotated[str, Cli(("--reload",), metavar="URL|COMMAND")]
    """How it loads a model folder: an address that takes {"model_path": FOLDER} (SGLang: /update_weights_from_disk), or a
    command, which gets the folder as its last argument."""
    every: Annotated[int, Cli(("--reload-every",))] = Field(default=1, ge=1)
    """Steps between two hand-overs of weights. The samples of the steps between are of an earlier policy; importance_cap
    weighs them."""
    server: Annotated[dict[str, Any], Cli(is_hidden=True)] = Field(default_factory=dict)
    """Further options of the server by name: concurrency, headers, api_key_env … (docs/servers.md)."""

    @field_validator("model")
    @classmethod
    def _is_openai(cls, value: ModelRef) -> ModelRef:
        if value.scheme != "openai":
            raise ValueError(f"'{value}' cannot draw rollouts; write openai:NAME")
        return value

    @field_validator("reload")
    @classmethod
    def _is_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("empty; give an address or a command that loads a model folder")
        return value


class HeldOutMonitorConfig(Config):
    """When the guard ends a run, and how many candidates it keeps."""

    patience: int = Field(default=2, ge=1)
    """Evaluations in a row that must look over-optimised."""
    drop: float = Field(default=1.0, ge=0.0)
    """Standard errors (of the difference) below the best that count as a drop."""
    max_kl: float | None = Field(default=None, gt=0.0)
    """Ends the run when the mean KL to the reference, in nats per sequence, exceeds this."""
    max_repetition: float | None = Field(default=None, gt=0.0, le=1.0)
    """Ends the run when this share of word trigrams repeats an earlier one of the same text."""
    candidates: int = Field(default=4, ge=0)
    """Checkpoints with the highest held-out reward that are kept for ``choose``."""
    seed: int = 0
    """Seeds the samples, which are drawn with the same numbers at every evaluation."""
