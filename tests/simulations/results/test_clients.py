"""Who is served: the table and the figure say of every client what the history says."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.lines import Line2D
from typer.testing import CliRunner

from common.errors import UserError
from server.record.history import read_rows
from server.record.resolved import write_config
from simulations.archive.record import read_run
from simulations.cli import app
from simulations.pictures.clients import clients_figure
from simulations.results.clients import clients_of
from tests.federations import TINY, run

_RUNS: list[Path] = []


@pytest.fixture
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose client 2 is never heard of in training; it is run once."""
    if not _RUNS:
        folder = tmp_path_factory.mktemp("judged")
        evaluation = TINY.evaluation.model_copy(update={"by": "clients", "features": "untrained"})
        config = TINY.model_copy(update={"evaluation": evaluation})

        def mishap(partition, reply):  # type: ignore[no-untyped-def]
            silent = partition == 2 and reply.metadata.message_type == "train"
            return None if silent else reply

        run(config, folder, mishap=mishap)
        _RUNS.append(folder)
    return _RUNS[0]


def test_the_table_adds_up_what_the_history_says(judged: Path) -> None:
    clients = clients_of(read_run(judged))
    rows = read_rows(judged / "history.jsonl")
    assert [client.partition for client in clients] == ["0", "1", "2", "3"]
    assert [client.rate for client in clients] == ["1", "1/2", "1/2", "1/4"]
    assert [client.replied for client in clients] == [3, 3, 0, 3]
    assert clients[2].asked == 3
    assert clients[2].failures == {"no reply": 3}
    assert clients[2].loss is None
    assert clients[0].loss == rows[-1]["by_client"]["0"]["loss"]
    assert clients[0].held_out == rows[-1]["held_out_by_client"]["0"]
    assert sum(client.bytes_down for client in clients) == sum(row["bytes_down"] for row in rows)
    fleet = json.loads((judged / "fleet.json").read_text())
    assert clients[3].images == next(e["examples"] for e in fleet if e["partition"] == 3)


def test_the_command_prints_it(judged: Path) -> None:
    shown = CliRunner().invoke(app, ["clients", str(judged)], env={"COLUMNS": "160"})
    assert shown.exit_code == 0
    assert "held-out loss" in shown.output
    assert "3x no reply" in shown.output
    assert "0 of 3" in shown.output


def test_the_figure_has_a_line_for_each_client_and_a_band_for_each_width(judged: Path) -> None:
    figure = clients_figure(read_run(judged))
    panels = figure.axes
    assert [axes.get_ylabel() for axes in panels] == [
        *["training loss"] * 2,
        *["loss on images held out"] * 2,
    ]
    assert len(panels[0].lines) == 3, "client 2 has no training loss"
    assert len(panels[2].lines) == 4
    row = read_rows(judged / "history.jsonl")[-1]
    assert _last(panels[0].lines[0]) == row["by_client"]["0"]["loss"]
    assert _last(panels[2].lines[3]) == row["held_out_by_client"]["3"]["1/4"]
    legend = panels[1].get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["rate 1: 1 client", "rate 1/2: 2 clients", "rate 1/4: 1 client"]
    half = sorted(row["held_out_by_client"][p]["1/2"] for p in "12")
    assert _last(panels[3].lines[1]) == pytest.approx(sum(half) / 2)


def _last(line: Line2D) -> float:
    return float(np.asarray(line.get_ydata())[-1])


def test_a_history_of_an_earlier_version_is_refused(judged: Path, tmp_path: Path) -> None:
    write_config(TINY, tmp_path)
    (tmp_path / "history.jsonl").write_text('{"round": 0}\n')
    with pytest.raises(UserError, match="earlier version"):
        clients_of(read_run(tmp_path))


def test_a_classifier_is_written_for_others(tmp_path: Path) -> None:
    out = tmp_path / "digits.safetensors"
    shown = CliRunner().invoke(app, ["features", "digits", "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    assert out.is_file()
    refused = CliRunner().invoke(app, ["features", "digits", "--out", str(tmp_path / "x.bin")])
    assert refused.exit_code == 2
