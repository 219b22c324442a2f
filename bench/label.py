"""Labels per second: our engine, lm-evaluation-harness, padded transformers and transformers' decision pipeline.

    python bench/label.py                          # both sizes, 2-shot and 0-shot
    python bench/label.py --size 5M --shots 2 --rounds 5

One label is one pair in both orders. 200 pairs over 100 contexts (~250 tokens), responses of ~40 tokens, after a static
prefix of 599 (2-shot) or 120 (0-shot) tokens; random Llamas, one thread, 32-bit. All methods get the same texts and
tokenizer and must give the same probabilities; they take turns, and a figure is the median over the turns. Peers run on
a few pairs, since their time per label does not depend on how many there are, and at the best of the batch sizes tried.
Times are CPU seconds of the process: on one thread that is the clock on a quiet machine; on a busy one less disturbed.

The floor: 2 FLOP per weight and unique token, 4·width per unique token, layer and visible key, 2 per head weight and
reading. Its share of the GEMM rate is given at the shapes of the model's own matrices (1,024 rows) and for 1,024³.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from aifeedback.inference.forward import engine_of
from aifeedback.inference.prefix_tree import build_tree, walk
from aifeedback.models.local import LocalModel

LABELS = ["1", "2"]
STATIC = {2: 599, 0: 120}
PAIRS, PAIRS_PER_CONTEXT = 200, 2
SIZES = {
    "5M": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "vocab_size": 8192},
    "56M": {"hidden_size": 640, "intermediate_size": 1728, "num_hidden_layers": 8, "vocab_size": 24576},
}
BATCHES = (1, 4, 16)
TARGET = {("56M", 2): 6.5, ("56M", 0): 2.7, ("5M", 2): 9.0, ("5M", 0): 3.4}
SHARE_TARGET = {"56M": 0.85, "5M": 0.65}
SAME = 1e-4
"""Largest difference of a probability between two methods."""

Method = Callable[[Sequence[str]], np.ndarray]
"""Prompts in, (N, 2) log-probabilities of the labels out; up to a constant per row."""


class Setting(NamedTuple):
    size: str
    shots: int


def make_model(size: str) -> tuple[Any, Any]:
    """A random Llama and a tokenizer that gives every word one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    heads = SIZES[size]["hidden_size"] // 64
    config = LlamaConfig(
        **SIZES[size],
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    words = ["<unk>", "</s>", *LABELS, *(f"w{i}" for i in range(4, config.vocab_size))]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    names = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "</s>"}
    return model, PreTrainedTokenizerFast(tokenizer_object=core, **names)


def prompts_of(setting: Setting, pairs: int) -> list[str]:
    """Both orders of every pair, one after the other; two pairs share a context, all share the static prefix."""
    draw = random.Random(0)
    top = SIZES[setting.size]["vocab_size"] - 1

    def text(tokens: int) -> str:
        return " ".join(f"w{draw.randint(4, top)}" for _ in range(tokens))

    static, first_head, second_head, ending = text(STATIC[setting.shots]), text(2), text(2), text(3)
    prompts = []
    for n in range(pairs):
        if n % PAIRS_PER_CONTEXT == 0:
            context = text(draw.randint(230, 270))
        one, other = (text(draw.randint(35, 45)) for _ in range(2))
        for a, b in ((one, other), (other, one)):
            prompts.append(" ".join((static, context, first_head, a, second_head, b, ending)))
    return prompts


def ours(model: Any, tokenizer: Any) -> Method:
    judge = LocalModel(model, tokenizer, uri="hf:bench")
    return lambda prompts: judge.label_logprobs(list(prompts), LABELS)


def padded(model: Any, tokenizer: Any, batch: int) -> Method:
    """Left-padded batches sorted by length; logits of the last position only."""
    labels = tokenizer.convert_tokens_to_ids(LABELS)
    tokenizer.padding_side = "left"

    def run(prompts: Sequence[str]) -> np.ndarray:
        ids = tokenizer(list(prompts))["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out = np.empty((len(ids), len(LABELS)))
        for n in range(0, len(order), batch):
            rows = order[n : n + batch]
            inputs = tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt")
            positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
            with torch.inference_mode():
                logits = model(**inputs, position_ids=positions, use_cache=False, logits_to_keep=1).logits[:, -1]
            out[rows] = logits.log_softmax(-1)[:, labels].numpy()
        return out

    return run


def harness(model: Any, tokenizer: Any, batch: int) -> Method:
    """lm-evaluation-harness; its cache reads both one-token labels from one pass."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, device="cpu", max_length=2048)

    def run(prompts: Sequence[str]) -> np.ndarray:
        requests = [
            Instance(request_type="loglikelihood", doc={}, arguments=(prompt, f" {label}"), idx=k)
            for prompt in prompts
            for k, label in enumerate(LABELS)
        ]
        result = lm.loglikelihood(requests, disable_tqdm=True)
        return np.array([logp for logp, _ in result]).reshape(len(prompts), len(LABELS))

    return run


def decision(model: Any, tokenizer: Any) -> Method | None:
    """transformers' one-pass choice readout, its template set to the bare prompt; None where it does not exist."""
    try:
        from transformers import pipeline
        from transformers.decision.configuration_utils import DecisionConfig
    except ImportError:
        return None
    config = DecisionConfig(labels={"choice": LABELS}, chat_template="{{ state }}")
    decide = pipeline("decision", model=model, tokenizer=tokenizer, decision_config=config, device="cpu")

    def run(prompts: Sequence[str]) -> np.ndarray:
        question = {"verdict": {"type": "choice", "criteria": dict.fromkeys(LABELS)}}
        answers = [decide({"state": prompt, "questions": question}) for prompt in prompts]
        return np.log([[a["verdict"]["probabilities"][label] for label in LABELS] for a in answers])

    return run


def cpu_seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    result = run()
    return time.process_time() - began, result


def best_batch(make: Callable[[int], Method], prompts: Sequence[str]) -> tuple[int, Method]:
    methods = {batch: make(batch) for batch in BATCHES}
    fastest = min(methods, key=lambda b: cpu_seconds(lambda: methods[b](prompts))[0])
    return fastest, methods[fastest]


def peers_of(model: Any, tokenizer: Any, prompts: Sequence[str]) -> dict[str, Method]:
    result: dict[str, Method] = {}
    batch, method = best_batch(lambda b: padded(model, tokenizer, b), prompts)
    result[f"padded transformers (batch {batch})"] = method
    try:
        batch, method = best_batch(lambda b: harness(model, tokenizer, b), prompts)
        result[f"lm-evaluation-harness (batch {batch})"] = method
    except ImportError:
        print("lm-evaluation-harness is not installed: pip install lm-eval")
    one_pass = decision(model, tokenizer)
    if one_pass is not None:
        result["decision pipeline"] = one_pass
    return result


def floor_flops(model: Any, sequences: list[list[int]]) -> float:
    """Of the unique tokens; see the head of this file."""
    config = model.config
    linear = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name)
    tree = build_tree(sequences)
    keys = sum((s.stop * (s.stop + 1) - s.start * (s.start + 1)) // 2 for root in tree.roots for s in walk(root))
    attention = 4 * config.hidden_size * config.num_hidden_layers * keys
    return 2.0 * linear * tree.tokens + attention + 2.0 * len(sequences) * config.hidden_size * config.vocab_size


def gemm_rates(model: Any) -> tuple[float, float]:
    """FLOP/s of one layer's matrices at 1,024 rows, and of a 1,024³ product."""
    layer = [m for m in model.model.layers[0].modules() if isinstance(m, torch.nn.Linear)]
    inputs = {m.in_features: torch.randn(1024, m.in_features) for m in layer}
    square = torch.randn(1024, 1024)
    work = sum(2.0 * 1024 * m.in_features * m.out_features for m in layer)
    with torch.inference_mode():
        own = min(cpu_seconds(lambda: [m(inputs[m.in_features]) for m in layer])[0] for _ in range(3))
        cube = min(cpu_seconds(lambda: square @ square)[0] for _ in range(3))
    return work / own, 2.0 * 1024**3 / cube


def normalised(logprobs: np.ndarray) -> np.ndarray:
    p = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def measure(setting: Setting, pairs: int, peer_pairs: int, rounds: int) -> dict[str, Any]:
    model, tokenizer = make_model(setting.size)
    prompts = prompts_of(setting, pairs)
    few = prompts[: 2 * peer_pairs]
    engine = ours(model, tokenizer)
    reference = normalised(engine(prompts))
    peers = peers_of(model, tokenizer, few)
    seconds: dict[str, list[float]] = {"aifeedback": [], **{name: [] for name in peers}}
    rates: list[tuple[float, float]] = []
    largest = 0.0
    for _ in range(rounds):
        rates.append(gemm_rates(model))
        engine_of(model).forget()  # every turn is a new job and computes its static prefix
        spent, _ = cpu_seconds(lambda: engine(prompts))
        seconds["aifeedback"].append(spent / pairs)
        rates.append(gemm_rates(model))
        for name, method in peers.items():
            spent, result = cpu_seconds(lambda method=method: method(few))
            seconds[name].append(spent / peer_pairs)
            largest = max(largest, float(np.abs(normalised(result) - reference[: len(few)]).max()))
    assert largest < SAME, f"the methods do not compute the same: {largest:.1e}"
    per_label = {name: statistics.median(s) for name, s in seconds.items()}
    sequences = tokenizer(prompts)["input_ids"]
    rate = floor_flops(model, sequences) / pairs / per_label["aifeedback"]
    best = min(s for name, s in per_label.items() if name != "aifeedback")
    return {
        "size": setting.size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "shots": setting.shots,
        "pairs": pairs,
        "rounds": rounds,
        "tokens_per_label": build_tree(sequences).tokens / pairs,
        "tokens_per_label_unshared": sum(map(len, sequences)) / pairs,
        "labels_per_second": {name: 1 / s for name, s in per_label.items()},
        "spread": {name: [1 / max(s), 1 / min(s)] for name, s in seconds.items()},
        "ratio": {name: s / per_label["aifeedback"] for name, s in per_label.items() if name != "aifeedback"},
        "ratio_to_best": best / per_label["aifeedback"],
        "gflops": rate / 1e9,
        "share_of_own_gemm": rate / statistics.median(own for own, _ in rates),
        "share_of_square_gemm": rate / statistics.median(cube for _, cube in rates),
        "largest_probability_difference": largest,
    }


def show(figures: dict[str, Any]) -> None:
    size, shots = figures["size"], figures["shots"]
    print(f"\n{size}, {shots}-shot: {figures['tokens_per_label']:.0f} tokens per label", end="")
    print(f" (unshared {figures['tokens_per_label_unshared']:.0f}), {figures['rounds']} turns")
    for name, rate in figures["labels_per_second"].items():
        low, high = figures["spread"][name]
        times = f"{figures['ratio'][name]:.2f}x" if name in figures["ratio"] else ""
        print(f"  {name:40} {rate:8.3f} labels/s  [{low:.3f}, {high:.3f}]  {times}")
    print(f"  best peer: {figures['ratio_to_best']:.2f}x (aim {TARGET[size, shots]}x)")
    print(
        f"  {figures['gflops']:.1f} GFLOP/s; share of the GEMM rate {figures['share_of_own_gemm']:.0%} at its own shapes"
        f" (aim {SHARE_TARGET[size]:.0%}), {figures['share_of_square_gemm']:.0%} of 1024³;"
        f" probabilities differ by {figures['largest_probability_difference']:.1e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--shots", nargs="*", type=int, default=list(STATIC), choices=list(STATIC))
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--peer-pairs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    result = []
    for size in options.size:
        for shots in options.shots:
            result.append(measure(Setting(size, shots), options.pairs, options.peer_pairs, options.rounds))
            show(result[-1])
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
