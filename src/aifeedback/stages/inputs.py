"""What a recipe or a command names from outside: the file or folder behind a name, and what is wrong with it.

Everything here is told without loading a model, so that a mistake is found before anything is spent.
"""

from __future__ import annotations

from pathlib import Path

from aifeedback import files
from aifeedback.errors import InputError
from aifeedback.stages.judges import constitution_file
from aifeedback.standards import shelf
from aifeedback.standards.constitution import Constitution
from aifeedback.standards.judge import JudgePrompt
from aifeedback.standards.rubric import Rubric

SCHEMES = ("hf", "openai", "fake", "lab", "people", "gold", "rm", "python", "prompt", "constitution", "rubric",
           "model")  # fmt: skip


def input_path(name: str) -> Path | None:
    """The file or folder behind a name, if it is a local one."""
    scheme, _, rest = name.partition(":")
    if scheme not in SCHEMES or not rest:
        return files.place_of(name)
    if scheme == "lab":
        from aifeedback.lab.zoo import folder

        return folder(rest)
    if scheme == "python":
        return Path(rest.rpartition(":")[0] or rest)
    if scheme == "prompt":
        return prompt_file(rest)
    if scheme == "constitution":
        return constitution_file(rest)
    if scheme == "rubric":
        return shelf.find("rubrics", rest)
    if scheme in ("hf", "rm") and Path(rest).exists():
        return Path(rest)
    return None


def input_problem(name: str) -> str | None:
    """What is wrong with an outside file, folder or model, found without loading it; None if nothing."""
    scheme, _, rest = name.partition(":")
    if scheme not in SCHEMES or not rest:
        return files.place_problem(name)
    if scheme in ("hf", "rm"):
        return _folder_problem(rest)
    if scheme == "model":
        return f"'{rest}' names no model; write {_meant(rest)}"
    if scheme == "lab":
        from aifeedback.lab.zoo import names

        return None if rest in names() else f"{name}: no such lab model; known: {', '.join(names())}"
    if scheme in ("people", "gold"):
        from aifeedback.lab.oracles import NAMES

        known = ", ".join(f"{scheme}:{one}" for one in NAMES)
        return None if rest in NAMES else f"{name}: only the built-in lab has {scheme}; known: {known}"
    if scheme in ("prompt", "constitution", "rubric"):
        return _standard_problem(scheme, rest)
    if scheme == "python":
        path = input_path(name)
        return None if path and path.is_file() else f"{name}: no such file; write python:FILE.py:FUNCTION"
    return None


def _meant(name: str) -> str:
    """What a model's name without a scheme may stand for: a folder or a lab model that is there, else any of all."""
    from aifeedback.lab.zoo import names

    found = [f"hf:{name}"] if Path(name).is_dir() else []
    found += [f"lab:{name}"] if name in names() else []
    return " or ".join(found) or "hf:DIR_OR_ID, openai:NAME, lab:NAME or fake:NAME"


def _folder_problem(name: str) -> str | None:
    path = Path(name)
    if not path.exists():
        looks_like_id = not name.startswith((".", "/", "~")) and name.count("/") <= 1
        return None if looks_like_id and "/" in name else f"hf:{name}: no such folder, and no hub id (OWNER/NAME)"
    if not (path / "config.json").is_file():
        return f"hf:{name}: no config.json; this is no model folder"
    tokenizers = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
    if not any((path / file).is_file() for file in tokenizers):
        return f"hf:{name}: the model folder has no tokenizer; save it with tokenizer.save_pretrained('{name}')"
    weights = [*path.glob("*.safetensors"), *path.glob("*.safetensors.index.json")]
    return None if weights else f"hf:{name}: no *.safetensors weights (pickled weights are not loaded)"


def _standard_problem(kind: str, name: str) -> str | None:
    try:
        if kind == "prompt":
            JudgePrompt.load(prompt_file(name))
        elif kind == "constitution":
            Constitution.load(constitution_file(name))
        else:
            Rubric.load(name)
    except InputError as wrong:
        return str(wrong)
    return None


def prompt_file(name: str) -> Path:
    """The YAML file of a judge prompt: a shipped name, lab:NAME, or a path."""
    if name.startswith("lab:"):
        from aifeedback.lab.zoo import prompt_file as lab_file

        return lab_file(name.partition(":")[2])
    return shelf.find("judges", name)
