"""Pictures of runs show the numbers of the right columns under the right names."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image
from typer.testing import CliRunner

from common.config.sections import PrivacyConfig
from common.errors import UserError
from server.record.pictures import save_grid
from simulations import cli
from simulations.archive.record import RunRecord, read_run
from simulations.pictures import runs as module
from simulations.pictures.runs import convergence, coverage, draw_comparison, draw_run, strip
from tests.simulations.results.test_products import make_run

MIB = 2**20
# A number of its own in every cell; only even rounds are scored.
ROWS: list[dict[str, Any]] = [
    {
        "round": round,
        "frechet": 100.0 - round if round % 2 == 0 else None,
        "frechet_ema": 50.0 - round if round % 2 == 0 else None,
        "held_out_loss": 0.5 - 0.01 * round if round % 2 == 0 else None,
        "loss": 0.9 - 0.1 * round if round else None,
        "bytes_up": 3 * MIB * round,
        "bytes_down": 5 * MIB * round,
        "updates_min": round,
        "updates_median": 2 * round,
        "updates_max": 3 * round,
        "never_covered_fraction": 0.5 / (1 + round),
        "uncovered_fraction": 0.6 / (1 + round),
        "mask_change": None if round == 1 else 0.1 * round,
        "staleness_mean": 0.25 * round,
        "staleness_max": 1.0 * round,
    }
    for round in range(4)
]
TRAFFIC = [0.0, 24.0]  # 0, then 8 + 16
SCORES = {"best_rate": "1", "frechet_noise": 300.0, "frechet_held_out": 2.0}


def _finished(
    folder: Path, summary: dict[str, Any] | None, shift: float = 0.0, **keys: Any
) -> RunRecord:
    """Write a run with the rows above, its distances shifted, and pictures of grey images."""
    run = make_run(folder, summary, **keys)
    shifted = [
        row
        | {
            key: row[key] + shift
            for key in ("frechet", "frechet_ema", "held_out_loss")
            if row[key] is not None
        }
        for row in ROWS
    ]
    (run / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shifted))
    for round in range(4):
        images = torch.linspace(-1, 1, 64).roll(round).view(64, 1, 1, 1).expand(64, 1, 8, 8)
        save_grid(images, run / "samples" / f"round-{round:04d}.png")
    return read_run(run)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return _finished(tmp_path_factory.mktemp("runs") / "first", SCORES)


def _lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """Return the curves of a plot by the labels that its legend shows."""
    legend = axes.get_legend()
    assert legend is not None
    shown = [text.get_text() for text in legend.get_texts()]
    lines = {str(line.get_label()): line for line in axes.get_lines()}
    assert [label for label in lines if not label.startswith("_")] == shown
    return {
        label: (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for label, line in lines.items()
    }


def _panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(): axes for axes in figure.axes}


def test_convergence_shows_each_column_under_its_name(run: RunRecord) -> None:
    panels = _panels(convergence([run]))
    quality = _lines(panels["sample quality"])
    assert quality["rate 1"] == ([0, 2], [50.0, 48.0])
    assert quality["last weights, rate 1"] == ([0, 2], [100.0, 98.0])
    traffic = _lines(panels["sample quality by traffic"])
    assert traffic["rate 1"] == (TRAFFIC, [50.0, 48.0])
    loss = _lines(panels["loss"])
    assert loss["held-out images"] == ([0, 2], [0.5, 0.48])
    assert loss["clients' training"] == ([1, 2, 3], [row["loss"] for row in ROWS[1:]])
    for curves in (quality, traffic):
        assert curves["pure noise"][1] == [300.0, 300.0]
        assert curves["held-out images"][1] == [2.0, 2.0]
    assert panels["sample quality"].get_xlabel() == panels["loss"].get_xlabel() == "round"
    assert "MiB" in panels["sample quality by traffic"].get_xlabel()
    assert {axes.get_yscale() for axes in panels.values()} == {"log"}


def test_a_comparison_has_a_curve_and_a_colour_for_every_run(
    run: RunRecord, tmp_path: Path
) -> None:
    other = _finished(tmp_path / "second", None, shift=7.0, policy="balanced")
    figure = convergence([run, other])
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    names = ["policy static: rate 1", "policy balanced: rate 1"]
    assert shown == [*names, "pure noise", "held-out images"]
    panels = _panels(figure)
    for title, x in (("sample quality", [0, 2]), ("sample quality by traffic", TRAFFIC)):
        lines = {str(line.get_label()): line for line in panels[title].get_lines()}
        for name, y in zip(names, ([50.0, 48.0], [57.0, 55.0]), strict=True):
            assert np.asarray(lines[name].get_xdata()).tolist() == x
            assert np.asarray(lines[name].get_ydata()).tolist() == y
        assert lines[names[0]].get_color() != lines[names[1]].get_color()
        assert lines[names[0]].get_marker() != lines[names[1]].get_marker()


def test_a_private_run_is_drawn_against_its_epsilon(run: RunRecord, tmp_path: Path) -> None:
    private = make_run(
        tmp_path / "private",
        SCORES,
        weighting="uniform",
        privacy=PrivacyConfig(noise_multiplier=1.0, delta=1e-4),
    )
    silent = {"loss": None, "bytes_up": None, "bytes_down": None}
    rows = [row | silent | {"epsilon": 1.5 * row["round"]} for row in ROWS]
    (private / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    alone = _panels(convergence([read_run(private)]))
    assert "sample quality by traffic" not in alone
    curve = _lines(alone["sample quality by privacy"])["rate 1"]
    assert curve == ([0, 3.0], [50.0, 48.0])
    assert alone["sample quality by privacy"].get_xlabel() == "ε at δ = 0.0001"
    both = _panels(convergence([run, read_run(private)]))
    for title, label in (("traffic", "MiB"), ("privacy", "ε")):
        axes = both[f"sample quality by {title}"]
        assert label in axes.get_xlabel()
        assert np.asarray(axes.get_lines()[0].get_ydata())[0] == 50.0


def test_a_run_without_a_summary_has_no_reference_lines(tmp_path: Path) -> None:
    panels = _panels(convergence([_finished(tmp_path / "begun", None)]))
    assert set(_lines(panels["sample quality"])) == {"rate 1", "last weights, rate 1"}


def test_coverage_is_drawn_from_the_last_checkpoint_and_from_the_history(
    run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def figure(*arguments: Any) -> Figure:
        given.append(arguments)
        return Figure()

    monkeypatch.setattr(module, "coverage_figure", figure)
    coverage(run)
    ((layout, counts, rounds, rows, title),) = given
    state = run.state()
    assert layout.digest == run.setting.layout.digest
    assert counts.tobytes() == state.counts.tobytes()
    assert (rounds, rows) == (3, run.rows[1:])
    assert title == "first: policy static, fleet 1x2 1/2x3 1/4x3, 3 rounds"


def test_the_strip_has_a_row_of_the_first_eight_images_for_every_round(run: RunRecord) -> None:
    figure = strip(run)
    assert [axes.get_ylabel() for axes in figure.axes] == ["0", "1", "2", "3"]
    levels = np.linspace(-1, 1, 64)
    for round, axes in enumerate(figure.axes):
        (shown,) = (each for each in axes.get_children() if isinstance(each, AxesImage))
        pixels = np.asarray(shown.get_array())
        assert pixels.shape == (64, 8 * 64 + 7 * 8, 3)
        middles = pixels[32, 32 :: 64 + 8, 0]  # the middle of each of eight images
        expected = (np.roll(levels, round)[:8] + 1) * 127.5
        np.testing.assert_allclose(middles, expected, atol=0.51)


def test_a_long_run_s_strip_is_spread_from_the_first_round_to_the_last(tmp_path: Path) -> None:
    run = _finished(tmp_path / "long", None)
    for round in range(30):
        save_grid(torch.zeros(64, 1, 8, 8), run.path / "samples" / f"round-{round:04d}.png")
    shown = [int(axes.get_ylabel()) for axes in strip(run).axes]
    assert (len(shown), shown[0], shown[-1]) == (module.STRIP_ROUNDS, 0, 29)
    assert max(np.diff(shown)) - min(np.diff(shown)) <= 1


def test_the_command_draws_every_picture_and_a_comparison(run: RunRecord, tmp_path: Path) -> None:
    other = _finished(tmp_path / "second", None)
    out = tmp_path / "both.png"
    done = CliRunner().invoke(cli.app, ["plot", str(run.path), str(other.path), "--out", str(out)])
    assert done.exit_code == 0, done.output
    names = ("convergence", "coverage", "strip")
    each = [str(r.path / "plots" / f"{name}.png") for r in (run, other) for name in names]
    assert done.stdout.splitlines() == [*each, str(out)]
    for path in done.stdout.splitlines():
        with Image.open(path) as picture:
            assert picture.width > 500


def test_what_has_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for draw in (draw_run, lambda path: draw_comparison([path], tmp_path / "x.png")):
        with pytest.raises(UserError, match="no complete round yet"):
            draw(run)
    finished = _finished(tmp_path / "finished", None)
    for path in (finished.path / "samples").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no samples yet"):
        strip(finished)
