"""Stages that train: sft, reward_model, dpo, rl. Each leaves a standard model folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from aifeedback import files
from aifeedback.config import Config
from aifeedback.errors import InputError
from aifeedback.records import Prompt
from aifeedback.stages import resolve
from aifeedback.stages.base import Forecast, Job, Outcome, Stage
from aifeedback.stages.feedback import account
from aifeedback.stages.rewards import RewardSpec, reward_function


class Trained(Stage):
    """What training stages share: a model to start from, and settings of the trainer under ``train``."""

    model: str
    """Model folder or hub id to start from."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Settings of the trainer by name; the run's seed unless given."""

    def inputs(self) -> Iterator[str]:
        yield from resolve.outside_model(self.model)

    def problems(self) -> Iterator[str]:
        try:
            configured(trainer(self.kind), self.train)
        except InputError as wrong:
            yield str(wrong)

    def config(self, job: Job) -> Any:
        """The trainer's settings, with the run's seed unless one is given."""
        return configured(trainer(self.kind), {"seed": job.seed, **self.train})


class Sft(Trained):
    """Supervised fine-tuning on completions → ``policy/``."""

    kind: ClassVar[str] = "sft"
    data: str

    def inputs(self) -> Iterator[str]:
        yield from super().inputs()
        yield from resolve.outside(self.data)

    def run(self, job: Job) -> Outcome:
        from aifeedback.train.rows import SftRow
        from aifeedback.train.sft import train_sft

        read = files.read_completions(self.data)
        rows = [SftRow(p, c) for p, c in zip(read.prompts, read.rows, strict=True)]
        config = self.config(job)
        start = resolve.policy_folder(self.model)
        result = train_sft(start, rows, config, job.folder / "policy", progress=job.progress)
        return Outcome({**training_figures(result), "rows": account(read.report)})


class RewardModelStage(Trained):
    """A reward model on labelled comparisons → ``reward_model/``."""

    kind: ClassVar[str] = "reward_model"
    data: str
    """A labelled file; several sources are given as ``mix``."""
    hard: bool = False
    """Round every label to 0 or 1; a label of one half is left out."""
    mix: dict[str, float] = Field(default_factory=dict)
    """Further labelled files → weight of their rows (human and AI labels in one model)."""
    heldout: str | None = None
    """Labelled file of people's verdicts that accuracy is measured on."""
    centre: str | None = None
    """Completions file (of the SFT policy) whose mean reward becomes 0."""
    centre_limit: int | None = Field(default=None, ge=1)
    """Most completions for that mean; None uses all."""

    def inputs(self) -> Iterator[str]:
        yield from super().inputs()
        for name in (self.data, *self.mix, self.heldout or "", self.centre or ""):
            yield from resolve.outside(name)

    def run(self, job: Job) -> Outcome:
        from aifeedback.train.mix import hard_labels
        from aifeedback.train.reward_model import centre, fit_reward_model
        from aifeedback.train.rows import PairRow

        rows: list[Any] = [PairRow(r.comparison, r.p_first) for r in files.read_labelled(self.data, job.seed)]
        for path, weight in self.mix.items():
            rows += [PairRow(r.comparison, r.p_first, weight) for r in files.read_labelled(path, job.seed)]
        rows = hard_labels(rows) if self.hard else rows
        heldout = files.read_labelled(self.heldout, job.seed) if self.heldout else None
        folder = job.folder / "reward_model"
        config = self.config(job)
        start = resolve.policy_folder(self.model)
        result = fit_reward_model(start, rows, config, folder, heldout=heldout, progress=job.progress)
        figures = training_figures(result)
        if self.centre:
            read = files.read_completions(self.centre)
            few = slice(self.centre_limit)
            figures["offset"] = centre(folder, read.prompts[few], read.rows[few])
        if "heldout_accuracy" in result.figures:
            figures["accuracy"] = {
                "value": result.figures["heldout_accuracy"],
                "low": result.figures["heldout_accuracy_low"],
                "high": result.figures["heldout_accuracy_high"],
                "n": int(result.figures["heldout_n"]),
                "method": "share of held-out pairs whose preferred completion scores higher, Wilson interval",
            }
        return Outcome(figures)


class Dpo(Trained):
    """Direct preference optimisation on soft labels → ``policy/``."""

    kind: ClassVar[str] = "dpo"
    data: str
    hard: bool = False
    """Round every label to 0 or 1; a label of one half is left out."""
    reference: str | None = None
    """Reference policy; ``model`` itself when not given."""

    def inputs(self) -> Iterator[str]:
        yield from super().inputs()
        yield from resolve.outside(self.data)
        yield from resolve.outside_model(self.reference or "")

    def run(self, job: Job) -> Outcome:
        from aifeedback.train.dpo import train_dpo
        from aifeedback.train.mix import hard_labels

        rows: list[Any] = files.read_labelled(self.data, job.seed)
        rows = hard_labels(rows) if self.hard else rows
        config = self.config(job)
        start = resolve.policy_folder(self.model)
        reference = resolve.policy_folder(self.reference) if self.reference else None
        out = job.folder / "policy"
        result = train_dpo(start, rows, config, out, reference_dir=reference, progress=job.progress)
        return Outcome(training_figures(result))


class Monitor(Config):
    """An independent measure on held-out prompts while a policy trains: does the reward still mean something?"""

    prompts: str
    """Prompts that are not trained on."""
    judge: resolve.JudgeSpec
    """Scores the policy's answers (``by: ratings``, or the oracle), or compares them with the starting policy's."""
    limit: int = Field(default=100, ge=2)
    """Prompts looked at each time, and to choose on."""
    choose_on: str | None = None
    """Further held-out prompts, on which the judge sets the ``guard.candidates`` (4) checkpoints of highest reward
    against the starting policy; the best of them becomes the policy (Lee et al. 2023). None: the last step does."""
    stop_when_gamed: bool = False
    """End the run when the measure falls while the reward rises."""
    guard: dict[str, Any] = Field(default_factory=dict)
    """Settings of the guard by name."""


class Learned(NamedTuple):
    """How a run of reinforcement learning went."""

    result: Any
    """The trainer's own report."""
    choice: dict[str, Any]
    """Under ``choice``: which checkpoint became the policy, and what it was chosen from; empty without a choice."""
    reward: str


class Rl(Trained):
    """Policy gradient on a reward → ``policy/``; ``training/metrics.jsonl`` in it has every step."""

    kind: ClassVar[str] = "rl"
    prompts: str
    reward: RewardSpec
    monitor: Monitor | None = None

    def inputs(self) -> Iterator[str]:
        yield from super().inputs()
        yield from resolve.outside(self.prompts)
        yield from self.reward.inputs()
        if self.monitor:
            yield from resolve.outside(self.monitor.prompts)
            yield from resolve.outside(self.monitor.choose_on or "")
            yield from resolve.outside_judge(self.monitor.judge)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.monitor is None:
            return
        try:
            guard = self._guard_config(seed=0)
        except InputError as wrong:
            yield str(wrong)
            return
        if self.monitor.choose_on:
            if not guard.candidates:
                yield "monitor.guard.candidates is 0: monitor.choose_on would have nothing to choose from"
            if not self.train.get("evaluate_every"):
                yield "monitor.choose_on chooses among evaluated checkpoints: set train.evaluate_every"
            if self.train.get("lora"):
                yield "monitor.choose_on keeps whole weights: it does not go with train.lora"

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        del rows
        samples = self.train.get("prompts_per_step", 128) * self.train.get("samples_per_prompt", 1)
        asked = sum(judge.calls_per_score for judge in self.reward.judges())
        if asked and "steps" not in self.train:
            return Forecast(None)
        return Forecast(samples * int(self.train.get("steps", 0)) * asked)

    def run(self, job: Job) -> Outcome:
        read = files.load_prompts(self.prompts)
        learned = self.learn(read.rows, job, job.folder / "policy")
        figures = {
            **training_figures(learned.result),
            **learned.choice,
            "reward": learned.reward,
            "judges": {judge.model: resolve.described(judge, job) for judge in self.reward.judges()},
            **({"watched_by": job.named(self.monitor.judge.model)} if self.monitor else {}),
            "rows": account(read.report),
        }
        return Outcome(figures)

    def learn(self, prompts: Sequence[Prompt], job: Job, out: Path) -> Learned:
        """Trains on these prompts into the folder ``out``, watched and chosen as ``monitor`` says."""
        from aifeedback.train.reinforce import train_rl
        from aifeedback.train.rewards import name_of

        reward = reward_function(self.reward, job)
        config = self.config(job)
        guard = self._guard(reward, job, out)
        result = train_rl(
            resolve.policy_folder(self.model),
            prompts,
            reward,
            config,
            out,
            reference=self._judging_checkpoint(job),
            hook=guard,
            stop=guard.stop if guard and self.monitor and self.monitor.stop_when_gamed else None,
            reward_name=name_of(reward),
            progress=job.progress,
        )
        return Learned(result, self._choice(config, job, out), name_of(reward))

    def _judging_checkpoint(self, job: Job) -> Any:
        """The model that a judge has loaded, where it is the very checkpoint to start from: it is the reference too."""
        if all(judge.model != self.model for judge in self.reward.judges()):
            return None
        model = resolve.connect_model(self.model, job).model.model  # type: ignore[attr-defined]
        return model if str(model.dtype) == "torch.float32" else None  # the KL compares with a policy in fp32

    def _choice(self, config: Any, job: Job, out: Path) -> dict[str, Any]:
        """Puts the chosen checkpoint in the policy's place, and says what it was chosen from."""
        if self.monitor is None or self.monitor.choose_on is None:
            return {}
        from aifeedback.train.guard import choose

        chosen = choose(
            out,
            resolve.policy_folder(self.model),
            files.read_prompts(self.monitor.choose_on, limit=self.monitor.limit),
            resolve.labeler(self.monitor.judge, job),
            config,
            seed=job.seed,
        )
        rates = {
            name: {"value": rate, "low": low, "high": high} for name, (rate, low, high) in chosen.win_rates.items()
        }
        return {"choice": {"chosen": chosen.folder.name, "candidates": rates, "n": chosen.n}}

    def _guard_config(self, *, seed: int) -> Any:
        from aifeedback.config import parse
        from aifeedback.train.guard import GuardConfig

        assert self.monitor is not None
        unless_given = {"candidates": 4 if self.monitor.choose_on else 0, "seed": seed}
        return parse(GuardConfig, {**unless_given, **self.monitor.guard}, prefix="monitor.guard.")

    def _guard(self, reward: Any, job: Job, out: Path) -> Any:
        if self.monitor is None:
            return None
        from aifeedback.train.guard import Guard
        from aifeedback.train.rewards import judge_score

        judge = self.monitor.judge
        scores = judge.by == "ratings" or judge.model.startswith("gold:")
        return Guard(
            files.read_prompts(self.monitor.prompts, limit=self.monitor.limit),
            reward,
            self._guard_config(seed=job.seed),
            measure=judge_score(resolve.scorer(judge, job)) if scores else None,
            judge=None if scores else resolve.labeler(judge, job),
            out=out if self.monitor.choose_on else None,
        )


TRAINERS = {
    "sft": ("sft", "SftConfig"),
    "reward_model": ("reward_model", "RewardModelConfig"),
    "dpo": ("dpo", "DpoConfig"),
    "rl": ("rl_config", "RLConfig"),
}


def trainer(kind: str) -> type[Any]:
    """The settings class of a kind of training; loads torch."""
    module, name = TRAINERS[kind]
    return getattr(import_module(f"aifeedback.train.{module}"), name)


def configured(schema: type[Any], values: dict[str, Any]) -> Any:
    """A trainer's settings, checked; errors name the key under ``train``."""
    from aifeedback.config import parse

    return parse(schema, values, prefix="train.")


def training_figures(result: Any) -> dict[str, Any]:
    """What every trainer reports of itself."""
    told = result.model_dump(mode="json")
    return {key: told[key] for key in told if key not in ("folder", "identity")}


STAGES: dict[str, type[Stage]] = {stage.kind: stage for stage in (Sft, RewardModelStage, Dpo, Rl)}
