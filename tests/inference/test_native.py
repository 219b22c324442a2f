"""The compiled kernels against plain formulas, and what happens where there are none."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from aifeedback.inference import native
from aifeedback.inference.forward import engine_of, sequence_logprobs
from aifeedback.inference.native import Kernels, Projection, build, fused
from aifeedback.inference.native.build import NoKernels, library_file

from .architectures import make

Blocks = list[tuple[int, list[int]]]
TREES = st.lists(st.tuples(st.integers(1, 90), st.lists(st.integers(1, 70), max_size=4)), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def compiled() -> Kernels:
    made = native.kernels()
    if made is None:
        pytest.skip("no C++ compiler here: the kernels' fall-back is in use")
    return made


def ends_of(tree: Blocks) -> np.ndarray:
    """end_T of a row of contexts, each with some responses below it."""
    end: list[int] = []
    for context, responses in tree:
        end += [len(end) + context + sum(responses)] * context
        for tokens in responses:
            end += [len(end) + tokens] * tokens
    return np.array(end, dtype=np.int64)


def seen(end_T: np.ndarray, before: int) -> Tensor:
    at_T = torch.arange(len(end_T))
    inside = (at_T <= at_T[:, None]) & (at_T[:, None] < torch.from_numpy(end_T))
    return torch.cat([torch.ones(len(end_T), before, dtype=torch.bool), inside], dim=1)


def states(tokens: int, heads: int, size: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(1, tokens, heads, size, generator=draw, dtype=torch.float64).transpose(1, 2)


@settings(max_examples=40, deadline=None)
@given(
    tree=TREES,
    before=st.sampled_from([0, 1, 130]),
    heads=st.sampled_from([(4, 4), (4, 2), (3, 1)]),
    size=st.sampled_from([1, 8, 24, 33, 64]),
)
def test_tree_attention(compiled: Kernels, tree: Blocks, before: int, heads: tuple[int, int], size: int) -> None:
    end_T = ends_of(tree)
    T, (H, KV) = len(end_T), heads
    leaves = [states(T, H, size, 0), states(T, KV, size, 1), states(T, KV, size, 2)]
    chain = [states(before, KV, size, seed) for seed in (3, 4)]
    for x in leaves:
        x.requires_grad_()
    keys, values = (torch.cat(x, dim=2).repeat_interleave(H // KV, 1) for x in zip(chain, leaves[1:], strict=True))
    scores = ((leaves[0] @ keys.mT) * 0.4).masked_fill(~seen(end_T, before), -torch.inf)
    wanted = scores.softmax(-1) @ values
    q, k, v = (x.detach().float() for x in leaves)
    out, lse_HT = compiled.tree_attention(q, k, v, end_T, 0.4, (chain[0].float(), chain[1].float()))
    torch.testing.assert_close(out.double(), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lse_HT.double(), scores.logsumexp(-1)[0], atol=1e-5, rtol=1e-5)
    if not before:
        weights = states(T, H, size, 5)
        exact = torch.autograd.grad((wanted * weights).sum(), leaves)
        ours = compiled.tree_attention_backward(weights.float(), q, k, v, out, lse_HT, end_T, 0.4)
        for made, right in zip(ours, exact, strict=True):
            torch.testing.assert_close(made.double(), right, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("before", [0, 599])
@pytest.mark.parametrize(("heads", "size"), [((4, 2), 64), ((3, 1), 24), ((2, 2), 1), ((1, 1), 13), ((2, 1), 130)])
def test_keys_that_many_queries_read(compiled: Kernels, before: int, heads: tuple[int, int], size: int) -> None:
    compare_long(compiled, before, heads, size)


def compare_long(kernels: Kernels, before: int, heads: tuple[int, int], size: int) -> None:
    """Keys and values are copied into panels here."""
    end_T = ends_of([(250, [40, 37, 121]), (410, [40, 3])])
    q, k, v = (states(len(end_T), h, size, seed) for seed, h in enumerate((heads[0], heads[1], heads[1])))
    chain = tuple(states(before, heads[1], size, seed) for seed in (3, 4))
    keys, values = (
        torch.cat(x, dim=2).repeat_interleave(heads[0] // heads[1], 1) for x in zip(chain, (k, v), strict=True)
    )
    wanted = (q @ keys.mT * size**-0.5).masked_fill(~seen(end_T, before), -torch.inf).softmax(-1) @ values
    far_keys, far_values = (x.float() for x in chain)
    made, _ = kernels.tree_attention(q.float(), k.float(), v.float(), end_T, size**-0.5, (far_keys, far_values))
    torch.testing.assert_close(made.double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 16, 40, 129])
def test_element_wise_kernels_and_their_gradients(compiled: Kernels, size: int) -> None:
    x, y, w = (states(11, 3, size, seed)[0].contiguous().requires_grad_() for seed in (0, 1, 2))
    weight = w[0, 0].detach().requires_grad_()
    grad = states(11, 3, size, 3)[0].contiguous()
    plain = {
        "norm": (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-3) * weight, [x, weight]),
        "swiglu": (F.silu(x * 9) * y, [x, y]),
    }
    leaves = {name: [leaf.detach().float().requires_grad_() for leaf in of] for name, (_, of) in plain.items()}
    ours = {
        "norm": fused.RmsNorm.apply(compiled, *leaves["norm"], 1e-3),
        "swiglu": fused.SwiGlu.apply(compiled, leaves["swiglu"][0] * 9, leaves["swiglu"][1]),
    }
    for name, (value, of) in plain.items():
        made = ours[name]
        assert isinstance(made, Tensor)
        torch.testing.assert_close(made.double(), value, atol=1e-5, rtol=1e-5)
        exact = torch.autograd.grad((value * grad).sum(), of)
        for a, b in zip(torch.autograd.grad((made * grad.float()).sum(), leaves[name]), exact, strict=True):
            torch.testing.assert_close(a.double(), b, atol=1e-4, rtol=1e-4)


def test_swiglu_far_from_zero(compiled: Kernels) -> None:
    x = torch.tensor([-1e4, -120.0, -88.0, -20.0, 0.0, 20.0, 88.0, 120.0, 1e4])
    torch.testing.assert_close(compiled.swiglu(x, torch.ones_like(x)), F.silu(x), atol=1e-6, rtol=1e-6)


def test_rotation_and_its_gradient(compiled: Kernels) -> None:
    x = states(7, 3, 12, 0).float().requires_grad_()
    cos, sin, weights = (torch.randn(7, 12), torch.randn(7, 12), torch.randn(1, 3, 7, 12))
    half = torch.cat([-x[..., 6:], x[..., :6]], dim=-1)
    wanted = x * cos + half * sin
    made = fused.Rotate.apply(compiled, x, cos, sin)
    assert isinstance(made, Tensor)
    torch.testing.assert_close(made, wanted)
    (exact,) = torch.autograd.grad((wanted * weights).sum(), x)
    (ours,) = torch.autograd.grad((made * weights).sum(), x)
    torch.testing.assert_close(ours, exact)


def halves(tokens: int, width: int, size: int, heads: tuple[int, int], inner: int, seed: int) -> dict[str, Tensor]:
    """Random weights and states of one layer, in 64-bit."""
    draw = torch.Generator().manual_seed(seed)
    wide, few = heads[0] * size, heads[1] * size
    shapes = {
        "x": (tokens, width), "mixed": (tokens, wide), "norm": (width,), "head_norm": (size,), "cos": (tokens, size),
        "sin": (tokens, size), "q": (wide, width), "k": (few, width), "bias": (few,), "o": (width, wide),
        "gate": (inner, width), "up": (inner, width), "down": (width, inner),
    }  # fmt: skip
    made = {name: torch.randn(shape, generator=draw, dtype=torch.float64) for name, shape in shapes.items()}
    return {
        name: x / x.shape[1] ** 0.5 if name in ("q", "k", "o", "gate", "up", "down") else x for name, x in made.items()
    }


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def compare_halves(compiled: Kernels, of: dict[str, Tensor]) -> None:
    """``project`` and ``finish`` in 32-bit against the formulas in 64-bit."""
    low = {name: x.float() for name, x in of.items()}
    size = len(of["head_norm"])
    to = [
        Projection(low["q"], None, low["head_norm"], 1e-5, True),
        Projection(low["k"], low["bias"], None, 0.0, True),
        Projection(low["k"], low["bias"], None, 0.0, False),
    ]
    query, key, value = compiled.project(low["x"][None], low["norm"], 1e-6, to, low["cos"], low["sin"])
    normed = rms(of["x"], of["norm"], 1e-6)

    def turned(x: Tensor) -> Tensor:
        return x * of["cos"] + torch.cat([-x[..., size // 2 :], x[..., : size // 2]], dim=-1) * of["sin"]

    plain_query = rms((normed @ of["q"].T).unflatten(-1, (-1, size)).transpose(0, 1), of["head_norm"], 1e-5)
    plain_key = (normed @ of["k"].T + of["bias"]).unflatten(-1, (-1, size)).transpose(0, 1)
    wanted = (turned(plain_query), turned(plain_key), plain_key)
    for ours, exact in zip((query, key, value), wanted, strict=True):
        torch.testing.assert_close(ours[0].double(), exact, atol=1e-4, rtol=1e-4)
    inputs = (low[name] for name in ("gate", "up", "down"))
    out = compiled.finish(low["mixed"][None], low["o"], low["x"][None], low["norm"], 1e-6, *inputs)
    x = of["x"] + of["mixed"] @ of["o"].T
    y = rms(x, of["norm"], 1e-6)
    exact = x + (F.silu(y @ of["gate"].T) * (y @ of["up"].T)) @ of["down"].T
    # the norm of a state that has nearly cancelled to 0 magnifies the rounding of 32 bits
    sound = x.square().mean(-1) > 1e-3
    torch.testing.assert_close(out[0][sound].double(), exact[sound], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out[0].double(), exact, atol=1e-2, rtol=1e-2)


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(1, 300),
    width=st.integers(1, 70),
    size=st.sampled_from([2, 8, 20, 64]),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 1)]),
    inner=st.integers(1, 90),
)
def test_the_halves_of_a_layer(
    compiled: Kernels, tokens: int, width: int, size: int, heads: tuple[int, int], inner: int
) -> None:
    compare_halves(compiled, halves(tokens, width, size, heads, inner, seed=tokens))


def test_more_features_than_are_held_at_a_time(compiled: Kernels) -> None:
    compare_halves(compiled, halves(150, 48, 8, (2, 2), 1001, seed=0))


def test_a_stretch_with_something_that_is_not_a_number_leaves_its_neighbours_alone(compiled: Kernels) -> None:
    of = {name: x.float() for name, x in halves(40, 16, 8, (2, 2), 24, seed=0).items()}
    of["x"][7, 3] = torch.nan
    inputs = (of[name] for name in ("gate", "up", "down"))
    out = compiled.finish(of["mixed"][None], of["o"], of["x"][None], of["norm"], 1e-6, *inputs)[0]
    assert out[7].isnan().all()
    assert not torch.cat([out[:7], out[8:]]).isnan().any()


@pytest.mark.parametrize("threads", [2, 5])
def test_more_threads_give_the_same(compiled: Kernels, threads: int) -> None:
    end_T = ends_of([(50, [20, 30]), (5, [])])
    q, k, v = (states(len(end_T), 4, 16, seed).float() for seed in range(3))
    x, w = q[0].contiguous(), torch.randn(16)
    of = {name: y.float() for name, y in halves(500, 16, 8, (2, 1), 24, seed=0).items()}
    to = [Projection(of["q"], None, None, 0.0, True)]

    def both_halves() -> list[Tensor]:
        inputs = (of[name] for name in ("gate", "up", "down"))
        out = compiled.finish(of["mixed"][None], of["o"], of["x"][None], of["norm"], 1e-6, *inputs)
        return [out, *compiled.project(of["x"][None], of["norm"], 1e-6, to, of["cos"], of["sin"])]

    alone = [*compiled.tree_attention(q, k, v, end_T, 0.3), compiled.swiglu(x, x), *compiled.rms_norm(x, w, 1e-6)]
    halves_alone = both_halves()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        several = [*compiled.tree_attention(q, k, v, end_T, 0.3), compiled.swiglu(x, x), *compiled.rms_norm(x, w, 1e-6)]
        d_x, d_weight = compiled.rms_norm_backward(x, x, w, several[-1])
        halves_of_several = both_halves()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, several, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(halves_alone, halves_of_several, strict=True))
    wanted = compiled.rms_norm_backward(x, x, w, several[-1])
    assert torch.equal(d_x, wanted[0])
    torch.testing.assert_close(d_weight, wanted[1], atol=1e-5, rtol=1e-5)


def test_what_is_not_a_number_stays_so(compiled: Kernels) -> None:
    end_T = ends_of([(3, [2, 40])])
    q, k, v = (states(len(end_T), 2, 8, seed).float() for seed in range(3))
    k[0, 0, 1, 3] = torch.nan  # seen by all tokens from the second on
    out, _ = compiled.tree_attention(q, k, v, end_T, 0.3)
    assert out[0, 0, 1:].isnan().all()
    assert not out[0, 0, 0].isnan().any()
    assert not out[0, 1].isnan().any()
    bad = torch.tensor([[1.0, torch.nan, 3.0]])
    assert compiled.swiglu(bad, torch.ones_like(bad)).isnan().tolist() == [[False, True, False]]
    assert compiled.rms_norm(bad, torch.ones(3), 1e-6)[0].isnan().all()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names instruction sets of x86")
@pytest.mark.parametrize("level", ["-march=x86-64", "-march=x86-64-v3"])
def test_shorter_vectors(compiled: Kernels, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "FLAGS_X86", (level, "-O1"))
    shorter = Kernels(ctypes.CDLL(str(library_file())))
    native._check(shorter)
    compare_long(shorter, 599, (4, 2), 64)
    compare_halves(shorter, halves(77, 40, 20, (4, 2), 50, seed=0))
    end_T = ends_of([(50, [20, 30, 1]), (5, [])])
    q, k, v = (states(len(end_T), 4, 24, seed).float() for seed in range(3))
    out, lse_HT = compiled.tree_attention(q, k, v, end_T, 0.3)
    for ours, wanted in zip(
        shorter.tree_attention_backward(v, q, k, v, out, lse_HT, end_T, 0.3),
        compiled.tree_attention_backward(v, q, k, v, out, lse_HT, end_T, 0.3),
        strict=True,
    ):
        torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_never_reaches_them(compiled: Kernels) -> None:
    x, square = torch.ones(3, 8), torch.ones(8, 8)
    q, end_T = states(4, 2, 8, 0).float(), np.full(4, 4)
    to = Projection(x[:2], None, None, 0.0, True)
    for call in (
        lambda: compiled.swiglu(x.double(), x),
        lambda: compiled.swiglu(x, x[:2]),
        lambda: compiled.rms_norm(x, torch.ones(1), 1e-6),
        lambda: compiled.rotate(q, x, x),
        lambda: compiled.rotate(q[..., :7], torch.ones(4, 7), torch.ones(4, 7)),
        lambda: compiled.tree_attention(q, q, q.bfloat16(), end_T, 0.3),
        lambda: compiled.tree_attention(q, q, q[..., :4], end_T, 0.3),
        lambda: compiled.tree_attention(q, q, q, end_T[:3], 0.3),
        lambda: compiled.tree_attention(q, q, q, end_T, 0.3, at_Q=np.array([0, 1, 2, 9])),
        lambda: compiled.tree_attention(q, q, q, end_T, 0.3, chain=(q[:, :1], q[:, :1])),
        lambda: compiled.tree_attention(q[:, :1], q, q, end_T, 0.3),
        lambda: compiled.tree_attention(q.repeat(2, 1, 1, 1), q, q, end_T, 0.3),
        lambda: compiled.project(x[None], x[0], 1e-6, [to._replace(weight=x[:, :7])], x[:, :2], x[:, :2]),
        lambda: compiled.project(x[None], x[0], 1e-6, [to._replace(bias=x[0, :1])], x[:, :2], x[:, :2]),
        lambda: compiled.project(x[None], x[0], 1e-6, [to._replace(norm=x[0, :1])], x[:, :2], x[:, :2]),
        lambda: compiled.project(x[None], x[0], 1e-6, [to], x[:, :3], x[:, :3]),
        lambda: compiled.project(x[None], x[0], 1e-6, [to], x[:, :2], x[:2, :2]),
        lambda: compiled.project(x[None], x[0, :7], 1e-6, [to], x[:, :2], x[:, :2]),
        lambda: compiled.project(x[None].repeat(2, 1, 1), x[0], 1e-6, [to], x[:, :2], x[:, :2]),
        lambda: compiled.finish(x[None], x, x[None], x[0], 1e-6, x, x, x.T),
        lambda: compiled.finish(x[None], square, x[None, :2], x[0], 1e-6, x, x, x.T),
        lambda: compiled.finish(x[None], square, x[None], x[0], 1e-6, x, x[:2], x.T),
        lambda: compiled.finish(x[None], square, x[None], x[0], 1e-6, x, x, x),
        lambda: compiled.finish(x[None], square, x[None].double(), x[0], 1e-6, x, x, x.T),
    ):
        with pytest.raises(TypeError, match="kernels take 32-bit tensors"):
            call()


def test_places_and_weights_may_have_any_layout(compiled: Kernels) -> None:
    q = states(4, 2, 8, 0).float()
    end_T = np.array([4, 2, 4, 4])
    others: list[Any] = [np.stack([end_T, end_T], axis=1)[:, 0], end_T.astype(np.int32)]
    wanted = compiled.tree_attention(q, q, q, end_T, 0.3)[0]
    for places in others:
        assert torch.equal(compiled.tree_attention(q, q, q, places, 0.3)[0], wanted)
    weight = torch.randn(8, 4096).T[:, :1].expand(4096, 2)[:, 0]  # would be freed before it is read
    x = torch.randn(3, 4096)
    assert torch.equal(compiled.rms_norm(x, weight, 1e-6)[0], compiled.rms_norm(x, weight.clone(), 1e-6)[0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_where_no_thread_can_be_started_the_work_is_done_on_one(compiled: Kernels) -> None:
    code = """
import resource, torch
from aifeedback.inference.native import kernels
compiled, x = kernels(), torch.randn(4096, 16)
wanted = compiled.swiglu(x, x)
torch.set_num_threads(4)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (4 << 20), resource.RLIM_INFINITY))
made = compiled.swiglu(x, x)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert torch.equal(made, wanted)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_library_that_others_could_have_written_is_not_loaded(
    compiled: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS[1:], "-O0"))
    old = os.umask(0o002)
    try:
        file = library_file()
    finally:
        os.umask(old)
    assert file.parent == tmp_path / "aifeedback"
    stamp = file.stat().st_mtime_ns
    assert library_file().stat().st_mtime_ns == stamp  # kept
    file.write_bytes(b"planted")
    file.chmod(0o777)
    assert library_file().read_bytes() != b"planted"
    monkeypatch.setattr(build, "_compile", lambda _compiler, _flags, made: made.touch())
    for closed in (False, True):
        file.parent.chmod(0o700 if closed else 0o777)
        assert (library_file().parent == file.parent) == closed
    monkeypatch.setattr(build.os, "geteuid", lambda: os.getuid() + 1)
    assert library_file().parent != file.parent


def test_a_compiler_with_arguments(compiled: Kernels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS[1:], "-O0"))
    monkeypatch.setenv("CXX", "c++ -Wall -Werror")
    assert library_file().exists()


class Scaled(nn.Module):
    """Has the parts of an RMS norm and computes something else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + self.weight) * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


class OtherRMSNorm(Scaled):
    pass


def test_only_modules_that_give_the_same_numbers_are_replaced(compiled: Kernels) -> None:
    model = make("llama")
    names = {type(s.owner).__name__ for s in fused.stand_ins(model)}
    assert names == {"LlamaRMSNorm", "LlamaMLP", "module"}
    model.model.norm = OtherRMSNorm()
    assert all(s.owner is not model.model.norm for s in fused.stand_ins(model))
    assert fused.stand_ins(make("llama").to(torch.bfloat16)) == ()


class LooseRMSNorm(Scaled):
    """Its epsilon stands beside the root: on inputs of unit variance it is the usual norm."""

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.square().mean(-1, keepdim=True).sqrt() + self.variance_epsilon)


class GatedRMSNorm(Scaled):
    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return super().forward(x) * gate


class UniformRMSNorm(Scaled):
    """One weight for all."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))


class LimitedMLP(nn.Module):
    """A SwiGLU block that limits its gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x).clamp(max=7.0)) * self.up_proj(x))


@pytest.mark.parametrize("other", [LooseRMSNorm, GatedRMSNorm, UniformRMSNorm, LimitedMLP])
def test_modules_that_only_look_alike_are_left_alone(compiled: Kernels, other: type[nn.Module]) -> None:
    model = make("llama")
    count = len(fused.stand_ins(model))
    model.model.other = other()
    made = fused.stand_ins(model)
    assert len(made) >= count
    for stand_in in made:
        if stand_in.owner is model.model.other:  # then it must be right on whatever it is given
            x = torch.randn(3, 8)
            torch.testing.assert_close(stand_in.value(x), model.model.other(x))
            assert other is UniformRMSNorm


def test_a_module_that_was_already_replaced_keeps_what_it_has(compiled: Kernels) -> None:
    model = make("llama")
    model.model.norm.forward = lambda x: x * 0
    assert all(s.owner is not model.model.norm for s in fused.stand_ins(model))


def test_a_second_derivative_is_refused(compiled: Kernels) -> None:
    x, w = torch.randn(3, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    y = fused.RmsNorm.apply(compiled, x, w, 1e-6)
    assert isinstance(y, Tensor)
    (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_a_model_is_its_own_again_after_a_pass(compiled: Kernels) -> None:
    model = make("qwen3")
    before = {name: dict(vars(m)) for name, m in model.named_modules()}
    home = __import__(type(model).__module__, fromlist=["x"])
    rotary = home.apply_rotary_pos_emb
    with engine_of(model).running("tree"):
        assert home.apply_rotary_pos_emb is not rotary
    with pytest.raises(KeyError), engine_of(model).running("tree"):
        raise KeyError
    assert home.apply_rotary_pos_emb is rotary
    assert before == {name: dict(vars(m)) for name, m in model.named_modules()}


def test_training_through_the_kernels_gives_the_models_own_gradients(compiled: Kernels) -> None:
    model = make("qwen3").train()
    prompts, completions = [[1, 2, 3], [1, 2, 3], [4, 5]], [[6, 7], [8], [9, 1, 2]]
    logp = torch.cat(sequence_logprobs(model, prompts, completions, grad=True)).sum()
    ours = torch.autograd.grad(logp, list(model.parameters()), allow_unused=True)
    total = torch.zeros(())
    for prompt, completion in zip(prompts, completions, strict=True):
        logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0].log_softmax(-1)
        total = total + sum(logits[len(prompt) - 1 + t, token] for t, token in enumerate(completion))
    plain = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    torch.testing.assert_close(logp, total, atol=1e-5, rtol=1e-5)
    for a, b in zip(ours, plain, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_without_a_compiler_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIFEEDBACK_NATIVE", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build.shutil, "which", lambda _: None)
    with pytest.raises(NoKernels, match="no C\\+\\+ compiler"):
        library_file()
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(NoKernels, match="/nowhere/c\\+\\+"):
        library_file()
    monkeypatch.setenv("AIFEEDBACK_NATIVE", "0")
    with pytest.raises(NoKernels, match="AIFEEDBACK_NATIVE"):
        library_file()


def test_a_source_that_does_not_compile_says_why_and_leaves_nothing(
    compiled: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "broken.cpp").write_text("int main( {")
    monkeypatch.setattr(build, "FOLDER", tmp_path / "source")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(NoKernels, match="failed: .*broken.cpp"):
        library_file()
    assert list((tmp_path / "aifeedback").iterdir()) == []


def test_the_engine_works_without_kernels(compiled: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 2, 7]]
    with_kernels = sequence_logprobs(make("llama"), [r[:1] for r in rows], [r[1:] for r in rows], grad=False)
    monkeypatch.setattr(fused, "kernels", lambda: None)
    model = make("llama")
    assert fused.stand_ins(model) == ()
    without = sequence_logprobs(model, [r[:1] for r in rows], [r[1:] for r in rows], grad=False)
    for a, b in zip(with_kernels, without, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
