"""Start the rating page on this machine and print each rater's link."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from aifeedback.errors import InputError, MissingExtra
from aifeedback.rating.book import RatingBook
from aifeedback.rating.desk import LOOPBACK, Desk
from aifeedback.rating.guidelines import Guidelines
from aifeedback.rating.items import Item, Route
from aifeedback.rating.results import summarise
from aifeedback.storage import make_folder


def serve(
    items: Sequence[Item],
    raters: Sequence[str],
    book: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    names: Sequence[str] = (),
    links: str | Path | None = None,
    question: str = "Which response is better?",
    guidelines: Guidelines | None = None,
    most_harmful: int | None = None,
    volunteers: Sequence[str] | None = None,
    roles: Mapping[str, frozenset[str]] | None = None,
    routes: Sequence[Route] = (),
    per_item: int | None = None,
    calibration: Sequence[Item] = (),
    gold: Sequence[Item] = (),
    repeat_share: float = 0.0,
    seed: int = 0,
    tell: Callable[[str], None] = print,
    saved: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Serve until interrupted; return the summary of all ratings in the store.

    ``links`` is a file for the secret links, readable by its owner only: a later start keeps those in it. Without it
    every start makes new links and earlier ones stop working. On another ``host`` than loopback the page is open to the
    network: put TLS in front of it, and name the hosts that browsers will use (``names``). ``port`` 0 takes a free one.
    Raises InputError where nobody is to rate, nothing is to be rated, or the port is taken.
    """
    try:
        import uvicorn
    except ModuleNotFoundError:
        raise MissingExtra("uvicorn", "web") from None
    from aifeedback.rating.app import create_app

    if not items or not raters:
        what = "there is nothing to rate" if not items else "no rater is named"
        raise InputError(what, key="items" if not items else "raters", fix="give at least one")
    own = [] if host in ("0.0.0.0", "::") else [host]
    known: list[str] = [*LOOPBACK, *names, *own]
    store = RatingBook(book)
    try:
        desk = Desk(
            store,
            items,
            raters,
            question=question,
            guidelines=guidelines,
            most_harmful=most_harmful,
            volunteers=volunteers,
            roles=roles or {},
            routes=routes,
            per_item=per_item,
            calibration=calibration,
            gold=gold,
            repeat_share=repeat_share,
            seed=seed,
            hosts=tuple(dict.fromkeys(known)),
            saved=saved,
        )
        if short := desk.short():
            tell(f"! {short} items have fewer raters who may rate them than the {per_item} wanted")
        with listening(host, port) as listener:
            tokens = store.invite(raters, keep=_kept(links))
            if links is not None:
                _keep(links, tokens)
            shown, open_port = (names[0] if names else host), listener.getsockname()[1]
            for rater, token in tokens.items():
                tell(f"{rater}: http://{f'[{shown}]' if ':' in shown else shown}:{open_port}/r/{token}")
            saved(*desk.progress())
            # the access log would hold the secret links
            config = uvicorn.Config(create_app(desk), log_level="warning", access_log=False, server_header=False)
            with suppress(KeyboardInterrupt):  # how a person ends it
                uvicorn.Server(config).run(sockets=[listener])
        return summarise(items, store.ratings())
    finally:
        store.close()


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises InputError where the address cannot be opened."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as cause:
        raise InputError(
            f"{host}:{port} cannot be opened: {cause.strerror}", key="port", fix="give another --port"
        ) from None


def _kept(links: str | Path | None) -> dict[str, str]:
    path = Path(links) if links is not None else None
    if path is None or not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return {str(name): str(token) for name, token in content.items()} if isinstance(content, dict) else {}


def _keep(links: str | Path, tokens: dict[str, str]) -> None:
    path = Path(links)
    make_folder(path.parent)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        json.dump(tokens, file, indent=1)
    partial.replace(path)
