"""A Hugging Face causal language model in this process: exact label log-probabilities and sampled answers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import MissingExtra, ModelError
from aifeedback.models.folders import IDENTITY, WEIGHTS, check_is_generator, check_weights, identity_digest
from aifeedback.models.gguf import is_gguf, unpacked
from aifeedback.models.label_logprobs import as_array, checked, unknown
from aifeedback.types import ModelCard, Problem, PromptLike, Reading, Reply, Sampling

try:
    import torch
except ModuleNotFoundError as missing:
    raise MissingExtra("torch", "local") from missing

from aifeedback.inference.encoding import Encoding, encode_prompts
from aifeedback.inference.forward import engine_of
from aifeedback.inference.generation import generate
from aifeedback.inference.labels import LabelReader, LabelTree, label_logprobs

if TYPE_CHECKING:
    from torch import Tensor

MOST_COPIES, COPY_BYTES, FREE_SHARE = 4, 1 << 30, 0.5
"""Processes that share the work by themselves; what one holds beside the weights; their share of the free memory."""


def load(name: str, *, device: str | None = None, dtype: str | None = None, either_space: bool = False) -> LocalModel:
    """The model in a folder or a GGUF file, or by Hub id (``HF_HUB_OFFLINE=1``: from the local cache only).

    ``device``: default a GPU where there is one. ``dtype``: default float32 on a CPU, bfloat16 on a GPU that has it.
    ``either_space``: a label may have a space before it (see ``inference.labels``).
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = model_folder(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    precision = getattr(torch, dtype) if dtype else _precision(device)
    check_is_generator(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=precision, output_loading_info=True)
        model, info = loaded
    except (OSError, ValueError, KeyError, RuntimeError) as unusable:
        raise ModelError(
            f"not a causal language model: {unusable}", file=folder, fix="give a folder saved with save_pretrained"
        ) from unusable
    check_weights(folder, info)
    return LocalModel(model.to(device).eval(), tokenizer, uri=f"hf:{name}", folder=folder, either_space=either_space)


def load_lab(name: str, **options: Any) -> LocalModel:
    """A model that ships with the built-in lab."""
    folder = import_module("aifeedback.lab.zoo").folder(name)
    model = load(str(folder), **options)
    model.uri = f"lab:{name}"
    return model


class LocalModel:
    """A causal language model and its tokenizer, in memory. Nothing in it depends on what was asked before."""

    def __init__(
        self, model: Any, tokenizer: Any, *, uri: str, folder: Path | None = None, either_space: bool = False
    ) -> None:
        self.model, self.tokenizer, self.uri, self.folder = model, tokenizer, uri, folder
        self._reader = LabelReader(tokenizer, either_space=either_space)
        self._card: tuple[int, ModelCard] | None = None
        self._as_saved = self._version

    @property
    def has_chat_template(self) -> bool:
        """Whether messages have a form of their own; judge prompts with ``chat: auto`` follow it."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Spellings that judged text must not carry unescaped (``prompts.render``)."""
        return tuple(self.tokenizer.all_special_tokens)

    @property
    def card(self) -> ModelCard:
        """Computed once, and again after the weights changed (a policy that is being trained)."""
        version = self._version
        if self._card is None or self._card[0] != version:
            config = self.model.config
            is_saved = self.folder is not None and version == self._as_saved
            card = ModelCard(
                uri=self.uri,
                revision=identity_digest(self.folder) if self.folder and is_saved else _digest_weights(self.model),
                family=getattr(config, "aifeedback_family", None) or config.model_type,
                parameters=sum(p.numel() for p in self.model.parameters()),
                context_window=self.context_window,
            )
            self._card = version, card
        return self._card[1]

    @property
    def _version(self) -> int:
        """Counts in-place changes of the weights."""
        return sum(p._version for p in self.model.parameters())

    @property
    def context_window(self) -> int | None:
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def copies_that_fit(self) -> int:
        """How many processes may hold this model: one per thread that torch would use here, at most ``MOST_COPIES``, as
        far as they fit into half of the free memory; 1 on a GPU."""
        if self.model.device.type != "cpu":
            return 1
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        room = 1 + FREE_SHARE * _free_bytes() / (weights + COPY_BYTES)
        return int(max(1, min(torch.get_num_threads(), MOST_COPIES, room)))

    @contextmanager
    def with_threads(self, count: int) -> Generator[None]:
        """torch uses so many threads inside the block."""
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def label_logprobs(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> NDArray[np.float64]:
        """(N, K) log P(label | prompt) in nats, *unnormalised* over the labels; NaN where the prompt is too long.

        What exactly a label's event is stands in ``aifeedback.inference.labels``. Raises ModelError for a label that the
        tokenizer cannot spell.
        """
        return as_array(self.read_labels(prompts, labels), labels=len(labels))

    def read_labels(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> list[Reading]:
        """One reading per prompt, in order. A prompt longer than the context window gets a problem and is never truncated."""
        ids = encode_prompts(self.tokenizer, prompts)
        trees = [self._reader.tree(tokens, labels) for tokens in ids]
        readings: list[Reading | None] = [
            self._refused(t, tree, len(labels)) for t, tree in zip(ids, trees, strict=True)
        ]
        pending = [i for i, reading in enumerate(readings) if reading is None]
        for i, logprobs in zip(
            pending, self._logprobs([ids[i] for i in pending], [trees[i] for i in pending]), strict=True
        ):
            readings[i] = checked(logprobs, prompt_tokens=len(ids[i]), event=trees[i].event)
        return [reading for reading in readings if reading is not None]

    def _refused(self, ids: list[int], tree: LabelTree, labels: int) -> Reading | None:
        if not ids:
            return unknown(Problem.EMPTY, labels)
        deepest = max(len(tree.nodes[i].path) for i in tree.inner)
        if self.context_window is not None and len(ids) + deepest > self.context_window:
            return unknown(Problem.TOO_LONG, labels, prompt_tokens=len(ids))
        return None

    def _logprobs(self, ids: list[list[int]], trees: list[LabelTree]) -> list[list[float]]:
        sequences, reads, places = [], [], []
        for n, (tokens, tree) in enumerate(zip(ids, trees, strict=True)):
            for node in tree.inner:
                sequences.append([*tokens, *tree.nodes[node].path])
                reads.append((len(sequences) - 1, len(sequences[-1]) - 1))
                places.append((n, node))
        edges: list[dict[int, NDArray[np.float64]]] = [{} for _ in ids]
        rests: list[dict[int, NDArray[np.float64]]] = [{} for _ in ids]

        def consume(indices: list[int], logits_RV: Tensor) -> None:
            total_R = torch.logsumexp(logits_RV.double(), dim=1)
            for index, logits_V, total in zip(indices, logits_RV, total_R, strict=True):
                n, node = places[index]
                tokens = [trees[n].nodes[child].path[-1] for child in trees[n].nodes[node].children]
                edges[n][node] = (logits_V[tokens].double() - total)[None].cpu().numpy()
                if node:  # past the prompt's end, going on otherwise ends a label
                    rests[n][node] = _others(logits_V, tokens, total)

        self._run(lambda: engine_of(self.model).read(sequences, reads, consume))
        return [
            label_logprobs(tree, edge, rest)[0].tolist() for tree, edge, rest in zip(trees, edges, rests, strict=True)
        ]

    def _run(self, forward: Callable[[], None]) -> None:
        """In evaluation mode, which a policy in training is not in."""
        was_training = self.model.training
        self.model.eval()
        try:
            forward()
        finally:
            self.model.train(was_training)

    def reply(self, prompts: Sequence[PromptLike], sampling: Sampling) -> list[Reply]:
        """One answer per prompt, drawn with a seed made of ``sampling.seed`` and the prompt itself."""
        ids = encode_prompts(self.tokenizer, prompts)
        window = self.context_window
        fits = [bool(t) and (window is None or len(t) + sampling.max_new_tokens <= window) for t in ids]
        fitting_ids = [t for t, fit in zip(ids, fits, strict=True) if fit]
        replies = iter(self._replies(fitting_ids, sampling) if fitting_ids else [])
        return [next(replies) if fit else _unanswered(t) for t, fit in zip(ids, fits, strict=True)]

    def _replies(self, ids: list[list[int]], sampling: Sampling) -> list[Reply]:
        uniform = [_uniform(tokens, sampling) for tokens in ids]
        drawn = generate(
            self.model,
            ids,
            sampling=sampling,
            eos_ids=self.eos_ids,
            pad_id=self.tokenizer.pad_token_id or 0,
            uniform_BT=torch.stack(uniform) if sampling.temperature > 0 else None,
            stop=self._stop(sampling.stop) if sampling.stop else None,
        )
        rows = zip(ids, drawn.tokens_BT.tolist(), drawn.length_B.tolist(), drawn.finished_B.tolist(), strict=True)
        return [
            Reply(
                text=_before(self._text(tokens[:length]), sampling.stop),
                finish_reason="stop" if finished else "length",
                prompt_tokens=len(prompt),
                completion_tokens=length,
            )
            for prompt, tokens, length, finished in rows
        ]

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a response: the tokenizer's, the chat template's, and those of the generation settings."""
        try:
            return Encoding.of(self.tokenizer, self.model).stops
        except ModelError:  # without such a token a response is as long as it may be
            return frozenset()

    def _text(self, tokens: list[int]) -> str:
        tokens = tokens[:-1] if tokens and tokens[-1] in self.eos_ids else tokens
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _stop(self, stops: tuple[str, ...]) -> Callable[[list[int]], bool]:
        return lambda tokens: any(s in self._text(tokens) for s in stops)


def _others(logits_V: Tensor, tokens: list[int], total: Tensor) -> NDArray[np.float64]:
    """log-probability of all next tokens but the given ones together, (1,)."""
    others = logits_V.double().clone()
    others[tokens] = -torch.inf
    return (torch.logsumexp(others, 0) - total)[None].cpu().numpy()


def _uniform(tokens: list[int], sampling: Sampling) -> Tensor:
    """The numbers that decide one answer: a function of the seed and the prompt, whatever else is asked beside it."""
    seed = hashlib.sha256(f"{sampling.seed}:{tokens}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(seed[:8], "big", signed=True))
    return torch.rand(sampling.max_new_tokens, generator=generator, dtype=torch.float64)


def _before(text: str, stops: Sequence[str]) -> str:
    return text[: min((text.index(s) for s in stops if s in text), default=len(text))]


def _unanswered(tokens: list[int]) -> Reply:
    problem = Problem.TOO_LONG if tokens else Problem.EMPTY
    return Reply(text="", finish_reason="error", prompt_tokens=len(tokens), problem=problem)


def _free_bytes() -> int:
    """Memory available to a new process as reported by the kernel; half of the total if it reports none."""
    try:
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
        return int(meminfo.partition("MemAvailable:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _precision(device: str) -> torch.dtype:
    return torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float32


def model_folder(name: str) -> Path:
    """The folder behind what ``hf:`` names: itself, a GGUF file as a plain folder, or a model of the hub.

    Raises ModelError where there is none, or where it lacks a part.
    """
    folder = unpacked(name) if is_gguf(name) else Path(name).expanduser()
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
            raise ModelError("no such folder", file=name, fix="give the folder of a saved model, or a Hub id")
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(name, allow_patterns=list(IDENTITY)))
        except Exception as failed:
            raise ModelError(
                f"neither a folder nor a model that could be fetched: {failed}", file=name, fix="check the name"
            ) from failed
    if not (folder / "config.json").is_file():
        raise ModelError("has no config.json", file=folder, fix="give the folder of a saved model")
    if not any(folder.glob(pattern) for pattern in WEIGHTS) or not any(any(folder.glob(p)) for p in WEIGHTS):
        raise ModelError("has no weights (*.safetensors)", file=folder, fix="give the folder of a saved model")
    if not any(any(folder.glob(p)) for p in ("tokenizer*", "vocab*", "*.model")):
        raise ModelError(
            "has no tokenizer",
            file=folder,
            fix="save the tokenizer into the same folder: tokenizer.save_pretrained(FOLDER)",
        )
    return folder


def _digest_weights(model: Any) -> str:
    digest = hashlib.sha256(model.config.to_json_string().encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
