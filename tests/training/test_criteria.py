"""Rewards of several criteria: their sum, each by itself, and normalised one by one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_policy_gradient import metrics, settings, some_prompts
from torch import Tensor

from aifeedback.errors import RecipeError
from aifeedback.models.fake import FakeModel
from aifeedback.steps.rewards import reward_function
from aifeedback.steps.rl import Rl
from aifeedback.steps.step import Context
from aifeedback.training import rewards
from aifeedback.training.advantages import GroupDecoupled
from aifeedback.training.policy_gradient import train_rl
from aifeedback.training.settings import RLConfig

NAN = math.nan
FREE: dict[str, Any] = {"baseline": "gdpo", "kl_term": "k3", "zscore_samples": None, "missing_eos_penalty": 0.0}


def length(prompts: Any, completions: Any) -> list[float]:
    return [float(len(c)) for c in completions]


def even(prompts: Any, completions: Any) -> list[float | None]:
    """Unknown where the first word is w7."""
    return [None if c.startswith("w7") else float(c.count("2") + c.count("4")) for c in completions]


def published(reward_PGC: Tensor, weights: list[float]) -> Tensor:
    """Every criterion by its group's mean and deviation, weighed, and the sum by the batch's: with numbers, one by one."""
    prompts, samples, criteria = reward_PGC.shape
    summed = torch.zeros(prompts, samples, dtype=reward_PGC.dtype)
    for p in range(prompts):
        for c in range(criteria):
            group = reward_PGC[p, :, c].tolist()
            mean = sum(group) / samples
            sd = math.sqrt(sum((r - mean) ** 2 for r in group) / (samples - 1))
            for g in range(samples):
                summed[p, g] += weights[c] * (group[g] - mean) / (sd + 1e-4)
    return (summed - summed.mean()) / (summed.std() + 1e-4)


def test_criteria_are_normalised_one_by_one() -> None:
    reward_PGC = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reward_PGC[..., 1] *= 1000
    weights = [1.0, 0.5, 2.0]
    found_PG = GroupDecoupled().of_criteria(reward_PGC, weights)
    torch.testing.assert_close(found_PG, published(reward_PGC, weights))


def test_a_criterion_with_a_large_spread_does_not_drown_the_others() -> None:
    """Two criteria that disagree, one a thousand times as large: the sum follows that one, gdpo the one that weighs more."""
    small, large = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([2000.0, 1000.0, 0.0])
    reward_PGC = torch.stack([small, large], -1)[None].double()
    assert GroupDecoupled().of_criteria(reward_PGC, [2.0, 1.0])[0].tolist() == pytest.approx([-1, 0, 1], abs=1e-3)
    summed_PG = reward_PGC @ torch.tensor([2.0, 1.0]).double()
    kind = GroupDecoupled()
    advantage_PG = (summed_PG - kind.subtrahend(summed_PG)) / kind.divisor(summed_PG)
    assert advantage_PG[0].tolist() == pytest.approx([1.0, 0.0, -1.0], abs=1e-3)


def test_an_unscored_sample_leaves_the_others_as_they_are_without_it() -> None:
    with_gap = torch.tensor([[[1.0, 5.0], [2.0, NAN], [4.0, 1.0]], [[0.0, 1.0], [1.0, 3.0], [NAN, 2.0]]]).double()
    without = torch.tensor([[[1.0, 5.0], [4.0, 1.0]], [[0.0, 1.0], [1.0, 3.0]]]).double()
    found_PG = GroupDecoupled().of_criteria(with_gap, [1.0, 2.0])
    assert found_PG.isnan().tolist() == [[False, True, False], [False, False, True]]
    expected_PG = GroupDecoupled().of_criteria(without, [1.0, 2.0])
    torch.testing.assert_close(found_PG[~found_PG.isnan()], expected_PG.flatten())


def test_a_mix_is_logged_by_criterion_and_as_its_sum(llama: Path, tmp_path: Path) -> None:
    config = settings(steps=1, zscore_samples=None, samples_per_prompt=4)
    train_rl(llama, some_prompts(), [(length, 0.5), (even, 2.0)], config, tmp_path / "sum")
    line = metrics(tmp_path / "sum")[0]
    assert line["unscored"] == 0
    assert line["reward"] == pytest.approx(0.5 * line["reward_1"] + 2.0 * line["reward_2"])


def test_gdpo_trains_on_a_mix_and_is_not_its_sum(llama: Path, tmp_path: Path) -> None:
    both = [(length, 0.5), (even, 2.0)]
    own = train_rl(llama, some_prompts(), both, settings(steps=2, **FREE), tmp_path / "own")
    config = settings(steps=2, **{**FREE, "baseline": "grpo"})
    summed = train_rl(llama, some_prompts(), both, config, tmp_path / "sum")
    assert own.figures["reward_1"] > 0
    assert metrics(tmp_path / "own")[0]["grad_norm"] != metrics(tmp_path / "sum")[0]["grad_norm"]
    assert summed.figures["left_out"] == own.figures["left_out"]


def test_gdpo_refuses_a_single_criterion_and_what_it_would_normalise_away(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match="gdpo normalises the criteria of a reward one by one, and length is a single"
    ):
        train_rl(llama, some_prompts(), length, settings(steps=1, **FREE), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="gdpo.*set kl_term to k3"):
        RLConfig(samples_per_prompt=2, baseline="gdpo")
    with pytest.raises(ValueError, match="missing_eos_penalty and zscore_samples do not apply"):
        RLConfig(samples_per_prompt=2, baseline="gdpo", beta=0.0, zscore_samples=9)


def test_a_recipe_with_gdpo_and_a_single_reward_is_refused_before_it_runs(llama: Path, tmp_path: Path) -> None:
    def told(reward: Any) -> str:
        train = {"baseline": "gdpo", "kl_term": "k3", "samples_per_prompt": 2}
        return "\n".join(Rl(model=f"hf:{llama}", prompts="p.jsonl", reward=reward, train=train).problems())

    part = {"source": f"rm:{llama}"}
    assert "needs several criteria" in told(part)
    assert "needs several criteria" in told({"mix": [part, part], "per_word": 0.1})
    assert told({"mix": [part, part]}) == ""
    assert told({"judge": {"model": "fake:quality", "rubric": "general"}}) == ""


def test_several_rewards_by_hand(tmp_path: Path) -> None:
    """Two samples of one prompt. words: 1, 3. stops: 10, 0. Weights 1 and ½, so the sums are 6 and 3.

    Of the sums the first sample is better. One by one, words are −1/√2, +1/√2 and stops +1/√2, −1/√2 of a deviation from
    their means; weighted and added −½/√2, +½/√2, whose deviation is ½: −1/√2, +1/√2. The second sample is better.
    """
    file = tmp_path / "own.py"
    file.write_text(
        "def words(prompts, completions):\n    return [len(text.split()) for text in completions]\n"
        "def stops(prompts, completions):\n    return [10 * text.count('.') for text in completions]\n"
    )
    names = [f"python:{file}:words", f"python:{file}:stops"]
    step = Rl.from_options({"model": "hf:a/b", "prompts": "p.jsonl", "reward": names, "reward_weight": ["1", "0.5"]})
    reward = reward_function(step.reward, Context(tmp_path, tmp_path))
    assert isinstance(reward, rewards.Criteria)
    columns = reward.columns(["Say"] * 2, ["One.", "one two three"])
    assert columns == [[1, 3], [10, 0]]
    assert reward.total(columns) == [6, 3]
    criteria_PGC = torch.tensor(columns, dtype=torch.float64).T[None]
    advantages = GroupDecoupled().of_criteria(criteria_PGC, reward.weights)[0].tolist()
    assert advantages == pytest.approx([-(0.5**0.5), 0.5**0.5], abs=1e-3)
    assert step.reward.has_criteria


def test_a_judge_with_a_rubric_is_a_reward_of_its_criteria() -> None:
    from aifeedback.judging.pointwise import RubricScorer
    from aifeedback.prompts.judge_prompt import JudgePrompt
    from aifeedback.prompts.registry import Wording
    from aifeedback.types import Completion, Prompt

    criteria = [Wording(id=f"r/{n}", text=f"Is it {n}?", weight=w) for n, w in (("kind", 1.0), ("right", 3.0))]
    scorer = RubricScorer(FakeModel(), JudgePrompt.load("criterion-rating"), criteria)
    reward = rewards.judge_score(scorer)
    assert isinstance(reward, rewards.Criteria)
    assert reward.weights == [0.25, 0.75]
    prompt = Prompt.of("Say something.")
    texts = ["Yes.", "A longer answer, with reasons."]
    totals = [s.value for s in scorer.score([prompt] * 2, [Completion.of(prompt, t, source="x") for t in texts])]
    assert reward(["Say something."] * 2, texts) == pytest.approx(totals)
