"""Independent seeds for separate purposes, all from the one that was given."""

from __future__ import annotations

from aifeedback.records import content_id


def derived_seed(seed: int, *parts: str | int) -> int:
    """A 31-bit seed for one purpose: equal parts, equal seed, on every machine."""
    return int(content_id("seed", seed, *parts), 16) % 2**31
