"""Starts the rating page on this machine and tells each rater's link; ends with how well the raters agreed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aifeedback.errors import InputError, MissingExtra
from aifeedback.rating.app import LOOPBACK, Desk, create_app
from aifeedback.rating.book import RatingBook
from aifeedback.rating.items import Item
from aifeedback.rating.results import summarise


def serve(
    items: Sequence[Item],
    raters: Sequence[str],
    book: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    names: Sequence[str] = (),
    question: str = "Which response is better?",
    blur: bool = False,
    per_item: int | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Serves until interrupted; returns the summary of all ratings in the book.

    On another ``host`` than loopback the page is open to the network: put TLS in front of it, and give the host
    ``names`` that browsers will use. Every start makes new links; earlier ones stop working. Raises InputError where
    there is nobody to rate or nothing to be rated.
    """
    try:
        import uvicorn
    except ImportError:
        raise MissingExtra("uvicorn", "web") from None
    if not items or not raters:
        what = "there is nothing to rate" if not items else "no rater is named"
        raise InputError(what, key="items" if not items else "raters", fix="give at least one")
    own = [] if host in ("0.0.0.0", "::") else [host]
    known: list[str] = [*LOOPBACK, *names, *own]
    hosts = tuple(dict.fromkeys(known))
    ledger = RatingBook(book)
    try:
        tokens = ledger.invite(raters)
        desk = Desk(ledger, items, raters, question=question, blur=blur, per_item=per_item, seed=seed, hosts=hosts)
        shown = names[0] if names else host
        for rater, token in tokens.items():
            tell(f"{rater}: http://{f'[{shown}]' if ':' in shown else shown}:{port}/r/{token}")
        # the access log would hold the secret links
        uvicorn.run(create_app(desk), host=host, port=port, log_level="warning", access_log=False, server_header=False)
        return summarise(items, ledger.ratings())
    finally:
        ledger.close()
