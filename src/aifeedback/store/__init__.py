"""What a run keeps: the journal of every model call and rating, and its exports."""

from aifeedback.store.chain import Entry, Row, call_id, canonical, content_key, prompt_hash, setting_digest
from aifeedback.store.journal import Head, Journal, Spent, Totals
from aifeedback.store.salvage import salvage

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
