"""A tiny ``protocols.Model`` whose every answer is a function of the prompt text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import settings

from aifeedback.types import Comparison, Completion, ModelCard, Problem, Prompt, PromptLike, Reading, Reply, Sampling

generated = settings(deadline=None, max_examples=60, derandomize=True)
"""For tests with generated cases: the same ones each time, however busy the machine is."""

Read = Callable[[str], Sequence[float | None] | Problem]
Answer = Callable[[str, Sampling], str | Problem]


class StubModel:
    """``read`` maps the prompt text to label log-probabilities, ``answer`` to a reply; both may give a Problem."""

    def __init__(self, read: Read | None = None, answer: Answer | None = None, **attributes: object) -> None:
        self._read, self._answer = read, answer
        self.prompts: list[PromptLike] = []
        self.sampled: list[tuple[PromptLike, Sampling]] = []
        for name, value in attributes.items():
            setattr(self, name, value)

    @property
    def card(self) -> ModelCard:
        return ModelCard(uri="stub:judge", revision="1", family="stub")

    def reply(self, prompts: Sequence[PromptLike], sampling: Sampling) -> list[Reply]:
        assert self._answer is not None, "no reply was expected"
        replies = []
        for prompt in prompts:
            self.sampled.append((prompt, sampling))
            label = self._answer(flat(prompt), sampling)
            replies.append(Reply(text="", problem=label) if isinstance(label, Problem) else Reply(text=label))
        return replies

    def read_labels(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> list[Reading]:
        assert self._read is not None, "no reading was expected"
        readings = []
        for prompt in prompts:
            self.prompts.append(prompt)
            seen = self._read(flat(prompt))
            if isinstance(seen, Problem):
                readings.append(Reading(logprobs=(None,) * len(labels), problem=seen))
            else:
                assert len(seen) == len(labels)
                readings.append(Reading(logprobs=tuple(seen), coverage=0.9, call_id=f"call {len(self.prompts)}"))
        return readings


def flat(prompt: PromptLike) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"[{m.role}] {m.content}" for m in prompt)


def pair(context: str = "the question", first: str = "answer one", second: str = "answer two") -> Comparison:
    prompt = Prompt.of(context)
    return Comparison.of(prompt, Completion.of(prompt, first, source="a"), Completion.of(prompt, second, source="b"))


def pairs(count: int) -> list[Comparison]:
    return [pair(f"question {i}", f"first {i}", f"second {i}") for i in range(count)]


def better_longer(text: str) -> tuple[float, float]:
    """Prefers the longer of the two responses shown, with a margin of a tenth of a nat per character."""
    _, _, rest = text.partition("Response 1:")
    first, _, after = rest.partition("Response 2:")
    second = after.split("\n\n")[0]
    margin = (len(first.strip()) - len(second.strip())) / 10
    return -10 + margin / 2, -10 - margin / 2
