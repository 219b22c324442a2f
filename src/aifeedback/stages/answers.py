"""Policies that answer prompts: sampled from a model, or read from a file of what somebody sampled elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback import files
from aifeedback.errors import FileError
from aifeedback.feedback.cleanup import clean_up
from aifeedback.feedback.sample import sample_completions
from aifeedback.files.tables import TABLE_SUFFIXES
from aifeedback.records import Completion, Prompt, Sampling
from aifeedback.stages import resolve
from aifeedback.stages.base import Job


class Answers(NamedTuple):
    """One answer per prompt, in the prompts' order; None where there is none."""

    completions: list[Completion | None]
    """As they are judged."""
    untouched: list[Completion | None]
    """As they came."""
    calls: int
    tidied: dict[str, Any]
    """What was taken off the ends before judging; empty where nothing was to be."""


def is_file(policy: str) -> bool:
    """Whether a policy is named by a file of its answers and not by a model."""
    suffixes = Path(policy.removesuffix(".gz")).suffixes
    return policy.partition(":")[0] not in resolve.SCHEMES and suffixes[-1:] != [] and suffixes[-1] in TABLE_SUFFIXES


def outside(policy: str) -> Iterator[str]:
    """As in ``resolve``: the file or the model, if it comes from outside the run."""
    return resolve.outside(policy) if is_file(policy) else resolve.outside_model(policy)


def file_part(name: str) -> str:
    """A name as part of a file's name: hf:my/judge → hf-my-judge."""
    return re.sub(r"[^\w.-]+", "-", name)


def sampled(policies: Mapping[str, str]) -> int:
    """How many of them are asked, once per prompt."""
    return sum(not is_file(policy) for policy in policies.values())


def answers(
    name: str, policy: str, prompts: Sequence[Prompt], job: Job, *, sampling: Sampling, tidy: bool = False
) -> Answers:
    """One answer of the policy to each prompt; of several in a file the first. ``tidy`` takes trailing symbols off.

    The answers as they came are left in ``completions-NAME.jsonl``.
    """
    if is_file(policy):
        came, calls = _read(name, policy), 0
        if not any(prompt.id in came for prompt in prompts):
            raise FileError("answers none of the prompts", file=policy, fix="give answers to these very prompts")
    else:
        model = resolve.connect_model(policy, job)
        drawn = sample_completions(model, prompts, sampling=sampling, source=name, progress=job.progress)
        came, calls = {c.prompt_id: c for c in drawn.completions}, len(prompts)
    answered = [prompt for prompt in prompts if prompt.id in came]
    given = [came[prompt.id] for prompt in answered]
    files.write_completions(job.folder / f"completions-{file_part(name)}.jsonl", answered, given)
    untouched = [came.get(prompt.id) for prompt in prompts]
    if not tidy:
        return Answers(untouched, untouched, calls, {})
    found = clean_up(answered, given)
    came = {prompt.id: c for prompt, c in zip(answered, found.completions, strict=True)}
    told = {key: value for key, value in found._asdict().items() if key != "completions"}
    return Answers([came.get(prompt.id) for prompt in prompts], untouched, calls, told)


def _read(name: str, policy: str) -> dict[str, Completion]:
    read = files.read_completions(policy, source=name)
    came: dict[str, Completion] = {}
    for prompt, completion in zip(read.prompts, read.rows, strict=True):
        came.setdefault(prompt.id, completion)
    return came
