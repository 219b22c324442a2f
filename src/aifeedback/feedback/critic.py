"""Critiques of both responses as a further input to the judge of pairs.

The judge then reads, beside each response, what a critic found wrong with it. A critique that could not be had is
shown as missing, so that the judge still sees the pair; the judgement's rationale stays the judge's own.
"""

from __future__ import annotations

from collections.abc import Sequence

from aifeedback.errors import StandardsError
from aifeedback.feedback.seeds import derived_seed
from aifeedback.protocols import Model
from aifeedback.records import Comparison, Completion, Prompt, Sampling
from aifeedback.standards.judge import JudgePrompt
from aifeedback.standards.render import Renderer, control_tokens, uses_chat


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
        """``task`` is what the critic is told to look for: a principle's wording for critiquing, or several."""
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
        """Critiques in storage order. A response that stands in several comparisons is criticised once."""
        sides: dict[str, tuple[Prompt, Completion]] = {}
        for comparison in comparisons:
            for completion in (comparison.first, comparison.second):
                sides.setdefault(completion.id, (comparison.prompt, completion))
        asked = [self._renderer.answer(p, {"response": c.text}, principle=self._task) for p, c in sides.values()]
        replies = self._model.reply(asked, self._sampling)
        said = {
            key: reply.text.strip() if reply.problem is None else None
            for key, reply in zip(sides, replies, strict=True)
        }
        return [(said[c.first.id], said[c.second.id]) for c in comparisons]
