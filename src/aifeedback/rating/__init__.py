"""The page where people rate: items, a book of ratings, the web page, and what the ratings say."""

from aifeedback.rating.book import RatingBook
from aifeedback.rating.export import export
from aifeedback.rating.items import Item, items_of_comparisons, items_of_completions
from aifeedback.rating.results import preferences, summarise
from aifeedback.rating.serve import serve
from aifeedback.rating.task import Task, read_task

__all__ = [
    "Item",
    "RatingBook",
    "Task",
    "export",
    "items_of_comparisons",
    "items_of_completions",
    "preferences",
    "read_task",
    "serve",
    "summarise",
]
