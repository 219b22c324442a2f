"""Journal entries for tests: the same number gives the same entry."""

from __future__ import annotations

from aifeedback.store import Entry, content_key, prompt_hash, setting_digest

SETTING = '{"card":"stub"}'


def entry(number: int, *, answer: str | None = None) -> Entry:
    hashed = prompt_hash(f"prompt {number}")
    return Entry(
        kind="labels",
        key=content_key(setting_digest(SETTING), hashed),
        setting=SETTING,
        prompt_hash=hashed,
        outcome="ok",
        answer=answer or f'{{"logprobs":[-0.{number + 1},-1.5]}}',
        raw='{"top":{"1":-0.5}}',
        prompt_tokens=number,
        cost_usd=0.001 * number,
        seconds=0.25,
        at=1_700_000_000.0 + number,
    )
