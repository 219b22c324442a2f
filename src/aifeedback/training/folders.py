"""Hugging Face model folders in and out: safetensors, tokenizer, card. Never pickle, never remote code.

**Adapters.** Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) through peft, put into a model in place.

The model keeps its class and its attribute names, so that everything that runs it needs not know. After training the
adapters are merged: the folder that comes out is a plain one. The adapter alone is saved beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from aifeedback.errors import MissingExtra, ModelError
from aifeedback.inference import passes
from aifeedback.inference.encoding import Encoding, restore_template
from aifeedback.models.folders import check_is_generator, check_weights
from aifeedback.training.settings import LoraSettings

HEADS = ("score", "lm_head")


def peft_config(settings: LoraSettings) -> Any:
    """peft's form of the settings; raises MissingExtra without peft."""
    try:
        from peft import LoraConfig
    except ImportError as missing:
        raise MissingExtra("peft", "local") from missing
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets) if settings.targets else "all-linear",
        exclude_modules=list(HEADS),
    )


def attach(model: Any, settings: LoraSettings, *, seed: int) -> Any:
    """Freezes the model and puts adapters into it, drawn from ``seed``; a score head stays trained whole.

    Returns the handle that ``merge`` wants; the model itself is changed in place. Raises MissingExtra without peft.
    """
    config = peft_config(settings)
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        handle = get_peft_model(model, config)
    if hasattr(model, "score"):
        model.score.requires_grad_(True)
    return handle


def merge(handle: Any, adapter_folder: str | PathLike[str] | None = None) -> Any:
    """Adds the adapters into the weights and returns the plain model; saves them alone first if a folder is given.

    A trained score head is part of what is saved: peft puts it on the base model beside the adapters.
    """
    if adapter_folder is not None:
        handle.save_pretrained(str(adapter_folder))
        head = getattr(handle.get_base_model(), "score", None)
        if head is not None:
            _add_head(Path(adapter_folder), head)
    return handle.merge_and_unload()


def restore_frozen(model: Any, base: str | PathLike[str]) -> None:
    """Gives the bf16 weights that adapters were trained on the precision of the folder that they were loaded from."""
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad and p.dtype == torch.bfloat16}
    stored: dict[str, Any] = {}
    if frozen and stored_dtype(base) != torch.bfloat16:
        with _quietly():
            loaded = type(model).from_pretrained(str(base), dtype=torch.float32, use_safetensors=True, num_labels=1)
        stored = dict(loaded.named_parameters())
    for name, parameter in frozen.items():
        full = parameter.data.float()
        if (value := stored.get(name.replace(".base_layer", ""))) is not None:
            full[: len(value)] = value.data  # a new padding token adds rows
        parameter.data = full


def _add_head(folder: Path, head: Any) -> None:
    """Adds the head in peft's own form for modules that are trained whole."""
    from safetensors.torch import load_file, save_file

    weights = load_file(str(folder / "adapter_model.safetensors"))
    weights |= {
        f"base_model.model.score.{name}": value.detach().cpu().contiguous().clone()
        for name, value in head.state_dict().items()
    }
    save_file(weights, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    settings = folder / "adapter_config.json"
    config = json.loads(settings.read_text(encoding="utf-8"))
    # Excluded modules are never kept whole: the head leaves that list.
    excluded = [name for name in config.get("exclude_modules") or [] if name != "score"]
    config |= {"modules_to_save": ["score"], "task_type": "SEQ_CLS", "exclude_modules": excluded or None}
    settings.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


PAD_TOKEN = "<|pad|>"
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_tokenizer(folder: str | PathLike[str]) -> Any:
    """The tokenizer of a model folder, with the chat template it was trained with; raises ModelError without one."""
    from transformers import AutoTokenizer

    _check(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as cause:
        raise ModelError(
            f"no tokenizer can be loaded ({_first_line(cause)})",
            file=folder,
            fix="save one with tokenizer.save_pretrained",
        ) from cause
    return restore_template(tokenizer, folder)


def load_policy(folder: str | PathLike[str], *, dtype: torch.dtype = torch.float32) -> Any:
    """A causal language model in training precision; raises ModelError where the folder holds none."""
    from transformers import AutoModelForCausalLM

    _check(folder)
    check_is_generator(folder)
    try:
        with _quietly():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(folder), dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
            model, info = loaded
    except (OSError, ValueError, KeyError, RuntimeError) as cause:
        raise ModelError(f"no causal language model can be loaded ({_first_line(cause)})", file=folder) from cause
    check_weights(folder, info)
    return model


def load_scorer(folder: str | PathLike[str], *, seed: int | None, dtype: torch.dtype = torch.float32) -> Any:
    """A sequence classifier with one output. A missing head is drawn from ``seed``; with None a missing head raises.

    A new head is normal with standard deviation 1/√(D+1), as in Stiennon et al. 2020 (arXiv 2009.01325).
    """
    from transformers import AutoModelForSequenceClassification

    _check(folder)
    try:
        with _quietly():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                str(folder),
                num_labels=1,
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as cause:
        raise ModelError(f"no reward model can be loaded ({_first_line(cause)})", file=folder) from cause
    missing = sorted(info["missing_keys"])
    if not hasattr(model, "score") or any(not key.startswith("score.") for key in missing):
        raise ModelError(f"weights are missing: {', '.join(missing[:3]) or 'no score head'}", file=folder)
    if missing and seed is None:
        raise ModelError("this is a language model, not a reward model", file=folder, fix="train one: train reward")
    if missing:
        draw = torch.Generator().manual_seed(seed or 0)
        shape = model.score.weight.shape
        weight = torch.randn(shape, generator=draw) / (shape[-1] + 1) ** 0.5
        with torch.no_grad():
            model.score.weight.copy_(weight)
            if model.score.bias is not None:
                model.score.bias.zero_()
    return model


def context_window(folder: str | PathLike[str]) -> int | None:
    """Most tokens of a sequence that the folder's model reads; None where it has no such limit."""
    from transformers import AutoConfig

    _check(folder)
    try:
        return passes.context_window(AutoConfig.from_pretrained(str(folder), trust_remote_code=False))
    except (OSError, ValueError, KeyError) as cause:
        raise ModelError(f"its config.json cannot be read ({_first_line(cause)})", file=folder) from cause


def stored_dtype(folder: str | PathLike[str]) -> torch.dtype | None:
    """The floating-point type of a folder's weights; None where they are of several types, or none is found."""
    from safetensors import safe_open

    kinds: set[torch.dtype] = set()
    for file in Path(folder).glob("*.safetensors"):
        with safe_open(str(file), framework="pt") as stream:
            names = list(stream.keys())
            kinds |= {_DTYPES[kind] for name in names if (kind := stream.get_slice(name).get_dtype()) in _DTYPES}
    return kinds.pop() if len(kinds) == 1 else None


def set_pad_token(tokenizer: Any, model: Any) -> None:
    """Gives model and tokenizer a padding token that is not EOS.

    transformers reads a classifier at the last token that is not padding: with pad = EOS it would read one token too
    early. UNK or BOS serve where they differ from EOS; otherwise a new token is added.
    """
    eos = tokenizer.eos_token_id
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == eos:
        spare = [
            t for t in (tokenizer.unk_token, tokenizer.bos_token) if t and tokenizer.convert_tokens_to_ids(t) != eos
        ]
        if spare:
            tokenizer.pad_token = spare[0]
        else:
            tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
            if len(tokenizer) > model.get_input_embeddings().num_embeddings:
                model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.config.pad_token_id = tokenizer.pad_token_id


def save_folder(
    model: Any, tokenizer: Any, out: str | PathLike[str], *, card: str, dtype: torch.dtype | None = None
) -> None:
    """Writes weights (as ``dtype``, where given), tokenizer, encoding and card; loads in plain transformers.

    Generation settings name every token that ends a response, so that other engines stop where ours do.
    """
    Path(out).mkdir(parents=True, exist_ok=True)
    encoding = Encoding.of(tokenizer, model)
    settings = getattr(model, "generation_config", None)
    if settings is not None and encoding.end != tokenizer.eos_token_id:
        settings.eos_token_id = sorted(encoding.stops)
    if dtype is not None:
        model.to(dtype)
        model.config.dtype = dtype
    encoding.save(out)
    with _quietly():
        model.save_pretrained(str(out))
    tokenizer.save_pretrained(str(out))
    (Path(out) / "README.md").write_text(card, encoding="utf-8")


def card(title: str, summary: str, *, base: str, settings: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """README.md of a trained folder: what it is, what it came from, its settings and its figures."""
    rows = "\n".join(f"| {name} | {_short(value)} |" for name, value in figures.items())
    return (
        f"---\nlibrary_name: transformers\ntags: [aifeedback]\n---\n\n# {title}\n\n{summary}\n\n"
        f"Trained from `{base}`.\n\n| figure | value |\n|---|---|\n{rows}\n\n"
        f"## Settings\n\n```json\n{json.dumps(settings, indent=2, sort_keys=True, default=str)}\n```\n"
    )


def weights_digest(folder: str | PathLike[str]) -> str:
    """SHA-256 over the names and bytes of a folder's weights and configuration, sixteen hex digits."""
    total = hashlib.sha256()
    for file in sorted(Path(folder).glob("*")):
        if file.suffix == ".safetensors" or file.name == "config.json":
            total.update(file.name.encode())
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]


@contextmanager
def _quietly() -> Generator[None]:
    """Without transformers' own bars and warnings on new heads: the caller shows progress."""
    from transformers.utils import logging

    level, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bar:
            logging.enable_progress_bar()


def _check(folder: str | PathLike[str]) -> None:
    if not Path(folder).is_dir():
        raise ModelError("no such model folder", file=folder, fix="give a folder written by save_pretrained")
    if not (Path(folder) / "config.json").is_file():
        raise ModelError("no config.json in this folder", file=folder, fix="give a folder written by save_pretrained")


def _first_line(cause: BaseException) -> str:
    return str(cause).strip().split("\n", 1)[0][:160]


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
