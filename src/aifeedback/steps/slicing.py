"""Slices by tags of the prompts: what ``--by`` names, checked before anything is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator

from aifeedback.errors import FileError
from aifeedback.types import Prompt

PREFIX = "tag:"


def tag_names(texts: Sequence[str]) -> list[str]:
    """language of ``tag:language``; several may be written in one, with commas. Raises ValueError for anything else."""
    names: list[str] = []
    for text in (part.strip() for one in texts for part in one.split(",")):
        name = text.removeprefix(PREFIX)
        if not name or (":" in name):
            raise ValueError(f"'{text}' is not a tag; write tag:NAME, for example tag:language")
        if name not in names:
            names.append(name)
    return names


Tags = Annotated[list[str], AfterValidator(tag_names)]
"""Setting ``by`` of a step."""


def require_tags(names: Sequence[str], prompts: Sequence[Prompt], file: str) -> None:
    """Raises FileError, before any call, for a tag that no prompt has."""
    known = sorted({tag for prompt in prompts for tag in prompt.tags})
    for name in names:
        if name not in known:
            listed = f"the prompts have: {', '.join(known)}" if known else "the prompts have no tags"
            raise FileError(f"no prompt has the tag '{name}'", file=file, key="by", fix=listed)
