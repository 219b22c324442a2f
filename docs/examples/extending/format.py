"""A format: forum threads with votes, as `python:format.py:FORUM:threads.jsonl` wherever a data file is named.

One row: {"question": "…", "answers": [{"text": "…", "votes": 3}, {"text": "…", "votes": 1}]}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

from aifeedback.data.formats import HUMAN, Pair, Shape
from aifeedback.data.transcripts import PromptCell, need_text


def read_thread(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """Every pair of answers; more votes is better, equal votes are a tie."""
    del criterion
    prompt = PromptCell(need_text(row, "question"))
    for one, other in combinations(row["answers"], 2):
        p_first = 0.5 if one["votes"] == other["votes"] else float(one["votes"] > other["votes"])
        yield Pair(prompt, need_text(one, "text"), need_text(other, "text"), p_first, HUMAN)


FORUM = Shape("forum threads", ("question", "answers"), read_thread)
