"""Shared text encoded once gives the tokens of every text encoded whole, and only where that is certain."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from aifeedback.inference import encoding
from aifeedback.inference.encoding import cuts_between_words, encode_prompts, encode_together, encode_whole, pieces_of

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "The man's dog isn't here.\n\nWe'll see 12345 dogs, they said;  don't you think so?",
    "a b  c\td\r\n e\u0301 caf\u00e9 na\u00efve \u4e2d\u6587 x=1 foo_bar 'quoted' THE END\n",
] * 3
LETTERS = st.sampled_from([*"ab tT'sld09 .,_\n\r\t\u00a0\u00e9\u0301\u4e2d\u03a3-=", " a", "a ", "'s ", "9 "])
TEXT = st.lists(LETTERS, max_size=25).map("".join)


def split_by(pattern: str, behavior: str = "isolated") -> Any:
    return pre_tokenizers.Split(Regex(pattern), behavior)


def in_turn(*steps: Any) -> Any:
    return pre_tokenizers.Sequence(list(steps))


def bytes_of(**more: Any) -> Any:
    return pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **more})


def trained(pre: Any, normalizer: Any = None, model: Any = None) -> Any:
    made = Tokenizer(model or models.BPE())
    made.pre_tokenizer, made.decoder = pre, decoders.ByteLevel()  # type: ignore[assignment]
    if normalizer is not None:
        made.normalizer = normalizer
    kinds = {"WordLevel": trainers.WordLevelTrainer, "WordPiece": trainers.WordPieceTrainer}
    kind = kinds.get(type(made.model).__name__)
    alphabet = {} if kind is trainers.WordLevelTrainer else {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    trainer = (kind or trainers.BpeTrainer)(vocab_size=340, show_progress=False, special_tokens=["[UNK]"], **alphabet)
    made.train_from_iterator(CORPUS, trainer)
    return made


WORDS = {"unk_token": "[UNK]"}
CERTAIN = {
    "gpt2": lambda: trained(bytes_of()),
    "gpt2 with a space in front": lambda: trained(bytes_of(add_prefix_space=True)),
    "cl100k": lambda: trained(in_turn(split_by(CL100K), bytes_of(use_regex=False))),
    "qwen2": lambda: trained(
        in_turn(split_by(CL100K.replace("{1,3}", "")), bytes_of(use_regex=False)), normalizers.NFC()
    ),
    "starcoder": lambda: trained(in_turn(pre_tokenizers.Digits(individual_digits=True), bytes_of())),
    "bert": lambda: trained(
        pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer(), models.WordPiece(**WORDS)  # type: ignore
    ),
    "words": lambda: trained(pre_tokenizers.Whitespace(), normalizers.Lowercase(), models.WordLevel(**WORDS)),  # type: ignore
    "lab": lambda: trained(in_turn(pre_tokenizers.WhitespaceSplit(), split_by("[.?:=]")), None, models.WordLevel(**WORDS)),  # type: ignore
}  # fmt: skip
MADE = {name: make() for name, make in CERTAIN.items()}


@pytest.mark.parametrize("name", CERTAIN)
@settings(max_examples=60, deadline=None)
@given(start=TEXT, middle=st.lists(TEXT, min_size=1, max_size=3), ends=st.lists(TEXT, min_size=1, max_size=4))
def test_pieces_give_the_tokens_of_the_whole(name: str, start: str, middle: list[str], ends: list[str]) -> None:
    backend = MADE[name]
    assert cuts_between_words(backend)
    texts = [start + part + end for part in middle for end in ends]
    few = encoding.FEWEST
    encoding.FEWEST = 1
    try:
        pieces = pieces_of(texts)
    finally:
        encoding.FEWEST = few
    assert ["".join(of) for of in pieces] == texts
    result = [[*chain.from_iterable(encode_whole(backend, of))] for of in pieces]
    assert result == encode_whole(backend, texts)


@pytest.mark.parametrize(
    "backend",
    [
        trained(pre_tokenizers.Metaspace()),
        trained(bytes_of(use_regex=False)),
        trained(in_turn(split_by(r"\w+ \w+|\s+"), bytes_of(use_regex=False))),
        trained(in_turn(split_by(CL100K, "removed"), bytes_of(use_regex=False))),
        trained(in_turn(bytes_of(), pre_tokenizers.Metaspace(prepend_scheme="first"))),
        trained(pre_tokenizers.Digits()),
        trained(bytes_of(), normalizers.Strip()),
        trained(bytes_of(), normalizers.Sequence([normalizers.NFC(), normalizers.Prepend("_")])),
        trained(bytes_of(), None, models.BPE(dropout=0.5)),
        Tokenizer(models.BPE()),
        Tokenizer(models.Unigram()),
    ],
    ids=lambda backend: str(type(backend.pre_tokenizer).__name__),
)
def test_where_a_cut_could_change_a_token_none_is_made(backend: Any) -> None:
    assert not cuts_between_words(backend)


def test_an_added_token_with_a_space_in_it_could_be_cut() -> None:
    backend = trained(bytes_of())
    backend.add_tokens([AddedToken("<tag>"), AddedToken("  ")])
    assert cuts_between_words(backend)
    backend.add_tokens([AddedToken("New York")])
    assert not cuts_between_words(backend)


def test_shared_text_is_encoded_once() -> None:
    seen: list[str] = []

    class Counting:
        def encode_batch_fast(self, texts: list[str], **_: Any) -> list[Any]:
            seen.extend(texts)
            return MADE["gpt2"].encode_batch_fast(texts, add_special_tokens=False)

    static, contexts = "word " * 200, ["one " * 100, "two " * 100]
    texts = [static + context + end for context in contexts for end in ("a b", "c d", "e f")]
    whole = encode_whole(MADE["gpt2"], texts)
    assert encode_together(Counting(), texts, whole[0]) == whole
    assert sum(map(len, seen)) < len(texts[0]) + 1.1 * sum(map(len, [static, *contexts, *contexts]))


def test_if_the_first_text_is_another_in_pieces_all_are_encoded_whole() -> None:
    words = ["[UNK]", "b a", "b d", "b c", " ", "b", " d", " c"]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "[UNK]"))
    backend.pre_tokenizer = split_by(r"\w \w")
    texts = ["b a " * 20 + "b d", "b a " * 20 + "b c"]
    pieces = [[*chain.from_iterable(encode_whole(backend, of))] for of in pieces_of(texts)]
    whole = encode_whole(backend, texts)
    assert pieces != whole
    assert encode_together(backend, texts, whole[0]) == whole


def test_prompts_that_share_their_beginning() -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained(bytes_of()), unk_token="[UNK]")
    prompts = [f"{'the dog is here ' * 10}{end}" for end in ("1", "[UNK]", "a [UNK] b", "", "don't 2")]
    assert encode_prompts(tokenizer, prompts) == [encode_prompts(tokenizer, [prompt])[0] for prompt in prompts]
