"""What a judge is shown of a principle, a criterion, or anything else that it judges by."""

from __future__ import annotations

from typing import NamedTuple


class Wording(NamedTuple):
    id: str
    """constitution@version/principle: what a judgement records."""
    text: str
    weight: float = 1.0
