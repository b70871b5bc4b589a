"""TensorBoard event files in the run directory; nothing leaves the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from convmixer.errors import InputError
from convmixer.runtime.terminal import printable
from convmixer.training.tracking.tracker import TrackedRun


class TensorBoard:
    """The configuration as a table, scalars of every epoch; hyperparameters and pictures at the end."""

    def start(self, run: TrackedRun) -> str:
        """Opens an event file; what earlier ones say of epochs that will be repeated is purged."""
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard"
        if folder.is_symlink():
            raise InputError(f"{folder} is a link, and links out of a run are not written through; remove it")
        self.settings = run.settings
        self.writer = SummaryWriter(str(folder), purge_step=run.epochs + 1)
        if run.id is None:
            rows = [f"| {name} | {_literal(str(value))} |" for name, value in run.settings.items()]
            self.writer.add_text("configuration", "\n".join(["| setting | value |", "| --- | --- |", *rows]), 0)
        return ""

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Adds scalars."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def end(self, epoch: int, figures: Mapping[str, float], pictures: Sequence[Path]) -> None:
        """Adds the hyperparameters with the final figures as their metrics, and the pictures."""
        from torch.utils.tensorboard.summary import hparams

        # SummaryWriter.add_hparams would open a second event file in a folder of its own
        for summary in hparams(dict(self.settings), dict(figures)):
            self.writer._get_file_writer().add_summary(summary)
        self.log(epoch, figures)
        for path in pictures:
            with Image.open(path) as image:
                self.writer.add_image(path.stem, np.asarray(image.convert("RGB")), epoch, dataformats="HWC")

    def close(self, status: str) -> None:
        """Closes the event file."""
        self.writer.close()


def _literal(text: str) -> str:
    """The text as TensorBoard's Markdown has to have it to show it: a name could be a link or fetch a picture."""
    words = " ".join(printable(text).split())
    return "".join(mark if mark.isalnum() or mark in " -./" else f"&#{ord(mark)};" for mark in words)
