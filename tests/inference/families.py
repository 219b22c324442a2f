"""Small tokenizers of every common family, trained on a few lines, and tiny models with random weights for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from small_models import llama_config

LINES = [
    "Rate it: 1 2 10 = 10 of 10",
    "A or B? A = Yes",
    "No: B = 1 Yes or 2 No",
    "it = 10 : 10 , A : 1 , B : 2",
]
SPECIAL = ["<s>", "</s>", "<unk>"]


def _fast(core: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | options
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **names)


def byte_level(extra: int = 0) -> PreTrainedTokenizerFast:
    """GPT-2, Llama-3, Qwen: bytes, a space belongs to the word after it. No BOS."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        LINES * 3 + ["=10:10A10"] * extra, trainers.BpeTrainer(vocab_size=34 + extra, special_tokens=SPECIAL)
    )
    return _fast(core)


def byte_level_merged() -> PreTrainedTokenizerFast:
    """The same with "10" as one token (and as two)."""
    tokenizer = byte_level(extra=12)
    assert "10" in tokenizer.get_vocab()
    return tokenizer


def metaspace_bpe() -> PreTrainedTokenizerFast:
    """Llama-2: a mark for every space, one put before the text, bytes for the unknown, BOS."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.train_from_iterator(
        LINES * 3, trainers.BpeTrainer(vocab_size=36, special_tokens=[*SPECIAL, "<0x31>", "<0x41>", "<0x0A>"])
    )
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _fast(_with_bos(_plain_bytes(core)))


def _plain_bytes(core: Tokenizer) -> Tokenizer:
    """Byte pieces belong to the vocabulary but are no added tokens."""
    import json

    tree = json.loads(core.to_str())
    tree["added_tokens"] = [t for t in tree["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(tree))


def unigram() -> PreTrainedTokenizerFast:
    """SentencePiece unigram, as in T5 or Gemma-like vocabularies."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=44, special_tokens=SPECIAL, unk_token="<unk>", max_piece_length=4)
    core.train_from_iterator(LINES * 5, trainer)
    return _fast(core)


def word_piece() -> PreTrainedTokenizerFast:
    """BERT: words, pieces inside them marked; puts [CLS] before and [SEP] after every text."""
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece(cleanup=False)
    core.train_from_iterator(
        LINES * 3, trainers.WordPieceTrainer(vocab_size=44, special_tokens=[*SPECIAL, "[CLS]", "[SEP]"])
    )
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(t, core.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    )
    return _fast(core, cls_token="[CLS]", sep_token="[SEP]")


def word_level() -> PreTrainedTokenizerFast:
    """Whole words; decoding joins them with spaces."""
    core = Tokenizer(models.WordLevel(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.train_from_iterator(LINES, trainers.WordLevelTrainer(special_tokens=SPECIAL))
    return _fast(_with_bos(core))


def characters() -> PreTrainedTokenizerFast:
    """One token per character."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.decoder = decoders.Fuse()
    core.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=1, special_tokens=SPECIAL))
    return _fast(core)


def word_end() -> PreTrainedTokenizerFast:
    """GPT-1, CLIP: the last piece of a word is marked."""
    core = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(vocab_size=48, special_tokens=SPECIAL, end_of_word_suffix="</w>")
    core.train_from_iterator(LINES * 3, trainer)
    return _fast(core)


def _with_bos(core: Tokenizer) -> Tokenizer:
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    return core


FAMILIES: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    f.__name__: f
    for f in (
        byte_level,
        byte_level_merged,
        metaspace_bpe,
        unigram,
        word_piece,
        word_level,
        characters,
        word_end,
    )
}


def tiny_model(vocabulary: int, seed: int = 0) -> LlamaForCausalLM:
    """Random weights, sharp enough that probabilities differ by orders of magnitude."""
    torch.manual_seed(seed)
    config = llama_config(
        vocabulary,
        width=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12.0)
    return model
