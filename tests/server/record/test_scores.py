"""Every width is judged every round, and what samples best is one thing everywhere."""

import json
from fractions import Fraction
from pathlib import Path

import pytest

from common.config import EvaluationConfig, RunConfig
from server.evaluation.build import evaluator_for
from server.preflight import preflight
from server.record.history import Best, best_of, read_rows
from server.record.recorder import Recorder
from server.record.scores import sample_all
from simulations.archive.record import read_run
from simulations.results.evaluate import evaluate_run
from simulations.results.sample import sample_run
from tests.federations import run, tiny_with

FLEET = tiny_with(fleet="1x1 1/2x1 1/4x1", evaluation=EvaluationConfig(samples=64))


def test_every_width_of_the_first_average_is_judged_after_every_round(tmp_path: Path) -> None:
    state, rows = run(FLEET, tmp_path)
    assert [set(row["frechet_by_width"]) for row in rows] == [{"1", "1/2", "1/4"}] * len(rows)
    assert all(row["frechet_by_width"]["1"] == row["frechet_ema"] for row in rows)
    setting = preflight(FLEET)
    evaluator = evaluator_for(FLEET, setting.splits)
    for rate, distance in rows[-1]["frechet_by_width"].items():
        (images,) = sample_all(setting, evaluator, [(state.ema, Fraction(rate))])
        assert evaluator.frechet(images) == distance
    summary = json.loads((tmp_path / "summary.json").read_text())
    finals = {rate: row["frechet_ema"] for rate, row in summary["widths"].items()}
    assert finals == rows[-1]["frechet_by_width"]


@pytest.mark.parametrize(
    "config",
    [
        FLEET.model_copy(update={"evaluation": EvaluationConfig(samples=64, widths="full")}),
        FLEET.model_copy(update={"policy": "element-random"}),  # masked weights have one width
    ],
)
def test_where_there_is_one_width_or_one_is_asked_for_that_is_judged(
    config: RunConfig, tmp_path: Path
) -> None:
    _, rows = run(config, tmp_path)
    assert [set(row["frechet_by_width"]) for row in rows] == [{"1"}] * len(rows)


def test_the_best_is_a_width_that_was_trained_of_the_earliest_round() -> None:
    client = {"0": {"rate": "1/2", "loss": 1.0}}
    rows = [
        {"round": 0, "frechet_by_width": {"1": 1.0, "1/2": 9.0}, "by_client": client},
        {"round": 1, "frechet_by_width": {"1": 2.0, "1/2": 3.0, "1/4": 3.0}},
        {"round": 2, "frechet_by_width": {"1": 2.0, "1/2": 3.0, "1/4": None}},
        {"round": 3, "frechet_by_width": {}},
    ]
    assert best_of(rows) == Best(1, Fraction(1, 2), 3.0)
    assert best_of(rows[:1]) == Best(0, Fraction(1, 2), 9.0)
    assert best_of(rows[3:]) is None
    assert best_of([{"round": 4, "frechet_ema": 5.0}]) == Best(4, Fraction(1), 5.0)


def test_summary_samples_and_evaluation_are_of_the_round_and_width_that_sampled_best(
    tmp_path: Path,
) -> None:
    state, rows = run(FLEET, tmp_path)
    history = tmp_path / "history.jsonl"
    plain = read_rows(history)
    before = state.round - 1
    plain[before]["frechet_by_width"]["1/2"] = 1e-3
    history.write_text("".join(json.dumps(row) + "\n" for row in plain))
    Recorder(preflight(FLEET), tmp_path).summarise(state, None)

    read = read_run(tmp_path)
    summary = read.summary
    assert (summary["best_round"], summary["best_rate"]) == (before, "1/2")
    assert summary["frechet_ema"] == 1e-3, "the history's word is taken"
    assert read.state().round == before
    assert read.state("last").round == state.round
    judged = evaluate_run(tmp_path)
    assert (judged["round"], judged["rate"]) == (before, "1/2")
    assert judged["frechet"] == summary["report"]["frechet"]
    assert judged["held_out_loss_by_u"] == {
        float(u): loss for u, loss in summary["held_out_loss_by_u"].items()
    }
    line = sample_run(tmp_path, 4)
    assert f"weights of round {before} at rate 1/2" in line
    again = evaluate_run(tmp_path, round="last", rate="1")
    assert again["frechet"] == rows[-1]["frechet_ema"]


def test_a_run_that_goes_on_is_not_used_as_its_earlier_end_says(tmp_path: Path) -> None:
    run(FLEET.model_copy(update={"lr_schedule": "constant"}), tmp_path)
    summary = read_run(tmp_path).summary | {"rounds": 1, "best_round": 1}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert read_run(tmp_path).state().round == FLEET.rounds


def test_pictures_are_of_one_width_in_all_rounds_and_coverage_of_the_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server.record import recorder
    from simulations.pictures.runs import coverage

    drawn = []
    monkeypatch.setattr(recorder, "save_grid", lambda images, path: drawn.append(images))
    state, rows = run(FLEET, tmp_path)
    setting = preflight(FLEET)
    evaluator = evaluator_for(FLEET, setting.splits)
    (full,) = sample_all(setting, evaluator, [(state.ema, Fraction(1))])
    assert (drawn[len(rows) - 1] == full).all(), "of the fleet's widest, whichever samples best"
    best = read_run(tmp_path).summary | {"best_round": 1}
    (tmp_path / "summary.json").write_text(json.dumps(best))
    title = coverage(read_run(tmp_path)).get_suptitle()
    assert title.endswith(f"{FLEET.rounds} rounds"), "not up to the round that sampled best"
