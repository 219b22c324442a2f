"""Prompts to token ids: the one place that knows about chat templates, transcripts and BOS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aifeedback.protocols import PromptLike
from aifeedback.records import Message

SPEAKER = {"user": "Human", "assistant": "Assistant", "system": "System"}


def encode_prompt(tokenizer: Any, prompt: PromptLike) -> list[int]:
    """Token ids of a prompt, up to the position where the answer starts.

    Text is taken exactly as it is, with the tokenizer's own BOS rule. Messages go through the chat template; a list
    that ends with an assistant message is continued from its end. Without a template, see ``transcript``.
    """
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    messages = [m.model_dump() for m in prompt]
    if not getattr(tokenizer, "chat_template", None):
        return list(tokenizer(transcript(prompt))["input_ids"])
    continues = messages[-1]["role"] == "assistant"
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=not continues, continue_final_message=continues
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_completion(tokenizer: Any, text: str) -> list[int]:
    """Token ids of an answer, without BOS and EOS."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def transcript(messages: Sequence[Message]) -> str:
    """A dialogue as plain text for models without a chat template; one user message is its bare text."""
    roles = [m.role for m in messages]
    if roles == ["user"]:
        return messages[0].content
    if roles == ["user", "assistant"]:
        return messages[0].content + messages[1].content
    turns = "".join(f"\n\n{SPEAKER[m.role]}: {m.content}" for m in messages)
    return turns if roles[-1] == "assistant" else f"{turns}\n\nAssistant:"
