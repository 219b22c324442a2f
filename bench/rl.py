"""One policy-gradient step against TRL's RLOO: same folder, prompts, reward and settings, interleaved.

    python bench/rl.py                     # both sizes
    python bench/rl.py --size 1M --rounds 5 --threads 1

16 prompts × 4 samples, 64 prompt tokens and up to 32 new ones. TRL runs with bf16 and gradient checkpointing off (its
defaults are 8–9 times slower on a CPU). A figure is the median over all steps but each round's first two; CPU seconds
(all threads together) are given beside the clock, since they depend less on what else the machine is doing. The floor
is the time that the matrix products of a step take, shared prompt tokens counted once, at the rate measured for one
such product.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from aifeedback.integrations.trl import run_rloo
from aifeedback.training.policy_gradient import train_rl
from aifeedback.training.settings import RLConfig
from aifeedback.types import Prompt
from train import SIZES, product_rate, save_model

PROMPTS, SAMPLES, PROMPT_TOKENS, NEW_TOKENS = 16, 4, 64, 32
WARM_UP = 2


class Times(NamedTuple):
    """Seconds between the ends of successive steps."""

    clock: list[float]
    cpu: list[float]


def words_used(prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float | None]:
    """A reward that costs nothing: how many different words the completion has."""
    return [len(set(text.split())) / NEW_TOKENS for text in completions]


def some_prompts(size: str) -> list[Prompt]:
    draw = random.Random(1)
    top = SIZES[size]["vocab_size"] - 1
    return [Prompt.of(" ".join(f"w{draw.randint(4, top)}" for _ in range(PROMPT_TOKENS))) for _ in range(64)]


def config(steps: int) -> RLConfig:
    return RLConfig(
        steps=steps,
        prompts_per_step=PROMPTS,
        samples_per_prompt=SAMPLES,
        max_new_tokens=NEW_TOKENS,
        optimizer="adamw",
        learning_rate=1e-4,
        checkpoint_every=10**6,
    )


def timed(train: Callable[..., Any], folder: Path, prompts: list[Prompt], steps: int, out: Path) -> Times:
    """Runs a trainer and notes clock and CPU time whenever a step ends."""
    ends: list[tuple[float, float]] = []

    def note(done: int, total: int, figures: Mapping[str, float]) -> None:
        if len(ends) < done <= total:
            ends.append((time.perf_counter(), time.process_time()))

    train(folder, prompts, words_used, config(steps), out, progress=note)
    pairs = list(pairwise(ends))[WARM_UP - 1 :]
    return Times([b[0] - a[0] for a, b in pairs], [b[1] - a[1] for a, b in pairs])


def phases(out: Path) -> dict[str, float]:
    """Median seconds of each phase of our step."""
    lines = [json.loads(line) for line in (out / "training" / "phases.jsonl").read_text().splitlines()][WARM_UP:]
    return {name: statistics.median(line[name] for line in lines) for name in lines[0] if name != "step"}


def floor_seconds(size: str) -> float:
    """Matrix products of one step: generation, reference, forward and two for backward."""
    s = SIZES[size]
    hidden, inner, layers, vocabulary = (
        s[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
    )
    completion = PROMPTS * SAMPLES * NEW_TOKENS
    tokens = PROMPTS * PROMPT_TOKENS + completion
    seen = PROMPTS * PROMPT_TOKENS**2 / 2 + completion * (PROMPT_TOKENS + NEW_TOKENS / 2)
    one_pass = (
        tokens * 2 * layers * (4 * hidden**2 + 3 * hidden * inner)
        + seen * 4 * hidden * layers
        + completion * 2 * hidden * vocabulary
    )
    return 5 * one_pass / product_rate(tokens, hidden, inner)


def measure(size: str, *, rounds: int, steps: int) -> dict[str, Any]:
    prompts = some_prompts(size)
    result: dict[str, list[Times]] = {"ours": [], "trl": []}
    parts: list[dict[str, float]] = []
    floors: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", size)
        for n in range(rounds):
            for name, train in (("ours", train_rl), ("trl", run_rloo)):
                out = Path(folder) / f"{name}-{n}"
                result[name].append(timed(train, Path(folder) / "model", prompts, steps, out))
            parts.append(phases(Path(folder) / f"ours-{n}"))
            floors.append(floor_seconds(size))
    clock = {name: [s for times in runs for s in times.clock] for name, runs in result.items()}
    cpu = {name: [s for times in runs for s in times.cpu] for name, runs in result.items()}
    ratios = [statistics.median(t.clock) / statistics.median(o.clock) for o, t in zip(*result.values(), strict=True)]
    cpu_ratios = [
        round(statistics.median(t.cpu) / statistics.median(o.cpu), 2) for o, t in zip(*result.values(), strict=True)
    ]
    floor = min(floors)
    return {
        "size": size,
        "ours_s": round(statistics.median(clock["ours"]), 4),
        "trl_s": round(statistics.median(clock["trl"]), 4),
        "times_faster": round(statistics.median(clock["trl"]) / statistics.median(clock["ours"]), 2),
        "times_faster_each_round": [round(r, 2) for r in ratios],
        "times_faster_cpu_each_round": cpu_ratios,
        "times_faster_cpu": round(statistics.median(cpu["trl"]) / statistics.median(cpu["ours"]), 2),
        "ours_cpu_s": round(statistics.median(cpu["ours"]), 4),
        "trl_cpu_s": round(statistics.median(cpu["trl"]), 4),
        "fastest_steps_ratio": round(min(clock["trl"]) / min(clock["ours"]), 2),
        "floor_s": round(floor, 4),
        "over_floor": round(min(clock["ours"]) / floor, 2),
        "phases_s": {name: round(statistics.median(p[name] for p in parts), 4) for name in parts[0]},
        "steps_measured": len(clock["ours"]),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="steps per round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    sizes = [chosen.size] if chosen.size else list(SIZES)
    result = []
    for size in sizes:
        result.append(measure(size, rounds=chosen.rounds, steps=chosen.steps))
        print(json.dumps(result[-1]), flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
