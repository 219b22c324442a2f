"""Debian's package descriptions with the one-line summaries that their maintainers wrote, as files for the recipe.

    python summaries.py OUT

Needs ``apt`` (Debian, Ubuntu). The lists are fetched from the sources that this machine is configured with into a
folder of their own; nothing is installed and no setting of the system changes.

    train.jsonl, test.jsonl              descriptions to summarise; ``reference`` is the maintainer's summary
    people-train.jsonl, people-heldout.jsonl   the maintainer's summary (chosen) and that of another package (rejected)

The rejected summary is, of 300 drawn ones, the one that shares most words with the description. No description is in
two files of different purpose: the pairs of people-train are of descriptions in train, those of people-heldout of all in test.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from aifeedback.data import write_records, write_rows
from aifeedback.types import Prompt

REQUEST = "Summarize this software package description in one line:\n\n"
WORDS, SUMMARY_WORDS = range(40, 91), range(4, 15)
UNUSUAL = re.compile(
    r"transitional|dummy|debug(ging)? symbols|development (files|headers)|documentation|meta-?package", re.I
)
DRAWN = 300


class Package(NamedTuple):
    name: str
    text: str
    summary: str

    @property
    def prompt(self) -> Prompt:
        return Prompt.of(REQUEST + self.text, reference=self.summary)


def lists(folder: Path) -> str:
    """All English descriptions that this machine's package sources offer, as one text."""
    if shutil.which("apt-get") is None:
        sys.exit("apt-get is not installed: the descriptions come from the package lists of Debian or Ubuntu")
    found = sorted(folder.glob("*_main_i18n_Translation-en*"))
    if not found:
        (folder / "partial").mkdir(parents=True, exist_ok=True)
        places = ["-o", f"Dir::State::Lists={folder}", "-o", f"Dir::Cache={folder.parent}"]
        subprocess.run(["apt-get", "update", "-qq", "-o", "Acquire::Languages=en", *places], check=True)
        found = sorted(folder.glob("*_main_i18n_Translation-en*"))
    if not found:
        sys.exit(f"no English descriptions in {folder}: do this machine's package sources have a section called main?")
    reader = "/usr/lib/apt/apt-helper"
    return "".join(
        subprocess.run([reader, "cat-file", str(file)], check=True, capture_output=True).stdout.decode(
            "utf-8", "replace"
        )
        for file in found
    )


def packages(text: str) -> Iterator[Package]:
    """Packages with a description and a summary of usual length, every description once."""
    seen: set[str] = set()
    for entry in text.split("\n\n"):
        name = re.search(r"^Package: (\S+)$", entry, re.MULTILINE)
        found = re.search(r"^Description-en: (.+)\n((?: .*(?:\n|$))+)", entry, re.MULTILINE)
        if not name or not found:
            continue
        paragraphs = re.split(r"^ \.$", found[2], flags=re.MULTILINE)
        body = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())
        summary = " ".join(found[1].split())
        usual = len(body.split()) in WORDS and len(summary.split()) in SUMMARY_WORDS and not UNUSUAL.search(summary)
        if usual and body not in seen:
            seen.add(body)
            yield Package(name[1], body, summary)


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]{3,}", text.lower()))


def other_summary(package: Package, pool: list[Package], draw: random.Random) -> str:
    """The summary of another package that shares most words with this description, long summaries held against it."""
    own = words(package.text)
    others = [one for one in draw.sample(pool, DRAWN) if one.summary != package.summary]
    return max(others, key=lambda one: len(words(one.summary) & own) / (1 + len(words(one.summary)) ** 0.5)).summary


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("out", type=Path)
    options.add_argument("--train", type=int, default=400)
    options.add_argument("--test", type=int, default=250)
    options.add_argument("--pairs", type=int, default=120, help="pairs to train on, of the first training descriptions")
    options.add_argument("--seed", type=int, default=0)
    settings = options.parse_args()
    text = lists(settings.out / "apt" / "lists")
    pool = sorted(packages(text))
    draw = random.Random(settings.seed)
    draw.shuffle(pool)
    parts = {"train": pool[: settings.train], "test": pool[settings.train :][: settings.test]}
    rest = pool[settings.train + settings.test :]
    if len(rest) < DRAWN:
        sys.exit(f"only {len(pool)} usable descriptions; ask for fewer with --train and --test")
    for name, part in parts.items():
        write_records(settings.out / f"{name}.jsonl", [package.prompt for package in part])
        pairs, kept = ("people-train", part[: settings.pairs]) if name == "train" else ("people-heldout", part)
        write_rows(
            settings.out / f"{pairs}.jsonl",
            [
                {"prompt": one.prompt.text, "chosen": one.summary, "rejected": other_summary(one, rest, draw)}
                for one in kept
            ],
        )
    print(
        f"{len(pool):,} usable descriptions; {len(parts['train'])} to train on, {len(parts['test'])} held out: {settings.out}"
    )


if __name__ == "__main__":
    main()
