"""Curves over seeds, widths and costs: of the right runs, and saying what does not compare."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from typer.testing import CliRunner

from common.config.sections import EvaluationConfig, ModelConfig
from simulations import cli
from simulations.archive.courses import course
from simulations.archive.record import RunRecord, read_run
from simulations.archive.work import step_flops
from simulations.pictures.curves import distance_figure, front, loss_figure, pareto_figure
from simulations.pictures.groups import grouped, incomparable
from tests.simulations.results.test_products import MODEL, make_run

MIB = 2**20
HALF, FULL = "1/2", "1"


def _run(folder: Path, half: float, full: float = 40.0, by_width: bool = True, **keys: Any) -> Any:
    """Write a run whose half width ends at a distance, its full width at another."""
    summary = {"widths": {HALF: {"frechet_ema": half}, FULL: {"frechet_ema": full}}}
    run = make_run(folder, summary, **keys)
    rows = []
    for round in range(3):
        left = 2 - round
        widths = {HALF: half + 10 * left, FULL: full + 10 * left}
        did = {"rate": HALF, "loss": 1.0}
        rows.append(
            {
                "round": round,
                "frechet": 500.0,
                "frechet_ema": full + 10 * left,
                **({"frechet_by_width": widths} if by_width else {}),
                "held_out_loss": 0.5,
                "loss": 0.6 if round else None,
                "by_client": {"0": did, "1": {**did, "rate": FULL}, "2": {"rate": FULL}}
                if round
                else {},
                "bytes_up": MIB if round else None,
                "bytes_down": 2 * MIB if round else None,
                "seconds_train": 1.5 if round else None,
                "seconds_aggregate": 0.5 if round else None,
            }
        )
    (run / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_run(run)


@pytest.fixture
def runs(tmp_path: Path) -> list[RunRecord]:
    return [
        _run(tmp_path / "a_seed-0", 10.0, seed=0),
        _run(tmp_path / "a_seed-1", 20.0, seed=1),
        _run(tmp_path / "b_seed-0", 60.0, seed=0, policy="balanced"),
    ]


def _curves(figure: Figure) -> dict[str, Any]:
    return {str(line.get_label()): line for line in figure.axes[0].get_lines()}


def _data(line: Any, axis: str) -> list[float]:
    values: list[float] = np.asarray(line.get_xdata() if axis == "x" else line.get_ydata()).tolist()
    return values


def test_a_run_s_course_in_every_unit(runs: list[RunRecord]) -> None:
    run = runs[0]
    images = 2 * run.config.local_steps * run.config.batch_size  # one of three failed
    assert course(run, "rounds") == {0: 0, 1: 1, 2: 2}
    assert course(run, "bytes") == {0: 0, 1: 3, 2: 6}
    assert course(run, "seconds") == {0: 0, 1: 2, 2: 4}
    assert course(run, "images") == {0: 0, 1: images, 2: 2 * images}
    each = [step_flops(run.config, (1, 8, 8), rate) for rate in run.config.widths(4)[1:]]
    assert course(run, "flops")[2] == pytest.approx(2 * 60 * sum(each) / 1e12)


def test_operations_of_a_step_count_the_widths_that_it_trains(runs: list[RunRecord]) -> None:
    config = runs[0].config
    own = config.model_copy(update={"local_widths": "own"})
    quarter, half, full = (step_flops(own, (1, 8, 8), rate) for rate in config.widths(4))
    assert quarter < half < full
    everybody = step_flops(config, (1, 8, 8), config.widths(4)[-1])
    assert everybody == pytest.approx(full + half + quarter)
    masked = own.model_copy(update={"policy": "element-magnitude"})
    assert step_flops(masked, (1, 8, 8), config.widths(4)[0]) == full


def test_seeds_are_one_curve_in_a_band_and_the_best_width_is_the_thick_one(
    runs: list[RunRecord],
) -> None:
    figure = distance_figure(runs, "bytes")
    curves = _curves(figure)
    seeds = curves["policy static (2 seeds): rate 1/2"]
    assert _data(seeds, "x") == [0, 3, 6]
    assert _data(seeds, "y") == [35, 25, 15]
    alone = curves["policy balanced: rate 1"]  # whose half width is worse
    assert _data(alone, "y") == [60, 50, 40]
    (band,) = figure.axes[0].collections
    ends = {tuple(point) for point in np.asarray(band.get_paths()[0].vertices).tolist()}
    assert {(0.0, 30.0), (0.0, 40.0), (6.0, 10.0), (6.0, 20.0)} <= ends
    thin = [line for line in figure.axes[0].get_lines() if line.get_linewidth() < 1]
    assert {tuple(_data(line, "y")) for line in thin} >= {(60, 50, 40), (80, 70, 60)}
    assert max(line.get_linewidth() for line in thin) < seeds.get_linewidth()


def test_an_earlier_history_s_best_width_is_a_star_at_the_end(tmp_path: Path) -> None:
    curves = _curves(distance_figure([_run(tmp_path / "old", 10.0, by_width=False)]))
    assert _data(curves["rate 1"], "y") == [60, 50, 40]
    star = curves["rate 1/2, the best"]
    assert (star.get_marker(), _data(star, "x"), _data(star, "y")) == ("*", [2], [10])


def test_labels_say_what_differs_or_else_the_names(runs: list[RunRecord], tmp_path: Path) -> None:
    assert [group.label for group in grouped(runs)] == ["policy static", "policy balanced"]
    assert [group.label for group in grouped(runs[:2])] == ["a"]
    assert [group.label for group in grouped(runs[:1])] == ["a_seed-0"]
    keys: dict[str, Any] = {"policy": "balanced", "fleet": "1x2", "local_steps": 3}
    far = _run(tmp_path / "far", 10.0, **keys)
    assert [group.label for group in grouped([runs[0], far])] == ["a_seed-0", "far"]
    named = grouped(runs, {"a_seed-0": "mine", "b_seed-0": "theirs"})
    assert [group.label for group in named] == ["mine", "theirs"]


def test_runs_whose_distances_do_not_compare_say_so(runs: list[RunRecord], tmp_path: Path) -> None:
    assert incomparable(runs) == ""
    more = _run(tmp_path / "more", 10.0, evaluation=EvaluationConfig(samples=1024))
    why = "distances cannot be compared: other sample counts (1024, 512)"
    assert incomparable([runs[0], more]) == why
    for figure in (distance_figure([runs[0], more]), pareto_figure([runs[0], more])):
        assert " ".join(figure.axes[0].get_title().split()).endswith(why)
    assert why not in loss_figure([runs[0], more]).axes[0].get_title()
    other = _run(tmp_path / "other", 10.0, data="patches16")
    assert "other data (digits, patches16)" in incomparable([runs[0], other])
    (other.path / "summary.json").write_text('{"classifier": "0123456789"}')
    again = read_run(other.path)
    assert "other features (classifier 01234567, classifier)" not in incomparable([again])
    assert "other features" in incomparable([runs[0], again])


def test_the_front_is_what_nobody_beats(runs: list[RunRecord]) -> None:
    points = [(2.0, 5.0), (1.0, 9.0), (3.0, 5.0), (4.0, 1.0), (2.0, 6.0)]
    assert front(points) == [(1.0, 9.0), (2.0, 5.0), (4.0, 1.0)]
    figure = pareto_figure(runs, "bytes")
    (line,) = [each for each in figure.axes[0].get_lines() if each.get_linestyle() == "-"]
    assert np.asarray(line.get_xydata()).tolist() == [[6, 15]]  # the other is as dear, and worse


@pytest.mark.parametrize("draw", [distance_figure, loss_figure, pareto_figure])
def test_figures_draw_on_axes_that_they_are_given(draw: Any, runs: list[RunRecord]) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert draw(runs, axes=right) is figure
    assert not left.get_lines()
    assert right.get_lines()
    assert isinstance(right, Axes)


def test_the_command_draws_one_panel_in_the_format_asked_for(
    runs: list[RunRecord], tmp_path: Path
) -> None:
    names = [str(run.path) for run in runs]
    out = tmp_path / "x.svg"
    done = CliRunner().invoke(cli.app, ["plot", *names, "--against", "images", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{out}\n"
    assert "images trained on" in out.read_text()
    for words, said in (
        (("--against", "time"), "--against: 'time' is none of rounds, images, seconds"),
        (("--pareto", "bytes", "--against", "bytes"), "--pareto: is a picture of its own"),
        (("--out", "x.gif"), "x.gif ends in none of .png"),
    ):
        refused = CliRunner().invoke(cli.app, ["plot", *names, *words])
        assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
        assert said in refused.stderr


def test_a_larger_model_is_another_group(runs: list[RunRecord], tmp_path: Path) -> None:
    larger = ModelConfig(widths=(16, 32), groups=2, attention=(1,))
    run = _run(tmp_path / "larger", 5.0, model=larger)
    labels = [group.label for group in grouped([runs[0], run])]
    assert labels == ["model.widths 8,16", "model.widths 16,32"]
    assert MODEL.widths == (8, 16)
