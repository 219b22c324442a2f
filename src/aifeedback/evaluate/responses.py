"""How many prompts a comparison of policies rests on, and how many were left out because a policy has no response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Answered(NamedTuple):
    prompts: int
    """Prompts of the comparison."""
    answered: int
    """Prompts to which the policy has a response."""
    compared: int
    """Prompts to which the reference has one too: what the comparison rests on."""

    @property
    def left_out(self) -> int:
        return self.prompts - self.compared

    @property
    def note(self) -> str:
        """What a reader must know, or ''."""
        if not self.left_out:
            return ""
        return f"{self.left_out} of {self.prompts} prompts left out: no response of the policy or of the reference"

    def as_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "left_out": self.left_out}


def answered(responses: Mapping[str, Sequence[Any]], reference: str) -> dict[str, Answered]:
    """Per policy, from one response or None per prompt, in the same order for every policy."""
    of_reference = responses[reference]
    return {
        name: Answered(
            len(own),
            sum(response is not None for response in own),
            sum(a is not None and b is not None for a, b in zip(own, of_reference, strict=True)),
        )
        for name, own in responses.items()
    }
