"""The lab's tokenizer: one token per word, a standard Hugging Face folder that loads without this package."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from aifeedback.lab import words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"


def vocabulary() -> list[str]:
    """Every word of the posts-and-summaries world, sorted, after the special tokens."""
    sentences = (
        *words.POST_CORE,
        *words.POST_WHERE,
        *words.POST_FEELING,
        *words.POST_EXCUSE,
        *words.POST_QUESTION,
        *(t for ts in words.DISTRACTORS.values() for t in ts),
        *words.FILLERS,
        *words.SUMMARY_FEELING,
        *words.SUMMARY_EXCUSE,
        *words.SUMMARY_QUESTION,
    )
    tokens = {w for s in sentences for w in s.split() if not w.startswith("{")}
    tokens.update(v for values in words.VALUES.values() for v in values)
    tokens.update((*words.SLOTS, *words.FORMAT_WORDS, *words.VERDICTS, *words.TALLIES, words.PROMPT_MARK))
    return [PAD, EOS, UNKNOWN, *sorted(tokens)]


def make_tokenizer(tokens: Iterable[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: words are separated by spaces; ``. ? : =`` are tokens even when glued to a word.

    Decoding joins with single spaces, so text whose marks stand alone round-trips exactly. It has no BOS token.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[attr-defined]
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[.?:=]"), "isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )
