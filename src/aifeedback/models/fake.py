"""``FakeModel``: a scripted judge without weights, for dry runs and tests. Same prompt, same answer, on any machine.

It finds the judged texts in the prompt (quoted lines, or headings such as ``Response 1:``), gives each a quality that
depends on its words alone, and adds the configured biases. Where it finds no texts, its answer depends on
the whole prompt. Nothing it says means anything.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from aifeedback.config import Config
from aifeedback.errors import ModelError
from aifeedback.models.label_logprobs import as_array
from aifeedback.types import ModelCard, Problem, PromptLike, Reading, Reply, Sampling


class Taste(Config):
    """What a fake judge goes by, in logits: positive prefers the first shown response."""

    quality: float = 0.0
    """Weight of the difference of hidden qualities (each text's is standard normal, by hash)."""
    length: float = 0.0
    """Weight of log(length of first / length of second), in characters."""
    position: float = 0.0
    """Added for the first place."""
    noise: float = 0.0
    """Standard deviation of a term that depends on the whole prompt, order included."""


NAMED: Mapping[str, Taste] = {
    "quality": Taste(quality=2.0),
    "longer": Taste(length=4.0),
    "shorter": Taste(length=-4.0),
    "first": Taste(position=4.0),
    "second": Taste(position=-4.0),
    "undecided": Taste(),
    "noisy": Taste(quality=1.0, position=0.5, noise=1.0),
}


def connect(name: str, **options: Any) -> FakeModel:
    """What ``models.connect("fake:NAME")`` calls."""
    return FakeModel(name, **options)


_GRADES = tuple(str(grade) for grade in range(1, 11))
_UNARY = frozenset({"good", "bad", "yes", "no", "true", "false"})
_HEADING = re.compile(r"^[^\n>]{0,40}?\b(?:(1|A)|(2|B))\b[ \t]*[:)\]\-–—=]", re.MULTILINE)
_SENTENCES = (
    "It answers what was asked.",
    "It leaves out a point that matters.",
    "It is clear and to the point.",
    "It says more than it can support.",
    "It would help the person who asked.",
)


class FakeModel:
    """One of the models in ``NAMED``, or one of any ``taste``. ``faults``: share of prompts that end in a Problem.

    ``script``, where given, writes the replies: (prompt text, seed) → text. Raises ModelError for an unknown name.
    """

    def __init__(
        self,
        name: str = "quality",
        *,
        taste: Taste | None = None,
        coverage: float = 0.97,
        faults: Mapping[Problem, float] | None = None,
        script: Callable[[str, int], str] | None = None,
        delay_s: float = 0.0,
        usd_per_call: float = 0.0,
    ) -> None:
        if taste is None and name not in NAMED:
            raise ModelError(f"no fake model is called '{name}'", fix=f"take one of: {', '.join(NAMED)}")
        self.taste = taste or NAMED[name]
        self.coverage, self.faults, self.script = coverage, dict(faults or {}), script
        self.delay_s, self.usd_per_call = delay_s, usd_per_call
        self.calls = 0
        """Prompts answered so far."""
        described = f"{self.taste!r} {coverage} {sorted(self.faults.items())} {script is not None}"
        self._card = ModelCard(
            uri=f"fake:{name}", revision=hashlib.sha256(described.encode()).hexdigest()[:16], family="fake"
        )

    @property
    def card(self) -> ModelCard:
        return self._card

    def read_labels(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> list[Reading]:
        return [self._reading(as_text(prompt), labels) for prompt in prompts]

    def label_logprobs(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> np.ndarray:
        """(N, K) float64, NaN where not known."""
        return as_array(self.read_labels(prompts, labels), labels=len(labels))

    def reply(self, prompts: Sequence[PromptLike], sampling: Sampling) -> list[Reply]:
        return [self._reply(as_text(prompt), sampling) for prompt in prompts]

    def _reading(self, text: str, labels: Sequence[str]) -> Reading:
        self._take_time()
        tokens = len(text.split())
        problem = self._fault(text)
        if problem is not None:
            return Reading(
                logprobs=(None,) * len(labels), prompt_tokens=tokens, cost_usd=self.usd_per_call, problem=problem
            )
        logits = np.array(self._logits(text, labels))
        logprobs = logits - np.logaddexp.reduce(logits) + math.log(self.coverage)
        return Reading(
            logprobs=tuple(float(value) for value in logprobs),
            coverage=self.coverage,
            prompt_tokens=tokens,
            cost_usd=self.usd_per_call,
        )

    def _reply(self, text: str, sampling: Sampling) -> Reply:
        self._take_time()
        problem = self._fault(text)
        seed = 0 if sampling.temperature == 0 else sampling.seed
        words = self.script(text, seed) if self.script else _SENTENCES[_digest("reply", seed, text) % len(_SENTENCES)]
        return Reply(
            text="" if problem else words,
            finish_reason="error" if problem else "stop",
            prompt_tokens=len(text.split()),
            completion_tokens=len(words.split()),
            cost_usd=self.usd_per_call,
            problem=problem,
        )

    def _logits(self, text: str, labels: Sequence[str]) -> list[float]:
        names = tuple(label.strip() for label in labels)
        if len(names) > 2 and names == _GRADES[: len(names)]:
            unit = 9.0 / (len(names) - 1)
            expected = 5.5 + 2.0 * self._worth(last_text(text))
            return [-0.5 * (1.0 + unit * step - expected) ** 2 for step in range(len(names))]
        if len(names) == 3 and names[2].lower() == "tie":
            margin = self._margin(text)
            return [margin / 2, -margin / 2, -1.0]
        if len(names) == 2:
            margin = self._worth(last_text(text)) if names[0].lower() in _UNARY else self._margin(text)
            return [margin / 2, -margin / 2]
        return [2.0 * hidden_quality(name + "\n" + text) for name in names]

    def _worth(self, response: str) -> float:
        return (
            self.taste.quality * hidden_quality(response) / 2 + self.taste.length * _log_length(response, "x" * 200) / 4
        )

    def _margin(self, text: str) -> float:
        noise = self.taste.noise * hidden_quality("noise\n" + text) if self.taste.noise else 0.0
        pair = judged_pair(text)
        if pair is None:
            return self.taste.position + noise + self.taste.quality * hidden_quality(text)
        gap = hidden_quality(pair[0]) - hidden_quality(pair[1])
        return self.taste.position + noise + self.taste.quality * gap + self.taste.length * _log_length(*pair)

    def _fault(self, text: str) -> Problem | None:
        draw = _digest("fault", text) / 2**64
        for problem, share in self.faults.items():
            draw -= share
            if draw < 0:
                return problem
        return None

    def _take_time(self) -> None:
        self.calls += 1
        if self.delay_s:
            time.sleep(self.delay_s)


def as_text(prompt: PromptLike) -> str:
    """A prompt as one text, messages under each other."""
    return prompt if isinstance(prompt, str) else "\n\n".join(message.content for message in prompt)


def hidden_quality(text: str) -> float:
    """A standard normal number that depends on the words of a text and on nothing else."""
    first, second = (_digest(salt, " ".join(text.split())) / 2**64 for salt in ("u", "v"))
    return math.sqrt(-2.0 * math.log(1.0 - first)) * math.cos(2.0 * math.pi * second)


def judged_pair(text: str) -> tuple[str, str] | None:
    """The last two judged texts of a pairwise prompt; None where it shows no two."""
    quoted = _quoted(text)
    if len(quoted) >= 2:
        return quoted[-2], quoted[-1]
    first: re.Match[str] | None = None
    pair: tuple[re.Match[str], re.Match[str]] | None = None
    for heading in _HEADING.finditer(text):
        if heading[1]:
            first = heading
        elif first is not None:
            pair = (first, heading)
    if pair is None:
        return None
    end = text.rfind("\n\n")
    return text[pair[0].end() : pair[1].start()].strip(), text[pair[1].end() : max(end, pair[1].end())].strip()


def last_text(text: str) -> str:
    """The last judged text of a prompt that shows one; the whole prompt where none is marked."""
    quoted = _quoted(text)
    return quoted[-1] if quoted else text


def _quoted(text: str) -> list[str]:
    blocks: list[str] = []
    inside = False
    for line in text.split("\n"):
        if line.startswith(">"):
            blocks[-1:] = [blocks[-1] + "\n" + line[2:]] if inside else [*blocks[-1:], line[2:]]
        inside = line.startswith(">")
    return blocks


def _log_length(first: str, second: str) -> float:
    return math.log(max(len(first), 1) / max(len(second), 1))


def _digest(*parts: object) -> int:
    form = "\0".join(str(part) for part in parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(form).digest()[:8], "big")
