"""Rollouts by a server: a ``Sampler`` for ``train_rl`` whose samples come from vLLM or another OpenAI-compatible engine.

The policy's weights go to the server as a model folder every N steps; the trainer computes the log-probabilities of what
comes back itself, so KL and gradient are the policy's own, and ``importance_cap`` weighs the difference.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from aifeedback.errors import TrainingError
from aifeedback.inference.encoding import Encoding
from aifeedback.models.openai.server import connect
from aifeedback.models.openai.tokens import request, sampled
from aifeedback.training import folders
from aifeedback.training.rollout import Rollout
from aifeedback.training.settings import RolloutServer

RELOAD_S = 600.0
"""A reload that takes longer than this has failed."""


class ServedRollouts:
    """Draws rollouts on a server. ``folder`` holds the weights while it reads them, and is removed at the end.

    Under several processes every one draws its own samples; the first hands the weights over for all.
    """

    def __init__(self, settings: RolloutServer, folder: str | Path) -> None:
        self.settings, self.folder = settings, Path(folder).absolute()
        self.name = f"{settings.model}, weights every {settings.every} steps"
        address = {"base_url": settings.base_url} if settings.base_url else {}
        self._model = connect(settings.model.name, **{**address, **settings.server, "api": "completions"})
        self._calls = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._model.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __call__(
        self,
        model: Any,
        tokenizer: Any,
        prompt_ids: Sequence[list[int]],
        *,
        samples: int,
        temperature: float,
        max_new_tokens: int,
        uniform_BT: Tensor | None,
    ) -> Rollout:
        """Seeds are drawn from ``uniform_BT``, one per prompt, so that a server that keeps to seeds repeats its samples.

        Raises TrainingError where the weights are not taken, ModelError and JudgeUnavailable where samples do not come.
        """
        if self._calls % self.settings.every == 0:
            self._hand_over(model, tokenizer)
        self._calls += 1
        encoding = Encoding.of(tokenizer, model)
        stops = sorted(encoding.stops)
        first_P = uniform_BT[::samples, 0].tolist() if uniform_BT is not None else [0.0] * len(prompt_ids)
        bodies = [
            request(
                ids,
                samples=samples,
                temperature=temperature,
                max_tokens=max_new_tokens,
                stops=stops,
                seed=int(u * 2**31),
            )
            for ids, u in zip(prompt_ids, first_P, strict=True)
        ]
        read = partial(sampled, samples=samples, max_tokens=max_new_tokens, stops=stops)
        drawn = [one for group in self._model.complete(bodies, read, max_tokens=max_new_tokens) for one in group]
        ids = [one.ids for one in drawn]
        return Rollout(
            prompt_ids=[list(p) for p in prompt_ids for _ in range(samples)],
            completion_ids=ids,
            texts=encoding.texts(ids),
            logp=[torch.tensor(one.logp) for one in drawn],
            finished=[one.ids[-1] in encoding.stops for one in drawn],
        )

    def _hand_over(self, model: Any, tokenizer: Any) -> None:
        import torch.distributed as dist

        is_shared = dist.is_available() and dist.is_initialized()
        if not is_shared or dist.get_rank() == 0:
            partial_folder = self.folder.with_suffix(".partial")
            for old in (partial_folder, self.folder):
                shutil.rmtree(old, ignore_errors=True)
            folders.save_folder(model, tokenizer, partial_folder, card="A policy in training.\n")
            partial_folder.rename(self.folder)
            load(self.settings.reload, self.folder)
        if is_shared:
            dist.barrier()


def load(reload: str, folder: Path) -> None:
    """Have the server load a model folder: by an address, or by a command. Raises TrainingError where it does not."""
    problem = _posted(reload, folder) if reload.startswith(("http://", "https://")) else _run(reload, folder)
    if problem:
        raise TrainingError(
            f"the rollout server did not load the policy's weights: {problem}\n  → check --reload; run the same command"
            " again to resume"
        )


def _posted(url: str, folder: Path) -> str | None:
    body = json.dumps({"model_path": str(folder)}).encode()
    message = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(message, timeout=RELOAD_S) as answer:
            text = answer.read(100_000).decode("utf-8", "replace")
    except (OSError, ValueError) as refused:
        return f"{url}: {refused}"
    with suppress(ValueError):
        said = json.loads(text)
        if isinstance(said, dict) and said.get("success") is False:
            return f"{url}: {said.get('message') or text}"
    return None


def _run(command: str, folder: Path) -> str | None:
    try:
        done = subprocess.run(
            [*shlex.split(command), str(folder)], capture_output=True, text=True, timeout=RELOAD_S, check=False
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as failed:
        return f"{command}: {failed}"
    last = (done.stderr or done.stdout).strip().splitlines()[-1:]
    return f"{command}: exit code {done.returncode} ({' '.join(last)})" if done.returncode else None
