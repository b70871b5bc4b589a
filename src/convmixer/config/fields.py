"""Types of the fields of a run's configuration, and what their metadata means."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

Crop = Literal["none", "pad", "resized"]
CropFill = Literal["black", "reflect"]
FlipMode = Literal["random", "alternating"]
Schedule = Literal["cosine", "triangular", "linear", "onecycle", "constant"]
Optimizer = Literal["adamw", "sgd", "muon"]
Tta = Literal["none", "flip", "shifts"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cuda", "mps", "cpu"]
Engine = Literal["auto", "plain", "fast"]
Protocol = Literal["validation", "original"]
BadImages = Literal["fail", "skip"]

Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Amount = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Probability = Annotated[float, Meta(ge=0, lt=1)]
PerBlock = Positive | tuple[Positive, ...]
"""One number for all blocks, or one for each; equal numbers become one number."""

INCIDENTAL = {"identity": False}
"""Metadata of fields that say where and how conveniently a run happens, not what it computes."""

LATER = {"later": True}
"""Metadata of fields that version 0.1 did not have: at its default such a field is no part of the identity hash."""
