"""A model: a rule that prefers the shorter response, as `--judge python:model.py:Shorter`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from aifeedback.types import ModelCard, Problem, PromptLike, Reading, Reply, Sampling


class Shorter:
    """Reads the two quoted responses out of the judge prompt and compares their lengths."""

    def __init__(self, name: str) -> None:
        self.card = ModelCard(uri=name, revision="1", family="rule")

    def read_labels(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> list[Reading]:
        return [self._reading(prompt, labels) for prompt in prompts]

    def reply(self, prompts: Sequence[PromptLike], sampling: Sampling) -> list[Reply]:
        del sampling
        return [Reply(text="", problem=Problem.REFUSED) for _ in prompts]

    def _reading(self, prompt: PromptLike, labels: Sequence[str]) -> Reading:
        text = prompt if isinstance(prompt, str) else "\n".join(message.content for message in prompt)
        quoted = re.findall(r"(?:^> .*\n?)+", text, re.MULTILINE)  # the last two quotations are the responses
        if len(quoted) < 2 or len(labels) != 2:
            return Reading(logprobs=(None,) * len(labels), problem=Problem.UNREADABLE)
        first = 1 / (1 + math.exp(0.1 * (len(quoted[-2]) - len(quoted[-1]))))
        return Reading(logprobs=(math.log(first), math.log1p(-first)), coverage=1.0)
