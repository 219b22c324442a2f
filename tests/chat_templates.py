"""Small tokenizers with the chat templates that real models come with, one peculiarity each; and tiny models for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from small_models import llama_config

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim"
    " + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + m['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
    " + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
THINKS = CHATML.replace("'<|im_start|>assistant\n' }}{% endif %}", "'<|im_start|>assistant\n<think>\n' }}{% endif %}")
THINKS_AT_ONCE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|User|>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{{ '<|Assistant|>' + m['content'].split('</think>')[-1] + eos_token }}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
CLOSES_THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last and '</think>' not in m['content'] %}{{ '<think>\n\n</think>\n\n' }}"
    "{% endif %}{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
DROPS_SYSTEM = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token"
    " + '\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
NO_END = (
    "{% for m in messages %}{{ '### ' + m['role'] + ':\n' + m['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)
OWN_END = (
    "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '<end/>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)

TEXTS = [
    "3 good? yes no maybe the answer is 4 because two and two make four",
    "Be brief. system user assistant model Human Assistant INST SYS thinking hello world",
    "what is the capital of France? Paris. And of Spain? Madrid.",
]
FORMS: dict[str, dict[str, Any]] = {
    "chatml": {"template": CHATML, "eos": "<|im_end|>", "marks": ["<|im_start|>"]},
    "end of turn is not eos": {"template": CHATML, "marks": ["<|im_start|>", "<|im_end|>"], "end": "<|im_end|>"},
    "gemma": {
        "template": GEMMA,
        "marks": ["<start_of_turn>", "<end_of_turn>"],
        "end": "<end_of_turn>",
        "adds_bos": True,
    },
    "llama 2": {"template": LLAMA_2, "adds_bos": True},
    "llama 3": {
        "template": LLAMA_3,
        "eos": "<|end_of_text|>",
        "marks": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "end": "<|eot_id|>",
        "adds_bos": True,
    },
    "thinks": {"template": THINKS, "eos": "<|im_end|>", "marks": ["<|im_start|>"], "think": True},
    "thinks at once": {"template": THINKS_AT_ONCE, "marks": ["<|User|>", "<|Assistant|>"], "think": True},
    "closes thinking": {"template": CLOSES_THINKING, "eos": "<|im_end|>", "marks": ["<|im_start|>"], "think": True},
    "drops system": {"template": DROPS_SYSTEM, "pad_is_eos": True},
    "no end of turn": {"template": NO_END},
    "several stops": {"template": OWN_END, "ends": ["<end/>"], "end": "<end/>", "stops": ["<stop>"]},
    "no template": {"template": None, "adds_bos": True},
}
PREFILL = {"thinks": "<think>\n", "thinks at once": "<think>\n", "closes thinking": "<think>\n"}


def make_tokenizer(form: str) -> Any:
    """A byte-level BPE tokenizer of one form; PAD differs from EOS unless the form is about that."""
    from tokenizers import AddedToken, ByteLevelBPETokenizer, processors
    from transformers import PreTrainedTokenizerFast

    facts = FORMS[form]
    eos = facts.get("eos", "</s>")
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXTS * 3, vocab_size=400, special_tokens=["<s>", eos, "<pad>"], show_progress=False)
    if facts.get("adds_bos"):
        bos = ("<s>", bpe.token_to_id("<s>"))
        bpe._tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[bos])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        bos_token="<s>",
        eos_token=eos,
        pad_token=eos if facts.get("pad_is_eos") else "<pad>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens(
        [AddedToken(mark, special=True) for mark in [*facts.get("marks", ()), *facts.get("stops", ())]]
    )
    own = [*facts.get("ends", ()), *(["<think>", "</think>"] if facts.get("think") else [])]
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in own])
    tokenizer.chat_template = facts["template"]
    return tokenizer


def save_model(form: str, folder: Path, *, scorer: bool = False, **settings: Any) -> Path:
    """A random tiny Llama (or a sequence classifier of one output) with this form's tokenizer."""
    import torch
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    tokenizer = make_tokenizer(form)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    kind: Callable[..., Any] = LlamaForSequenceClassification if scorer else LlamaForCausalLM
    config = llama_config(
        len(tokenizer),
        width=32,
        **({"num_labels": 1} if scorer else {}),
        **{"max_position_embeddings": 256, **ids, **settings},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = kind(config)
        if scorer:
            torch.nn.init.normal_(model.score.weight)
    stops = FORMS[form].get("stops")
    if stops and not scorer:
        model.generation_config.eos_token_id = [tokenizer.convert_tokens_to_ids(s) for s in stops]
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder
