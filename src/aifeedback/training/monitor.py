"""Watching a policy for gaming its reward, on held-out prompts, while it trains.

Every ``evaluate_every`` steps: the reward that is optimised (the proxy) beside a measure that is not, KL, length and
repetition. A reward that keeps rising while the other measure falls is over-optimisation (Gao et al. 2023, arXiv
2210.10760); ``stop`` ends the run then. The published way of choosing a checkpoint (Lee et al. 2023, §3.4: several
high-reward candidates, judged against SFT on held-out prompts) is ``choose``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aifeedback.errors import TrainingError
from aifeedback.inference.passes import context_window
from aifeedback.training import folders
from aifeedback.training.policy_gradient import Policy
from aifeedback.training.reward_model import Accuracy, accuracy, wilson
from aifeedback.training.rewards import adapted, plain_prompt, score
from aifeedback.training.rollout import (
    EncodedPrompts,
    Rollout,
    as_rewards,
    encode_prompts,
    reference_logp,
    roll_out,
    sample_facts,
    uniforms,
)
from aifeedback.training.settings import HeldOutMonitorConfig, RLConfig
from aifeedback.types import Comparison, Completion, Labeler, Prompt, RewardFn


class HeldOutMonitor:
    """A hook and a stop rule for ``train_rl``: ``train_rl(…, hook=guard, stop=guard.stop)``."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        proxy: RewardFn,
        config: HeldOutMonitorConfig,
        *,
        measure: RewardFn | None = None,
        judge: Labeler | None = None,
        reward_labeler: Labeler | None = None,
        out: str | PathLike[str] | None = None,
    ) -> None:
        """``prompts`` must not be trained on. ``measure`` is a score that training does not see; ``judge`` compares
        with the reference's samples instead (the measure is then the mean P(policy better)), and with
        ``reward_labeler`` its verdicts also tell how stale the reward model is. Candidates go to ``out``.
        """
        if (measure is None) == (judge is None):
            raise TrainingError("the guard needs one independent measure: either a score or a judge")
        self.prompts, self.proxy, self.config = list(prompts), adapted(proxy), config
        self.measure = None if measure is None else adapted(measure)
        self.judge, self.reward_labeler = judge, reward_labeler
        self.folder = None if out is None else Path(out) / "training" / "candidates"
        self._reference: Rollout | None = None

    def __call__(self, step: int, policy: Policy) -> dict[str, float]:
        """Figures on held-out prompts, all named ``heldout_…``."""
        encoded = _encoded(policy.tokenizer, self.prompts, policy.config, context_window(policy.model.config))
        rollout = self._sample(policy.model, policy, encoded.ids)
        proxy = score(self.proxy, encoded.prompts, rollout.texts)
        reference = reference_logp(
            policy.reference,
            rollout,
            temperature=policy.config.temperature,
            forward_tokens=policy.config.forward_tokens,
        )
        facts = sample_facts(rollout, proxy, reference)
        figures = {
            "heldout_kl": float(facts.k1_B.mean()),
            "heldout_length": float(facts.length_B.mean()),
            "heldout_truncated": float(facts.truncated_B.mean()),
            "heldout_repetition": sum(repetition(text) for text in rollout.texts) / len(rollout.texts),
            **mean_figures("heldout_reward", facts.reward_B),
        }
        figures |= self._measured(policy, encoded.prompts, encoded.ids, rollout)
        if self.folder is not None and "heldout_reward" in figures:
            self._keep(step, figures["heldout_reward"], policy)
        return figures

    def stop(self, history: Sequence[Mapping[str, float]]) -> str | None:
        """Why to end the run now, or None; a function of the metric lines alone."""
        seen = [line for line in history if "heldout_kl" in line]
        if not seen:
            return None
        now, config = seen[-1], self.config
        if config.max_kl is not None and now["heldout_kl"] > config.max_kl:
            return f"KL {now['heldout_kl']:.3g} nats exceeds {config.max_kl:g}"
        if config.max_repetition is not None and now["heldout_repetition"] > config.max_repetition:
            return f"repetition {now['heldout_repetition']:.2f} exceeds {config.max_repetition:g}"
        known = [line for line in seen if "heldout_measure_se" in line and "heldout_reward" in line]
        if len(known) > config.patience and is_over_optimised(known, config):
            best = max(known, key=lambda line: line["heldout_measure"])
            return (
                f"over-optimised: the measure fell from {best['heldout_measure']:.3g} (step {best['step']:g}) to "
                f"{known[-1]['heldout_measure']:.3g} while the reward rose from {best['heldout_reward']:.3g} to "
                f"{known[-1]['heldout_reward']:.3g}"
            )
        return None

    def best(self, history: Sequence[Mapping[str, float]]) -> int | None:
        """The evaluated step within the limits on KL and repetition with the highest measure; None without any."""
        config = self.config
        known = [
            line
            for line in history
            if "heldout_measure" in line
            and (config.max_kl is None or line["heldout_kl"] <= config.max_kl)
            and (config.max_repetition is None or line["heldout_repetition"] <= config.max_repetition)
        ]
        return int(max(known, key=lambda line: line["heldout_measure"])["step"]) if known else None

    def _sample(self, model: Any, policy: Policy, prompt_ids: Sequence[list[int]]) -> Rollout:
        uniform_BT = uniforms(
            len(prompt_ids), policy.config.max_new_tokens, seed=self.config.seed, step=0, purpose="guard"
        )
        return roll_out(
            model,
            policy.tokenizer,
            prompt_ids,
            samples=1,
            temperature=policy.config.temperature,
            max_new_tokens=policy.config.max_new_tokens,
            uniform_BT=uniform_BT,
        )

    def _measured(
        self, policy: Policy, prompts: Sequence[Prompt], prompt_ids: Sequence[list[int]], rollout: Rollout
    ) -> dict[str, float]:
        if self.measure is not None:
            values = score(self.measure, prompts, rollout.texts)
            return mean_figures("heldout_measure", as_rewards(values, samples=1).flatten())
        assert self.judge is not None
        if self._reference is None:
            self._reference = self._sample(policy.reference, policy, prompt_ids)
        rows = versus(prompts, rollout.texts, self._reference.texts)
        verdicts = [preference.p_first for preference in self.judge.label(rows)]
        figures = mean_figures("heldout_measure", as_rewards(verdicts, samples=1).flatten())
        if self.reward_labeler is not None:
            fresh = staleness(self.reward_labeler, rows, verdicts)
            figures |= {"heldout_reward_accuracy": fresh.value, "heldout_reward_accuracy_n": float(fresh.n)}
        return figures

    def _keep(self, step: int, reward: float, policy: Policy) -> None:
        """Saves this checkpoint if it is among the best, and drops the one that no longer is."""
        assert self.folder is not None
        known = {s: r for s, r in candidates(self.folder).items() if s < step} | {step: reward}
        best = sorted(known, key=lambda s: (-known[s], s))[: self.config.candidates]
        if step in best:
            policy.model.save_pretrained(str(self.folder / f"step-{step:08d}"))
            policy.tokenizer.save_pretrained(str(self.folder / f"step-{step:08d}"))
            (self.folder / f"step-{step:08d}" / "reward.json").write_text(json.dumps({"heldout_reward": reward}))
        for folder in self.folder.glob("step-*"):
            if int(folder.name.removeprefix("step-")) not in best:
                shutil.rmtree(folder)


class Choice(NamedTuple):
    """The candidate that a judge preferred to SFT most often."""

    folder: Path
    win_rates: dict[str, tuple[float, float, float]]
    """Per candidate: share of held-out prompts won against SFT (ties half) with a 95 % Wilson interval."""
    n: int
    """Comparisons that the judge could decide, for the chosen candidate."""
    decided: Mapping[str, int] = {}
    """The same, per candidate."""


def choose(
    out: str | PathLike[str],
    sft: str | PathLike[str],
    prompts: Sequence[Prompt],
    judge: Labeler,
    config: RLConfig,
    *,
    seed: int = 0,
) -> Choice:
    """Judges every kept candidate of the run ``out`` against ``sft`` and copies the best one's weights into ``out``.

    All draw with the same random numbers. ``training/choice.json`` has every candidate's win rate with its n,
    ``training/choice.jsonl`` both texts and the verdict of every comparison. Prompts that are too long are left out.
    Raises TrainingError where there are no candidates or no verdicts. The win rate of the chosen one is the best of
    several: measure it again on other prompts before reporting it.
    """
    kept = sorted((Path(out) / "training" / "candidates").glob("step-*"))
    if not kept:
        raise TrainingError(f"{out}: no candidates were kept\n  → give the guard `out` and at least one candidate")
    fitting = _encoded(folders.load_tokenizer(sft), prompts, config, folders.context_window(sft)).prompts
    start = _samples(Path(sft), fitting, config, seed)
    rates: dict[str, tuple[float, float, float]] = {}
    decided: dict[str, int] = {}
    lines: list[str] = []
    for folder in kept:
        texts = _samples(folder, fitting, config, seed)
        verdicts = [p.p_first for p in judge.label(versus(fitting, texts, start))]
        known = [v for v in verdicts if v is not None]
        decided[folder.name] = len(known)
        if known:
            rates[folder.name] = _share(known)
        rows = zip(fitting, texts, start, verdicts, strict=True)
        for prompt, text, other, p_first in rows:
            line = {"candidate": folder.name, "prompt": plain_prompt(prompt), "policy": text, "start": other}
            lines.append(json.dumps({**line, "p_policy": p_first}, ensure_ascii=False) + "\n")
    if not rates:
        raise TrainingError("the judge could not decide a single comparison of a candidate with SFT")
    best = max(rates, key=lambda name: (rates[name][0], name))
    chosen = Path(out) / "training" / "candidates" / best
    for file in chosen.iterdir():
        if file.suffix == ".safetensors" or file.name == "config.json":
            shutil.copyfile(file, Path(out) / file.name)
    report = {"chosen": best, "win_rates": rates, "n": decided}
    (Path(out) / "training" / "choice.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
    (Path(out) / "training" / "choice.jsonl").write_text("".join(lines), encoding="utf-8")
    return Choice(chosen, rates, decided[best], decided)


def versus(prompts: Sequence[Prompt], policy: Sequence[str], reference: Sequence[str]) -> list[Comparison]:
    """Policy against reference, the policy's text stored first."""
    return [
        Comparison.of(p, Completion.of(p, a, source="policy"), Completion.of(p, b, source="reference"))
        for p, a, b in zip(prompts, policy, reference, strict=True)
    ]


def staleness(reward: Labeler, fresh: Sequence[Comparison], truth: Sequence[float | None]) -> Accuracy:
    """How often the reward model agrees with another judge on *fresh* samples of the policy, with its interval.

    A reward model is stale when this is clearly below its held-out accuracy: the policy has left the data it was
    fitted on. Comparisons that either side could not decide are left out.
    """
    predictions = [p.p_first for p in reward.label(fresh)]
    both = [(a, b) for a, b in zip(predictions, truth, strict=True) if a is not None and b is not None]
    return accuracy([a - 0.5 for a, _ in both], [b for _, b in both])


def is_over_optimised(known: Sequence[Mapping[str, float]], config: HeldOutMonitorConfig) -> bool:
    """Whether the last ``patience`` evaluations are all below the best one although the reward did not drop."""
    best = max(known, key=lambda line: line["heldout_measure"])
    return all(
        line["step"] > best["step"]
        and line["heldout_reward"] >= best["heldout_reward"]
        and best["heldout_measure"] - line["heldout_measure"]
        > config.drop * (best["heldout_measure_se"] ** 2 + line["heldout_measure_se"] ** 2) ** 0.5
        for line in known[-config.patience :]
    )


def repetition(text: str) -> float:
    """Share of word trigrams that already occurred in the text, in [0, 1); 0 below three words."""
    words = text.split()
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return 1.0 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


def mean_figures(name: str, value_B: Tensor) -> dict[str, float]:
    """Mean over known values, its standard error (of two values or more), and the share that is not known."""
    known_B = value_B[~value_B.isnan()]
    figures = {f"{name}_unknown": 1.0 - len(known_B) / len(value_B)}
    if len(known_B):
        figures[name] = float(known_B.mean())
    if len(known_B) > 1:
        figures[f"{name}_se"] = float(known_B.std()) / len(known_B) ** 0.5
    return figures


def candidates(folder: Path) -> dict[int, float]:
    """Step and held-out reward of every kept candidate."""
    return {
        int(file.parent.name.removeprefix("step-")): json.loads(file.read_text())["heldout_reward"]
        for file in folder.glob("step-*/reward.json")
    }


def _encoded(tokenizer: Any, prompts: Sequence[Prompt], config: RLConfig, window: int | None) -> EncodedPrompts:
    return encode_prompts(
        tokenizer,
        prompts,
        max_prompt_tokens=config.max_prompt_tokens,
        max_new_tokens=config.max_new_tokens,
        context_window=window,
    )


def _samples(folder: Path, prompts: Sequence[Prompt], config: RLConfig, seed: int) -> list[str]:
    tokenizer = folders.load_tokenizer(folder)
    model = folders.load_policy(folder).eval()
    uniform_BT = uniforms(len(prompts), config.max_new_tokens, seed=seed, step=0, purpose="choose")
    with torch.inference_mode():
        return roll_out(
            model,
            tokenizer,
            _encoded(tokenizer, prompts, config, None).ids,
            samples=1,
            temperature=config.temperature,
            max_new_tokens=config.max_new_tokens,
            uniform_BT=uniform_BT,
        ).texts


def _share(p_first: Sequence[float]) -> tuple[float, float, float]:
    """Wins, ties half, with a Wilson interval around the share."""
    wins = sum(1.0 if p > 0.5 else 0.5 if p == 0.5 else 0.0 for p in p_first)
    return wilson(wins, len(p_first))  # type: ignore[arg-type]
