from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from aifeedback.errors import InputError, ModelError, StandardsError
from aifeedback.lab import build, documents, gold, recipes, tokenizer, training, world, zoo
from aifeedback.lab.muon import orthogonalise
from aifeedback.prompts.judge_prompt import JudgePrompt


def test_two_short_builds_give_the_same_bytes_and_a_folder_that_transformers_loads(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folders = [build.build(["judge-xs"], tmp_path / n, scale=0.001, exam_count=0)[0] for n in ("a", "b")]
    first, second = ((f / "model.safetensors").read_bytes() for f in folders)
    assert first == second
    loaded = AutoModelForCausalLM.from_pretrained(folders[0])
    assert loaded.config.aifeedback_family == "lab-a"
    words = AutoTokenizer.from_pretrained(folders[0])
    assert words.decode(words("post : a dog barked . tl;dr :")["input_ids"]) == "post : a dog barked . tl;dr :"
    assert json.loads((folders[0] / "card.json").read_text())["name"] == "judge-xs"


def test_an_unknown_name_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot build 'nobody'"):
        build.build(["nobody"], tmp_path)


def test_zoo_names_what_it_has_when_asked_for_something_else() -> None:
    with pytest.raises(ModelError, match="no model 'nobody'"):
        zoo.folder("nobody")
    with pytest.raises(StandardsError, match="no judge prompt"):
        zoo.prompt_file("nobody")


@pytest.mark.parametrize("name", ["pairwise", "rating"])
def test_judge_prompts_ask_in_the_words_that_judges_were_trained_on(name: str) -> None:
    from aifeedback.prompts.render import Renderer

    post = world.draw_post(world.stream(0, "p"))
    context = f"post : {post.text} tl;dr :"
    renderer = Renderer(JudgePrompt.load(zoo.prompt_file(name)), chat=False)
    rng = world.stream(0, "b")
    if name == "pairwise":
        block = documents.pair_block(rng, post)
        at = block.words.index("2")
        values = {"first": " ".join(block.words[3 : at - 1]), "second": " ".join(block.words[at + 2 : -4])}
        shown = renderer.verdict(context, values)
    else:
        block = documents.evidence_block(rng, post)
        at = block.words.index("check")
        values = {"response": " ".join(block.words[2:at])}
        shown = renderer.verdict(context, values, rationale=" ".join(block.words[at + 2 : -3]))
        assert renderer.request(context, values) == f"post : {post.text} {' '.join(block.words[: at + 2])}"
    assert shown == f"post : {post.text} {' '.join(block.words[:-1])}"


def test_every_block_stays_within_the_vocabulary() -> None:
    known = set(tokenizer.vocabulary())
    for i in range(60):
        rng = world.stream(3, i)
        post = world.draw_post(rng) if i % 2 else world.draw_fragment(rng, 1 + i % 4)
        assert set(post.text.split()) <= known
        for kind, make in documents.KINDS.items():
            if i % 2 or kind != "pair":
                assert set(make(rng, post).words) <= known, kind


def test_a_written_check_of_a_faultless_summary_finds_nothing_wrong_and_of_a_faulty_one_the_fault() -> None:
    facts = {"person": "aunt", "problem": "lost", "thing": "bike", "place": "sea", "day": "monday", "question": "sue"}
    check = documents.evidence(facts, gold.read("my uncle has lost our bike . thanks for reading this . is it time"))
    assert check == (
        "person uncle aunt wrong problem lost lost right thing bike bike right place none sea missed "
        "day none monday missed feeling none none absent excuse none none absent question none sue missed "
        "fluff one repeat zero cut one ."
    )


def test_packed_blocks_give_the_loss_of_separate_documents() -> None:
    """A block must see the post and itself only, at positions that follow the post."""
    words = tokenizer.make_tokenizer(tokenizer.vocabulary())
    model = training.make_model(recipes.XS, words, 0, family="test").eval()
    for layer in model.model.layers:  # layers start silent; wake them, or nothing would be tested
        torch.nn.init.normal_(layer.self_attn.o_proj.weight, std=0.3)
        torch.nn.init.normal_(layer.mlp.down_proj.weight, std=0.3)
    trees = [documents.draw_tree(world.stream(1, i), {"evidence": 1.0, "pair": 1.0}, 256) for i in range(2)]
    single = [documents.Tree(t.post, [b]) for t in trees for b in t.blocks]
    rows = [training.pack(ts, words.get_vocab(), words.pad_token_id) for ts in (trees, *([s] for s in single))]
    with torch.no_grad():
        losses = [training.loss_of(model, r) for r in rows]
    weights = [r.weight_N.sum() for r in rows]
    apart = sum(w * x for w, x in zip(weights[1:], losses[1:], strict=True)) / weights[0]
    assert torch.allclose(losses[0], apart, atol=1e-5)


def test_orthogonalised_updates_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 16, 16), (2, 8, 24), (2, 24, 8)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.3
        assert values.max() < 1.35
