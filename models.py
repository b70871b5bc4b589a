"""``from models import ConvMixer``, as the study's document has it; the package is ``convmixer``."""

from convmixer.models import ConvMixer, ConvMixerBN, ConvMixerLC, ConvMixerRH, create_model

__all__ = ["ConvMixer", "ConvMixerBN", "ConvMixerLC", "ConvMixerRH", "create_model"]
