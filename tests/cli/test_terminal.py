"""What a table prints on a narrow terminal."""

from __future__ import annotations

import pytest

from aifeedback.cli import terminal


def test_a_narrow_terminal_cuts_no_name_and_no_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("aifeedback.cli.terminal.console.width", 30)
    terminal.table("forecast", ("stage", "calls"), [("reward_people-0", "1,234,567,890"), ("reward_people-1", "7")])
    lines = capsys.readouterr().out.splitlines()
    assert not any("…" in line for line in lines)
    joined = "".join(line.split()[0] for line in lines if line.split() and line.split()[0] not in ("forecast", "stage"))
    assert "reward_people-0" in joined
    assert "reward_people-1" in joined
