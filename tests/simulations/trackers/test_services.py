"""W&B, MLflow and trackio, each where it is installed, are filled by a run and read back."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from server.record.history import read_rows
from simulations.engine.inline import run_inline
from simulations.trackers.follow import Trackers
from simulations.trackers.interface import numbers
from tests.engines import tiny

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("tracked") / "mine"
    run_inline(tiny(), folder)
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _track(name: str, run: Path) -> list[dict[str, Any]]:
    said: list[str] = []
    rows = read_rows(run / "history.jsonl")
    with Trackers([name], run, tiny(), said.append) as trackers:
        trackers.rows(rows)
    assert said == []
    return rows


def test_weights_and_biases_offline(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    _track("wandb", run)
    # By name, as only who uses it has it.
    record_of = import_module("wandb.proto.wandb_internal_pb2").Record
    store, losses = import_module("wandb.sdk.internal.datastore").DataStore(), []
    (path,) = Path("wandb").glob("offline-run-*/run-*.wandb")
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = record_of()
        record.ParseFromString(data)
        items = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
        losses += [json.loads(items["quality/loss"])] if "quality/loss" in items else []
    rows = read_rows(run / "history.jsonl")
    assert losses == [row["loss"] for row in rows[1:]]


def test_mlflow_s_file_store(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file:{tmp_path / 'store'}")
    _track("mlflow", run)
    rows = _track("mlflow", run)  # again, which is the same run
    client = mlflow.MlflowClient()
    number = client.get_experiment_by_name("scorequilt").experiment_id
    (found,) = client.search_runs([number])
    assert (found.info.run_name, found.info.status) == ("mine", "FINISHED")
    assert found.data.params["local-steps"] == "2"
    last = numbers(rows[-1])
    assert found.data.metrics.keys() == {name for row in rows for name in numbers(row)}
    assert found.data.metrics["quality/loss"] == last["quality/loss"]
    samples = {each.path for each in client.list_artifacts(found.info.run_id, "samples")}
    assert samples == {f"samples/round-{round:04d}.png" for round in range(3)}


def test_trackio_s_own_files(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    import sqlite3

    rows = _track("trackio", run)
    with sqlite3.connect(tmp_path / "trackio" / "scorequilt.db") as database:
        logged = [json.loads(text) for (text,) in database.execute("select metrics from metrics")]
    losses = {each["quality/loss"] for each in logged if "quality/loss" in each}
    assert losses == {row["loss"] for row in rows[1:]}
