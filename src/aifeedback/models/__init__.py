"""Models by URI. ``connect`` makes one; ``journaled`` puts the journal in front of it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

from aifeedback import extensions
from aifeedback.errors import ModelError
from aifeedback.types import Model, PromptLike

SCHEMES = {
    "hf": ("aifeedback.models.local", "load"),
    "lab": ("aifeedback.models.local", "load_lab"),
    "openai": ("aifeedback.models.openai.server", "connect"),
    "anthropic": ("aifeedback.models.openai.server", "connect_anthropic"),
    "systemone": ("aifeedback.models.openai.server", "connect_systemone"),
    "decisions": ("aifeedback.models.openai.server", "connect_decisions"),
    "fake": ("aifeedback.models.fake", "connect"),
}
"""Scheme → module and function; the function takes the URI's name and the options. Further schemes come from the
entry-point group ``aifeedback.models``, by the same rule."""


class Connected(Model, Protocol):
    """What ``connect`` returns: a ``Model`` that also gives its readings as an array."""

    def label_logprobs(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> Any:
        """(N, K) float64: log P(label | prompt) in nats, unnormalised over the label set; NaN where not known."""
        ...


def connect(uri: str, **options: Any) -> Connected:
    """Make a model of its reference: ``hf:FOLDER_OR_ID``, ``openai:NAME`` (``base_url=…``), ``anthropic:NAME``,
    ``systemone:NAME``, ``decisions:NAME``, ``lab:NAME``, ``fake:NAME``.

    ``python:FILE.py:NAME`` calls NAME of that file with the reference; a scheme of the entry-point group
    ``aifeedback.models`` calls its object with the name after the scheme. Either returns the model.
    Options depend on the kind of model; see ``models.local.load``, ``models.openai.server.connect``, ``models.fake.connect``.
    Raises ModelError for a reference that names no model, before anything is computed.
    """
    scheme, separator, name = uri.partition(":")
    if separator and name and scheme not in SCHEMES:
        is_file = scheme == "python"
        if (made := extensions.find("aifeedback.models", uri if is_file else scheme)) is not None:
            return made(uri if is_file else name, **options)
    if not separator or scheme not in SCHEMES or not name:
        known = ", ".join(f"{s}:NAME" for s in (*SCHEMES, *extensions.registered("aifeedback.models")))
        raise ModelError(f"no model can be made of {uri!r}", fix=f"write one of {known}; a folder is hf:FOLDER")
    module, function = SCHEMES[scheme]
    return getattr(import_module(module), function)(name, **options)
