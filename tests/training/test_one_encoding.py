"""A prompt and its response are the same token ids wherever they are encoded."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parents[1]))
from aifeedback.inference.encoding import Encoding
from aifeedback.inference.encoding import encode_prompts as encode_for_judging
from aifeedback.integrations.serve import ServeConfig, create_app
from aifeedback.integrations.trl import TrlReward, dataset_row
from aifeedback.training import folders, rewards
from aifeedback.training.examples import PairRow, SftRow, encode_pairs, encode_sft
from aifeedback.training.reward_model import RewardModel, centre, fit_reward_model
from aifeedback.training.rewards import plain_prompt
from aifeedback.training.rollout import encode_prompts
from aifeedback.training.settings import RewardModelConfig, RLConfig, SftConfig
from aifeedback.training.sft import train_sft
from aifeedback.types import Comparison, Completion, Prompt, Sampling
from chat_templates import FORMS, PREFILL, make_tokenizer, save_model

WITH_TEMPLATE = [form for form in FORMS if form != "no template"]
DIALOGUES: list[list[tuple[str, str]]] = [
    [("user", "3 good?")],
    [("system", "Be brief."), ("user", "what is 2 and 2?")],
    [("user", " hello "), ("assistant", "world"), ("user", "and of Spain?")],
    [("system", "Be brief."), ("user", "hello"), ("assistant", "no"), ("user", "maybe?")],
]


def prompt_of(turns: Sequence[tuple[str, str]]) -> Prompt:
    return Prompt.of([{"role": role, "content": content} for role, content in turns])


PROMPTS = [prompt_of(turns) for turns in DIALOGUES]
ANSWERS = ["yes", " the answer is 4 ", "Madrid.", "four"]


def plain(tokenizer: Any, form: str, turns: Sequence[tuple[str, str]], **how: Any) -> list[int]:
    """Ids by transformers alone; a system message that the template cannot carry is put into the first user message."""
    if form in ("gemma", "drops system") and turns[0][0] == "system":
        turns = [("user", f"{turns[0][1]}\n\n{turns[1][1]}"), *turns[2:]]
    messages = [{"role": role, "content": content} for role, content in turns]
    return list(tokenizer.apply_chat_template(messages, return_dict=True, **how)["input_ids"])


@pytest.mark.parametrize("form", WITH_TEMPLATE)
def test_a_prompt_is_the_same_ids_for_every_consumer(form: str) -> None:
    tokenizer = make_tokenizer(form)
    expected = [plain(tokenizer, form, turns, add_generation_prompt=True) for turns in DIALOGUES]
    encoding = Encoding.of(tokenizer)
    rows = [SftRow(p, Completion.of(p, a, source="x")) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    pairs = [
        PairRow(Comparison.of(p, Completion.of(p, a, source="x"), Completion.of(p, "no", source="y")), 1.0)
        for p, a in zip(PROMPTS, ANSWERS, strict=True)
    ]
    assert encoding.prompts([p.messages for p in PROMPTS]) == expected
    assert [row.prompt for row in encode_sft(tokenizer, rows)[0]] == expected
    assert [row.prompt for row in encode_pairs(tokenizer, pairs)[0]] == expected
    assert encode_prompts(tokenizer, PROMPTS).ids == expected
    assert encode_for_judging(tokenizer, [p.messages for p in PROMPTS]) == expected
    trl = [dataset_row(p, tokenizer)["prompt"] for p in PROMPTS]
    assert [
        list(tokenizer.apply_chat_template(m, add_generation_prompt=True, return_dict=True)["input_ids"]) for m in trl
    ] == expected


@pytest.mark.parametrize("form", WITH_TEMPLATE)
def test_a_scored_conversation_is_what_transformers_makes_of_it(form: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(form)
    expected = [plain(tokenizer, form, [*t, ("assistant", a)]) for t, a in zip(DIALOGUES, ANSWERS, strict=True)]
    pairs = [
        PairRow(Comparison.of(p, Completion.of(p, a, source="x"), Completion.of(p, "no", source="y")), 1.0)
        for p, a in zip(PROMPTS, ANSWERS, strict=True)
    ]
    assert [[*r.prompt, *r.first] for r in encode_pairs(tokenizer, pairs, whole=True)[0]] == expected
    model = RewardModel(save_model(form, tmp_path, scorer=True))
    assert [model._ids(p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)] == expected
    assert [model._ids(plain_prompt(p), a) for p, a in zip(PROMPTS, ANSWERS, strict=True)] == expected


@pytest.mark.parametrize("form", FORMS)
def test_a_response_ends_with_the_templates_end_of_turn(form: str) -> None:
    tokenizer = make_tokenizer(form)
    encoding = Encoding.of(tokenizer)
    end = FORMS[form].get("end", tokenizer.eos_token)
    assert tokenizer.convert_ids_to_tokens(encoding.end) == end
    assert {encoding.end, tokenizer.eos_token_id} <= encoding.stops
    assert encoding.prefill == PREFILL.get(form, "")
    prompt = PROMPTS[0]
    (row,), _ = encode_sft(tokenizer, [SftRow(prompt, Completion.of(prompt, "yes", source="x"))])
    (pair,), _ = encode_pairs(
        tokenizer,
        [PairRow(Comparison.of(prompt, *(Completion.of(prompt, t, source="x") for t in ("yes", "no"))), 1.0)],
    )
    assert row.completion == pair.first == encoding.response("yes")
    assert row.completion[-1] == encoding.end
    assert encoding.text(row.completion, prefilled=False).endswith("yes")


@pytest.mark.parametrize("form", PREFILL)
@pytest.mark.parametrize("text", ["<think>\ntwo and two\n</think>\n\n4", "<think>two and two</think>4"])
def test_a_pre_filled_opening_is_not_repeated(form: str, text: str) -> None:
    """What was thought goes on inside the block that the prompt opened, with the model's own tokens for its marks."""
    tokenizer = make_tokenizer(form)
    encoding = Encoding.of(tokenizer)
    ids = [*encoding.prompt(PROMPTS[0].messages), *encoding.response(text)]
    opening, closing = (tokenizer.convert_tokens_to_ids(mark) for mark in ("<think>", "</think>"))
    assert (ids.count(opening), ids.count(closing)) == (1, 1)
    inside = tokenizer.decode(ids[ids.index(opening) :], skip_special_tokens=True)
    assert inside == (text if text.startswith("<think>\n") else text.replace("<think>", "<think>\n"))


@pytest.mark.parametrize("form", PREFILL)
def test_a_response_without_thinking_closes_the_block_and_comes_back_whole(form: str) -> None:
    encoding = Encoding.of(make_tokenizer(form))
    ids = encoding.response("Paris.")
    assert encoding.text(ids) == "<think>\n\n</think>\n\nParis."
    assert encoding.response(encoding.text(ids)) == ids  # what was sampled is encoded as it was sampled
    assert encoding.response("</think>Paris.")[:-1] == encoding.response("<think>\n</think>Paris.")[:-1]


def test_rewards_see_the_opening_that_the_prompt_wrote(tmp_path: Path) -> None:
    from aifeedback.training.policy_gradient import train_rl

    folder = save_model("thinks", tmp_path / "policy")
    seen: list[str] = []

    def reward(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        seen.extend(completions)
        return [float(len(c)) for c in completions]

    config = RLConfig(steps=1, prompts_per_step=2, samples_per_prompt=2, max_new_tokens=4)
    train_rl(folder, PROMPTS, reward, config, tmp_path / "out")
    assert len(seen) == 4
    assert all(text.startswith("<think>\n") for text in seen)


def test_sampling_stops_at_every_stop_token_and_shows_none(tmp_path: Path) -> None:
    """The template's end, the tokenizer's EOS, and those of the generation settings."""
    folder = save_model("several stops", tmp_path)
    tokenizer, model = folders.load_tokenizer(folder), folders.load_policy(folder)
    encoding = Encoding.of(tokenizer, model)
    assert {tokenizer.convert_ids_to_tokens(i) for i in encoding.stops} == {"<end/>", "</s>", "<stop>"}
    ids = [*encoding.response("four", ended=False)]
    assert encoding.texts([[*ids, stop] for stop in encoding.stops]) == ["four"] * 3


def test_a_local_model_stops_where_its_template_ends_a_turn(tmp_path: Path) -> None:
    from aifeedback.models.local import load

    model = load(str(save_model("llama 3", tmp_path)))
    assert {model.tokenizer.convert_ids_to_tokens(i) for i in model.eos_ids} == {"<|eot_id|>", "<|end_of_text|>"}
    replies = model.reply([PROMPTS[0].messages], Sampling(max_new_tokens=3))
    assert "<|eot_id|>" not in replies[0].text


def test_a_trained_folder_keeps_its_encoding(tmp_path: Path) -> None:
    folder = save_model("end of turn is not eos", tmp_path / "base")
    rows = [SftRow(p, Completion.of(p, a, source="x")) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    train_sft(folder, rows, SftConfig(steps=1, batch=2), tmp_path / "sft")
    record = json.loads((tmp_path / "sft" / "training" / "encoding.json").read_text())
    assert (record["end"], sorted(record["stops"])) == ("<|im_end|>", ["</s>", "<|im_end|>"])
    before = Encoding.of(folders.load_tokenizer(folder)).prompt(PROMPTS[1].messages)
    other = folders.load_tokenizer(tmp_path / "sft")
    other.chat_template = "{{ messages[0]['content'] }}"
    other.save_pretrained(str(tmp_path / "sft"))
    assert Encoding.of(folders.load_tokenizer(tmp_path / "sft")).prompt(PROMPTS[1].messages) == before
    generation = json.loads((tmp_path / "sft" / "generation_config.json").read_text())
    assert len(generation["eos_token_id"]) == 2  # other engines stop there too


@pytest.mark.parametrize("form", ["chatml", "gemma", "llama 2", "llama 3", "drops system", "end of turn is not eos"])
def test_every_door_gives_the_score_of_plain_transformers(form: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = save_model(form, tmp_path, scorer=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    turns, answers = DIALOGUES[:1] + DIALOGUES[2:3], ["yes", "Madrid."]
    prompts = [prompt_of(t) for t in turns]
    expected = []
    for asked, answer in zip(turns, answers, strict=True):
        ids = torch.tensor([plain(tokenizer, form, [*asked, ("assistant", answer)])])
        with torch.no_grad():  # without padding, the last token is the one that is read
            hidden = model.model(input_ids=ids).last_hidden_state[0, -1]
            expected.append(float(model.score(hidden)))
    if not FORMS[form].get("pad_is_eos"):
        ids = torch.tensor([plain(tokenizer, form, [*turns[0], ("assistant", answers[0])])])
        assert model(input_ids=ids).logits.item() == pytest.approx(expected[0], abs=1e-5)

    reward = rewards.reward_model(folder)
    as_files = [plain_prompt(p) for p in prompts]
    close = pytest.approx(expected, abs=1e-5)
    assert reward(as_files, answers) == close
    messages = [[m.model_dump() for m in p.messages] for p in prompts]
    said = [[{"role": "assistant", "content": a}] for a in answers]
    trl = TrlReward(reward, name="rm", eos_ids=frozenset())
    assert trl(prompts=messages, completions=said) == close
    assert trl(prompts=as_files, completions=answers) == close
    with TestClient(create_app(reward, ServeConfig(wait_s=0))) as client:
        for sent in (as_files, messages):
            assert client.post("/score", json={"prompts": sent, "completions": answers}).json()["rewards"] == close
        written = [tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m in messages]
        end = FORMS[form].get("end", tokenizer.eos_token)
        for queries in (
            [p + a + end for p, a in zip(written, answers, strict=True)],
            ["<s>" + p.replace("<s>[INST]", "<s> [INST]") + a + end for p, a in zip(written, answers, strict=True)],
        ):
            answered = client.post("/get_reward", json={"query": queries, "prompts": written, "labels": ["", ""]})
            assert answered.json()["rewards"] == close


@pytest.mark.parametrize("form", ["chatml", "gemma", "no template"])
def test_fit_held_out_and_centre_read_what_is_scored_later(form: str, tmp_path: Path) -> None:
    folder = save_model(form, tmp_path / "base")
    rows = learnable(40)
    config = RewardModelConfig(steps=40, batch=20, learning_rate=3e-3, optimizer="adamw")
    result = fit_reward_model(folder, rows, config, tmp_path / "rm", heldout=rows)
    model = RewardModel(tmp_path / "rm")
    labels = model.label([r.comparison for r in rows])
    right = sum((p.p_first > 0.5) == (r.p_first > 0.5) for p, r in zip(labels, rows, strict=True))
    assert result.figures["heldout_accuracy"] == pytest.approx(right / len(rows))
    prompts, answers = [r.comparison.prompt for r in rows], [r.comparison.first for r in rows]
    before = rewards.reward_model(tmp_path / "rm")([plain_prompt(p) for p in prompts], [a.text for a in answers])
    assert centre(tmp_path / "rm", prompts, answers) == pytest.approx(sum(before) / len(before), abs=1e-5)


def learnable(count: int) -> list[PairRow]:
    """Pairs of which the one that says "yes" is better."""
    rows = []
    for i in range(count):
        prompt = Prompt.of(f"{i} good?")
        sides = [Completion.of(prompt, text, source="x") for text in (f"yes {i % 5}", f"no {i % 5}")]
        rows.append(PairRow(Comparison.of(prompt, *(sides if i % 2 else sides[::-1])), float(i % 2)))
    return rows


@pytest.mark.parametrize("form", ["chatml", "gemma"])
def test_a_reward_model_of_trl_keeps_its_accuracy_here_and_ours_under_its_template(form: str, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    rows, held = learnable(40), learnable(60)[40:]
    data = []
    for row in rows:
        sides = [row.comparison.first.text, row.comparison.second.text]
        better, worse = sides if row.p_first > 0.5 else sides[::-1]
        asked = [m.model_dump() for m in row.comparison.prompt.messages]
        data.append(
            {
                "prompt": asked,
                "chosen": [{"role": "assistant", "content": better}],
                "rejected": [{"role": "assistant", "content": worse}],
            }
        )
    folder = save_model(form, tmp_path / "base", scorer=True)
    trainer = RewardTrainer(
        model=folders.load_scorer(folder, seed=0),
        args=RewardConfig(
            output_dir=str(tmp_path / "run"),
            max_steps=30,
            per_device_train_batch_size=20,
            learning_rate=3e-3,
            report_to="none",
            save_strategy="no",
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_list(data),
        processing_class=folders.load_tokenizer(folder),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "theirs"))
    labels = RewardModel(tmp_path / "theirs").label([r.comparison for r in held])
    assert all((p.p_first > 0.5) == (r.p_first > 0.5) for p, r in zip(labels, held, strict=True))

    config = RewardModelConfig(steps=30, batch=20, learning_rate=3e-3, optimizer="adamw")
    fit_reward_model(save_model(form, tmp_path / "policy"), rows, config, tmp_path / "ours")
    model, tokenizer = (
        folders.load_scorer(tmp_path / "ours", seed=None).eval(),
        folders.load_tokenizer(tmp_path / "ours"),
    )
    for row in held:
        scores = []
        for side in (row.comparison.first, row.comparison.second):
            talk = [
                *(m.model_dump() for m in row.comparison.prompt.messages),
                {"role": "assistant", "content": side.text},
            ]
            ids = tokenizer.apply_chat_template(talk, return_dict=True, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                scores.append(model(input_ids=ids).logits.item())
        assert (scores[0] > scores[1]) == (row.p_first > 0.5)


@pytest.mark.parametrize("form", WITH_TEMPLATE)
def test_a_rendered_prompt_becomes_its_messages_again(form: str) -> None:
    tokenizer = make_tokenizer(form)
    encoding = Encoding.of(tokenizer)
    for prompt in PROMPTS:
        accepted = encoding.messages(prompt.messages)
        text = tokenizer.apply_chat_template(accepted, tokenize=False, add_generation_prompt=True)
        messages = encoding.parse(text)
        assert messages is not None
        assert (
            tokenizer.apply_chat_template(
                [m.model_dump() for m in messages], tokenize=False, add_generation_prompt=True
            )
            == text
        )
        assert [m.content.strip() for m in messages] == [m["content"].strip() for m in accepted]
    assert encoding.parse("3 good?") is None
    assert encoding.parse(text + "yes") is None


def test_trl_trains_on_what_our_engine_would_score(tmp_path: Path) -> None:
    """The reward sees the pre-filled opening, and no token that ends a turn."""
    pytest.importorskip("trl")
    from aifeedback.integrations.trl import run_rloo

    seen: list[str] = []

    def reward(completions: Sequence[str]) -> list[float]:
        seen.extend(completions)
        return [float(len(c)) for c in completions]

    for form in ("thinks", "several stops"):
        folder = save_model(form, tmp_path / form)
        config = RLConfig(steps=1, prompts_per_step=2, samples_per_prompt=2, max_new_tokens=4)
        run_rloo(folder, PROMPTS, reward, config, tmp_path / f"{form} out")
    assert all(text.startswith("<think>\n") for text in seen[:4])
    assert not any(mark in text for text in seen[4:] for mark in ("<end/>", "<stop>", "</s>"))


def test_a_sharded_copy_keeps_the_generation_settings(tmp_path: Path) -> None:
    from aifeedback.training.rollout import whole_model

    model = folders.load_policy(save_model("several stops", tmp_path))
    for name, parameter in model.named_parameters():
        parameter.full_tensor = lambda p=parameter: p.detach()
        del name
    copy = whole_model(model)
    assert copy is not model
    assert copy.generation_config.eos_token_id == model.generation_config.eos_token_id
    assert (
        Encoding.of(folders.load_tokenizer(tmp_path), copy).stops
        == Encoding.of(folders.load_tokenizer(tmp_path), model).stops
    )
