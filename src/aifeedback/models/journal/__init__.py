"""The journal of every model call and rating, and its exports."""

from aifeedback.models.journal.integrity import Entry, Row, call_id, canonical, content_key, prompt_hash, setting_digest
from aifeedback.models.journal.journal import Head, Journal, Spent, Totals, salvage

__all__ = [
    "Entry",
    "Head",
    "Journal",
    "Row",
    "Spent",
    "Totals",
    "call_id",
    "canonical",
    "content_key",
    "prompt_hash",
    "salvage",
    "setting_digest",
]
