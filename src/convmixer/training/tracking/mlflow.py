"""MLflow: a local store or the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convmixer.training.tracking.tracker import PROJECT, TrackedRun


class Mlflow:
    """A run of MLflow, through its client: the user's own active run, if any, is left alone."""

    def __init__(self) -> None:
        # Asked for is a record of the run: no usage statistics for MLflow's makers, no minutes of retrying
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        import mlflow
        from mlflow import entities

        self.mlflow: Any = mlflow
        self.entities: Any = entities

    def start(self, run: TrackedRun) -> str:
        """Begins a run, with the settings as its parameters, or takes one up again."""
        self.client = self.mlflow.MlflowClient()
        if run.id is not None:
            self.client.update_run(run.id, status="RUNNING")
            self.run_id = run.id
            return run.id
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        where = experiment.experiment_id if experiment else self.client.create_experiment(name)
        self.run_id = str(self.client.create_run(where, run_name=run.folder.resolve().name).info.run_id)
        params = [self.entities.Param(key, str(value)) for key, value in run.settings.items()]
        self.client.log_batch(self.run_id, params=params)
        return self.run_id

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Logs the metrics at step ``epoch``."""
        now = int(time.time() * 1000)
        metrics = [self.entities.Metric(key, float(value), now, epoch) for key, value in values.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def end(self, epoch: int, figures: Mapping[str, float], pictures: Sequence[Path]) -> None:
        """Logs the final figures, and the pictures as artifacts."""
        self.log(epoch, figures)
        for path in pictures:
            self.client.log_artifact(self.run_id, str(path))

    def close(self, status: str) -> None:
        """Ends the run."""
        ended = {"finished": "FINISHED", "pruned": "FINISHED", "interrupted": "KILLED"}.get(status, "FAILED")
        self.client.set_terminated(self.run_id, ended)
