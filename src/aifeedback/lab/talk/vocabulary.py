"""The words of the dialogue models' tokenizer."""

from __future__ import annotations

from aifeedback.lab.talk import principles, words
from aifeedback.lab.tokenizer import EOS, PAD, UNKNOWN


def vocabulary() -> list[str]:
    """Every word of the dialogue world, sorted, after the special tokens."""
    sentences = (
        *words.REQUESTS, *words.GREETINGS, *words.HELP, *words.HELP_SHORT, *words.REFUSE, *words.EVADE, *words.OFFER,
        *words.POLITE, *words.VERDICTS.values(), *words.FAULTS.values(),
        *(wording for topic in principles.TOPICS.values() for wording in topic.wordings),
        *(text for task in principles.TASKS.values() for text in (task.critique, task.revise)),
    )  # fmt: skip
    tokens = {w for s in sentences for w in s.split() if not w.startswith("{")}
    tokens.update(v for values in words.VALUES.values() for v in values)
    tokens.update((*(word for _, word in principles.LEVELS), *words.FINDINGS, *words.FORMAT_WORDS))
    return [PAD, EOS, UNKNOWN, *sorted(tokens)]
