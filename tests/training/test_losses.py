"""The losses against worked examples, finite differences and swap symmetry (TRL: test_trl_parity)."""

from __future__ import annotations

import math

import pytest
import torch

from aifeedback.training import losses

torch.manual_seed(0)
MARGIN = torch.randn(64, dtype=torch.float64) * 3
P_FIRST = torch.rand(64, dtype=torch.float64)


def test_soft_preference_loss_worked_example() -> None:
    # Δ = ln 3, so σ(Δ) = 3/4: −0.8·ln(3/4) − 0.2·ln(1/4) = 0.230146 + 0.277259 = 0.507405
    loss = losses.soft_preference_loss(*torch.tensor([[math.log(3.0)], [0.8]], dtype=torch.float64))
    assert loss.item() == pytest.approx(-0.8 * math.log(0.75) - 0.2 * math.log(0.25), abs=1e-12)


def test_the_minimum_is_the_label_itself() -> None:
    # d/dΔ = σ(Δ) − p, so the loss is lowest where σ(Δ) = p
    p = torch.tensor([0.05, 0.3, 0.5, 0.9], dtype=torch.float64)
    margin = torch.logit(p).requires_grad_()
    losses.soft_preference_loss(margin, p).sum().backward()
    assert margin.grad.abs().max() < 1e-15


@pytest.mark.parametrize(
    "loss",
    [
        lambda m: losses.soft_preference_loss(m, P_FIRST),
        lambda m: losses.soft_dpo_loss(m, P_FIRST),
        lambda m: losses.ipo_loss(m, P_FIRST, beta=0.1),
        lambda m: losses.value_loss(m[:, None], P_FIRST[:, None], torch.ones(64, 1)),
        lambda m: losses.policy_gradient_loss(m[:, None], P_FIRST[:, None], torch.ones(64, 1)),
        lambda m: losses.token_nll(m.view(8, 8), torch.arange(8)),
        lambda m: losses.token_logp(m.view(8, 8), torch.arange(8), temperature=0.9),
        lambda m: losses.k3_kl(m[:, None], P_FIRST[:, None], torch.ones(64, 1)),
    ],
    ids=["preference", "dpo", "ipo", "value", "policy", "nll", "logp", "k3"],
)
def test_gradients_equal_finite_differences(loss) -> None:
    x = MARGIN.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x).sum(), x)
    step = 1e-6
    for i in range(0, 64, 5):
        bump = torch.zeros_like(MARGIN)
        bump[i] = step
        numeric = (loss(MARGIN + bump) - loss(MARGIN - bump)).sum() / (2 * step)
        assert abs(numeric - gradient[i]) < 1e-6 * max(1.0, abs(gradient[i]))


def test_reward_and_dpo_losses_pass_gradcheck_through_scores() -> None:
    first, second = (torch.randn(16, dtype=torch.float64, requires_grad=True) for _ in range(2))
    p = torch.rand(16, dtype=torch.float64)
    ref = torch.randn(2, 16, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: losses.soft_preference_loss(a - b, p), (first, second), atol=1e-6)
    assert torch.autograd.gradcheck(
        lambda a, b: losses.soft_dpo_loss(losses.dpo_margin(a, b, ref[0], ref[1], beta=0.3), p),
        (first, second),
        atol=1e-6,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_swapping_the_two_responses_is_exact(dtype: torch.dtype) -> None:
    # labels on a grid of 1/1024, where 1 − (1 − p) = p holds in floating point
    p = (torch.randint(0, 1025, (4096,)) / 1024).to(dtype)
    margin = torch.randn(4096, dtype=dtype) * 10
    assert torch.equal(losses.soft_preference_loss(margin, p), losses.soft_preference_loss(-margin, 1 - p))
    assert torch.equal(losses.ipo_loss(margin, p, beta=0.2), losses.ipo_loss(-margin, 1 - p, beta=0.2))
    a, b, c, d = torch.randn(4, 4096, dtype=dtype)
    assert torch.equal(losses.dpo_margin(a, b, c, d, beta=0.1), -losses.dpo_margin(b, a, d, c, beta=0.1))
    # p = ½ is neutral: the same loss whichever way round
    half = torch.full((4096,), 0.5, dtype=dtype)
    assert torch.equal(losses.soft_preference_loss(margin, half), losses.soft_preference_loss(-margin, half))


def test_soft_labels_are_the_expectation_over_hard_ones() -> None:
    one, zero = torch.ones_like(P_FIRST), torch.zeros_like(P_FIRST)
    mixed = P_FIRST * losses.soft_preference_loss(MARGIN, one) + (1 - P_FIRST) * losses.soft_preference_loss(
        MARGIN, zero
    )
    assert torch.allclose(losses.soft_preference_loss(MARGIN, P_FIRST), mixed, atol=1e-15)


def test_large_margins_stay_finite() -> None:
    margin = torch.tensor([1e4, -1e4])
    assert torch.isfinite(losses.soft_preference_loss(margin, torch.tensor([0.5, 1.0]))).all()


def test_kl_estimators_agree_on_an_enumerated_vocabulary() -> None:
    # E_π[k1] = E_π[k3] = KL(π‖π_ref) over all 7 tokens
    policy, reference = torch.randn(2, 7, dtype=torch.float64).log_softmax(-1)
    exact = (policy.exp() * (policy - reference)).sum()
    mask = torch.ones(7, 1)
    k1 = (policy.exp() * losses.k1_kl(policy[:, None], reference[:, None], mask)).sum()
    k3 = (policy.exp() * losses.k3_kl(policy[:, None], reference[:, None], mask)).sum()
    assert k1.item() == pytest.approx(exact.item(), abs=1e-12)
    assert k3.item() == pytest.approx(exact.item(), abs=1e-12)


def test_masked_tokens_change_nothing() -> None:
    logp, ref, advantage = torch.randn(3, 4, 5, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 4, dtype=torch.float64)
    for loss in (
        lambda x: losses.k1_kl(x, ref, mask),
        lambda x: losses.k3_kl(x, ref, mask),
        lambda x: losses.policy_gradient_loss(x, advantage, mask),
        lambda x: losses.value_loss(x, ref, mask),
    ):
        other = logp.clone()
        other[:, 3:] = 1e6
        assert torch.equal(loss(logp), loss(other))


def test_a_lead_shifts_both_orders_and_centring_takes_the_level() -> None:
    """Δ = 1, lead 0.5: −p·log σ(0.5) − (1−p)·log σ(−1.5). Scores 1 and −3: (1 − 3)² = 4. A swap changes nothing."""
    margin_B, p_B = torch.tensor([1.0]), torch.tensor([0.75])
    found = losses.soft_preference_loss(margin_B, p_B, lead=0.5)
    expected = -0.75 * math.log(1 / (1 + math.exp(-0.5))) - 0.25 * math.log(1 / (1 + math.exp(1.5)))
    assert found.item() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(found, losses.soft_preference_loss(-margin_B, 1 - p_B, lead=0.5))
    assert torch.equal(losses.soft_preference_loss(margin_B, p_B, lead=0.0), losses.soft_preference_loss(margin_B, p_B))
    assert losses.centring_loss(torch.tensor([1.0]), torch.tensor([-3.0])).tolist() == [4.0]
