from pathlib import Path

import pytest
from typer.testing import CliRunner

from simulations import cli
from simulations.theory.cli import EXPERIMENTS

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_every_experiment_ends_in_a_figure_and_tables(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["theory", "all", "--quick", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    for name in EXPERIMENTS:
        assert (tmp_path / f"theory-{name}.png").stat().st_size > 10_000
        text = (tmp_path / f"theory-{name}.md").read_text()
        assert text.count("| --- |") >= 1
        assert "nan" not in text
        assert "certified" not in text
        assert text in result.stdout


def test_the_page_shows_every_experiment_and_promises_nothing() -> None:
    page = (ROOT / "docs" / "theory.md").read_text()
    for name in EXPERIMENTS:
        assert f"scorequilt theory {name}" in page
        assert f"(pictures/theory-{name}.png)" in page
        assert (ROOT / "docs" / "pictures" / f"theory-{name}.png").is_file()
    assert "certified" not in page
    for reviewer in ("wu8x", "qExk", "LfB7", "area chair"):
        assert reviewer in page
