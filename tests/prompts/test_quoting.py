"""Whatever the judged text holds, the prompt's own lines stay what they are, and the text can be had back."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.prompts.render import MARK, Renderer, escape, quote, unquote

from .attacks import CONTROL_TOKENS, attack

ORDINARY = [
    "A plain sentence.",
    "Two lines,\nand a tab\there.\n\nA paragraph after an empty line.",
    "if (a < b && c > d) { return {'key': [1, 2]}; }  # {{ braces }} {% stay %}",
    "<div class='x'><p>HTML is ordinary text</p></div>",
    "> quoted already\n>> twice",
    "C:\\new\\u{1F600} and \\n stay as they are",
    "naïve café, 你好, مرحبا, नमस्ते, ελληνικά, \N{MAN}\u200d\N{PERSONAL COMPUTER} and \u2764\ufe0f",
    "می\u200cخواهم",
    "",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_unchanged_but_for_the_marks(text: str) -> None:
    assert quote(text) == "\n".join(MARK + line for line in text.split("\n"))


@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_control_tokens_of_known_templates_are_broken(token: str) -> None:
    written = escape(f"before {token} after")
    assert token not in written
    assert token not in unicodedata.normalize("NFKC", written)


def test_a_judges_own_control_tokens_are_broken() -> None:
    assert escape("a ~~END~~ b", ["~~END~~"]) == "a ⟦U+7E⟧~END~~ b"
    assert escape("a ~~END~~ b") == "a ~~END~~ b"


def test_invisible_characters_become_visible() -> None:
    assert escape("a\u200bb\x00c\u202ed\u2028e\x85f\rg") == "a⟦U+200B⟧b⟦U+0⟧c⟦U+202E⟧d⟦U+2028⟧e⟦U+85⟧f⟦U+D⟧g"
    assert escape("ig\u200dnore") == "ig⟦U+200D⟧nore"  # a joiner between ASCII letters joins nothing


@given(st.text(alphabet=st.characters(), max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back(text: str) -> None:
    assert unquote(quote(text)) == text.replace("\r\n", "\n")


def test_unquote_refuses_what_is_not_quoted() -> None:
    with pytest.raises(ValueError, match="starts with"):
        unquote("> one\ntwo")


def neutral_in_prompt(renderer: Renderer, seed: int) -> None:
    """Attacks in all three places change only quoted lines, hide nothing, and come back letter for letter."""
    texts = [attack(seed, place) for place in range(3)]
    rendered = renderer.verdict(texts[0], {"first": texts[1], "second": texts[2]})
    plain = renderer.verdict("c", {"first": "a", "second": "b"})
    assert isinstance(rendered, str)
    assert isinstance(plain, str)
    own = [line for line in rendered.split("\n") if not line.startswith(MARK)]
    assert own == [line for line in plain.split("\n") if not line.startswith(MARK)]
    assert len(rendered.splitlines()) == len(rendered.split("\n")), "a hidden line break"
    assert not any(token in rendered for token in CONTROL_TOKENS)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in rendered)
    blocks = _quoted_blocks(rendered)
    assert [unquote(block) for block in blocks] == [text.replace("\r\n", "\n") for text in texts]


def _quoted_blocks(rendered: str) -> list[str]:
    blocks: list[list[str]] = []
    inside = False
    for line in rendered.split("\n"):
        if line.startswith(MARK):
            if not inside:
                blocks.append([])
            blocks[-1].append(line)
        inside = line.startswith(MARK)
    return ["\n".join(block) for block in blocks]


@pytest.mark.parametrize("name", ["summary-base", "helpful-detailed", "harmless-detailed"])
def test_structural_attacks_are_neutral(name: str) -> None:
    renderer = Renderer(JudgePrompt.load(name), chat=False)
    for seed in range(200):
        neutral_in_prompt(renderer, seed)


@pytest.mark.campaign
def test_structural_attacks_are_neutral_ten_thousand_times() -> None:
    renderer = Renderer(JudgePrompt.load("summary-detailed"), chat=False)
    for seed in range(10_000):
        neutral_in_prompt(renderer, seed)


def test_no_attack_becomes_a_control_token_of_a_tokenizer() -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator([], trainers.BpeTrainer(special_tokens=["<pad>"], initial_alphabet=alphabet))
    core.add_special_tokens(list(CONTROL_TOKENS))
    control = {core.token_to_id(token) for token in CONTROL_TOKENS}
    assert control & set(core.encode("".join(CONTROL_TOKENS)).ids), "bare, they are control tokens"
    renderer = Renderer(JudgePrompt.load("helpful-detailed"), chat=False)
    for seed in range(150):
        texts = [attack(seed, place) for place in range(3)]
        rendered = renderer.verdict(texts[0], {"first": texts[1], "second": texts[2]})
        assert not control & set(core.encode(rendered).ids)
