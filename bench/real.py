"""Labels per second on pretrained models: this engine, padded transformers, lm-evaluation-harness, llama.cpp's server.

    python bench/real.py                                   # SmolLM2-135M, 0-shot and 2-shot
    python bench/real.py --model qwen2.5-coder-0.5b --pairs 20

One label is one pair in both orders: Debian's package descriptions with two one-line summaries, prompt `summary-base`
or `summary-detailed` with exemplars, as text. Models and data are those of `make real` (`runs/real-inputs`). All methods
get the same texts and labels. The local ones compute in float32 and must give the same probabilities; llama.cpp serves the
quantised file as it is, and the same weights unpacked to float32, with its prompt cache on, asked one prompt after the
other so that a prompt finds its predecessor's prefix. One thread each. They take turns; a figure is the median over the
turns. Times are CPU seconds of the process that computes (of llama.cpp: the server's, and the client's beside it).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests")]

from aifeedback.data import read_comparisons  # noqa: E402
from aifeedback.inference.forward import engine_of  # noqa: E402
from aifeedback.inference.prefix_tree import build_tree  # noqa: E402
from aifeedback.models import connect  # noqa: E402
from aifeedback.prompts.judge_prompt import JudgePrompt  # noqa: E402
from aifeedback.prompts.render import Renderer  # noqa: E402
from label import LABELS, best_batch, cpu_seconds, harness, normalised, padded  # noqa: E402
from models.llama_process import serving  # noqa: E402  # pyright: ignore[reportMissingImports]

INPUTS = ROOT / "runs" / "real-inputs"
PROMPTS = {0: "summary-base", 2: "summary-detailed"}
SAME = 1e-3
"""Largest difference of a probability between two local methods, on pretrained weights in float32."""


class Server(NamedTuple):
    """llama.cpp's, as a method: prompts in, log-probabilities out; NaN where the labels were not among the listed."""

    model: Any
    pid: int

    def __call__(self, prompts: Sequence[str]) -> np.ndarray:
        readings = self.model.read_labels(list(prompts), LABELS)
        return np.array([r.logprobs or [np.nan] * len(LABELS) for r in readings], dtype=float)

    def spent_s(self) -> float:
        """CPU seconds of the server so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def served(file: Path, folder: Path, *, exact: bool, context: int) -> Iterator[Server]:
    """A server of the file on loopback, asked through this project's client without a journal."""
    before = set(_children())
    with serving(file, folder / f"{file.stem}.log", context=context, name=file.stem if exact else "") as url:
        (pid,) = set(_children()) - before
        model = connect("openai:any", base_url=url, concurrency=1, attempt_timeout_s=600, top=100, warm=False)
        yield Server(model, pid)


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def full_precision(source: Path, target: Path) -> Path:
    """The GGUF with every tensor unpacked to float32."""
    import gguf

    reader = gguf.GGUFReader(source)
    field = reader.fields["general.architecture"]
    writer = gguf.GGUFWriter(target, str(field.contents()))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(weights, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def prompts_of(shots: int, pairs: int) -> list[str]:
    """Both orders of every pair, one after the other."""
    prompt = JudgePrompt.load(PROMPTS[shots])
    renderer = Renderer(prompt.with_shots(shots, seed=0) if shots else prompt, chat=False)
    rows = read_comparisons(INPUTS / "data" / "people-heldout.jsonl", seed=0, limit=pairs).rows
    return [
        str(renderer.verdict(c.prompt, {"first": a.text, "second": b.text}))
        for c in rows
        for a, b in ((c.first, c.second), (c.second, c.first))
    ]


def measure(file: Path, shots: int, pairs: int, peer_pairs: int, rounds: int) -> dict[str, Any]:
    prompts = prompts_of(shots, pairs)
    few = prompts[: 2 * peer_pairs]
    local: Any = connect(f"hf:{file}")
    model, tokenizer = local.model, local.tokenizer
    reference = normalised(local.label_logprobs(prompts, LABELS))
    with tempfile.TemporaryDirectory() as place, ExitStack() as open_servers:
        methods: dict[str, Callable[[Sequence[str]], np.ndarray]] = {}
        for name, make in (("padded transformers", padded), ("lm-evaluation-harness", harness)):
            try:
                batch, method = best_batch(lambda b, make=make: make(model, tokenizer, b), few)
                methods[f"{name} (batch {batch})"] = method
            except ImportError:
                print(f"{name} is not installed")
        exact = full_precision(file, Path(place) / f"{file.stem}-f32.gguf")
        for name, served_file in (("llama.cpp server, file as it is", file), ("llama.cpp server, float32", exact)):
            methods[name] = open_servers.enter_context(
                served(served_file, Path(place), exact=served_file is exact, context=4096)
            )
        seconds: dict[str, list[float]] = {"aifeedback": [], **{name: [] for name in methods}}
        clients: dict[str, list[float]] = {}
        differences: dict[str, float] = {}
        for _ in range(rounds):
            engine_of(model).forget()  # every turn is a new job and computes its static prefix
            spent, _ = cpu_seconds(lambda: local.label_logprobs(prompts, LABELS))
            seconds["aifeedback"].append(spent / pairs)
            for name, method in methods.items():
                before = method.spent_s() if isinstance(method, Server) else 0.0
                spent, result = cpu_seconds(lambda method=method: method(few))
                if isinstance(method, Server):
                    clients.setdefault(name, []).append(spent / peer_pairs)
                    spent = method.spent_s() - before
                seconds[name].append(spent / peer_pairs)
                gap = np.abs(normalised(result) - reference[: len(few)]).max()
                differences[name] = max(differences.get(name, 0.0), float(gap))
    local_gap = max(gap for name, gap in differences.items() if not name.startswith("llama.cpp"))
    assert local_gap < SAME, f"the methods do not compute the same: {local_gap:.1e}"
    per_label = {name: statistics.median(s) for name, s in seconds.items()}
    ids = tokenizer(prompts)["input_ids"]
    return {
        "model": file.stem,
        "shots": shots,
        "pairs": pairs,
        "rounds": rounds,
        "tokens_per_label": build_tree(ids).tokens / pairs,
        "tokens_per_label_unshared": sum(map(len, ids)) / pairs,
        "labels_per_second": {name: 1 / s for name, s in per_label.items()},
        "spread": {name: [1 / max(s), 1 / min(s)] for name, s in seconds.items()},
        "client_seconds_per_label": {name: statistics.median(s) for name, s in clients.items()},
        "ratio": {name: s / per_label["aifeedback"] for name, s in per_label.items() if name != "aifeedback"},
        "largest_probability_difference": differences,
    }


def show(figures: dict[str, Any]) -> None:
    print(f"\n{figures['model']}, {figures['shots']}-shot: {figures['tokens_per_label']:.0f} tokens per label", end="")
    print(f" (unshared {figures['tokens_per_label_unshared']:.0f}), {figures['rounds']} turns")
    for name, rate in figures["labels_per_second"].items():
        low, high = figures["spread"][name]
        times = f"{figures['ratio'][name]:.2f}x" if name in figures["ratio"] else ""
        gap = figures["largest_probability_difference"].get(name)
        apart = "" if gap is None else f"  probabilities differ by {gap:.1e}"
        print(f"  {name:40} {rate:8.3f} labels/s  [{low:.3f}, {high:.3f}]  {times}{apart}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="start of a file name in runs/real-inputs/models")
    parser.add_argument("--shots", nargs="*", type=int, default=list(PROMPTS), choices=list(PROMPTS))
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--peer-pairs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    files = sorted((INPUTS / "models").glob(f"{options.model}*.gguf"))
    if not files or not (INPUTS / "data" / "people-heldout.jsonl").exists():
        print("the models and data of `make real` are not here; nothing was measured")
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    result = []
    for shots in options.shots:
        result.append(measure(files[0], shots, options.pairs, options.peer_pairs, options.rounds))
        show(result[-1])
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
