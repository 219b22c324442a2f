"""Public data sets by short name: ``llmbar-natural`` instead of a path. Nothing is downloaded behind the user's back.

A name is looked up in the folder that AIFEEDBACK_DATA names, else in ``data/`` here: a checkout of the source, or a
file copied from it. Where there is no copy, sets that the Hugging Face hub holds as plain files come from there (its
own cache, offline mode and token apply); for the others the message says where to get them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from aifeedback.errors import FileError


class OnHub(NamedTuple):
    dataset: str
    folder: str
    split: str


class Known(NamedTuple):
    source: str
    patterns: tuple[str, ...]
    """Possible paths of a copy in the data folder; the first match is used."""
    hub: OnHub | None = None


def _llmbar(subset: str) -> Known:
    return Known("https://github.com/princeton-nlp/LLMBar", (f"llmbar/**/{subset}/dataset.json*",))


def _hh(half: str) -> Known:
    patterns = (f"hh-rlhf/{half}-base/test.jsonl*", f"hh_rlhf_{half}_base/test.jsonl*")
    return Known("https://github.com/anthropics/hh-rlhf", patterns, OnHub("Anthropic/hh-rlhf", f"{half}-base", "test"))


KNOWN: dict[str, Known] = {
    "hh-harmless": _hh("harmless"),
    "hh-helpful": _hh("helpful"),
    "llmbar-natural": _llmbar("Natural"),
    "llmbar-neighbor": _llmbar("Neighbor"),
    "llmbar-gptinst": _llmbar("GPTInst"),
    "llmbar-gptout": _llmbar("GPTOut"),
    "llmbar-manual": _llmbar("Manual"),
    "pandalm": Known("https://github.com/WeOpenML/PandaLM", ("pandalm/**/testset-v1*.json*",)),
    "xstest": Known("https://github.com/paul-rottger/xstest", ("xstest/**/xstest_prompts.csv*",)),
}


def data_folder() -> Path:
    return Path(os.environ.get("AIFEEDBACK_DATA", "data"))


def local_copy(name: str) -> Path | None:
    """The file of a known set on this machine; None where there is none, or the name is not known."""
    known = KNOWN.get(name)
    if known is None:
        return None
    return next((path for pattern in known.patterns for path in sorted(data_folder().glob(pattern))), None)


def missing(name: str) -> FileError:
    """What to say where a known set has no copy here."""
    return FileError(
        f"the data set '{name}' is not in {data_folder()}/",
        file=name,
        fix=f"put a checkout of {KNOWN[name].source} at {data_folder() / KNOWN[name].patterns[0].partition('/')[0]}"
        " (AIFEEDBACK_DATA names another folder), or give a path",
    )
