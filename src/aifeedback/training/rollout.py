"""Samples of a step: what the policy wrote, how likely that was under policy and reference, and what it is worth.

Conventions: P prompts, G samples of each, B = P·G prompt-major rows. Rewards are float64 with NaN for "not scored";
NaN never leaves this module as a number.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from aifeedback.errors import TrainingError
from aifeedback.inference.encoding import Encoding
from aifeedback.inference.generation import generate
from aifeedback.training import checkpoint, compute
from aifeedback.training.objective import require_rows
from aifeedback.training.rewards import calls_of, name_of
from aifeedback.types import Completion, Prompt, RewardFn, Sampling


class Rollout(NamedTuple):
    """Sampled completions, B rows. ``ids`` hold the end token where one was drawn."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    texts: list[str]
    """Decoded without special tokens; what the generation prompt wrote of a response comes first."""
    logp: list[Tensor]
    """Per token, at the sampling temperature, as the sampler computed them."""
    finished: list[bool]
    """Whether the completion ended by itself. Looks at the completion only: an EOS in the prompt does not count."""

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.completion_ids]


class AdaptersOff:
    """The reference of a policy that trains adapters: its own model, with the adapters off while it runs."""

    def __init__(self, policy: Any, adapters: Any) -> None:
        self.policy, self.adapters = policy, adapters


@contextmanager
def running(model: Any) -> Generator[Any]:
    """The model to call for a model or a reference."""
    if isinstance(model, AdaptersOff):
        with model.adapters.disable_adapter():
            yield model.policy
    else:
        yield model


class Sampler(Protocol):
    """Draws completions, as ``roll_out`` does, perhaps with another engine: ``model`` is the policy as it stands.

    The policy's log-probabilities of what it returns are computed again; its own serve for importance weights.
    """

    def __call__(
        self,
        model: Any,
        tokenizer: Any,
        prompt_ids: Sequence[list[int]],
        *,
        samples: int,
        temperature: float,
        max_new_tokens: int,
        uniform_BT: Tensor | None,
    ) -> Rollout: ...


def uniforms(rows: int, columns: int, *, seed: int, step: int, purpose: str = "train") -> Tensor:
    """(rows, columns) numbers in [0, 1), a pure function of the arguments: a resumed or split run draws the same."""
    key = hashlib.sha256(f"{purpose}/{seed}/{step}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
    return torch.rand(rows, columns, generator=generator, dtype=torch.float64)


def roll_out(
    model: Any,
    tokenizer: Any,
    prompt_ids: Sequence[list[int]],
    *,
    samples: int,
    temperature: float,
    max_new_tokens: int,
    uniform_BT: Tensor | None,
) -> Rollout:
    """``samples`` completions per prompt from the whole distribution: no top-k, no top-p (they would bias the KL)."""
    with running(model) as called:
        encoding = Encoding.of(tokenizer, called)
        made = generate(
            called,
            prompt_ids,
            samples_per_prompt=samples,
            sampling=Sampling(temperature=temperature, top_k=None, top_p=None, max_new_tokens=max_new_tokens),
            eos_ids=encoding.stops,
            pad_id=encoding.pad,
            uniform_BT=uniform_BT,
        )
    lengths = made.length_B.tolist()
    ids = [row[:n] for row, n in zip(made.tokens_BT.tolist(), lengths, strict=True)]
    return Rollout(
        prompt_ids=[list(p) for p in prompt_ids for _ in range(samples)],
        completion_ids=ids,
        texts=encoding.texts(ids),
        logp=[row[:n] for row, n in zip(made.logp_BT, lengths, strict=True)],
        finished=made.finished_B.tolist(),
    )


def reference_logp(model: Any, rollout: Rollout, *, temperature: float, forward_tokens: int) -> list[Tensor]:
    """Per-token log-probabilities of the completions under a model, at the sampling temperature, without gradients."""
    logp: list[Tensor] = []
    with torch.inference_mode(), running(model) as called:
        for rows in row_batches(rollout, range(len(rollout.texts)), limit=forward_tokens):
            logp += compute.sequence_logprobs(
                called,
                [rollout.prompt_ids[i] for i in rows],
                [rollout.completion_ids[i] for i in rows],
                temperature=temperature,
                grad=False,
            )
    return logp


def row_batches(rollout: Rollout, rows: Sequence[int], *, limit: int) -> list[list[int]]:
    """Consecutive rows with at most ``limit`` tokens together, one row at least."""
    batches: list[list[int]] = []
    held = 0
    for i in rows:
        tokens = len(rollout.prompt_ids[i]) + len(rollout.completion_ids[i])
        if not batches or held + tokens > limit:
            batches.append([])
            held = 0
        batches[-1].append(i)
        held += tokens
    return batches


class EncodedPrompts(NamedTuple):
    """Prompts that fit, with their ids, and how many were left out for which reason."""

    prompts: list[Prompt]
    ids: list[list[int]]
    skipped: Mapping[str, int]

    @property
    def too_long(self) -> int:
        """How many prompts were left out."""
        return sum(self.skipped.values())


def encode_prompts(
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    max_prompt_tokens: int | None = None,
    max_new_tokens: int = 0,
    context_window: int | None = None,
) -> EncodedPrompts:
    """Token ids of the prompts that can be answered; the others are left out, counted and reported.

    Left out are prompts without a token, with more than ``max_prompt_tokens``, or whose response of ``max_new_tokens``
    would not fit the context window. Raises TrainingError where none is left, or more than half are too long.
    """
    most = math.inf if max_prompt_tokens is None else max_prompt_tokens
    window = math.inf if context_window is None else context_window
    skipped: Counter[str] = Counter()
    kept: list[tuple[Prompt, list[int]]] = []
    every = Encoding.of(tokenizer).prompts([p.messages for p in prompts])
    for prompt, ids in zip(prompts, every, strict=True):
        if not ids:
            skipped["prompt_empty"] += 1
        elif len(ids) > most:
            skipped["prompt_too_long"] += 1
        elif len(ids) + max_new_tokens > window:
            skipped["beyond_context_window"] += 1
        else:
            kept.append((prompt, ids))
    if not kept:
        limit = min(most, window - max_new_tokens)
        raise TrainingError(f"none of {len(every)} prompts has between 1 and {limit:g} tokens")
    require_rows(kept, skipped)
    return EncodedPrompts([p for p, _ in kept], [ids for _, ids in kept], dict(skipped))


def as_rewards(values: Sequence[float | None], *, samples: int) -> Tensor:
    """(P, G) float64, NaN where not scored."""
    numbers = [float("nan") if v is None else v for v in values]
    return torch.tensor(numbers, dtype=torch.float64).view(-1, samples)


class SampleFacts(NamedTuple):
    """One number per sample, float64, (B,)."""

    reward_B: Tensor
    """As the reward function gave it; NaN: not scored."""
    k1_B: Tensor
    """Σ_t log π − log π_ref."""
    k3_B: Tensor
    """Σ_t of π_ref/π − 1 − log(π_ref/π): never negative."""
    surprise_B: Tensor
    """−Σ_t log π: its mean per token estimates the entropy."""
    length_B: Tensor
    truncated_B: Tensor


def sample_facts(rollout: Rollout, rewards: Sequence[float | None], reference: Sequence[Tensor]) -> SampleFacts:
    """What is logged and optimised of each sample."""
    lengths = rollout.lengths
    logp_T = torch.cat(rollout.logp).double().cpu()
    log_r_T = torch.cat(list(reference)).double().cpu() - logp_T
    row_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    zero_B = torch.zeros(len(lengths), dtype=torch.float64)
    return SampleFacts(
        reward_B=as_rewards(rewards, samples=1).flatten(),
        k1_B=zero_B.index_add(0, row_T, -log_r_T),
        k3_B=zero_B.index_add(0, row_T, torch.expm1(log_r_T) - log_r_T),
        surprise_B=zero_B.index_add(0, row_T, -logp_T),
        length_B=torch.tensor(lengths, dtype=torch.float64),
        truncated_B=1.0 - torch.tensor(rollout.finished, dtype=torch.float64),
    )


def step_figures(facts: SampleFacts, reward_B: Tensor, weighed_B: Tensor) -> dict[str, float]:
    """The step's line in ``metrics.jsonl``; means over scored samples where the figure is a reward."""
    scored_B = ~facts.reward_B.isnan()
    tokens = float(facts.length_B.sum())
    figures = {
        "k1_sum": float(facts.k1_B.mean()),
        "k3_mean": float(facts.k3_B.sum()) / tokens,
        "entropy": float(facts.surprise_B.sum()) / tokens,
        "length": float(facts.length_B.mean()),
        "truncated": float(facts.truncated_B.mean()),
        "unscored": 1.0 - float(scored_B.double().mean()),
        "left_out": 1.0 - float(weighed_B.double().mean()),
    }
    optimised_B = ~reward_B.isnan()
    if bool(optimised_B.any()):
        figures["reward_optimised"] = float(reward_B[optimised_B].mean())
    if bool(scored_B.any()):
        figures["reward"] = float(facts.reward_B[scored_B].mean())
    return figures


def criteria_figures(criteria_BC: Tensor) -> dict[str, float]:
    """``reward_1``, ``reward_2`` …: the mean of each criterion over the samples that it scored."""
    known = ((n, column_B[~column_B.isnan()]) for n, column_B in enumerate(criteria_BC.unbind(1), 1))
    return {f"reward_{n}": float(known_B.mean()) for n, known_B in known if len(known_B)}


class Clock:
    """Seconds of each phase of a step, one JSON line per step; "update" is what follows the plan."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.line: dict[str, float] = {}
        self.since: float | None = None

    def start(self, step: int) -> None:
        self.write()
        self.line = {"step": step}

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        began = time.perf_counter()
        yield
        self.line[name] = time.perf_counter() - began

    def start_update(self) -> None:
        self.since = time.perf_counter()

    def write(self) -> None:
        if self.since is None or self.file is None:
            return
        self.line["update"] = time.perf_counter() - self.since
        self.since = None
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(self.line) + "\n")


class Kept:
    """``rollouts.jsonl``: the first samples of every step with their rewards and the calls that these rest on, so that
    a text can be traced to the verdict behind it. A step that is repeated after a stop replaces its own lines."""

    def __init__(self, file: Path | None, each: int) -> None:
        """``each``: samples kept per step; ``file`` is None on all processes but the first."""
        self.file, self.each = file if each else None, each
        self._last: int | None = None

    def write(
        self,
        step: int,
        prompts: Sequence[Prompt],
        texts: Sequence[str],
        values: Sequence[float | None],
        reward: RewardFn,
    ) -> None:
        """Rows run parallel; ``reward`` has just given ``values``."""
        if self.file is None:
            return
        calls = calls_of(reward) or [()] * len(texts)
        rows = [
            {
                "step": step,
                "prompt_id": prompt.id,
                "completion_id": Completion.of(prompt, text, source="policy").id,
                "prompt": prompt.text,
                "completion": text,
                "reward": value,
                "rewarded_by": name_of(reward),
                "call_ids": list(ids),
            }
            for prompt, text, value, ids in list(zip(prompts, texts, values, calls, strict=True))[: self.each]
        ]
        if self._last is None or step <= self._last:
            self._drop_from(step)
        self._last = step
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8", errors="surrogatepass") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def _drop_from(self, step: int) -> None:
        """Remove the lines of this step and of later ones, a torn last line included."""
        assert self.file is not None
        if not self.file.exists():
            return
        text = self.file.read_text(encoding="utf-8", errors="surrogatepass")
        kept = [line for line in text.split("\n")[:-1] if json.loads(line)["step"] < step]
        partial = self.file.with_suffix(".partial")
        partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8", errors="surrogatepass")
        partial.replace(self.file)


def whole_model(model: Any) -> Any:
    """The model itself, or an unsharded copy of it where its weights are spread over processes."""
    if not any(hasattr(p, "full_tensor") for p in model.parameters()):
        return model
    full = {name: checkpoint.whole(p.detach()) for name, p in model.named_parameters()}
    plain_copy = type(model)(model.config).to(next(iter(full.values())).device)
    plain_copy.generation_config = getattr(model, "generation_config", None)
    plain_copy.load_state_dict(full, strict=False)
    return plain_copy.eval()
