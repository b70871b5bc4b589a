"""What a run directory says in figures: a record for each epoch, and a summary."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["new", "running", "interrupted", "crashed", "finished", "diverged", "pruned"]


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """A line of ``metrics.jsonl``. Losses are means over images, accuracies fractions in [0, 1]."""

    epoch: int
    """From 1."""
    lr: float
    """Learning rate of the epoch's last step."""
    train_loss: float
    """Running, on augmented images, while the weights change."""
    train_accuracy: float
    val_loss: float | None = None
    val_accuracy: float | None = None
    test_loss: float | None = None
    """Only under the original protocol, which looks at the test set in every epoch."""
    test_accuracy: float | None = None
    ema_val_loss: float | None = None
    """Of the moving average of the weights, where there is one. The figures above are of the weights themselves."""
    ema_val_accuracy: float | None = None
    ema_test_loss: float | None = None
    ema_test_accuracy: float | None = None
    seconds: float
    """Training only, without evaluation and checkpoints."""
    images_per_second: float

    def selection_metrics(self) -> tuple[float | None, float | None]:
        """Loss and accuracy that choose the epoch: of the average where there is one; None if nothing was evaluated."""
        figures = (
            (self.ema_test_loss, self.ema_test_accuracy),
            (self.test_loss, self.test_accuracy),
            (self.ema_val_loss, self.ema_val_accuracy),
            (self.val_loss, self.val_accuracy),
        )
        return next((pair for pair in figures if pair[0] is not None), (None, None))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """``summary.json``: final figures. Accuracies are fractions in [0, 1]; what does not exist is None."""

    status: Literal["finished", "diverged", "pruned"]
    message: str
    model: str
    dataset: str
    recipe: str
    protocol: str
    seed: int
    epochs: int
    parameters: int
    selected_epoch: int | None
    train_accuracy: float | None
    val_accuracy: float | None
    """Of the weights that are kept: the moving average, where there is one."""
    test_accuracy: float | None
    """Likewise."""
    test_loss: float | None
    epoch_seconds: float | None
    """Median over epochs, training only."""
    images_per_second: float | None
    device: str
    precision: str
    engine: str
    raw_val_accuracy: float | None = None
    """Of the weights themselves in the selected epoch, where the average is kept."""
    test_accuracy_tta: float | None = None
    """With test-time augmentation, where the configuration asks for it."""
    multiply_adds: int | None = None
    """Of the model for one image, a multiplication and an addition counted as one; None in summaries of older runs."""

    initial_weights: str | None = None
    """Where the weights that the run started from came from, with checksum; None if they were random."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``summary.json`` holds them."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """``init.json``: where the weights that a run started from came from."""

    source: str
    """As ``init_from`` was given."""
    sha256: str
    """Of the weights: names, types, shapes and values, whatever file they were in."""
    identity: str | None
    """The identity hash of the run that they are of, if they are a run's."""
    taken: str
    """What was taken over, in words."""

    def __str__(self) -> str:
        run = f"run {self.identity}, " if self.identity else ""
        return f"{self.source} ({run}sha256 {self.sha256[:12]}): {self.taken}"


@dataclass(frozen=True, kw_only=True)
class TeacherRecord:
    """``teacher.json``: the run whose answers a run learned beside the labels."""

    source: str
    """As ``teacher`` was given."""
    sha256: str
    """Of the weights: names, types, shapes and values."""
    identity: str
    """The identity hash of the teacher's run."""


Outcome = Literal["finished", "pruned", "diverged", "failed", "running"]


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A run of a search: an entry of ``trials`` in ``grid_search.json``. Accuracies are fractions in [0, 1]."""

    number: int
    """Which combination: its position in a grid, else in the order of sampling. Runs over seeds share it."""
    values: dict[str, Any]
    """The searched fields."""
    seed: int
    path: str
    """The run directory, relative to the search directory."""
    state: Outcome
    val_accuracy: float | None
    epoch_seconds: float | None
