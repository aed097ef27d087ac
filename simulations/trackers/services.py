"""W&B, MLflow and trackio, where their packages are installed.

Each is imported by its name alone: who uses one has it, and nobody else needs it. Where they keep
or send things is said in their own ways (``WANDB_MODE=offline``, ``MLFLOW_TRACKING_URI``, …).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from simulations.trackers.interface import Session, numbers

PROJECT = "scorequilt"


class WeightsAndBiases:
    """Logs to Weights & Biases, by default to the project ``scorequilt``."""

    def __init__(self, session: Session) -> None:
        self._wandb = import_module("wandb")
        self._run = self._wandb.init(
            project=PROJECT,
            name=session.name,
            id=session.id,
            resume="allow",
            config=dict(session.config),
            settings=self._wandb.Settings(silent=True, console="off"),
        )
        self._folder, self._files = (
            session.run_dir,
            self._wandb.Artifact(f"run-{session.id}", "run"),
        )

    def row(self, row: Mapping[str, Any]) -> None:
        """Log a row's numbers at its round."""
        self._run.log(numbers(row), step=row["round"])

    def image(self, name: str, path: Path, round: int) -> None:
        """Log a picture at its round."""
        self._run.log({name: self._wandb.Image(str(path))}, step=round)

    def file(self, path: Path) -> None:
        """Add a file to the run's artifact."""
        self._files.add_file(str(path), str(path.relative_to(self._folder)))

    def end(self, failed: bool) -> None:
        """Log the artifact and finish the run."""
        self._run.log_artifact(self._files)
        self._run.finish(exit_code=int(failed))


class MLflow:
    """Logs to MLflow, to the experiment ``scorequilt``."""

    def __init__(self, session: Session) -> None:
        mlflow = import_module("mlflow")
        self._client = client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name(PROJECT)
        number = experiment.experiment_id if experiment else client.create_experiment(PROJECT)
        same = f"tags.`{PROJECT}.id` = '{session.id}'"
        before = client.search_runs([number], filter_string=same, max_results=1)
        if before:
            self._id = before[0].info.run_id
            client.update_run(self._id, status="RUNNING")
            return
        tags = {f"{PROJECT}.id": session.id}
        self._id = client.create_run(number, tags=tags, run_name=session.name).info.run_id
        for key, value in session.config.items():
            client.log_param(self._id, key, value)

    def row(self, row: Mapping[str, Any]) -> None:
        """Log a row's numbers at its round."""
        for name, value in numbers(row).items():
            self._client.log_metric(self._id, name, value, step=row["round"])

    def image(self, name: str, path: Path, round: int) -> None:
        """Log a picture as an artifact in a folder of its name."""
        self._client.log_artifact(self._id, str(path), name)

    def file(self, path: Path) -> None:
        """Log a file as an artifact."""
        self._client.log_artifact(self._id, str(path))

    def end(self, failed: bool) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


class Trackio:
    """Logs to trackio, to the project ``scorequilt``."""

    def __init__(self, session: Session) -> None:
        self._trackio = import_module("trackio")
        self._run = self._trackio.init(
            project=PROJECT,
            name=f"{session.name}-{session.id}",
            config=dict(session.config),
            resume="allow",
            embed=False,
        )

    def row(self, row: Mapping[str, Any]) -> None:
        """Log a row's numbers at its round."""
        self._run.log(numbers(row), step=row["round"])

    def image(self, name: str, path: Path, round: int) -> None:
        """Log a picture at its round."""
        self._run.log({name: self._trackio.Image(str(path))}, step=round)

    def file(self, path: Path) -> None:
        """Keep no files, for which trackio has no place in a run."""

    def end(self, failed: bool) -> None:
        """Finish the run."""
        self._run.finish()
