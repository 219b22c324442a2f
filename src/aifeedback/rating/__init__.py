"""The page where people rate: items, the store of ratings, the web page, and what the ratings say."""

from aifeedback.rating.book import RatingBook
from aifeedback.rating.draw import Drawn, draw, weighted_mean
from aifeedback.rating.export import export
from aifeedback.rating.items import Item, items_of_comparisons, items_of_completions
from aifeedback.rating.people import PeopleLabeler, win_rates
from aifeedback.rating.quality import rater_quality
from aifeedback.rating.results import preferences, summarise
from aifeedback.rating.serve import serve
from aifeedback.rating.task import Task, read_task

__all__ = [
    "Drawn",
    "Item",
    "PeopleLabeler",
    "RatingBook",
    "Task",
    "draw",
    "export",
    "items_of_comparisons",
    "items_of_completions",
    "preferences",
    "rater_quality",
    "read_task",
    "serve",
    "summarise",
    "weighted_mean",
    "win_rates",
]
