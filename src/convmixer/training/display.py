"""What a training run shows: a progress bar on a terminal, a line for every epoch anywhere, TensorBoard events."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from convmixer.runs import EpochRecord


class TrainingDisplay:
    """Progress of ``epochs`` × ``steps_per_epoch`` steps; the bar is drawn on terminals only."""

    def __init__(self, console: Console, epochs: int, steps_per_epoch: int) -> None:
        self.console, self.epochs, self.steps_per_epoch = console, epochs, steps_per_epoch
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  acc {task.fields[accuracy]:.1%}  {task.fields[rate]:.0f} img/s"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        fields: dict[str, Any] = {"epoch": 1, "loss": 0.0, "accuracy": 0.0, "rate": 0.0}
        total = epochs * steps_per_epoch
        self.task = self.progress.add_task("training", total=total, epochs=epochs, **fields)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def step(self, epoch: int, step: int, loss: float, accuracy: float, rate: float) -> None:
        """Shows the running means after ``step`` steps of epoch ``epoch`` (both from 0)."""
        fields: dict[str, Any] = {"epoch": epoch + 1, "loss": loss, "accuracy": accuracy, "rate": rate}
        self.progress.update(self.task, completed=epoch * self.steps_per_epoch + step, **fields)

    def epoch(self, record: EpochRecord) -> None:
        """Prints the line of a finished epoch."""
        parts = [
            f"epoch {record.epoch:>{len(str(self.epochs))}}/{self.epochs}",
            f"loss {record.train_loss:.4f}",
            f"train {record.train_accuracy:.2%}",
        ]
        for name in ("val", "ema_val", "test", "ema_test"):
            accuracy = getattr(record, f"{name}_accuracy")
            if accuracy is not None:
                parts.append(f"{name.replace('_', ' ')} {accuracy:.2%}")
        parts += [f"lr {record.lr:.2e}", f"{record.seconds:.1f} s", f"{record.images_per_second:.0f} img/s"]
        self.console.print("  ".join(parts), highlight=False)


class TensorBoard:
    """Writes epoch records as TensorBoard events; events of epochs that will be repeated are purged."""

    def __init__(self, folder: Path, first_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=first_epoch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.writer.close()

    def log(self, record: EpochRecord) -> None:
        """Adds an epoch's figures, at its number."""
        for name, value in vars(record).items():
            if name != "epoch" and value is not None:
                self.writer.add_scalar(name, value, record.epoch)
        self.writer.flush()
