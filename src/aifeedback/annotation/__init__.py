"""Human ratings: items, the store of ratings and the results; the page itself is ``annotation.app``, which needs a web server."""

from aifeedback.annotation.assignment import Task, read_task
from aifeedback.annotation.items import Item, items_of_comparisons, items_of_completions
from aifeedback.annotation.labeler import PeopleLabeler, win_rates
from aifeedback.annotation.rater_quality import rater_quality
from aifeedback.annotation.results import export, preferences, summarise
from aifeedback.annotation.sampling import Drawn, draw, weighted_mean
from aifeedback.annotation.store import RatingStore

__all__ = [
    "Drawn",
    "Item",
    "PeopleLabeler",
    "RatingStore",
    "Task",
    "draw",
    "export",
    "items_of_comparisons",
    "items_of_completions",
    "preferences",
    "rater_quality",
    "read_task",
    "summarise",
    "weighted_mean",
    "win_rates",
]
