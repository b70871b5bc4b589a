"""Tables on the terminal: names are whole at any width, and pipes get everything."""

from __future__ import annotations

import pytest

from convmixer.cli.output import print_table

HEADERS = ("model", "kernel", "classes", "parameters")
ROWS = [("convmixer_1024_20_ks9_p14", "9", "1000", "24,383,464"), ("猫" * 10, "5", "10", "594,186")]


def test_a_pipe_gets_every_column_in_one_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_table(HEADERS, ROWS, title="models", optional=("classes",))
    lines = capsys.readouterr().out.splitlines()
    for row in ROWS:
        assert any(all(cell in line for cell in row) for line in lines)


@pytest.mark.parametrize("width", [200, 60, 50, 30])
def test_a_narrow_terminal_leaves_out_what_it_may(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    print_table(HEADERS, ROWS, optional=("classes", "kernel"))
    out = capsys.readouterr().out
    assert all(row[0] in out for row in ROWS)
    assert ("1000" in out) == (width > 60)
    assert ("A wider terminal" in out) == (width <= 60)


def test_texts_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a",), [("[bold]x[/bold]",)])
    assert "[bold]x[/bold]" in capsys.readouterr().out
