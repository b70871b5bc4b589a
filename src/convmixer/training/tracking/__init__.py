"""Experiment trackers: where a run's metrics, configuration and pictures go beside its directory."""

from convmixer.training.tracking.observer import Tracking as Tracking
from convmixer.training.tracking.observer import require_packages as require_packages
