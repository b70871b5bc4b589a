"""The study's three variants by the names of its document."""

from __future__ import annotations

from typing import Any

from convmixer.models.convmixer import ConvMixer


class ConvMixerRH(ConvMixer):
    """``ConvMixer(head="rh")``."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, head="rh", **options)


class ConvMixerLC(ConvMixer):
    """``ConvMixer(head="lc")``."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, head="lc", **options)


class ConvMixerBN(ConvMixer):
    """``ConvMixer(branch="bottleneck")``."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, branch="bottleneck", **options)
