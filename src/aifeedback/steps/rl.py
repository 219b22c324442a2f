"""``rl``: policy gradient on a reward model, a judge's live score (d-RLAIF), or any Python function."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from aifeedback import data
from aifeedback.config import Cli, Config
from aifeedback.errors import RecipeError
from aifeedback.judging.spec import JudgeSpec
from aifeedback.models import lineage
from aifeedback.models.lineage import Origin
from aifeedback.refs import JudgeRef, ModelRef, PromptRef, Ref
from aifeedback.steps import connect
from aifeedback.steps.connect import JudgeCard
from aifeedback.steps.rewards import (
    JudgeRewardOptions,
    RewardSpec,
    reward_from_options,
    reward_function,
    reward_origin,
)
from aifeedback.steps.step import Context, Figures, Forecast, Measured, Rows
from aifeedback.steps.trained import Trained, TrainFigures
from aifeedback.training.settings import HeldOutMonitorConfig, RLConfig, RolloutServer
from aifeedback.types import Prompt

MONITOR, ROLLOUTS = "Monitoring", "Rollouts by a server"


class RewardOptions(JudgeRewardOptions):
    """Options of the command that are about a judge reward and its monitor; a recipe writes them into ``reward``."""

    monitor_prompt: Annotated[PromptRef | None, Cli(panel=MONITOR, metavar="NAME")] = None
    """Judge prompt for --monitor."""
    monitor_every: Annotated[int, Cli(panel=MONITOR)] = Field(default=20, ge=1)
    """Steps between two evaluations of --monitor."""


class Monitor(Config):
    """An independent measure on held-out prompts while a policy trains: does the reward still mean something?"""

    prompts: Annotated[Ref, Cli(("--monitor",), panel=MONITOR, metavar="FILE")]
    """Held-out prompts to evaluate the policy on during training."""
    judge: Annotated[JudgeSpec, Cli(("--monitor-judge",), panel=MONITOR, metavar="MODEL")]
    """Judge for --monitor; use another than the reward's."""
    limit: Annotated[int, Cli(("--monitor-limit",), panel=MONITOR)] = Field(default=100, ge=2)
    """Prompts to evaluate on each time, and to choose on."""
    choose_on: Annotated[Ref | None, Cli(panel=MONITOR, metavar="FILE")] = None
    """Further held-out prompts: the checkpoint with the best win rate on them, of the four with the highest reward,
    becomes the policy (Lee et al. 2023). By default the last step does."""
    stop_when_gamed: Annotated[bool, Cli(panel=MONITOR)] = False
    """Stop when the judge's verdict falls while the reward rises."""
    guard: Annotated[HeldOutMonitorConfig, Cli(is_hidden=True)] = HeldOutMonitorConfig()
    """When a monitored run stops, and how many checkpoints it keeps."""

    @model_validator(mode="after")
    def _answers_at_once(self) -> Self:
        if self.judge.answers_later:
            raise ValueError("batch_api: training waits for the monitor, and a batch takes hours; leave it out")
        return self


class Choice(Figures):
    """Which checkpoint became the policy."""

    chosen: str
    candidates: dict[str, Measured]
    """Win rate of each against the starting policy."""
    n: int


class RlFigures(TrainFigures):
    choice: Choice | None = None
    reward: str
    judges: Mapping[str, JudgeCard] = {}
    """Judges whose score is the reward."""
    watched_by: str | None = None


class Learned(NamedTuple):
    """How a run of reinforcement learning went."""

    result: Any
    choice: Choice | None
    reward: str


class Rl(Trained):
    """Train a policy by policy gradient with a KL penalty; writes policy/."""

    kind: ClassVar[str] = "rl"
    main: ClassVar[str] = "policy"
    Figures = RlFigures
    further: ClassVar = (RewardOptions,)
    model: Annotated[ModelRef, Cli(("--policy", "--model"), metavar="MODEL")]
    """Policy to start from: hf:DIR_OR_ID or lab:NAME."""
    prompts: Annotated[Ref, Cli(("--prompts", "--data"), metavar="FILE")]
    """Prompts to respond to."""
    reward: Annotated[RewardSpec, Cli(is_repeated=True, metavar="REWARD")]
    """rm:DIR, python:FILE.py:FUNCTION, or judge:MODEL (d-RLAIF). Repeat to add several."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many prompts."""
    engine: Literal["own", "trl"] = "own"
    """own, or trl: TRL's RLOO trainer with the same rewards."""
    train: Annotated[RLConfig, Cli(flatten=(RLConfig,), panel="Trainer")] = RLConfig()
    """Settings of the trainer."""
    rollouts: Annotated[RolloutServer | None, Cli(flatten=(RolloutServer,), panel=ROLLOUTS)] = None
    """A server that draws the samples."""
    monitor: Annotated[Monitor | None, Cli(flatten=(Monitor,), panel=MONITOR)] = None
    """An independent measure while the policy trains."""

    @classmethod
    def from_options(cls, settings: dict[str, Any], chosen: Collection[str] = ()) -> Rl:
        settings = dict(settings)
        judge, served, weights = RewardOptions.taken_from(settings)
        rewards = settings.get("reward", [])
        named = [rewards] if isinstance(rewards, str) else rewards
        watch = settings.get("monitor", {}).get("judge")
        is_watched = isinstance(watch, str) and ModelRef(watch).is_served
        is_served = any(name.startswith("judge:") and JudgeRef(name[6:]).is_served for name in named)
        if served and not is_watched and not is_served:
            raise RecipeError(
                f"only a model on a server has such a setting, not {', '.join(named)}", key=f"--{next(iter(served))}"
            )
        if named:
            settings["reward"] = reward_from_options(named, weights, judge, served if is_served else {})
        if monitor := settings.get("monitor"):
            monitor = dict(monitor)
            if not {"prompts", "judge"} <= monitor.keys():
                raise RecipeError(
                    "a monitor needs held-out prompts and a judge", fix="give both --monitor and --monitor-judge"
                )
            prompt, every = settings.pop("monitor_prompt", None), settings.pop("monitor_every", None)
            if isinstance(watch, str):
                own = {"prompt": prompt} if prompt else {}
                monitor["judge"] = {"model": watch, **own, **(served if is_watched else {})}
            settings["monitor"] = monitor
            settings["train"] = {"evaluate_every": every or 20, **settings.get("train", {})}
        return super().from_options(settings, chosen)

    @model_validator(mode="after")
    def _monitored(self) -> Self:
        if self.engine == "trl" and self.monitor:
            raise ValueError("monitor: TRL's trainer cannot be monitored; use engine own")
        if self.engine == "trl" and self.rollouts:
            raise ValueError("rollouts: TRL draws its own samples (train.trl: {use_vllm: true}); use engine own")
        if self.rollouts and self.train.lora:
            raise ValueError("rollouts: whole weights are handed over; leave train.lora out")
        if self.engine == "own" and self.train.trl:
            raise ValueError("train.trl: only engine trl has such options; leave them out")
        return self

    def requires(self) -> Iterator[str]:
        yield from super().requires()
        yield from ("trl", "datasets") if self.engine == "trl" else ()
        yield from ("aiohttp",) if self.rollouts else ()

    def problems(self) -> Iterator[str]:
        if self.train.evaluate_every and self.monitor is None:
            yield "train.evaluate_every needs a monitor: nothing is evaluated without one"
        if self.train.chosen_baseline == "gdpo" and not self.reward.has_criteria:
            yield "train.baseline gdpo needs several criteria: a reward.mix, or a judge with a rubric, without clip or per_word"
        if self.reward.has_rank:
            yield from self._unranked()
        if self.monitor is None or not self.monitor.choose_on:
            return
        if not self._guard_config(seed=0).candidates:
            yield "monitor.guard.candidates is 0: monitor.choose_on has nothing to choose from"
        if not self.train.evaluate_every:
            yield "monitor.choose_on chooses among evaluated checkpoints: set train.evaluate_every"
        if self.train.lora:
            yield "monitor.choose_on keeps whole weights: it cannot be combined with train.lora"

    def _unranked(self) -> Iterator[str]:
        """Settings under which a rank stays unknown: it needs other responses to the same prompt."""
        if self.train.samples_per_prompt < 2:
            yield "reward.rank ranks the responses to one prompt: set train.samples_per_prompt to 2 or more"
        if self.train.zscore_samples:
            yield "train.zscore_samples: a rank has mean 0 over every prompt and is not z-scored; leave it out"
        if self._selects:
            yield "monitor: a rank is no reward of a single response, so that nothing can stop or choose by it"

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        calls, steps = self.reward.calls(self.train.samples_per_prompt), self.train.steps
        return Forecast(None if calls and steps is None else self.train.prompts_per_step * (steps or 0) * calls)

    def run(self, context: Context) -> RlFigures:
        read = data.load_prompts(self.prompts, limit=self.limit)
        policy = context.result("policy")
        learned = self.learn(read.rows, context, policy)
        cards = {judge.model: connect.judge_card(judge, context) for judge in self._shaping_judges()}
        self.leave_origin(policy, context, self._origin(cards, len(read.rows)), self._seen(read.rows), self.prompts)
        return RlFigures.of(
            learned.result,
            are_steps_set=self.train.steps is not None,
            choice=learned.choice,
            reward=learned.reward,
            judges={judge.model: cards[judge.model] for judge in self.reward.judges()},
            watched_by=context.named(self.monitor.judge.model) if self.monitor else None,
            file=Rows.of(read.report),
        )

    def _shaping_judges(self) -> list[JudgeSpec]:
        """Those whose score is the reward, and the monitor's where it decides which weights are kept."""
        return [*self.reward.judges(), *([self.monitor.judge] if self.monitor and self._selects else [])]

    @property
    def _selects(self) -> bool:
        return self.monitor is not None and bool(self.monitor.choose_on or self.monitor.stop_when_gamed)

    def _seen(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """The prompts trained on; those that a checkpoint was chosen or stopped on are no longer held out either."""
        if self.monitor is None or not self._selects:
            return list(prompts)
        further = [ref for ref in (self.monitor.prompts, self.monitor.choose_on) if ref]
        return [*prompts, *(p for ref in further for p in data.read_prompts(ref, limit=self.monitor.limit))]

    def _origin(self, cards: Mapping[JudgeRef, JudgeCard], rows: int) -> Origin:
        whole = reward_origin(self.reward, cards, role="reward", rows=rows)
        rewarding = {judge.model for judge in self.reward.judges()}
        for model in [one for one in cards if one not in rewarding]:
            whole += lineage.behind(
                model, [lineage.trainer(model, cards[model].as_json(), role="selection", rows=rows)]
            )
        return whole

    def learn(self, prompts: Sequence[Prompt], context: Context, out: Path) -> Learned:
        """Train on these prompts into the folder ``out``, monitored and chosen as ``monitor`` says."""
        from aifeedback.training.rewards import name_of

        reward = reward_function(self.reward, context)
        config = self.seeded(self.train, context)
        if self.engine == "trl":
            from aifeedback.integrations.trl import run_rloo

            result = run_rloo(self.model.folder(), prompts, reward, config, out, progress=context.progress)
            return Learned(result, None, name_of(reward))
        from aifeedback.training.policy_gradient import train_rl

        guard = self._guard(reward, context, out)
        with self._sampler(out) as sampler:
            result = train_rl(
                self.model.folder(),
                prompts,
                reward,
                config,
                out,
                reference=self._judging_checkpoint(context),
                hook=guard,
                stop=guard.stop if guard and self.monitor and self.monitor.stop_when_gamed else None,
                reward_name=name_of(reward),
                sampler=sampler,
                progress=context.progress,
            )
        return Learned(result, self._choose(config, context, out), name_of(reward))

    def _sampler(self, out: Path) -> AbstractContextManager[Any]:
        if self.rollouts is None:
            return nullcontext()
        from aifeedback.training.served_rollouts import ServedRollouts

        return ServedRollouts(self.rollouts, out / "training" / "served")

    def _judging_checkpoint(self, context: Context) -> Any:
        """The model that a judge has loaded, where it is the very checkpoint to start from: it is the reference too."""
        if all(judge.model != self.model for judge in self.reward.judges()):
            return None
        model = context.connect(self.model).model.model  # type: ignore[attr-defined]
        kept = {"fp32": "torch.float32", "bf16": "torch.bfloat16"}[self.train.weights]
        return model if str(model.dtype) == kept else None  # the KL compares with a policy of the same precision

    def _choose(self, config: Any, context: Context, out: Path) -> Choice | None:
        """Put the chosen checkpoint in the policy's place."""
        if self.monitor is None or self.monitor.choose_on is None:
            return None
        from aifeedback.training.monitor import choose

        chosen = choose(
            out,
            self.model.folder(),
            data.read_prompts(self.monitor.choose_on, limit=self.monitor.limit),
            connect.labeler(self.monitor.judge, context),
            config,
            seed=context.seed,
        )
        rates = {
            name: Measured(value=rate, low=low, high=high, n=chosen.decided.get(name))
            for name, (rate, low, high) in chosen.win_rates.items()
        }
        return Choice(chosen=chosen.folder.name, candidates=rates, n=chosen.n)

    def _guard_config(self, *, seed: int) -> HeldOutMonitorConfig:
        assert self.monitor is not None
        is_set = self.monitor.guard.model_fields_set
        defaults = {"candidates": 4 if self.monitor.choose_on else 0, "seed": seed}
        return self.monitor.guard.model_copy(update={k: v for k, v in defaults.items() if k not in is_set})

    def _guard(self, reward: Any, context: Context, out: Path) -> Any:
        if self.monitor is None:
            return None
        from aifeedback.training.monitor import HeldOutMonitor
        from aifeedback.training.rewards import judge_score

        judge = self.monitor.judge
        scores = judge.by == "ratings" or judge.model.scheme == "gold"
        return HeldOutMonitor(
            data.read_prompts(self.monitor.prompts, limit=self.monitor.limit),
            reward,
            self._guard_config(seed=context.seed),
            measure=judge_score(connect.scorer(judge, context)) if scores else None,
            judge=None if scores else connect.labeler(judge, context),
            out=out if self.monitor.choose_on else None,
        )
