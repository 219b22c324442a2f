"""Simulated people at the rating page: they open their link, read the texts on it, and post its form, as a browser does.

A rater sees the lab's quality of a text through noise: gold score / temperature + Gumbel noise, so that of any two
texts they prefer the first with probability σ(gold difference / temperature), as ``SimulatedPeople`` do. They know
nothing of a page but its HTML.
"""

from __future__ import annotations

import http.cookiejar
import math
import re
import urllib.parse
import urllib.request
from collections.abc import Callable
from html import unescape
from typing import NamedTuple

from aifeedback.errors import FileError
from aifeedback.lab import gold, world
from aifeedback.types import Prompt

CHARACTERS_PER_SECOND = 20.0
TEXT = re.compile(r'<div class="plain" dir="auto">(.*?)</div>', re.S)
FIELD = re.compile(r'name="(item|shown_at|signature|order)" value="([^"]*)"')


class PageRater(NamedTuple):
    name: str
    seed: int = 0
    temperature: float = 0.5
    """0.5 is a careful rater; at 2.5 a rater agrees with gold on about 75 % of pairs."""

    def rate_all(self, link: str, wait: Callable[[float], None] = lambda seconds: None) -> int:
        """Open the secret link, rate until nothing is left, return how many items; ``wait`` gets the reading time of each.

        Raises FileError where a page holds no post of the lab, or a form is refused.
        """
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        with browser.open(link, timeout=30) as answer:
            home, page = answer.geturl(), answer.read().decode()
        done = 0
        while form := dict(FIELD.findall(page)):
            texts = [unescape(text) for text in TEXT.findall(page)]
            wait(sum(map(len, texts)) / CHARACTERS_PER_SECOND)
            data = urllib.parse.urlencode({**form, **self._entry(texts, link)}).encode()
            with browser.open(urllib.parse.urljoin(home, "rate"), data, timeout=30) as answer:
                page = answer.read().decode()
            done += 1
        return done

    def _entry(self, texts: list[str], link: str) -> dict[str, str]:
        """The fields that this rater fills in: a choice of two, or a rank for each."""
        prompt = Prompt.of(texts[0])
        if not gold.GoldLabeler().knows(prompt):
            raise FileError(
                f"{texts[0][:60]!r} is not a post of the lab", file=link, fix="rate responses to the lab's posts"
            )
        facts = gold.facts_of(prompt)
        seen = [gold.score(facts, text) / self.temperature + self._noise(prompt, text) for text in texts[1:]]
        if len(seen) == 2:
            return {"choice": str(int(seen[1] > seen[0]))}
        order = sorted(range(len(seen)), key=lambda place: -seen[place])
        return {f"rank-{place}": str(order.index(place) + 1) for place in range(len(seen))}

    def _noise(self, prompt: Prompt, text: str) -> float:
        draw = world.stream(self.seed, "page rater", self.name, prompt.id, text).random()
        return -math.log(-math.log(min(1 - 1e-12, max(1e-12, draw))))
