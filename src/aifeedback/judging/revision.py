"""Critique and revision: a response is criticised under a drawn principle and rewritten, several rounds.

Source: Bai et al. 2022 (arXiv 2212.08073), section 3. Where we differ: principles are drawn without replacement; a
response that ``stop_after`` rounds in a row left unchanged is finished; every step is kept, failed ones with their
problem.

**Critiques for the judge of pairs.** The judge then reads, beside each response, what a critic found wrong with it. A
critique that could not be had is shown as missing, so that the judge still sees the pair; the judgement's rationale
stays the judge's own.

**Gain.** Before against after, by any labeler: the judge's own view beside an independent one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import Field

from aifeedback.config import Config, parse
from aifeedback.errors import StandardsError
from aifeedback.judging.pairwise import derived_seed
from aifeedback.models.pending import at_once
from aifeedback.prompts.constitution import Constitution, Principle
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.prompts.render import MARK, Renderer, control_tokens, unescape, uses_chat
from aifeedback.types import (
    Comparison,
    Completion,
    Labeler,
    Model,
    Problem,
    Progress,
    Prompt,
    Reply,
    Revision,
    Sampling,
    content_id,
    silent,
)


class ModelCritic:
    """A ``judge.Critic``: one critique of each response, by any prompt of the task ``critique``."""

    def __init__(
        self,
        model: Model,
        task: str,
        prompt: JudgePrompt | None = None,
        *,
        temperature: float = 0.0,
        chat: bool | None = None,
        seed: int = 0,
    ) -> None:
        """``task`` is what the critic looks for: a principle's wording for critiquing, or several."""
        self._model, self._task, self._prompt = model, task, prompt or JudgePrompt.load("critique")
        if self._prompt.task != "critique":
            raise StandardsError(f"judge prompt '{self._prompt.name}' is for {self._prompt.task}", key="task")
        self._sampling = Sampling(
            temperature=temperature,
            top_k=None,
            top_p=None,
            max_new_tokens=self._prompt.max_tokens,
            stop=self._prompt.stop,
            seed=derived_seed(seed, "critic"),
        )
        is_chat = uses_chat(self._prompt, model, chat)
        self._renderer = Renderer(self._prompt, chat=is_chat, control_tokens=control_tokens(model))

    def __call__(self, comparisons: Sequence[Comparison]) -> list[tuple[str | None, str | None]]:
        """Critiques in storage order. A response that is in several comparisons is criticised once."""
        sides: dict[str, tuple[Prompt, Completion]] = {}
        for comparison in comparisons:
            for completion in (comparison.first, comparison.second):
                sides.setdefault(completion.id, (comparison.prompt, completion))
        requests = [self._renderer.answer(p, {"response": c.text}, principle=self._task) for p, c in sides.values()]
        replies = self._model.reply(requests, self._sampling)
        critiques = {
            key: reply.text.strip() if reply.problem is None else None
            for key, reply in zip(sides, replies, strict=True)
        }
        return [(critiques[c.first.id], critiques[c.second.id]) for c in comparisons]


class ReviseSettings(Config):
    """How responses are criticised and rewritten."""

    rounds: int = Field(default=2, ge=1)
    """Maximum number of rounds, each under another principle."""
    stop_after: int = Field(default=1, ge=1)
    """Rounds in a row without a change that finish a response. Where principles look for different faults, one that
    finds none says nothing about the next: set it to ``rounds`` to use all of them."""
    temperature: float = Field(default=0.7, ge=0.0)
    """Of critiques and revisions; 0 is greedy."""
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    chat: bool | None = None
    """Overrides the prompt files: messages (true) or one plain text (false)."""
    seed: int = 0
    batch_size: int = Field(default=256, ge=1)
    """Responses per call of the model."""


class Revised(NamedTuple):
    """What became of one response."""

    prompt: Prompt
    before: Completion
    after: Completion
    """The last revision that came through; the response itself where none did."""
    steps: tuple[Revision, ...]

    @property
    def is_changed(self) -> bool:
        return self.after.text != self.before.text

    @property
    def problem(self) -> Problem | None:
        """Of the step that ended it, where that one failed."""
        return self.steps[-1].problem if self.steps else None


class Reviser:
    """Critique → revision with one model and one constitution."""

    def __init__(
        self,
        model: Model,
        constitution: Constitution,
        *,
        critique_prompt: JudgePrompt | None = None,
        revise_prompt: JudgePrompt | None = None,
        settings: ReviseSettings | None = None,
        progress: Progress = silent,
        **overrides: object,
    ) -> None:
        """The shipped prompts ``critique`` and ``revise`` are used where none are given."""
        self._model, self._constitution, self._progress = model, constitution, progress
        self.settings = parse(ReviseSettings, (settings or ReviseSettings()).model_dump() | overrides)
        self._critique = critique_prompt or JudgePrompt.load("critique")
        self._revise = revise_prompt or JudgePrompt.load("revise")
        for prompt, task in ((self._critique, "critique"), (self._revise, "revise")):
            if prompt.task != task:
                raise StandardsError(f"judge prompt '{prompt.name}' is for {prompt.task}, not for {task}", key="task")
        self._renderers = {prompt.task: self._renderer(prompt) for prompt in (self._critique, self._revise)}

    @property
    def name(self) -> str:
        """The source of the revised completions."""
        return f"{self._model.card.uri} revised by {self._constitution.name}@{self._constitution.version}"

    def revise(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Revised]:
        """One result per (prompt, completion), in order."""
        pairs = list(zip(prompts, completions, strict=True))
        results: list[Revised] = []
        size = at_once(self._model, self.settings.batch_size)
        for start in range(0, len(pairs), size):
            results += self._revise_batch(pairs[start : start + size])
            changed = sum(result.is_changed for result in results)
            self._progress(len(results), len(pairs), {"changed": changed / len(results)})
        return results

    def _revise_batch(self, pairs: Sequence[tuple[Prompt, Completion]]) -> list[Revised]:
        steps: list[list[Revision]] = [[] for _ in pairs]
        texts = [completion.text for _, completion in pairs]
        orders = [self._principles(completion.id) for _, completion in pairs]
        open_items = list(range(len(pairs)))
        for number in range(1, min(self.settings.rounds, len(self._constitution.principles)) + 1):
            chosen = [orders[i][number - 1] for i in open_items]
            done = self._round(number, [pairs[i][0] for i in open_items], [texts[i] for i in open_items], chosen)
            for i, step in zip(open_items, done, strict=True):
                steps[i].append(step)
                texts[i] = step.after
            open_items = [i for i in open_items if not self._is_finished(steps[i])]
        return [self._result(*pair, text, own) for pair, text, own in zip(pairs, texts, steps, strict=True)]

    def _is_finished(self, steps: Sequence[Revision]) -> bool:
        last = steps[-self.settings.stop_after :]
        unchanged = len(last) == self.settings.stop_after and all(s.after == s.before for s in last)
        return steps[-1].problem is not None or unchanged

    def _round(
        self, number: int, prompts: Sequence[Prompt], texts: Sequence[str], principles: Sequence[Principle]
    ) -> list[Revision]:
        critiques = self._ask(self._critique, number, prompts, [{"response": text} for text in texts], principles)
        able = [i for i, reply in enumerate(critiques) if reply.problem is None and reply.text.strip()]
        values = [{"response": texts[i], "critique": critiques[i].text.strip()} for i in able]
        revised = self._ask(self._revise, number, [prompts[i] for i in able], values, [principles[i] for i in able])
        after = dict(zip(able, revised, strict=True))
        return [
            self._step(number, prompts[i], texts[i], principles[i], critique, after.get(i))
            for i, critique in enumerate(critiques)
        ]

    def _ask(
        self,
        prompt: JudgePrompt,
        number: int,
        contexts: Sequence[Prompt],
        values: Sequence[dict[str, str]],
        principles: Sequence[Principle],
    ) -> list[Reply]:
        if not contexts:
            return []
        purpose = "critique" if prompt.task == "critique" else "revise"
        renderer = self._renderers[prompt.task]
        requests = [
            renderer.answer(context, shown, principle=principle.worded(purpose))
            for context, shown, principle in zip(contexts, values, principles, strict=True)
        ]
        sampling = Sampling(
            temperature=self.settings.temperature,
            top_k=None,
            top_p=self.settings.top_p,
            max_new_tokens=prompt.max_tokens,
            stop=prompt.stop,
            seed=derived_seed(self.settings.seed, purpose, number),
        )
        return self._model.reply(requests, sampling)

    def _step(
        self, number: int, prompt: Prompt, text: str, principle: Principle, critique: Reply, revised: Reply | None
    ) -> Revision:
        """If a revision fails, is empty or is truncated, the text is kept and the problem recorded."""
        problem, after = critique.problem, text
        if problem is None and not critique.text.strip():
            problem = Problem.EMPTY
        if problem is None and revised is not None:
            problem = revised.problem or _cut_off(revised)
            after = text if problem else _as_written(revised.text.strip(), text)
        return Revision(
            prompt_id=prompt.id,
            round=number,
            principle_id=self._constitution.full_id(principle),
            before=text,
            critique=critique.text.strip(),
            after=after,
            problem=problem,
        )

    def _result(self, prompt: Prompt, before: Completion, text: str, steps: Sequence[Revision]) -> Revised:
        after = before if text == before.text else Completion.of(prompt, text, source=self.name)
        return Revised(prompt, before, after, tuple(steps))

    def _principles(self, completion_id: str) -> list[Principle]:
        """All principles in an order drawn by weight, seed and completion: a round never repeats one."""
        principles = self._constitution.principles
        weights = np.array([principle.weight for principle in principles])
        generator = np.random.default_rng(int(content_id("revise", self.settings.seed, completion_id), 16))
        order = generator.choice(len(principles), size=len(principles), replace=False, p=weights / weights.sum())
        return [principles[i] for i in order]

    def _renderer(self, prompt: JudgePrompt) -> Renderer:
        is_chat = uses_chat(prompt, self._model, self.settings.chat)
        return Renderer(prompt, chat=is_chat, control_tokens=control_tokens(self._model))


class SftRow(NamedTuple):
    """One example for supervised training."""

    prompt: Prompt
    completion: Completion
    origin: str
    """revision, unchanged or helpful."""


def sft_rows(
    revised: Sequence[Revised],
    helpful: Sequence[tuple[Prompt, Completion]] = (),
    *,
    helpful_share: float = 0.0,
    keep_unchanged: bool = True,
    seed: int = 0,
) -> list[SftRow]:
    """Training rows from revisions, mixed with helpful data so that ``helpful_share`` of all rows is helpful.

    Responses whose revision failed are left out. Raises StandardsError where the helpful data do not suffice.
    """
    rows = [
        SftRow(r.prompt, r.after, "revision" if r.is_changed else "unchanged")
        for r in revised
        if r.is_changed or (keep_unchanged and r.problem is None)
    ]
    needed = helpful_rows(len(rows), helpful_share, of=len(helpful))
    generator = np.random.default_rng(seed)
    chosen = sorted(generator.choice(len(helpful), size=needed, replace=False).tolist()) if needed else []
    rows += [SftRow(helpful[i][0], helpful[i][1], "helpful") for i in chosen]
    return [rows[i] for i in generator.permutation(len(rows))]


def helpful_rows(revisions: int, share: float, *, of: int) -> int:
    """How many of ``of`` helpful rows make up this share beside this number of revisions. Raises StandardsError."""
    if not 0.0 <= share < 1.0:
        raise StandardsError(f"the share of helpful rows is {share}, not in [0, 1)", key="helpful_share")
    needed = round(revisions * share / (1.0 - share))
    if needed > of:
        raise StandardsError(
            f"a share of {share} needs {needed} helpful rows beside {revisions} revisions, not {of}",
            key="helpful_share",
        )
    return needed


def _as_written(revised: str, before: str) -> str:
    """A model that copies the quotation marks or code points of its prompt is taken to mean the text behind them."""
    copies_marks = all(line.startswith(MARK.strip()) for line in revised.split("\n"))
    if copies_marks and not before.startswith(MARK.strip()):
        revised = "\n".join(line.removeprefix(MARK.strip()).removeprefix(" ") for line in revised.split("\n"))
    return unescape(revised).strip()


def _cut_off(reply: Reply) -> Problem | None:
    if reply.finish_reason == "length":
        return Problem.TRUNCATED
    return None if reply.text.strip() else Problem.EMPTY


class Gain(NamedTuple):
    """Shares are of the responses whose change could be judged; None without any."""

    judge: str
    n: int
    """Responses in all."""
    unchanged: int
    failed: int
    """Of the unchanged: those where a step failed."""
    judged: int
    """Changed, and read by this labeler."""
    unknown: int
    """Changed, but not read by it."""
    better: int
    """P(after better) above one half."""
    worse: int
    """P(after better) below one half."""
    mean_p_after: float | None
    """Mean P(after better)."""

    @property
    def share_worse(self) -> float | None:
        return self.worse / self.judged if self.judged else None


def revision_gain(revised: Sequence[Revised], labeler: Labeler) -> Gain:
    """Compare every changed response with what it was. Which one is stored first depends on the pair's id alone."""
    changed = [result for result in revised if result.is_changed]
    after_first = [int(content_id("gain", r.before.id, r.after.id), 16) % 2 == 0 for r in changed]
    pairs = [
        Comparison.of(r.prompt, r.after, r.before) if is_first else Comparison.of(r.prompt, r.before, r.after)
        for r, is_first in zip(changed, after_first, strict=True)
    ]
    labels = labeler.label(pairs) if pairs else []
    known = [
        label.p_first if is_first else 1.0 - label.p_first
        for label, is_first in zip(labels, after_first, strict=True)
        if label.p_first is not None
    ]
    return Gain(
        judge=labeler.name,
        n=len(revised),
        unchanged=len(revised) - len(changed),
        failed=sum(not r.is_changed and r.problem is not None for r in revised),
        judged=len(known),
        unknown=len(changed) - len(known),
        better=sum(p > 0.5 for p in known),
        worse=sum(p < 0.5 for p in known),
        mean_p_after=math.fsum(known) / len(known) if known else None,
    )
