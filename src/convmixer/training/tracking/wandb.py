"""Weights & Biases, and trackio, whose functions are called the same."""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from convmixer.training.tracking.tracker import PROJECT, TrackedRun


class Wandb:
    """A run of W&B or trackio.

    Args:
        package: which of them. W&B reads WANDB_PROJECT, WANDB_MODE and others; trackio keeps runs on this machine
            unless TRACKIO_SPACE_ID or the like names a server.
    """

    def __init__(self, package: Literal["wandb", "trackio"]) -> None:
        self.package = package
        self.module: Any = importlib.import_module(package)

    def start(self, run: TrackedRun) -> str:
        """Begins or resumes a run; the id is chosen here, as trackio resumes by name."""
        run_id, name = run.id or uuid.uuid4().hex[:8], run.folder.resolve().name
        where: dict[str, Any] = {"name": f"{name}-{run_id}"}
        if self.package == "wandb":
            where = {"name": name, "id": run_id, "dir": os.environ.get("WANDB_DIR", str(run.folder))}
        project = os.environ.get(f"{self.package.upper()}_PROJECT", PROJECT)
        self.module.init(project=project, config=dict(run.settings), resume="allow", **where)
        return run_id

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Logs the metrics at step ``epoch``."""
        self.module.log(dict(values), step=epoch)

    def end(self, epoch: int, figures: Mapping[str, float], pictures: Sequence[Path]) -> None:
        """Logs the final figures and the pictures at step ``epoch``."""
        images = {path.stem: self.module.Image(str(path)) for path in pictures}
        self.module.log({**figures, **images}, step=epoch)

    def close(self, status: str) -> None:
        """Finishes the run; W&B shows one that ended early as failed."""
        exit_code = {"exit_code": int(status not in ("finished", "pruned"))} if self.package == "wandb" else {}
        self.module.finish(**exit_code)
