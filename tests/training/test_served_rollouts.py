"""Rollouts by a server: samples come from the folder that was handed over, and weigh as the policy's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_policy_gradient import evens, metrics, settings, some_prompts

from aifeedback.errors import ModelError, RecipeError, TrainingError
from aifeedback.models.openai.tokens import sampled
from aifeedback.models.openai.wire import Unusable
from aifeedback.steps.rl import Rl
from aifeedback.training import folders, rollout
from aifeedback.training.policy_gradient import train_rl
from aifeedback.training.served_rollouts import ServedRollouts, load
from aifeedback.training.settings import RolloutServer
from models.stub import Request, Response, StubServer

PLAIN: dict[str, Any] = {"zscore_samples": None, "missing_eos_penalty": 0.0, "optimizer": "adafactor", "steps": 4}


def drawn(model: Any, tokenizer: Any, ids: list[int], *, seed: int, **options: Any) -> rollout.Rollout:
    """Samples of one prompt that depend on the seed alone."""
    shape = options["samples"], options["max_new_tokens"]
    return rollout.roll_out(model, tokenizer, [ids], uniform_BT=rollout.uniforms(*shape, seed=seed, step=0), **options)


class Engine:
    """What the stub server runs: the model of the folder that was loaded last."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.body: dict[str, Any] | None = None
        """Sent in the place of every answer."""

    def __call__(self, request: Request) -> Response:
        if request.path.endswith("/update_weights_from_disk"):
            folder = request.body["model_path"]
            self.loaded.append(folder)
            self.model, self.tokenizer = folders.load_policy(folder).eval(), folders.load_tokenizer(folder)
            return Response(json.dumps({"success": True}).encode())
        assert request.path.endswith("/completions")
        asked = request.body
        made = drawn(
            self.model,
            self.tokenizer,
            asked["prompt"],
            seed=asked["seed"],
            samples=asked["n"],
            temperature=asked["temperature"],
            max_new_tokens=asked["max_tokens"],
        )
        choices = [
            {"index": i, "text": text, "token_ids": ids, "logprobs": {"token_logprobs": logp.tolist()}}
            for i, (text, ids, logp) in enumerate(zip(made.texts, made.completion_ids, made.logp, strict=True))
        ]
        return Response(json.dumps(self.body or {"choices": choices[::-1]}).encode())


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def server(engine: Engine) -> Iterator[StubServer]:
    with StubServer(engine) as started:
        yield started


def options(server: StubServer, **changes: Any) -> RolloutServer:
    reload = server.url.replace("/v1", "/update_weights_from_disk")
    quick = {"attempts": 1, "probe": False}
    return RolloutServer(model="openai:policy", base_url=server.url, reload=reload, **{"server": quick, **changes})


def served(server: StubServer, model: Path, out: Path, *, rollouts: dict[str, Any], **config: Any) -> list[dict]:
    with ServedRollouts(options(server, **rollouts), out / "training" / "served") as sampler:
        train_rl(model, some_prompts(), evens, settings(**{**PLAIN, **config}), out, sampler=sampler)
    return metrics(out)


def test_a_served_run_is_the_run_of_a_sampler_in_memory(
    server: StubServer, engine: Engine, llama: Path, tmp_path: Path
) -> None:
    def here(model: Any, tokenizer: Any, prompt_ids: Any, *, uniform_BT: Any, **rest: Any) -> rollout.Rollout:
        seeds = [int(u * 2**31) for u in uniform_BT[:: rest["samples"], 0].tolist()]
        parts = [drawn(model, tokenizer, ids, seed=s, **rest) for ids, s in zip(prompt_ids, seeds, strict=True)]
        return rollout.Rollout(*([x for part in column for x in part] for column in zip(*parts, strict=True)))

    lines = served(server, llama, tmp_path / "served", rollouts={}, importance_cap=2.0)
    train_rl(llama, some_prompts(), evens, settings(**PLAIN), tmp_path / "here", sampler=here)
    for one, two in zip(lines, metrics(tmp_path / "here"), strict=True):
        assert one["sampler_gap"] < 1e-4
        assert one["importance_weight"] == pytest.approx(1.0, abs=1e-4)
        for name in ("reward", "k1_sum", "length", "entropy", "grad_norm"):
            assert one[name] == pytest.approx(two[name], rel=1e-3, abs=1e-5), name
    weights, same = (folders.load_policy(tmp_path / name).state_dict() for name in ("served", "here"))
    assert all(torch.allclose(value, same[name], atol=1e-4) for name, value in weights.items())
    assert engine.loaded == [str(tmp_path / "served/training/served")] * 4
    assert not list((tmp_path / "served/training").glob("served*")), "the weights are not kept twice"
    first = next(r for r in server.requests if r.path.endswith("/completions")).body
    narrowing = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "temperature": 0.9, "n": 3}
    assert {name: first[name] for name in narrowing} == narrowing
    assert first["stop_token_ids"] == [2]


def test_samples_of_an_earlier_policy_are_weighed(server: StubServer, llama: Path, tmp_path: Path) -> None:
    """Weights go over at steps 1 and 3: the samples of steps 2 and 4 are of an earlier policy."""
    lines = served(server, llama, tmp_path, rollouts={"every": 2}, importance_cap=2.0, optimizer="adamw")
    assert [line["sampler_gap"] < 1e-4 for line in lines] == [True, False, True, False]
    assert [abs(line["importance_weight"] - 1) < 1e-4 for line in lines] == [True, False, True, False]
    assert all(0 < line["importance_weight"] < 2 for line in lines)
    assert abs(lines[0]["k1_sum"]) < 1e-4


def test_a_server_that_fails_keeps_the_steps_made(
    server: StubServer, engine: Engine, llama: Path, tmp_path: Path
) -> None:
    def broken(prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        engine.body = {"choices": []} if len(engine.loaded) == 2 else None
        return evens(prompts, completions)

    def run() -> None:
        with ServedRollouts(options(server), tmp_path / "training" / "served") as sampler:
            config = settings(**PLAIN)
            train_rl(llama, some_prompts(), broken, config, tmp_path, sampler=sampler, reward_name="r")

    with pytest.raises(ModelError, match="0 responses came where n = 3 were asked for"):
        run()
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2]
    engine.body = None
    run()
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4]


def read(**choice: Any) -> Any:
    (one,) = sampled({"choices": [choice]}, samples=1, max_tokens=3, stops=[2])
    return one


def test_responses_are_read_as_token_ids_or_not_at_all() -> None:
    assert read(token_ids=[5, 2], logprobs={"token_logprobs": [-1, -0.5]}) == ([5, 2], [-1.0, -0.5])
    spelled = {"tokens": ["token_id:5", "token_id:6", "token_id:7"], "token_logprobs": [-1, -2, -3]}
    assert read(logprobs=spelled).ids == [5, 6, 7]
    for wrong, what in (
        ({"text": "a b", "logprobs": {"tokens": ["a", "b"], "token_logprobs": [-1, -1]}}, "no token ids"),
        ({"logprobs": {"tokens": ["5", "2"], "token_logprobs": [-1, -1]}}, "no token ids"),
        ({"token_ids": [5, 2]}, "no log-probabilities"),
        ({"token_ids": [5, 2], "logprobs": {"token_logprobs": [None, -1]}}, "2 tokens with 1 log-prob"),
        ({"token_ids": [5, 2], "logprobs": {"token_logprobs": [-1]}}, "2 tokens with 1 log-prob"),
        ({"token_ids": [], "logprobs": {"token_logprobs": []}}, "0 tokens"),
        ({"token_ids": [5, 6], "logprobs": {"token_logprobs": [-1, -1]}}, "ends without the token that ended it"),
    ):
        with pytest.raises(Unusable, match=what):
            read(**wrong)


def test_weights_are_loaded_by_an_address_or_a_command(server: StubServer, tmp_path: Path) -> None:
    script = tmp_path / "reload.py"
    script.write_text("import sys, pathlib\npathlib.Path(sys.argv[1], 'loaded').touch()\nsys.exit(len(sys.argv) - 2)\n")
    load(f"{sys.executable} {script}", tmp_path)
    assert (tmp_path / "loaded").exists()
    for reload, what in (
        (f"{sys.executable} {script} more", "exit code 1"),
        (str(tmp_path / "absent"), "No such file"),
        ("http://127.0.0.1:9/reload", "did not load the policy's weights"),
    ):
        with pytest.raises(TrainingError, match=what):
            load(reload, tmp_path)
    server.handler = lambda request: Response(b'{"success": false, "message": "out of memory"}')
    with pytest.raises(TrainingError, match="out of memory"):
        load(server.url, tmp_path)
    server.handler = lambda request: Response(b"{}", 500)
    with pytest.raises(TrainingError, match="500"):
        load(server.url, tmp_path)


def test_the_command_has_them_as_options_and_refuses_what_does_not_fit() -> None:
    inputs = {"model": "hf:a/b", "prompts": "p.jsonl", "reward": "rm:r"}
    rollouts = {"model": "openai:policy", "base_url": "http://x/v1", "reload": "./reload.sh", "every": 4}
    assert Rl.from_options({**inputs, "rollouts": rollouts}).rollouts == RolloutServer(**rollouts)
    for more, what in (
        ({"rollouts": {**rollouts, "model": "hf:a/b"}}, "cannot draw rollouts; write openai:NAME"),
        ({"rollouts": {**rollouts, "reload": " "}}, "give an address or a command"),
        ({"rollouts": rollouts, "engine": "trl"}, "TRL draws its own samples"),
        ({"rollouts": rollouts, "train": {"lora": {"rank": 2}}}, "leave train.lora out"),
    ):
        with pytest.raises(RecipeError, match=what):
            Rl.from_options({**inputs, **more})
