"""Updates of a policy by enumeration: every response of a tiny vocabulary, so expected gradients are sums, not means."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_policy_gradient import (
    BETA,
    EOS,
    LENGTH,
    PROMPTS,
    TEMPERATURE,
    VOCAB,
    Letters,
    Stopped,
    all_completions,
    evens,
    exact_gradient,
    logp_of,
    metrics,
    objective_of,
    settings,
    some_prompts,
    step_gradient,
    tiny_policy,
    worth,
)
from torch import Tensor

from aifeedback.inference.forward import sequence_logprobs
from aifeedback.training import rollout
from aifeedback.training.advantages import GroupNormalised
from aifeedback.training.losses import importance
from aifeedback.training.optim import Rate, build_optimizer, clip_gradients, set_rate
from aifeedback.training.policy_gradient import train_rl
from aifeedback.training.policy_update import Micro, policy_loss
from aifeedback.training.settings import RLConfig

PROMPT, TEXT = PROMPTS[0]
COMPLETIONS = all_completions()
LENGTHS = torch.tensor([len(ids) for ids in COMPLETIONS])
EXACT: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}
"""The norms of the policies are in 32 bits."""


def config_of(**changes: Any) -> RLConfig:
    return RLConfig(**{"samples_per_prompt": 2, "temperature": TEMPERATURE, "beta": BETA, **changes})


def token_logp(model: Any) -> Tensor:
    """log π of every token of every response, in a row, differentiable: one plain pass for each."""
    rows = []
    for ids in COMPLETIONS:
        logits = model(torch.tensor([[*PROMPT, *ids]])).logits[0, len(PROMPT) - 1 : -1]
        rows.append(torch.log_softmax(logits / TEMPERATURE, -1).gather(1, torch.tensor(ids)[:, None])[:, 0])
    return torch.cat(rows)


def summed(token_T: Tensor) -> Tensor:
    return torch.stack([part.sum() for part in token_T.split(LENGTHS.tolist())])


def rewards() -> Tensor:
    return torch.tensor([worth(TEXT, text) for text in Letters().batch_decode(COMPLETIONS)], dtype=torch.float64)


def enumerated(policy: Any, config: RLConfig, *, old: Any, drawn_by: Any, reference: Any, advantage_B: Any) -> list:
    """The expected gradient of ``policy_loss`` over all responses, weighed with the probability that they are drawn."""
    with torch.no_grad():
        old_T, drawn_T, reference_T = token_logp(old), token_logp(drawn_by), token_logp(reference)
    weight_T = None
    if config.importance_cap is not None:
        weight_T = importance(old_T, drawn_T, LENGTHS, level=config.importance_level, cap=config.importance_cap)
    micro = Micro(
        [PROMPT] * len(COMPLETIONS),
        COMPLETIONS,
        advantage_B,
        advantage_B,
        1.0,
        summed(drawn_T).exp() / (LENGTHS if config.length_normalisation == "response" else 1),
        old_T,
        reference_T,
        weight_T,
        1.0,
    )
    return list(torch.autograd.grad(policy_loss(token_logp(policy), micro, config).total, list(policy.parameters())))


def gradient_of_mean(policy: Any, advantage_B: Tensor) -> list:
    """−∇ Σ_y π(y)·A(y)."""
    return list(torch.autograd.grad(-(summed(token_logp(policy)).exp() * advantage_B).sum(), list(policy.parameters())))


def assert_same(found: list, expected: list) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def distance(found: list, expected: list) -> float:
    """Of two gradients, relative to the second."""
    difference = sum(float((a - b).square().sum()) for a, b in zip(found, expected, strict=True))
    return (difference / sum(float(b.square().sum()) for b in expected)) ** 0.5


def test_fresh_samples_of_the_policy_give_the_exact_gradient() -> None:
    policy = tiny_policy(1)
    found = enumerated(policy, config_of(), old=policy, drawn_by=policy, reference=policy, advantage_B=rewards())
    assert_same(found, gradient_of_mean(policy, rewards()))


@pytest.mark.parametrize("more", [{"updates_per_rollout": 2}, {"importance_cap": 1e9}])
def test_ratios_of_whole_responses_are_exact_for_samples_of_another_policy(more: dict[str, Any]) -> None:
    """Of an earlier policy (several updates) and of another engine (weights), both."""
    policy, other = tiny_policy(1), tiny_policy(5)
    config = config_of(importance_level="sequence", **more)
    old = other if config.updates_per_rollout > 1 else policy
    found = enumerated(policy, config, old=old, drawn_by=other, reference=policy, advantage_B=rewards())
    assert_same(found, gradient_of_mean(policy, rewards()))


def test_both_ratios_together_are_exact() -> None:
    policy, old, sampler = tiny_policy(1), tiny_policy(5), tiny_policy(6)
    config = config_of(importance_level="sequence", updates_per_rollout=2, importance_cap=1e9)
    found = enumerated(policy, config, old=old, drawn_by=sampler, reference=policy, advantage_B=rewards())
    assert_same(found, gradient_of_mean(policy, rewards()))


def test_ratios_of_tokens_leave_out_the_prefix() -> None:
    """Their expected gradient is Σ_y μ(y)·Σ_t ρ_t·A·∇log π_t, which is another vector than the exact one."""
    policy, other = tiny_policy(1), tiny_policy(5)
    given: dict[str, Any] = {"old": other, "drawn_by": other, "reference": policy, "advantage_B": rewards()}
    found = enumerated(policy, config_of(updates_per_rollout=2), **given)
    own_T, other_T = token_logp(policy), token_logp(other).detach()
    weight_T = (rewards() * summed(other_T).exp()).repeat_interleave(LENGTHS)
    expected = torch.autograd.grad(-((own_T - other_T).exp() * weight_T).sum(), list(policy.parameters()))
    assert_same(found, list(expected))
    assert distance(found, gradient_of_mean(policy, rewards())) > 0.1


def test_a_cap_truncates_weights() -> None:
    ratio = importance(torch.log(torch.tensor([0.9, 0.1])), torch.log(torch.tensor([0.1, 0.9])), torch.tensor([2]),
                       level="token", cap=2.0)  # fmt: skip
    assert ratio.tolist() == pytest.approx([2.0, 1 / 9])
    whole = importance(torch.log(torch.tensor([0.9, 0.5])), torch.log(torch.tensor([0.1, 0.5])), torch.tensor([2]),
                       level="sequence", cap=None)  # fmt: skip
    assert whole.tolist() == pytest.approx([9.0, 9.0])


def test_clipping_has_the_gradient_of_the_clipped_surrogate() -> None:
    """min(ρA, clip(ρ)·A) written out, differentiated by torch and along three directions by finite differences."""
    policy, old = tiny_policy(1), tiny_policy(5)
    config = config_of(updates_per_rollout=2, clip_range=0.2)
    with torch.no_grad():
        old_T = token_logp(old)
    chance_T = summed(old_T).exp().repeat_interleave(LENGTHS)
    advantage_T = (rewards() - rewards().mean()).repeat_interleave(LENGTHS)

    def surrogate() -> Tensor:
        ratio_T = (token_logp(policy) - old_T).exp()
        return -(torch.minimum(ratio_T * advantage_T, ratio_T.clamp(0.8, 1.2) * advantage_T) * chance_T).sum()

    parameters = list(policy.parameters())
    expected = list(torch.autograd.grad(surrogate(), parameters))
    found = enumerated(policy, config, old=old, drawn_by=old, reference=old, advantage_B=rewards() - rewards().mean())
    assert_same(found, expected)
    unclipped = enumerated(
        policy, config_of(updates_per_rollout=2), old=old, drawn_by=old, reference=old, advantage_B=rewards() - rewards().mean()
    )  # fmt: skip
    assert distance(unclipped, found) > 0.1
    draw, size = torch.Generator().manual_seed(2), 1e-4
    for _ in range(3):
        way = [torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in parameters]
        values = []
        for sign in (1, -1, -1):  # there, back, and beyond
            with torch.no_grad():
                for parameter, step in zip(parameters, way, strict=True):
                    parameter.add_(sign * size * step)
                values.append(float(surrogate()))
        with torch.no_grad():
            for parameter, step in zip(parameters, way, strict=True):
                parameter.add_(size * step)
        slope = (values[0] - values[2]) / (2 * size)
        assert slope == pytest.approx(sum(float((g * d).sum()) for g, d in zip(found, way, strict=True)), rel=2e-2)


def test_k1_as_a_loss_has_no_expected_gradient() -> None:
    policy, reference = tiny_policy(1), tiny_policy(2)
    found = enumerated(
        policy, config_of(kl_term="k1"), old=policy, drawn_by=policy, reference=reference, advantage_B=rewards() * 0
    )
    assert max(float(g.abs().max()) for g in found) < 1e-6


def test_k3_as_a_loss_descends_the_forward_kl_of_each_token() -> None:
    """β·Σ over prefixes of P_π(prefix)·∇KL(π_ref(·|prefix)‖π(·|prefix)), not the gradient of KL(π‖π_ref)."""
    policy, reference = tiny_policy(1), tiny_policy(2)
    found = enumerated(
        policy, config_of(kl_term="k3"), old=policy, drawn_by=policy, reference=reference, advantage_B=rewards() * 0
    )

    def next_token(model: Any, prefix: list[int]) -> Tensor:
        return torch.log_softmax(model(torch.tensor([[*PROMPT, *prefix]])).logits[0, -1] / TEMPERATURE, -1)

    total = torch.zeros((), dtype=torch.float64)
    for n in range(LENGTH):
        for prefix in itertools.product([t for t in range(VOCAB) if t != EOS], repeat=n):
            with torch.no_grad():
                chance = math.exp(sum(float(next_token(policy, list(prefix[:i]))[t]) for i, t in enumerate(prefix)))
                target = next_token(reference, list(prefix))
            total = total + chance * (target.exp() * (target - next_token(policy, list(prefix)))).sum()
    assert_same(found, list(torch.autograd.grad(BETA * total, list(policy.parameters()))))
    own_T = summed(token_logp(policy))
    with torch.no_grad():
        reference_B = summed(token_logp(reference))
    reverse = torch.autograd.grad(BETA * (own_T.exp() * (own_T - reference_B)).sum(), list(policy.parameters()))
    assert distance(found, list(reverse)) > 0.1


def test_division_by_the_length_is_the_mean_over_tokens() -> None:
    policy = tiny_policy(1)
    config = config_of(length_normalisation="response")
    found = enumerated(policy, config, old=policy, drawn_by=policy, reference=policy, advantage_B=rewards())
    own_T = token_logp(policy)
    each_T = (rewards() * summed(own_T).exp().detach() / LENGTHS).repeat_interleave(LENGTHS)
    assert_same(found, list(torch.autograd.grad(-(own_T * each_T).sum(), list(policy.parameters()))))
    assert distance(found, gradient_of_mean(policy, rewards())) > 0.1


def test_group_normalised_advantages() -> None:
    """Rewards 1, 2, 6: mean 3, sd √7. Equal rewards have none; a group with one scored sample is left out."""
    nan = math.nan
    reward_PG = torch.tensor([[1.0, 2.0, 6.0], [3.0, nan, 5.0], [4.0, 4.0, 4.0], [7.0, nan, nan]], dtype=torch.float64)
    kind = GroupNormalised()
    found = (reward_PG - kind.subtrahend(reward_PG)) / kind.divisor(reward_PG)
    sd = math.sqrt(7) + 1e-4
    assert found[0].tolist() == pytest.approx([-2 / sd, -1 / sd, 3 / sd])
    pair = 1 / (math.sqrt(2) + 1e-4)
    assert found[1].nan_to_num(-9).tolist() == pytest.approx([-pair, -9, pair])
    assert found[2].tolist() == [0, 0, 0]
    assert found[3].isnan().all()


def test_group_normalisation_is_that_of_trl() -> None:
    from trl.trainer.utils import nanstd

    reward_PG = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    kind = GroupNormalised()
    found = (reward_PG - kind.subtrahend(reward_PG)) / kind.divisor(reward_PG)
    grouped = reward_PG.view(-1, 4)
    expected = (grouped - grouped.nanmean(1, keepdim=True)) / (nanstd(grouped, dim=1)[:, None] + 1e-4)
    torch.testing.assert_close(found, expected)


def test_the_gradient_of_grpo_is_its_own_expectation_and_not_that_of_the_mean_reward() -> None:
    """Two samples: the advantage is that of a pair, so its expectation is a sum over all pairs of responses."""
    policy, reference = tiny_policy(1), tiny_policy(2)
    objective = objective_of(policy, reference, "grpo", copies=6)
    objective.config = objective.config.model_copy(update={"samples_per_prompt": 2, "prompts_per_step": 12})
    completions = COMPLETIONS
    total = torch.zeros((), dtype=torch.float64)
    for ids, text in PROMPTS:
        own_B = logp_of(policy, ids, completions)
        with torch.no_grad():
            reference_B = logp_of(reference, ids, completions)
        worths = torch.tensor([worth(text, t) for t in Letters().batch_decode(completions)], dtype=torch.float64)
        value_B = (1 - BETA) * worths - BETA * (own_B.detach() - reference_B)
        gap_BB = value_B[:, None] - value_B[None, :]
        advantage_BB = gap_BB / 2 / (gap_BB.abs() / math.sqrt(2) + 1e-4)
        mean_B = (advantage_BB * own_B.detach().exp()[None, :]).sum(1)
        total = total - (own_B.detach().exp() * mean_B * own_B).sum() / len(PROMPTS)
    expected = list(torch.autograd.grad(total, list(policy.parameters())))
    draw = torch.Generator().manual_seed(3)
    ways = [expected, *([torch.randn(g.shape, generator=draw, dtype=g.dtype) for g in expected] for _ in range(7))]

    def along(gradient: list[Tensor]) -> list[float]:
        return [sum(float((g * d).sum()) for g, d in zip(gradient, way, strict=True)) for way in ways]

    seen = torch.tensor([along(step_gradient(objective, step)) for step in range(1, 41)], dtype=torch.float64)
    error = seen.std(0) / math.sqrt(len(seen))
    assert ((seen.mean(0) - torch.tensor(along(expected), dtype=torch.float64)).abs() <= 3 * error).all()
    exact = exact_gradient(policy, reference)
    shrunk = [g * sum(float((e * f).sum()) for e, f in zip(expected, exact, strict=True))
              / sum(float(f.square().sum()) for f in exact) for g in exact]  # fmt: skip
    assert distance(shrunk, expected) > 0.05, "no multiple of the exact gradient"


def test_several_updates_are_those_of_a_loop_by_hand(llama: Path, tmp_path: Path) -> None:
    config = settings(steps=2, zscore_samples=None, updates_per_rollout=3, clip_range=0.1, max_grad_norm=None)
    seen: list[Any] = []
    train_rl(llama, some_prompts(), evens, config, tmp_path / "run")
    lines = metrics(tmp_path / "run")
    assert all({"clip_share", "update_kl"} <= line.keys() for line in lines)
    assert lines[0]["update_kl"] > 0
    from aifeedback.training import folders
    from aifeedback.training.objective import Share
    from aifeedback.training.policy_gradient import PolicyObjective
    from aifeedback.training.rollout import Clock, encode_prompts

    tokenizer, policy, reference = folders.load_tokenizer(llama), folders.load_policy(llama), folders.load_policy(llama)
    objective = PolicyObjective(
        policy, reference.eval(), tokenizer, encode_prompts(tokenizer, some_prompts()), evens, config,
        share=Share(0, 1), clock=Clock(None),
    ).eval()  # fmt: skip
    optimizer = torch.optim.AdamW(policy.parameters(), lr=config.learning_rate, weight_decay=0.0)
    for step in (1, 2):
        micro = objective.plan(step).micro
        for _ in range(3):
            optimizer.zero_grad()
            for part in micro:
                logp_T = torch.cat(sequence_logprobs(
                    policy, part.prompt_ids, part.completion_ids, temperature=config.temperature, grad=True
                ))  # fmt: skip
                ratio_T = (logp_T - part.old_T).exp()
                advantage_T = part.advantage_B.repeat_interleave(part.length_B).to(logp_T)
                clipped_T = torch.minimum(ratio_T * advantage_T, ratio_T.clamp(0.9, 1.1) * advantage_T)
                (-clipped_T.sum() * part.scale).backward()
                seen.append(float(ratio_T.detach().max()))
            optimizer.step()
    assert max(seen) > 1.1
    trained = folders.load_policy(tmp_path / "run").state_dict()
    for name, value in policy.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=0, atol=2e-5)


def test_a_run_of_several_updates_resumes_to_the_same_bytes(llama: Path, tmp_path: Path) -> None:
    config = settings(steps=3, updates_per_rollout=2, clip_range=0.2, baseline="grpo", kl_term="k3", checkpoint_every=1)
    train_rl(llama, some_prompts(), evens, config, tmp_path / "whole")

    def interrupt(done: int, total: int, figures: Any) -> None:
        raise Stopped

    for _ in range(3):
        with pytest.raises(Stopped):
            train_rl(llama, some_prompts(), evens, config, tmp_path / "parts", progress=interrupt)
    train_rl(llama, some_prompts(), evens, config, tmp_path / "parts")
    for name in ("training/metrics.jsonl", "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_one_update_with_ratios_is_reinforce_up_to_rounding(llama: Path, tmp_path: Path) -> None:
    plain = settings(steps=1, optimizer="adafactor")
    train_rl(llama, some_prompts(), evens, plain, tmp_path / "plain")
    ratios = plain.model_copy(update={"clip_range": 0.2, "importance_cap": 2.0})
    train_rl(llama, some_prompts(), evens, ratios, tmp_path / "ratios")
    one, two = metrics(tmp_path / "plain")[0], metrics(tmp_path / "ratios")[0]
    assert two["importance_weight"] == pytest.approx(1.0, abs=1e-5)
    assert two["clip_share"] == 0
    assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-4)


def test_a_rollout_by_another_engine_is_weighed_and_its_kl_is_the_policys(llama: Path, tmp_path: Path) -> None:
    """An engine whose log-probabilities are 0.5 nats per token too high: every weight is e^−0.5, the KL stays 0."""

    def elsewhere(*given: Any, **options: Any) -> rollout.Rollout:
        made = rollout.roll_out(*given, **options)
        return made._replace(logp=[logp_T + 0.5 for logp_T in made.logp])

    config = settings(steps=1, importance_cap=2.0)
    train_rl(llama, some_prompts(), evens, config, tmp_path / "a", sampler=elsewhere)
    train_rl(llama, some_prompts(), evens, settings(steps=1), tmp_path / "b")
    weighed, plain = metrics(tmp_path / "a")[0], metrics(tmp_path / "b")[0]
    assert weighed["importance_weight"] == pytest.approx(math.exp(-0.5), rel=1e-4)
    assert abs(weighed["k1_sum"]) < 1e-4
    assert weighed["grad_norm"] == pytest.approx(math.exp(-0.5) * plain["grad_norm"], rel=1e-3)
    assert weighed["reward"] == plain["reward"]


def test_masked_truncated_samples_leave_the_bits_of_unscored_ones() -> None:
    policy, reference = tiny_policy(1), tiny_policy(2)
    masked = objective_of(policy, reference, "leave_one_out", copies=2)
    masked.config = masked.config.model_copy(update={"mask_truncated": True})
    found = step_gradient(masked, 1)
    unscored = objective_of(policy, reference, "leave_one_out", copies=2)
    drawn = rollout.uniforms(16, LENGTH, seed=0, step=1)
    finished = unscored._sample(policy, [unscored.order.step(1)[i] for i in range(4)], drawn).finished
    assert 0 < sum(finished) < len(finished)
    full = unscored.reward
    unscored.reward = lambda prompts, completions, **columns: [
        value if ended else None for value, ended in zip(full(prompts, completions, **columns), finished, strict=True)
    ]
    for a, b in zip(found, step_gradient(unscored, 1), strict=True):
        assert torch.equal(a, b)
    assert masked.plan(2).figures["unscored"] == 0
    assert masked.plan(2).figures["left_out"] > 0


def test_the_value_networks_gradient_is_clipped_by_itself(llama: Path, tmp_path: Path) -> None:
    policy, value = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3))
    own = {id(value): Rate(max_grad_norm=0.5)}
    policy.grad, value.grad = torch.tensor([0.3, 0.0, 0.4]), torch.tensor([30.0, 40.0, 0.0])
    norm = clip_gradients([policy, value], 1.0, rates=lambda p: own.get(id(p), Rate()))
    assert float(norm) == pytest.approx(0.5)
    assert policy.grad.tolist() == pytest.approx([0.3, 0.0, 0.4])
    assert float(value.grad.norm()) == pytest.approx(0.5, rel=1e-5)
    optimizer = build_optimizer([policy, value], RLConfig(), rates=lambda p: own.get(id(p), Rate()))
    set_rate(optimizer, 0.1, step=1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]
    more = {"samples_per_prompt": 1, "steps": 2, "value_max_grad_norm": 0.1}
    train_rl(llama, some_prompts(), evens, settings(**more), tmp_path / "own")
    train_rl(llama, some_prompts(), evens, settings(**{**more, "value_max_grad_norm": None}), tmp_path / "one")
    assert metrics(tmp_path / "own")[0]["grad_norm"] < metrics(tmp_path / "one")[0]["grad_norm"]


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="grpo needs samples_per_prompt of at least 2"):
        RLConfig(samples_per_prompt=1, baseline="grpo")
    with pytest.raises(ValueError, match="mask_truncated leaves out"):
        RLConfig(mask_truncated=True, missing_eos_penalty=1.0)
    with pytest.raises(ValueError, match="value_max_grad_norm: only the baseline 'value'"):
        RLConfig(samples_per_prompt=2, value_max_grad_norm=1.0)
    with pytest.raises(ValueError, match="no advantage 'grop'"):
        RLConfig(samples_per_prompt=2, baseline="grop")


def test_the_setting_has_two_names_and_one_meaning() -> None:
    one, two = RLConfig(samples_per_prompt=2, advantages="grpo"), RLConfig(samples_per_prompt=2, baseline="grpo")  # type: ignore[call-arg]
    assert one == two
    assert json.loads(one.model_dump_json())["baseline"] == "grpo"
    with pytest.raises(ValueError, match="advantages"):
        RLConfig(samples_per_prompt=2, advantages="grpo", baseline="none")  # type: ignore[call-arg]
