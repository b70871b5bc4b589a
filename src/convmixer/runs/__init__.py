"""A run is a directory: its configuration, records, checkpoints and lock. Everything downstream reads these files."""

from convmixer.runs.paths import default_path, newest_path, unused_path
from convmixer.runs.records import EpochRecord, InitialWeights, Outcome, Status, Summary, TeacherRecord, TrialRecord
from convmixer.runs.run_dir import RunBusyError, RunDir, config_differences

__all__ = [
    "EpochRecord",
    "InitialWeights",
    "Outcome",
    "RunBusyError",
    "RunDir",
    "Status",
    "Summary",
    "TeacherRecord",
    "TrialRecord",
    "config_differences",
    "default_path",
    "newest_path",
    "unused_path",
]
