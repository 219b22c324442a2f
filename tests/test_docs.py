"""The pages are true: the tutorial runs as written, links resolve, and quoted messages are the product's."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
TOP = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]


def anchors(page: Path) -> set[str]:
    """Heading anchors as the site makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *TOP], ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]*(?:#[^)\s]*)?)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_every_page_is_in_the_navigation() -> None:
    class Loader(yaml.SafeLoader):
        pass

    nav = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"]
    listed = {page for entry in nav for value in entry.values() for page in _pages(value)}
    assert listed == {page.name for page in PAGES}


def _pages(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [page for entry in value for item in entry.values() for page in _pages(item)]  # type: ignore[attr-defined]


def test_quoted_messages_are_those_of_the_product() -> None:
    """First cells of the tables of messages: each code span is part of a string in the source, in any wrapping."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| message \|.*?(?=\n\n|\Z)", page, re.M | re.S)
    rows = [row for table in tables for row in re.findall(r"^\| (.+?) \|", table, re.M)[2:]]
    fragments = {span for row in rows for span in re.findall(r"`([^`]+)`", row)} - {
        "command not found: aifeedback",  # the shell's
        "OPENAI_API_KEY",
        "aifeedback audit verify RUN",
    }
    source = " ".join(
        path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")) if path.is_file()
    )
    joined = re.sub(r'"\s*\n\s*f?"', "", source)
    assert len(fragments) > 20
    assert [fragment for fragment in sorted(fragments) if fragment not in joined] == []


@pytest.mark.slow
def test_the_tutorial_runs_as_written(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    (tmp_path / "make_data.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    commands = [block for block in re.findall(r"```bash\n(.*?)```", page, re.S) if "pip install" not in block]
    assert len(commands) >= 12
    own = shlex.quote(sys.executable)
    names = f'aifeedback() {{ {own} -m aifeedback "$@"; }}; python() {{ {own} "$@"; }}; set -e\n'
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for command in commands:
        ran = subprocess.run(
            ["bash", "-c", names + command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
    for report in ("audit", "comparison", "run"):
        assert (tmp_path / report / "report.html").is_file()
