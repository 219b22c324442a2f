"""Rows to imitate, chosen by scores or taken from a judge: the baselines that need no preference optimisation.

Best-of-n / RAFT: of several samples per prompt, keep what scores highest, and fine-tune on it (Dong et al. 2023, arXiv
2304.06767). SFT on the judge's own answers (Sharma et al. 2024, arXiv 2402.12366) shows how much of RLAIF's gain is the
judge simply being the better writer. SFT on revisions is the supervised phase of Constitutional AI (arXiv 2212.08073).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from aifeedback.protocols import Reply
from aifeedback.records import Completion, Prompt, Revision
from aifeedback.train.rows import SftRow


class Selection(NamedTuple):
    rows: list[SftRow]
    dropped: int
    """Prompts for which there was nothing to keep: no known score, no usable answer."""


def best_of_n(
    prompts: Sequence[Prompt],
    completions: Sequence[Sequence[Completion]],
    scores: Sequence[Sequence[float | None]],
    *,
    keep: int = 1,
) -> Selection:
    """The ``keep`` best-scored completions of each prompt; among equal scores the earlier sample.

    A completion with an unknown score is never chosen; a prompt with none known is dropped and counted.
    """
    rows: list[SftRow] = []
    dropped = 0
    for prompt, samples, values in zip(prompts, completions, scores, strict=True):
        known = [(v, i) for i, v in enumerate(values) if v is not None and v == v]
        if len(values) != len(samples):
            raise ValueError(f"prompt {prompt.id}: {len(samples)} completions but {len(values)} scores")
        best = sorted(known, key=lambda pair: (-pair[0], pair[1]))[:keep]
        rows += [SftRow(prompt, samples[i]) for _, i in best]
        dropped += not known
    return Selection(rows, dropped)


def judge_answers(prompts: Sequence[Prompt], replies: Sequence[Reply], *, source: str) -> Selection:
    """The judge model's own answers as rows; replies with a problem, cut off or empty are dropped and counted."""
    rows = [
        SftRow(prompt, Completion.of(prompt, reply.text, source=source, finish_reason=reply.finish_reason))
        for prompt, reply in zip(prompts, replies, strict=True)
        if reply.problem is None and reply.finish_reason != "length" and reply.text.strip()
    ]
    return Selection(rows, len(prompts) - len(rows))


def final_revisions(prompts: Sequence[Prompt], revisions: Sequence[Revision], *, source: str) -> Selection:
    """The last round's text of each prompt; prompts whose last round has a problem are dropped and counted."""
    last: dict[str, Revision] = {}
    for revision in revisions:
        if revision.prompt_id not in last or revision.round >= last[revision.prompt_id].round:
            last[revision.prompt_id] = revision
    rows = [
        SftRow(prompt, Completion.of(prompt, last[prompt.id].after, source=source))
        for prompt in prompts
        if prompt.id in last and last[prompt.id].problem is None and last[prompt.id].after.strip()
    ]
    return Selection(rows, len(prompts) - len(rows))
