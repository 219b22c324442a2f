"""Generated answers of served models whose truth is known: one row of the table of dialects after another."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from random import Random
from typing import Any

from aifeedback.models.dialects import ABORTED, FINISH

MARKS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "tags": (
        *((f"<{name}>", f"</{name}>") for name in (
            "think", "thinking", "thought", "reasoning", "reflection", "seed:think", "scratchpad", "inner_monologue",
        )),
        ("\u25c1think\u25b7", "\u25c1/think\u25b7"), ("&lt;think&gt;", "&lt;/think&gt;"), ('<think time="3">', "</think>"),
          ("\uff1c\uff54\uff48\uff49\uff4e\uff4b\uff1e", "\uff1c\uff0f\uff54\uff48\uff49\uff4e\uff4b\uff1e"),
          ("\\u003cthink\\u003e", "\\u003c/think\\u003e"), ("&#60;think&#62;", "&#60;/think&#62;"),
          ("<think\n id=1>", "<\\/think >"),
    ),
    "brackets": (("[THINK]", "[/THINK]"), ("[thought]", "[/thought]"), ("[REASONING]", "[/REASONING]")),
    "tokens": (("<|START_THINKING|>", "<|END_THINKING|>"), ("<|begin_of_thought|>", "<|end_of_thought|>"),
               ("<|inner_prefix|>", "<|inner_suffix|>"), ("<|think|>", "<|/think|>")),
    "half tokens": (("<|channel>thought\n", "<channel|>"),),
    "unused tokens": (("<unused94>thought\n", "<unused95>"),),
    "folded": (("<details>", "</details>"), ('<details type="reasoning" done="true">\n<summary>Thought</summary>', "</details>")),
    "comments": (("<!-- ", " -->"),),
    "console": (("Thinking...\n", "\n...done thinking.\n"),),
    "sentences": (("Here is my thought process:\n", "\nHere is my response:\n"),),
    "headings": (("## Thinking\n", "\n## Final Response\n"),),
    "channels": (
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("<|start|>assistant<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>"),
        ("analysis", "assistantfinal"),
    ),
}  # fmt: skip
"""Family of ``dialects.THINKING`` → how its members open and close; ``channels`` has a reader of its own."""

THOUGHTS = (
    "I first thought Response {w} is better.", "Answer: {w}", "**Verdict: {w}**", "{w}", "Final verdict: {w}", "[[{w}]]",
    "\\boxed{{{w}}}", "<answer>{w}</answer>", '{{"winner": "{w}"}}', "```json\n{{\"verdict\": {w}}}\n```", "`{w}`",
    "So the preferred response is {w}.", "But wait, the dose is wrong.", "Let me check again.", "Overall: Response {w}",
)  # fmt: skip
VERDICTS = (
    "{t}", "**{t}**", "Response {t}", "**Response {t}**", "Answer: {t}", "**Verdict:** {t}", "<answer>{t}</answer>",
    '<answer id="a">\n{t}\n</answer>', "\\boxed{{{t}}}", "$\\boxed{{\\text{{Response {t}}}}}$", "[[{t}]]",
    "Response {t} is better.",
    "I prefer Response {t}.", '{{"winner": "{t}"}}', "```json\n{{\"verdict\": {t}}}\n```", "The {o} response is the better one.",
    '{{"reasoning": "Answer: {w}", "verdict": "Response {t}"}}',
    'My verdict:\n```json\n{{"explanation": "{w}", "better": {t}}}\n```',
    "<verdict>{t}</verdict>", "[RESPONSE]{t}[/RESPONSE]", "{t}<|im_end|>", "Preferred Response={t}", "{t}<|return|>",
)  # fmt: skip
NAMES = ("ponder", "musings", "grübeln", "思考", "thіnk", "step", "tool_call", "draft_notes", "x-deliberate", "wonder")
UNKNOWN = tuple(
    pair for name in NAMES
    for pair in ((f"<{name}>", f"</{name}>"), (f"[{name}]", f"[/{name}]"),
                 (f"{{{name}}}", f"{{/{name}}}"), (f"<|{name}|>", f"<|end_{name}|>"))
)  # fmt: skip


def thoughts(draw: Random, wrong: str) -> str:
    """Words that name the wrong label, as thinking does."""
    return "\n".join(draw.choice(THOUGHTS).format(w=wrong) for _ in range(draw.randint(1, 4)))


def verdict(draw: Random, right: str, wrong: str) -> str:
    ordinal = "second" if right == "2" else "first"
    return draw.choice(VERDICTS).format(t=right, w=wrong, o=ordinal)


def marked(draw: Random, pair: tuple[str, str], right: str, wrong: str) -> str:
    """Closed thinking that misleads, then the verdict."""
    opens, closes = pair
    block, reply = thoughts(draw, wrong), verdict(draw, right, wrong)
    dress = draw.randrange(6)
    if dress == 0 and opens.isascii() and opens[0] in "<[" and "\\" not in opens and "|channel" not in opens:
        opens, closes = opens.upper(), closes.upper()
    if dress == 1:
        block = f"```\n{block}\n```"
    if dress == 2 and opens[0] in "<[" and "channel" not in opens and "!" not in opens:
        block = f"{block}{opens}{thoughts(draw, wrong)}{closes}{block}"
    if dress == 3:
        block = "".join(c + ("\u200b" if draw.random() < 0.02 else "") for c in block)
    glue = draw.choice(["\n", "\n\n", " \n"]) if opens[0] not in "<[" else draw.choice(["", "\n", "\n\n"])
    return f"{opens}{block}{closes}{glue}{reply}"


def reasons(draw: Random) -> tuple[Any, str]:
    """A finish reason in some spelling, and how the answer ended by it."""
    end = draw.choice([*FINISH, "aborted", "unknown"])
    if end == "unknown":
        return draw.choice([None, "", 7, [], {}, "".join(draw.choices("abcdefgh_", k=9))]), end
    word = draw.choice(sorted(ABORTED if end == "aborted" else FINISH[end]))
    spelled = draw.choice([word, word.upper(), word.replace("_", "-"), f"FinishReason.{word.upper()}", {"type": word}])
    return spelled, end


def usage(draw: Random) -> tuple[dict[str, Any], int, int]:
    """Usage in some form, with the true number of prompt and answer tokens, thinking included."""
    prompt, visible, thinking = draw.randint(50, 400), draw.randint(1, 5), draw.choice([0, draw.randint(1, 3000)])
    answer, cached = visible + thinking, draw.randint(0, 40)
    forms: list[dict[str, Any]] = [
        {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer},
        {"prompt_tokens": prompt, "completion_tokens": visible, "total_tokens": prompt + answer},
        {"prompt_tokens": prompt, "completion_tokens": answer, "completion_tokens_details": {"reasoning_tokens": thinking}},
        {"input_tokens": prompt - cached, "cache_read_input_tokens": cached, "output_tokens": answer},
        {"input_tokens": prompt - cached, "cache_creation_input_tokens": cached, "output_tokens": answer},
        {"completion_tokens": answer, "total_tokens": prompt + answer},
        {"prompt_tokens": prompt, "completion_tokens": answer, "prompt_tokens_details": {"cached_tokens": cached}},
        {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": None},
        {"prompt_tokens": float(prompt), "completion_tokens": float(answer)},
        {"prompt_tokens": str(prompt), "completion_tokens": str(answer)},
    ]  # fmt: skip
    return draw.choice(forms), prompt, answer


def tokens(draw: Random) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """A list of top tokens in one raw or plain form, and the true mass of "1" and of "2"."""
    weights = [draw.random() + 0.01 for _ in range(8)]
    total = math.fsum(weights) / draw.uniform(0.6, 0.99)
    texts = ["1", "2", " 1", " 2", "Response", "\n", "**", "é"]
    logprobs = [math.log(weight / total) for weight in weights]
    form = draw.choice(["plain", "bytes", "bpe", "pieces", "hex", "literal", "list"])
    entries = [{"token": _shown(text, form), "logprob": p} for text, p in zip(texts, logprobs, strict=True)]
    if form == "bytes":
        entries = [{**entry, "bytes": list(text.encode())} for entry, text in zip(entries, texts, strict=True)]
    entries += draw.choices(entries, k=draw.randint(0, 3))
    draw.shuffle(entries)
    mass = {label: math.exp(logprobs[n]) + math.exp(logprobs[n + 2]) for n, label in enumerate("12")}
    return entries, mass


def _shown(text: str, form: str) -> Any:
    if form == "bpe":
        return text.replace(" ", "\u0120").replace("\n", "\u010a").replace("é", "\u00c3\u00a9")
    if form == "pieces":
        return text.replace(" ", "\u2581")
    if form == "hex":
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in text.encode())
    if form == "literal":
        return repr(text.encode())
    return list(text.encode()) if form == "list" else text


def refusals(draw: Random, words: str) -> bytes:
    """What a server says in refusing a parameter, in some envelope."""
    text = draw.choice([words, words.capitalize(), f"Error: {words}", f"{words} (request id {draw.randint(1, 99)})"])
    return draw.choice(
        [text, json.dumps({"error": {"message": text, "code": 400}}), json.dumps({"detail": [{"msg": text}]})]
    ).encode()
