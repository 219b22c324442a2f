"""The policy gradient against exact enumeration, unscored samples, metrics, resume, and the folder that comes out."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import goodness, words
from torch import Tensor

from aifeedback.errors import RecipeError, TrainingError
from aifeedback.training import folders
from aifeedback.training.objective import Share
from aifeedback.training.policy_gradient import PolicyObjective, optimised_reward, other_form, train_rl
from aifeedback.training.rewards import score
from aifeedback.training.rollout import Clock, EncodedPrompts, encode_prompts, uniforms
from aifeedback.training.settings import BaselineName, RLConfig
from aifeedback.types import Prompt

BASELINES: tuple[BaselineName, ...] = ("none", "running_mean", "value", "leave_one_out")
EOS, LENGTH, VOCAB, TEMPERATURE, BETA = 3, 3, 4, 0.9, 0.2


class Letters:
    """A tokenizer of four tokens, the last of which ends an answer."""

    eos_token_id, pad_token_id = EOS, None

    def batch_decode(self, ids: Sequence[Sequence[int]], **options: Any) -> list[str]:
        return ["".join("abc"[i] for i in row if i != EOS) for row in ids]


def tiny_policy(seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        tie_word_embeddings=True,
        eos_token_id=EOS,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).double().eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, float(parameter.dim() == 1), 0.5)
    return model


def worth(prompt: str, text: str) -> float:
    """A reward that depends on prompt, letters and length."""
    return 1.5 * text.count("a") - 0.5 * text.count("b") * len(prompt) + 0.3 * len(text) + 1.0


def reward(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float | None]:
    return [worth(p, c) for p, c in zip(prompts, completions, strict=True)]


def all_completions() -> list[list[int]]:
    """Every sequence that ends at EOS or at the length limit: Σ over them of π is 1."""
    found = []
    for n in range(1, LENGTH + 1):
        for ids in itertools.product(range(VOCAB), repeat=n):
            if EOS not in ids[:-1] and (ids[-1] == EOS or n == LENGTH):
                found.append(list(ids))
    return found


def logp_of(model: Any, prompt: list[int], completions: list[list[int]]) -> Tensor:
    """Summed log-probability of each completion, differentiable, one forward each."""
    totals = []
    for ids in completions:
        logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        logp = torch.log_softmax(logits / TEMPERATURE, -1)
        totals.append(logp.gather(1, torch.tensor(ids)[:, None]).sum())
    return torch.stack(totals)


PROMPTS = [([0, 1], "xx"), ([2], "x")]


def exact_gradient(policy: Any, reference: Any) -> list[Tensor]:
    """∇ of −(1/P)·Σ_x Σ_y π(y|x)·[(1−β)·r(x, y) − β·log(π/π_ref)], with the derivative of every π in it."""
    completions = all_completions()
    texts = Letters().batch_decode(completions)
    total = torch.zeros((), dtype=torch.float64)
    for ids, text in PROMPTS:
        logp = logp_of(policy, ids, completions)
        with torch.no_grad():
            reference_logp = logp_of(reference, ids, completions)
        assert float(logp.exp().sum().detach()) == pytest.approx(1.0, abs=1e-9)
        worths = torch.tensor([worth(text, t) for t in texts], dtype=torch.float64)
        total = total + (logp.exp() * ((1 - BETA) * worths - BETA * (logp - reference_logp))).sum()
    return list(torch.autograd.grad(-total / len(PROMPTS), list(policy.parameters())))


def objective_of(policy: Any, reference: Any, baseline: BaselineName, *, copies: int, seed: int = 0) -> PolicyObjective:
    prompts = [Prompt.of(text) for _, text in PROMPTS] * copies
    ids = [ids for ids, _ in PROMPTS] * copies
    config = RLConfig(
        prompts_per_step=len(ids),
        samples_per_prompt=4,
        max_new_tokens=LENGTH,
        temperature=TEMPERATURE,
        beta=BETA,
        baseline=baseline,
        seed=seed,
    )
    return PolicyObjective(
        policy,
        reference,
        Letters(),
        EncodedPrompts(prompts, ids, 0),
        reward,
        config,
        share=Share(0, 1),
        clock=Clock(None),
    )


def step_gradient(objective: PolicyObjective, step: int) -> list[Tensor]:
    objective.zero_grad()
    for micro in objective.plan(step).micro:
        objective(micro).total.backward()
    return [p.grad.clone() for p in objective.policy.parameters()]


@pytest.mark.parametrize("baseline", BASELINES)
def test_gradient_is_the_exact_one_within_three_standard_errors(baseline: BaselineName) -> None:
    """Twelve fixed directions; 60 independent steps of 48 samples each give mean and standard error of each."""
    policy, reference = tiny_policy(1), tiny_policy(2)
    objective = objective_of(policy, reference, baseline, copies=6)
    if objective.value is not None:
        torch.nn.init.normal_(objective.value.head.weight, generator=torch.Generator().manual_seed(7))
        objective.value.double()
    exact = exact_gradient(policy, reference)
    draw = torch.Generator().manual_seed(3)
    directions = [exact, *([torch.randn(g.shape, generator=draw, dtype=g.dtype) for g in exact] for _ in range(11))]

    def along(gradient: list[Tensor]) -> list[float]:
        return [sum(float((g * d).sum()) for g, d in zip(gradient, way, strict=True)) for way in directions]

    seen = torch.tensor([along(step_gradient(objective, step)) for step in range(1, 61)], dtype=torch.float64)
    error = seen.std(0) / math.sqrt(len(seen))
    assert ((seen.mean(0) - torch.tensor(along(exact), dtype=torch.float64)).abs() <= 3 * error).all()
    assert (error < 0.2 * seen.std(0)).all()


def test_kl_term_is_exact() -> None:
    """Summed over all y with weight π(y), −Σ_t ∇log π·(−β·k1) is ∇β·KL(π‖π_ref) to 1e-7 (norms are fp32)."""
    policy, reference = tiny_policy(1), tiny_policy(2)
    completions = all_completions()
    ids = PROMPTS[0][0]
    logp = logp_of(policy, ids, completions)
    with torch.no_grad():
        reference_logp = logp_of(reference, ids, completions)
    divergence = BETA * (logp.exp() * (logp - reference_logp)).sum()
    expected = torch.autograd.grad(divergence, list(policy.parameters()), retain_graph=True)
    k1 = (logp - reference_logp).detach()
    weighed = optimised_reward(torch.zeros_like(k1), k1, beta=BETA, kl_form="paper")
    surrogate = -(logp.exp().detach() * logp * weighed).sum()
    found = torch.autograd.grad(surrogate, list(policy.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_both_forms_are_one_objective() -> None:
    """(1−β)(r − β′·k1) with β′ = β/(1−β)."""
    reward_B, k1_B = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    paper = optimised_reward(reward_B, k1_B, beta=0.05, kl_form="paper")
    usual = optimised_reward(reward_B, k1_B, beta=0.05 / 0.95, kl_form="usual")
    torch.testing.assert_close(paper, 0.95 * usual)
    assert "0.05263" in other_form(0.05, "paper")
    assert "0.05" in other_form(0.05 / 0.95, "usual")


@pytest.mark.parametrize("baseline", BASELINES)
def test_unscored_samples_leave_the_gradient_bit_equal(baseline: BaselineName) -> None:
    """The same draws with two samples unscored, against a batch in which those samples were never drawn."""
    policy, reference = tiny_policy(1), tiny_policy(2)
    objective = objective_of(policy, reference, baseline, copies=1)
    objective.double()
    hidden = {1, 6}
    objective.reward = lambda prompts, completions, **_: [
        None if i in hidden else worth(p, c) for i, (p, c) in enumerate(zip(prompts, completions, strict=True))
    ]
    found = step_gradient(objective, 1)

    without = objective_of(policy, reference, baseline, copies=1)
    without.double()
    drawn = objective_of(policy, reference, baseline, copies=1)
    rollout = drawn._sample(policy, [0, 1], uniforms(8, LENGTH, seed=0, step=1))
    kept = type(rollout)(*([x for i, x in enumerate(column) if i not in hidden] for column in rollout))
    without._sample = lambda *given, **options: kept  # type: ignore[method-assign]
    without.config = without.config.model_copy(update={"samples_per_prompt": 3})
    for a, b in zip(found, step_gradient(without, 1), strict=True):
        assert torch.equal(a, b)
    assert {k: v.tolist() for k, v in objective.baseline.state().items()} == {
        k: v.tolist() for k, v in without.baseline.state().items()
    }


def test_a_reward_of_nan_is_not_a_number_to_train_on() -> None:
    prompts = [Prompt.of("a", tags={"topic": "t"})] * 2
    assert score(lambda prompts, completions, **_: [math.nan, 1], prompts, ["x", "y"]) == [None, 1.0]
    for wrong in ([1.0], [1.0, math.inf], [1.0, "good"]):
        with pytest.raises(TrainingError, match="reward function returned"):
            score(lambda prompts, completions, wrong=wrong, **_: wrong, prompts, ["x", "y"])


def test_reward_functions_get_texts_and_columns() -> None:
    prompts = [Prompt.of("a", reference="r", tags={"topic": "t"}), Prompt.of("b")]
    seen: dict[str, Any] = {}

    def remember(**columns: Any) -> list[float | None]:
        seen.update(columns)
        return [None, None]

    score(remember, prompts, ["x", "y"])
    assert seen == {"prompts": ["a", "b"], "completions": ["x", "y"], "reference": ["r", None], "topic": ["t", None]}


def some_prompts(n: int = 20) -> list[Prompt]:
    draw = random.Random(0)
    return [Prompt.of(words(draw, 3, 8)) for _ in range(n)]


def evens(prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float | None]:
    """Good words minus bad ones; a completion that has w7 in it cannot be scored."""
    kept = [" ".join(w for w in c.split() if w.startswith("w")) for c in completions]
    return [None if "w7" in c.split() else goodness(c) / 4 for c in kept]


def settings(**changes: Any) -> RLConfig:
    given = {
        "steps": 6,
        "prompts_per_step": 4,
        "samples_per_prompt": 3,
        "max_new_tokens": 8,
        "optimizer": "adamw",
        "learning_rate": 3e-3,
        "zscore_samples": 24,
        "missing_eos_penalty": 1.0,
    }
    return RLConfig(**{**given, **changes})


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "training" / "metrics.jsonl").read_text().splitlines()]


def test_learns_what_is_rewarded_and_loads_in_plain_transformers(llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = train_rl(llama, some_prompts(), evens, settings(steps=40, prompts_per_step=8), tmp_path)
    lines = metrics(tmp_path)
    late = sum(line["reward"] for line in lines[-5:]) / 5
    assert late > lines[0]["reward"] + 0.5
    assert result.steps == 40
    assert result.folder == str(tmp_path)
    assert {"generate", "reward", "reference", "update"} <= set(
        json.loads((tmp_path / "training" / "phases.jsonl").read_text().splitlines()[0])
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    made = model.generate(**tokenizer("w1 w2", return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert made.shape[1] > 2
    assert "β" in (tmp_path / "README.md").read_text()


def test_metrics_are_what_they_say(llama: Path, tmp_path: Path) -> None:
    """Step 1: policy = reference, so both KL figures are 0; a random model of 64 tokens has entropy near log 64."""
    train_rl(llama, some_prompts(), evens, settings(steps=2, zscore_samples=None), tmp_path)
    first, second = metrics(tmp_path)
    assert abs(first["k1_sum"]) < 1e-4
    assert 0 <= first["k3_mean"] < 1e-6
    assert second["k3_mean"] > 0
    assert abs(first["entropy"] - math.log(64)) < 0.1
    assert 0 < first["length"] <= 8
    assert 0 <= first["truncated"] <= 1
    assert 0 <= first["unscored"] <= first["left_out"] < 1
    assert first["reward_optimised"] < first["reward"]


@pytest.mark.parametrize("baseline", ["value", "running_mean"])
def test_same_bytes_twice(llama: Path, tmp_path: Path, baseline: BaselineName) -> None:
    for name in ("a", "b"):
        train_rl(llama, some_prompts(), evens, settings(baseline=baseline, steps=4), tmp_path / name)
    assert (tmp_path / "a/training/metrics.jsonl").read_bytes() == (tmp_path / "b/training/metrics.jsonl").read_bytes()
    assert folders.weights_digest(tmp_path / "a") == folders.weights_digest(tmp_path / "b")


class Stopped(Exception):
    pass


def test_stop_and_resume_at_every_step_of_fifty(llama: Path, tmp_path: Path) -> None:
    """The run is interrupted after each of its 50 steps; every metric line and the weights are bit-equal."""
    config = settings(steps=50, prompts_per_step=2, samples_per_prompt=2, max_new_tokens=4, checkpoint_every=1)
    prompts = some_prompts()
    train_rl(llama, prompts, evens, config, tmp_path / "whole")

    def interrupt(done: int, total: int, figures: Any) -> None:
        raise Stopped

    for _ in range(50):
        with pytest.raises(Stopped):
            train_rl(llama, prompts, evens, config, tmp_path / "parts", progress=interrupt)
    train_rl(llama, prompts, evens, config, tmp_path / "parts")
    for name in ("training/metrics.jsonl", "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


@pytest.mark.parametrize("baseline", ["value", "running_mean"])
def test_resume_keeps_the_state_of_baselines(llama: Path, tmp_path: Path, baseline: BaselineName) -> None:
    config = settings(steps=4, checkpoint_every=2, baseline=baseline)
    train_rl(llama, some_prompts(), evens, config, tmp_path / "whole")

    def interrupt(done: int, total: int, figures: Any) -> None:
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        train_rl(llama, some_prompts(), evens, config, tmp_path / "parts", progress=interrupt)
    train_rl(llama, some_prompts(), evens, config, tmp_path / "parts")
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_micro_batches_give_the_same_step(llama: Path, tmp_path: Path) -> None:
    """Splitting a step into forward passes of 40 tokens changes rounding only."""
    train_rl(llama, some_prompts(), evens, settings(steps=1), tmp_path / "one")
    train_rl(llama, some_prompts(), evens, settings(steps=1, forward_tokens=40), tmp_path / "many")
    one, many = metrics(tmp_path / "one")[0], metrics(tmp_path / "many")[0]
    assert one == pytest.approx(many, rel=1e-4, abs=1e-5)


def test_a_dead_judge_stops_the_run(llama: Path, tmp_path: Path) -> None:
    def dead(prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float | None]:
        return [None] * len(completions)

    with pytest.raises(TrainingError, match="no sample of the last 3 steps could be scored"):
        train_rl(llama, some_prompts(), dead, settings(zscore_samples=None), tmp_path / "a")
    with pytest.raises(TrainingError, match="cannot be z-scored"):
        train_rl(llama, some_prompts(), dead, settings(), tmp_path / "b")


def test_says_what_is_wrong_with_the_settings(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave_one_out needs samples_per_prompt"):
        RLConfig(samples_per_prompt=1, baseline="leave_one_out")
    with pytest.raises(TrainingError, match="none of 1 prompts has between 1 and 2 tokens"):
        train_rl(llama, [Prompt.of("w1 w2 w3")], evens, settings(max_prompt_tokens=2), tmp_path)
    assert RLConfig().chosen_baseline == "value"
    assert RLConfig(samples_per_prompt=2).chosen_baseline == "leave_one_out"
    assert issubclass(RecipeError, Exception)


def test_long_prompts_are_left_out_and_counted(llama: Path, tmp_path: Path) -> None:
    prompts = [*some_prompts(), Prompt.of("w1 " * 40)]
    result = train_rl(llama, prompts, evens, settings(steps=1, max_prompt_tokens=12), tmp_path)
    assert result.skipped == {"prompt_too_long": 1}
    tokenizer = folders.load_tokenizer(llama)
    assert encode_prompts(tokenizer, prompts, max_prompt_tokens=12).too_long == 1


def test_same_checkpoint_judges_without_a_second_copy(llama: Path, tmp_path: Path) -> None:
    """The judge's model object is the reference: d-RLAIF with the starting policy as its own judge."""
    from aifeedback.models.local import LocalModel

    frozen = folders.load_policy(llama)
    judge = LocalModel(frozen, folders.load_tokenizer(llama), uri=f"hf:{llama}", folder=llama)

    def own_opinion(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float | None]:
        asked = [f"{p} {c}" for p, c in zip(prompts, completions, strict=True)]
        found = [reading.logprobs for reading in judge.read_labels(asked, ["w1", "w2"])]
        return [None if a is None or b is None else a - b for a, b in found]

    result = train_rl(llama, some_prompts(), own_opinion, settings(steps=2), tmp_path, reference=frozen)
    assert result.steps == 2
    before = folders.load_policy(llama).state_dict()
    assert all(torch.equal(before[name], value) for name, value in frozen.state_dict().items())
