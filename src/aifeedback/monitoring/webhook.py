"""POST an alarm as JSON to the address that the settings name."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from aifeedback.errors import RecipeError

WAIT_S, ATTEMPTS = 10.0, 3


def address(url: str) -> str:
    """The URL with $NAME read from the environment. Raises RecipeError for an unset name or another scheme than HTTP."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise RecipeError(f"${name} is not set", key="--webhook", fix=f"export {name}=…")
        return os.environ[name]

    full = re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, url)
    if urlsplit(full).scheme not in ("http", "https") or not urlsplit(full).hostname:
        raise RecipeError(f"'{url}' is not an address", key="--webhook", fix="https://HOST/PATH")
    return full


class _Direct(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        """Follow no redirect: it could lead anywhere."""


def post(url: str, message: Mapping[str, Any]) -> str:
    """POST ``message``; '' where the server took it, else why it did not. Never raises: the alarm is in the log."""
    body = json.dumps(message, ensure_ascii=False).encode()
    request = urllib.request.Request(
        address(url), data=body, headers={"Content-Type": "application/json", "User-Agent": "aifeedback"}
    )
    why = ""
    for _ in range(ATTEMPTS):
        try:
            with urllib.request.build_opener(_Direct).open(request, timeout=WAIT_S):
                return ""
        except OSError as failed:  # URLError, HTTPError and timeouts are
            why = str(failed)
    return why
