"""Supervised training against TRL: the same folders, rows and settings, interleaved; TRL's bf16 and checkpointing off.

    python bench/train.py                      # all objectives, both sizes
    python bench/train.py --kind reward --size 1M --context 256 --rounds 5

Every round trains both for a few steps from the same folder, ours and TRL's in turn; a figure is the median over all
steps but each run's first two, and the ratio of each round says how much it varies. CPU seconds stand beside the clock:
with one thread they are the same on a quiet machine, and on a busy one less disturbed. TRL's clock starts when a batch
is ready and ends with the step, ours counts everything from one step to the next. The floor is the time
that the matrix products of a step take, shared prompt tokens counted once, at the rate measured for one such product.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch

from aifeedback.training import dpo
from aifeedback.training.dpo import train_dpo
from aifeedback.training.examples import PairRow, SftRow
from aifeedback.training.reward_model import fit_reward_model
from aifeedback.training.settings import DpoConfig, RewardModelConfig, SftConfig
from aifeedback.training.sft import train_sft
from aifeedback.types import Comparison, Completion, Prompt

SIZES = {
    "1M": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "vocab_size": 1024},
    "9M": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8, "vocab_size": 4096},
}
WARM_UP = 2
OPTIMIZER = {"learning_rate": 1e-4, "optimizer": "adamw"}


class Times(NamedTuple):
    """Seconds of each step but the first two."""

    clock: list[float]
    cpu: list[float]


class Setting(NamedTuple):
    kind: str
    size: str
    context: int
    response: tuple[int, int]
    """Fewest and most tokens of a response, EOS included."""
    batch: int


SETTINGS = [
    Setting("reward", "1M", 64, (32, 32), 32),
    Setting("reward", "9M", 64, (32, 32), 32),
    Setting("reward", "1M", 256, (32, 32), 16),
    Setting("reward", "9M", 256, (32, 32), 16),
    Setting("dpo", "1M", 64, (32, 32), 32),
    Setting("dpo", "9M", 64, (32, 32), 32),
    Setting("dpo", "1M", 256, (32, 32), 16),
    Setting("sft", "1M", 64, (16, 48), 32),
    Setting("sft", "9M", 64, (16, 48), 32),
]


def save_model(folder: Path, size: str) -> None:
    """A random Llama whose tokenizer gives every word one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        **SIZES[size],
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {w: i for i, w in enumerate(["<unk>", "<s>", "</s>", "<pad>"])}
    vocabulary |= {f"w{i}": i for i in range(4, config.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)


def rows_of(setting: Setting, count: int) -> list[PairRow]:
    """Random words; labels are hard, since TRL knows no others."""
    draw = random.Random(1)
    top = SIZES[setting.size]["vocab_size"] - 1

    def text(tokens: int) -> str:
        return " ".join(f"w{draw.randint(4, top)}" for _ in range(tokens))

    rows = []
    for _ in range(count):
        prompt = Prompt.of(text(setting.context))
        lengths = [draw.randint(*setting.response) - 1 for _ in range(2)]
        first, second = (Completion.of(prompt, text(n), source="bench") for n in lengths)
        rows.append(PairRow(Comparison.of(prompt, first, second), 1.0))
    return rows


def ours(setting: Setting, folder: Path, rows: list[PairRow], steps: int, out: Path) -> Times:
    """Our trainer; DPO's step includes its share of the one pass of the reference over all rows; TRL asks it in every
    step.
    """
    settings: dict[str, Any] = {**OPTIMIZER, "batch": setting.batch, "steps": steps, "checkpoint_every": 10**6}
    ends: list[tuple[float, float]] = []

    def note(*_: Any) -> None:
        ends.append(now())

    with reference_clock() as spent:
        if setting.kind == "sft":
            answers = [SftRow(r.comparison.prompt, r.comparison.first) for r in rows]
            train_sft(folder, answers, SftConfig(**settings), out, progress=note)
        elif setting.kind == "reward":
            fit_reward_model(folder, rows, RewardModelConfig(**settings), out, progress=note)
        else:
            train_dpo(folder, rows, DpoConfig(**settings), out, progress=note)
    clock, cpu = (sum(one[i] for one in spent) / steps for i in range(2))
    steps_made = list(pairwise(ends))[WARM_UP - 1 :]
    return Times([b[0] - a[0] + clock for a, b in steps_made], [b[1] - a[1] + cpu for a, b in steps_made])


def now() -> tuple[float, float]:
    """Clock and CPU seconds (of all threads together)."""
    return time.perf_counter(), time.process_time()


@contextmanager
def reference_clock() -> Iterator[list[tuple[float, float]]]:
    """Clock and CPU seconds that DPO spends on its reference, which it asks once, before the first step."""
    spent: list[tuple[float, float]] = []
    ask = dpo.reference_logprobs

    def timed(*given: Any, **settings: Any) -> torch.Tensor:
        began = now()
        try:
            return ask(*given, **settings)
        finally:
            ended = now()
            spent.append((ended[0] - began[0], ended[1] - began[1]))

    with patch.object(dpo, "reference_logprobs", timed):
        yield spent


def theirs(setting: Setting, folder: Path, rows: list[PairRow], steps: int, out: Path) -> Times:
    """TRL's trainer."""
    import datasets
    import trl
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

    datasets.disable_progress_bars()
    name = {"sft": "SFT", "reward": "Reward", "dpo": "DPO"}[setting.kind]
    config = getattr(trl, f"{name}Config")(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=setting.batch,
        learning_rate=OPTIMIZER["learning_rate"],
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        use_cpu=True,
        disable_tqdm=True,
        max_length=setting.context + setting.response[1],
        **({"completion_only_loss": True} if setting.kind == "sft" else {}),
    )
    texts = [
        {"prompt": c.prompt.text, "chosen": f" {c.first.text}", "rejected": f" {c.second.text}"}
        for c in (row.comparison for row in rows)
    ]
    if setting.kind == "sft":
        texts = [{"prompt": t["prompt"], "completion": t["chosen"]} for t in texts]
    auto = AutoModelForSequenceClassification if setting.kind == "reward" else AutoModelForCausalLM
    model = auto.from_pretrained(folder, **({"num_labels": 1} if setting.kind == "reward" else {}))
    steps_made: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = now()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ended = now()
            steps_made.append((ended[0] - self.began[0], ended[1] - self.began[1]))

    run = getattr(trl, f"{name}Trainer")(
        model=model,
        args=config,
        train_dataset=datasets.Dataset.from_list(texts),
        processing_class=AutoTokenizer.from_pretrained(folder),
        callbacks=[Clock()],
    )
    run.log = lambda *_, **__: None
    run.train()
    return Times([clock for clock, _ in steps_made[WARM_UP:]], [cpu for _, cpu in steps_made[WARM_UP:]])


def floor_seconds(setting: Setting) -> float:
    """Matrix products of one step at the measured rate of one product, shared prompt tokens counted once."""
    size = SIZES[setting.size]
    hidden, inner, layers, vocabulary = (
        size[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
    )
    response = sum(setting.response) / 2
    sides = 1 if setting.kind == "sft" else 2
    tokens = setting.batch * (setting.context + sides * response)
    per_token = 2 * layers * (4 * hidden * hidden + 3 * hidden * inner)
    seen = setting.context / 2 * setting.context + sides * response * (setting.context + response / 2)
    attention = setting.batch * seen * 4 * hidden * layers
    head = 0 if setting.kind == "reward" else setting.batch * sides * response * 2 * hidden * vocabulary
    passes = 4 if setting.kind == "dpo" else 3  # forward, two for backward; DPO's reference once
    rate = product_rate(int(tokens), hidden, inner)
    return passes * (tokens * per_token + attention + head) / rate


def product_rate(rows: int, hidden: int, inner: int) -> float:
    """FLOP per second of one matrix product of these shapes, the best of thirty."""
    a, b = torch.randn(rows, hidden), torch.randn(hidden, inner)
    times = []
    for _ in range(30):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return 2 * rows * hidden * inner / min(times)


def measure(setting: Setting, *, rounds: int, steps: int) -> dict[str, Any]:
    rows = rows_of(setting, setting.batch * steps)
    rounds_of: dict[str, list[Times]] = {"ours": [], "trl": []}
    floors: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", setting.size)
        for n in range(rounds):
            for name, train in (("ours", ours), ("trl", theirs)):
                out = Path(folder) / f"{name}-{n}"
                rounds_of[name].append(train(setting, Path(folder) / "model", rows, steps, out))
            floors.append(floor_seconds(setting))
    clock = {name: [s for times in several for s in times.clock] for name, several in rounds_of.items()}
    cpu = {name: [s for times in several for s in times.cpu] for name, several in rounds_of.items()}
    turns = zip(rounds_of["ours"], rounds_of["trl"], strict=True)
    floor = min(floors)
    return {
        **setting._asdict(),
        "ours_s": round(statistics.median(clock["ours"]), 4),
        "trl_s": round(statistics.median(clock["trl"]), 4),
        "times_faster": round(statistics.median(clock["trl"]) / statistics.median(clock["ours"]), 2),
        "ours_cpu_s": round(statistics.median(cpu["ours"]), 4),
        "trl_cpu_s": round(statistics.median(cpu["trl"]), 4),
        "times_faster_cpu": round(statistics.median(cpu["trl"]) / statistics.median(cpu["ours"]), 2),
        "times_faster_cpu_each_round": [
            round(statistics.median(t.cpu) / statistics.median(o.cpu), 2) for o, t in turns
        ],
        "floor_s": round(floor, 4),
        "over_floor": round(min(cpu["ours"]) / floor, 2),
        "steps_measured": len(cpu["ours"]),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["sft", "reward", "dpo"])
    parser.add_argument("--size", choices=list(SIZES))
    parser.add_argument("--context", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12, help="steps per round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    warnings.filterwarnings("ignore")
    torch.set_num_threads(chosen.threads)
    result = []
    for setting in SETTINGS:
        if all(
            wanted in (None, has)
            for wanted, has in [
                (chosen.kind, setting.kind),
                (chosen.size, setting.size),
                (chosen.context, setting.context),
            ]
        ):
            result.append(measure(setting, rounds=chosen.rounds, steps=chosen.steps))
            print(json.dumps(result[-1]), flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
