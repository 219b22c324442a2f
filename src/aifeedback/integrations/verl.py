"""A reward function for verl that calls ``aifeedback serve``.

    python -m verl.trainer.main_ppo … \\
        custom_reward_function.path=$(python -c "import aifeedback.integrations.verl as v; print(v.__file__)") \\
        custom_reward_function.name=compute_score \\
        +custom_reward_function.reward_kwargs.url=http://127.0.0.1:8300

The prompt must be in the data set's ``extra_info`` as ``prompt`` (text or messages), since verl hands the function
the response only. Needs nothing but the standard library. A response that could not be scored raises: verl has no way
to leave one out, and no number is made up.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

TRIES = 5


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    *,
    url: str | None = None,
    **further: Any,
) -> float:
    """One response, as verl's default reward manager asks. ``url``: default AIFEEDBACK_REWARD_URL."""
    return compute_scores([data_source], [solution_str], [ground_truth], [extra_info], url=url)[0]


def compute_scores(
    data_sources: Sequence[str],
    solution_strs: Sequence[str],
    ground_truths: Sequence[Any],
    extra_infos: Sequence[dict[str, Any] | None],
    *,
    url: str | None = None,
    **further: Any,
) -> list[float]:
    """A whole batch, as verl's batch reward manager asks. Raises ValueError, RuntimeError."""
    missing = [i for i, info in enumerate(extra_infos) if not info or "prompt" not in info]
    if missing:
        raise ValueError(f"extra_info has no 'prompt' in rows {missing[:5]}: put the prompt there in the data set")
    request = {
        "prompts": [info["prompt"] for info in extra_infos if info],
        "completions": list(solution_strs),
        "reference": [str(truth) if truth is not None else None for truth in ground_truths],
        "data_source": list(data_sources),
    }
    rewards = _post(url or os.environ.get("AIFEEDBACK_REWARD_URL", "http://127.0.0.1:8300"), request)
    unscored = [i for i, reward in enumerate(rewards) if reward is None]
    if unscored:
        raise RuntimeError(f"{len(unscored)} of {len(rewards)} responses could not be scored: rows {unscored[:5]}")
    return [float(reward) for reward in rewards if reward is not None]


def _post(url: str, body: dict[str, Any]) -> list[float | None]:
    request = urllib.request.Request(
        f"{url.rstrip('/')}/score", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    for attempt in range(TRIES):
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return json.load(answer)["rewards"]
        except urllib.error.HTTPError as refused:
            if refused.code < 500 or attempt + 1 == TRIES:
                raise RuntimeError(
                    f"{url}: {refused.code} {refused.read().decode(errors='replace')[:500]}"
                ) from refused
        except OSError as unreachable:
            if attempt + 1 == TRIES:
                raise RuntimeError(f"{url} cannot be reached: {unreachable}") from unreachable
        time.sleep(2**attempt)
    raise AssertionError("unreachable")
