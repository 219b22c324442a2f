"""Responses of the policies to measure: sampled from a model, or read from a file of responses sampled elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from aifeedback import data
from aifeedback.errors import FileError
from aifeedback.judging.sampling import clean_up, sample_completions
from aifeedback.refs import PolicyRef, file_part
from aifeedback.steps.step import Context
from aifeedback.types import Completion, Prompt, Sampling


class Responses(NamedTuple):
    """One response per prompt, in the prompts' order; None where there is none."""

    completions: list[Completion | None]
    """As they are judged."""
    untouched: list[Completion | None]
    """As they were sampled."""
    tidied: dict[str, Any]
    """What was removed from their ends before judging; empty where nothing was to be."""


def sampled(policies: Iterable[PolicyRef]) -> int:
    """How many of them are models: these respond to every prompt."""
    return sum(not policy.is_file for policy in policies)


def responses(
    name: str,
    policy: PolicyRef,
    prompts: Sequence[Prompt],
    context: Context,
    *,
    sampling: Sampling,
    tidy: bool = False,
    server: Any = None,
) -> Responses:
    """One response of the policy to each prompt; of several in a file the first. ``tidy`` removes trailing symbols.

    The responses as they were sampled are left in ``completions-NAME.jsonl``.
    """
    if policy.is_file:
        by_prompt = _read(name, policy)
        if not any(prompt.id in by_prompt for prompt in prompts):
            raise FileError("answers none of the prompts", file=policy, fix="give responses to the same prompts")
    else:
        model = context.connect(policy, server)
        drawn = sample_completions(model, prompts, sampling=sampling, source=name, progress=context.progress)
        by_prompt = {c.prompt_id: c for c in drawn.completions}
    answered = [prompt for prompt in prompts if prompt.id in by_prompt]
    completions = [by_prompt[prompt.id] for prompt in answered]
    data.write_completions(context.folder / f"completions-{file_part(name)}.jsonl", answered, completions)
    untouched = [by_prompt.get(prompt.id) for prompt in prompts]
    if not tidy:
        return Responses(untouched, untouched, {})
    cleaned = clean_up(answered, completions)
    by_prompt = {prompt.id: c for prompt, c in zip(answered, cleaned.completions, strict=True)}
    removed = {key: value for key, value in cleaned._asdict().items() if key != "completions"}
    return Responses([by_prompt.get(prompt.id) for prompt in prompts], untouched, removed)


def _read(name: str, policy: str) -> dict[str, Completion]:
    read = data.read_completions(policy, source=name)
    by_prompt: dict[str, Completion] = {}
    for prompt, completion in zip(read.prompts, read.rows, strict=True):
        by_prompt.setdefault(prompt.id, completion)
    return by_prompt
