"""A GGUF file as a plain model folder, so that everything that reads a folder also reads the file.

transformers' own reader turns the quantised weights into float32 once; the folder is kept in the user's cache folder
under the digest of the file. Weights, chat template and stop tokens are those of the file. The folder takes four bytes
a parameter on disk.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from aifeedback.errors import MissingExtra, ModelError
from aifeedback.models.folders import check_weights
from aifeedback.refs import GGUF
from aifeedback.storage import cache_folder, digest

MAGIC = b"GGUF"


def is_gguf(name: str | os.PathLike[str]) -> bool:
    """Whether it names an existing GGUF file."""
    path = Path(name).expanduser()
    return path.suffix == GGUF and path.is_file()


def unpacked(name: str | os.PathLike[str]) -> Path:
    """The plain folder of a GGUF file; made on first use, which takes about a minute for a billion parameters.

    Raises ModelError for a file that transformers cannot read, MissingExtra without the ``gguf`` package.
    """
    file = Path(name).expanduser().resolve()
    with file.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ModelError("not a GGUF file", file=file, fix="fetch it again; a GGUF file begins with GGUF")
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtra("gguf", "local")
    kept = cache_folder() / "models" / f"{digest(file)}-transformers-{metadata.version('transformers')}"
    if not (kept / "config.json").is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=kept.parent, prefix=f".{kept.name}-"))
        try:
            _convert(file, partial)
            partial.rename(kept)
        except OSError as failed:
            # Another process may have finished the same folder first.
            if not (kept / "config.json").is_file():
                raise ModelError(
                    f"cannot be unpacked: {failed}", file=file, fix=f"free space in {kept.parent}"
                ) from failed
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return kept


def _convert(file: Path, out: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    had_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        loaded: Any = AutoModelForCausalLM.from_pretrained(**where, dtype="float32", output_loading_info=True)
    except Exception as unusable:  # a cut or damaged file fails anywhere in the reader
        why = str(unusable).strip().split("\n", 1)[0]
        fix = "give a plain model folder, or serve the file with llama.cpp and name it openai:NAME"
        raise ModelError(f"transformers cannot read this GGUF file: {why}", file=file, fix=fix) from unusable
    finally:
        if had_bar:
            logging.enable_progress_bar()
    model, info = loaded
    check_weights(file, info)
    # The weights are plain now; what calls them quantised would make save_pretrained refuse.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(str(out))
    tokenizer.save_pretrained(str(out))
