"""Speed and memory of the engines beside what PyTorch offers without them, measured side by side."""

from convmixer.bench.compare import BenchConfig, Record, bench, explain, format_table
from convmixer.bench.settings import SETTINGS, Setting

__all__ = ["SETTINGS", "BenchConfig", "Record", "Setting", "bench", "explain", "format_table"]
