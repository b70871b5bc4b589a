"""Where the time of one training epoch goes on the device: ``python benchmarks/epoch_profile.py --data folder:PATH``.

Trains a few epochs and records the last one with PyTorch's profiler: the share of the epoch in which the device worked,
the rest being lost to waiting for data or the host, and the operations that took most of its time. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from convmixer.presets import run_config
from convmixer.runs import EpochRecord
from convmixer.runtime.device import choose_device, device_name
from convmixer.training import train
from convmixer.training.observers import EpochWatcher

START = "the epoch that is recorded starts"
SHOWN = 15  # operations


def covered(intervals: Iterable[tuple[float, float]], begin: float, end: float) -> float:
    """Length of what the intervals cover of [begin, end]; they may overlap."""
    total, reached = 0.0, begin
    for low, high in sorted(intervals):
        low, high = max(low, reached), min(high, end)
        if high > low:
            total, reached = total + high - low, high
    return total


class Recorder:
    """Called with every epoch's record; starts the profiler before the last one."""

    def __init__(self, epochs: int, device: torch.device) -> None:
        self.epochs, self.kind = epochs, DeviceType.CUDA if device.type == "cuda" else DeviceType.CPU
        activities = {ProfilerActivity.CPU} | ({ProfilerActivity.CUDA} if device.type == "cuda" else set())
        self.profiler = profile(activities=activities)
        self.seconds: list[float] = []

    def __call__(self, record: EpochRecord) -> None:
        """Epochs begin when this returns."""
        self.seconds.append(record.seconds)
        if record.epoch == self.epochs:
            self.profiler.stop()
        elif record.epoch == self.epochs - 1:
            self.profiler.start()
            with record_function(START):
                pass

    def result(self) -> dict[str, Any]:
        """Seconds of the epochs and of the recorded one's operations, by name."""
        events = self.profiler.events()
        start = min(event.time_range.end for event in events if event.name == START)  # microseconds
        end = start + 1e6 * self.seconds[-1]
        spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for event in events:
            inside = event.device_type == self.kind and start <= event.time_range.start < end
            if inside and event.name != START and not event.is_user_annotation:  # these span pauses
                spans[event.name].append((event.time_range.start, event.time_range.end))
        busy = covered((span for group in spans.values() for span in group), start, end)
        largest = sorted(((sum(b - a for a, b in group), name) for name, group in spans.items()), reverse=True)
        return {
            "epoch_seconds": self.seconds,
            "busy": busy / (end - start),
            "operations": [
                {"name": name[:100], "seconds": total / 1e6, "calls": len(spans[name])}
                for total, name in largest[:SHOWN]
            ],
        }


def main() -> None:
    """Trains, records, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="cifar10, folder:PATH or digits")
    parser.add_argument("--model", default="convmixer_256_8_k5")
    parser.add_argument("--recipe", default="reference")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--dim", type=int)
    parser.add_argument("--depth", type=int)
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error("--epochs: at least 2, as the first one is not recorded.")
    sizes = {name: value for name in ("dim", "depth") if (value := getattr(args, name)) is not None}
    fields = {"dataset": args.data, "device": args.device, "epochs": args.epochs, **sizes}
    device = choose_device(args.device)
    recorder = Recorder(args.epochs, device)
    with tempfile.TemporaryDirectory() as folder:
        config = run_config(args.model, args.recipe, **fields)
        summary = train(config, Path(folder) / "run", artifacts=False, test=False, observer=EpochWatcher(recorder))
    what = {"what": "epoch", "model": args.model, "recipe": args.recipe, "engine": summary.engine}
    machine = {"precision": summary.precision, "device": device.type, "device_name": device_name(device)}
    print(json.dumps({**what, **machine, "torch": torch.__version__, **recorder.result()}))


if __name__ == "__main__":
    main()
