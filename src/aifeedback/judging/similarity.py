"""A measure that no judge model gives: of two responses, the one closer to the prompt's reference text is better.

Closeness is the cosine of two embeddings. The embedding model reads no instruction, so that it shares neither weights
nor prompt with a judge that trained a policy; it sees what a text is about, not whether it is true or well written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aifeedback.types import Comparison, Preference, Problem


class Embeds(Protocol):
    """Turns texts into vectors of length 1."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float64]: ...


TIE = 1e-9
"""Cosines that differ by less are equal: the same text gives the same vector up to rounding."""


class SimilarityLabeler:
    """Prefers the response closer to the reference: 1 or 0, one half where both are equally close.

    A prompt without a reference text is unknown (``missing``).
    """

    def __init__(self, embedder: Embeds, name: str) -> None:
        self.embedder, self.name = embedder, name

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        known = [c for c in comparisons if c.prompt.reference]
        texts = list(
            dict.fromkeys(text for c in known for text in (str(c.prompt.reference), c.first.text, c.second.text))
        )
        vectors = dict(zip(texts, self.embedder.embed(texts), strict=True)) if texts else {}
        return [self._preference(comparison, vectors) for comparison in comparisons]

    def _preference(self, comparison: Comparison, vectors: dict[str, NDArray[np.float64]]) -> Preference:
        reference = comparison.prompt.reference
        if not reference:
            return Preference(comparison_id=comparison.id, source=self.name, p_first=None, problem=Problem.MISSING)
        first, second = (
            float(vectors[side.text] @ vectors[reference]) for side in (comparison.first, comparison.second)
        )
        p_first = 0.5 if abs(first - second) < TIE else float(first > second)
        return Preference(comparison_id=comparison.id, source=self.name, p_first=p_first)
