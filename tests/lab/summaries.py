"""Four writers of lab summaries, from weak to good, as files of responses: what trained policies look like to raters."""

from __future__ import annotations

from pathlib import Path

from aifeedback import data
from aifeedback.lab import samples, world
from aifeedback.lab.world import Mistakes

QUALITY = {"sft": (0.45, 0.3), "rlaif": (0.8, 0.1), "rlhf": (0.8, 0.12), "d_rlaif": (0.9, 0.05)}
"""Name → share of the facts that are mentioned, and of those that are wrong."""


def write_policies(folder: Path, count: int) -> list[str]:
    """Write test.jsonl and NAME.jsonl; return the policies as `compare` takes them."""
    posts = [samples._post(0, "prompts", "test", i) for i in range(count)]
    prompts = samples.prompts(count, split="test")
    data.write_records(folder / "test.jsonl", prompts)
    for name, (share, wrong) in QUALITY.items():
        rows = []
        for i, (prompt, post) in enumerate(zip(prompts, posts, strict=True)):
            rng = world.stream(5, name, i)
            mentioned = world.draw_mention(rng, post.facts, share)
            text = world.write_summary(rng, mentioned, post.distractors, Mistakes(wrong=wrong, filler=0.2))
            rows.append({"prompt": prompt.text, "tags": dict(prompt.tags), "completion": text})
        data.write_rows(folder / f"{name}.jsonl", rows)
    return [f"{name}={folder / name}.jsonl" for name in QUALITY]
