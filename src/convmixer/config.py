"""What defines a run: frozen dataclasses, checked once at construction.

They are the single source of the Python API, the command line's flags and help, and ``config.json``. The text under a
field is its help. Field names are unique across the sections, so that a flag or a keyword needs no prefix.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from convmixer.errors import InputError, nearest

Variant = Literal["base", "rh", "lc", "bn"]
Activation = Literal["gelu", "relu"]
Crop = Literal["none", "pad", "resized"]
CropFill = Literal["black", "reflect"]
FlipMode = Literal["random", "alternating"]
Schedule = Literal["cosine", "triangular", "linear", "onecycle"]
Optimizer = Literal["adamw", "sgd", "muon"]
Tta = Literal["none", "flip", "shifts"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cuda", "mps", "cpu"]
Engine = Literal["auto", "plain", "fast"]
Protocol = Literal["validation", "original"]


_INCIDENTAL = {"identity": False}
"""Metadata of fields that say where and how conveniently a run happens, not what it computes."""


_hints = functools.cache(typing.get_type_hints)
"""The types of a class's fields: finding them out takes longer than all else that is checked."""


class Checked:
    """Refuses wrong types and values outside a field's choices; subclasses add what only they know."""

    def __post_init__(self) -> None:
        hints = _hints(type(self))  # type: ignore[arg-type]  # a class is hashable
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value = _coerce(item.name, getattr(self, item.name), hints[item.name])
            object.__setattr__(self, item.name, value)  # an int given for a float becomes one, so that JSON agrees
        for wrong in self._problems():
            raise InputError(wrong)

    def _problems(self) -> Iterator[str]:
        return iter(())


def _coerce(name: str, value: Any, hint: Any) -> Any:
    """``value`` as ``hint`` (a dataclass, Literal, scalar, scalar | None, tuple[…, ...]) asks, else InputError."""
    flag = _flag(name)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        raise InputError(f"{name}: expected a {getattr(hint, '__name__', hint)}, got {value!r}.")
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value in choices:
            return value
        raise InputError(f"{flag}: {value!r} is not one of its values; {nearest(value, choices)}")
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if value is None:
            return None
        (hint,) = (option for option in typing.get_args(hint) if option is not type(None))
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (tuple, list)):
            raise InputError(f"{flag}: expected several values, got {value!r}.")
        return tuple(_coerce(name, item, typing.get_args(hint)[0]) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise InputError(f"{flag}: expected {hint.__name__}, got {value!r}.")
    return value


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _at_least(config: object, minimum: float, *names: str) -> Iterator[str]:
    for name in names:
        value = getattr(config, name)
        if value is not None and not minimum <= value < float("inf"):
            yield f"{_flag(name)}: {value} is out of range; give a finite value of at least {minimum}."


def _within(config: object, low: float, high: float, *names: str, closed: bool = True) -> Iterator[str]:
    for name in names:
        value = getattr(config, name)
        if not (low <= value <= high if closed else low <= value < high):
            bound = "to" if closed else "up to, not including,"
            yield f"{_flag(name)}: {value} is out of range; give a value from {low} {bound} {high}."


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
    """The architecture. Number of classes and image channels come from the data."""

    variant: Variant = "base"
    """What differs from the paper's network: base (nothing), rh (RepresentationHead), lc (LinearClassifier head),
    bn (bottleneck in the residual branch)."""
    dim: int = 256
    """Hidden dimension h: channels of every block (alias: --hidden-dim)."""
    depth: int = 8
    """Number of ConvMixer blocks."""
    kernel_size: int = 9
    """Side of the depthwise kernels in positions, odd."""
    patch_size: int = 2
    """Side of the patches in pixels; it has to divide the image size."""
    activation: Activation = "gelu"
    """Nonlinearity after every convolution."""
    bottleneck_factor: int = 2
    """How many times narrower the residual branch of the bn variant is; the other variants ignore it."""
    dropout: float = 0.0
    """Dropout probability in front of the classifier."""
    drop_path: float = 0.0
    """Stochastic depth: drop probability of the last block's residual branch, rising linearly from 0."""

    def _problems(self) -> Iterator[str]:
        yield from _at_least(self, 1, "dim", "depth", "kernel_size", "patch_size", "bottleneck_factor")
        yield from _within(self, 0.0, 1.0, "dropout", "drop_path", closed=False)
        k = self.kernel_size
        if k % 2 == 0:
            yield f"--kernel-size: {k} is even, and only an odd kernel has a centre; choose {k - 1 or 1} or {k + 1}."
        if self.variant == "bn" and self.dim % self.bottleneck_factor:
            yield (
                f"--bottleneck-factor: {self.bottleneck_factor} does not divide --dim {self.dim}; "
                f"choose one of {_divisors(self.dim)}."
            )


def _divisors(number: int, limit: int = 64) -> str:
    return ", ".join(str(d) for d in range(1, min(number, limit) + 1) if number % d == 0)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """Which images, and how they are split."""

    dataset: str = "cifar10"
    """digits, cifar10, cifar100, or folder:PATH (PATH/train/<class>/* and PATH/test/<class>/*, or PATH/<class>/*)."""
    image_size: int | None = None
    """Side in pixels that the images of a folder are resized and cropped to; by default their own where all agree."""
    val_fraction: float = 0.1
    """Part of the training images held out, stratified by class, to choose the epoch whose weights are kept."""
    test_fraction: float = 0.2
    """Part of a folder that comes without a test split to set aside as one."""
    split_seed: int = 0
    """Seed of these splits. Kept apart from the run's seed, so that runs with different seeds see the same split."""
    data_dir: str = field(default="data", metadata=_INCIDENTAL)
    """Where archives are looked for and placed."""
    source: str | None = field(default=None, metadata=_INCIDENTAL)
    """Where to download an archive from instead of the known hosts: an https:// URL, or hub (Hugging Face)."""

    def _problems(self) -> Iterator[str]:
        yield from _at_least(self, 1, "image_size")
        yield from _at_least(self, 0, "split_seed")
        yield from _within(self, 0.0, 0.9, "val_fraction")
        yield from _within(self, 0.01, 0.9, "test_fraction")
        kinds = ("digits", "cifar10", "cifar100")
        if self.dataset == "folder:" or not (self.dataset in kinds or self.dataset.startswith("folder:")):
            yield f"--dataset: {self.dataset!r} is unknown; {nearest(self.dataset, (*kinds, 'folder:PATH'))}"


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Checked):
    """Random changes to training images, in the order of these fields."""

    crop: Crop = "none"
    """none; pad (shift by up to --crop-padding pixels); resized (a square of random area)."""
    crop_padding: int | None = None
    """Pixels of padding for --crop pad; by default an eighth of the image's side."""
    crop_fill: CropFill = "black"
    """What --crop pad shows beyond the edge: black, or the image mirrored there (reflect)."""
    crop_scale: float = 1.0
    """Smallest area of a --crop resized, as a fraction of the image; 1 leaves the image as it is."""
    flip: bool | None = None
    """Mirror half of the images; by default on, except for data whose mirror images mean something else (digits)."""
    flip_mode: FlipMode = "random"
    """random (a coin for each image in every epoch) or alternating (each image in every other epoch, its first
    orientation random; arXiv 2404.00498)."""
    randaugment: int = 0
    """Number of RandAugment operations for each image (arXiv 1909.13719); 0 is off."""
    randaugment_magnitude: int = 12
    """Strength of these operations, 0 to 30."""
    trivialaugment: bool = False
    """One operation of random strength for each image, from wider ranges (TrivialAugmentWide, arXiv 2103.10158)."""
    color_jitter: float = 0.0
    """Relative range of random brightness, contrast and saturation; 0 is off."""
    erasing: float = 0.0
    """Probability that a random rectangle of an image is replaced by the mean colour (arXiv 1708.04896)."""
    cutout: int = 0
    """Side in pixels of a square that is replaced by the mean colour, its centre anywhere (arXiv 1708.04552); 0 is
    off."""

    mixup: float = 0.0
    """Parameter of the beta distribution that says how two images and their labels are mixed, the same for a whole
    batch (arXiv 1710.09412); 0 is off."""
    cutmix: float = 0.0
    """Parameter of the beta distribution of the area that is cut out of another image, the same for a whole batch
    (arXiv 1905.04899); 0 is off. With --mixup as well a coin decides for each batch."""
    mix_probability: float = 1.0
    """Probability that a batch is mixed, where --mixup or --cutmix is on."""

    def _problems(self) -> Iterator[str]:
        yield from _at_least(self, 0, "crop_padding", "randaugment", "color_jitter", "cutout", "mixup", "cutmix")
        yield from _within(self, 0.01, 1.0, "crop_scale")
        yield from _within(self, 0, 30, "randaugment_magnitude")
        yield from _within(self, 0.0, 1.0, "erasing", "mix_probability")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Checked):
    """The optimisation: a learning rate that changes every step, and what is done with it."""

    epochs: int = 25
    """Passes over the training images."""
    batch_size: int | None = None
    """Images in a step; by default the largest power of two from 16 to 256 with which an epoch has 40 steps. A last,
    smaller batch is left out (the order changes every epoch)."""
    accumulate: int = 1
    """Parts of a batch that go through the model one after the other, to save memory; the statistics of batch
    normalisation are those of a part."""
    optimizer: Optimizer = "adamw"
    """adamw; sgd (with Nesterov momentum); muon (orthogonal steps for the weights of pointwise and patch convolutions,
    with a learning rate of their own, and adamw for all others)."""
    lr: float = 0.01
    """Peak learning rate."""
    matrix_lr: float = 0.02
    """Peak learning rate of muon's orthogonal steps."""
    momentum: float = 0.9
    """Momentum of sgd, and of muon's orthogonal steps."""
    weight_decay: float = 0.01
    """Weight decay: decoupled (times the learning rate) in adamw and muon, part of the gradient in sgd."""
    decay_norms: bool = True
    """Weight decay on normalisations and biases too."""
    clip_norm: float = 1.0
    """Largest norm of the gradient of all parameters together; 0 does not clip."""
    schedule: Schedule = "cosine"
    """cosine (linear warm-up, then half a cosine to 0), linear (linear warm-up, then a line to 0), triangular (0 to
    peak at 2/5, 1/20 of it at 4/5, then 0) or onecycle (half a cosine up until 3/10, then half a cosine to 0)."""
    warmup_epochs: float = 1.0
    """Length of the linear warm-up of cosine and linear in epochs, at most half of the run."""
    branch_gamma: float = 1.0
    """Weight that the normalisation at the end of every residual branch begins with. Below 1 a block begins nearer to
    its pointwise half alone (arXiv 1706.02677, section 5.1, has 0)."""
    label_smoothing: float = 0.0
    """Probability mass spread evenly over all classes in the training loss."""
    ema_decay: float = 0.0
    """Decay for each step of a moving average of the weights, which is then what is kept; 0 is off."""
    image_size_start: int | None = None
    """Side in pixels that training images are scaled down to in the first epoch; it then rises linearly, in whole
    patches, to the full size at 3/5 of the run. By default all epochs see the full size."""
    eval_every: int = 1
    """Epochs from one evaluation on held-out images to the next; the last epoch always has one."""
    tta: Tta = "none"
    """Test-time augmentation whose accuracy is reported beside the plain one, and chooses nothing: flip (mean of the
    probabilities of an image and its mirror image, where training mirrors), or shifts (both, and moved by a pixel)."""
    precision: Precision = "auto"
    """auto: bfloat16 or float16 on a GPU that has it, else float32. float16 falls back to float32 without a GPU. A CPU
    with instructions for bfloat16 trains faster with it."""
    channels_last: bool = False
    """Keep activations as NHWC in memory."""
    device: Device = field(default="auto", metadata=_INCIDENTAL)
    """Where to run; auto takes cuda, mps or cpu, whichever is found first."""
    engine: Engine = field(default="auto", metadata=_INCIDENTAL)
    """How the model is executed: by PyTorch's own modules (plain), by fused kernels (fast), or by whichever is measured
    to be faster on this machine (auto). A run that is resumed stays with the engine it began with."""
    cuda_graph: bool = field(default=True, metadata=_INCIDENTAL)
    """On a CUDA device, record an update once and replay it, which spares the time between its operations."""
    checkpoint_minutes: float = field(default=10.0, metadata=_INCIDENTAL)
    """Minutes between checkpoints within an epoch; they are written after epochs as well."""

    def _problems(self) -> Iterator[str]:
        yield from _at_least(self, 1, "epochs", "accumulate", "eval_every", "image_size_start")
        yield from _at_least(self, 2, "batch_size")  # batch normalisation has no statistics of one
        yield from _at_least(self, 0, "lr", "matrix_lr", "weight_decay", "clip_norm", "warmup_epochs", "branch_gamma")
        yield from _at_least(self, 0, "checkpoint_minutes")
        yield from _within(self, 0.0, 1.0, "label_smoothing", "momentum", "ema_decay", closed=False)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Checked):
    """Everything needed to repeat a run."""

    model: str = "convmixer"
    """Preset that the architecture's defaults come from (see: convmixer models)."""
    recipe: str = "baseline"
    """Recipe that the augmentation's and optimisation's defaults come from: baseline, reference, strong,
    strong-short."""
    seed: int = 0
    """Seed of initial weights, order of images, augmentation and dropout."""
    protocol: Protocol = "validation"
    """validation: choose the epoch on held-out training images, read the test set once. original: train on all images
    and report the best test epoch, as the first study did."""
    architecture: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def _problems(self) -> Iterator[str]:
        yield from _within(self, 0, 2**63 - 1, "seed")

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as ``config.json`` holds them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any, where: str = "config") -> Self:
        """The inverse of :meth:`to_dict`; missing keys take their defaults.

        Raises:
            InputError: unknown key (with the nearest known one), wrong type or impossible value.
        """
        config: Self = _from_dict(cls, values, where)
        return config

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, wherever they are: ``config.replace(dim=128, epochs=3)``.

        Raises:
            InputError: unknown field or impossible value.
        """
        parts: dict[str, dict[str, Any]] = {}
        own: dict[str, Any] = {}
        owner = field_owners()
        for name, value in changes.items():
            if name not in owner:
                raise InputError(f"{name!r} is not a field of a run's configuration; {nearest(name, owner)}")
            (parts.setdefault(owner[name], {}) if owner[name] else own)[name] = value
        for section, values in parts.items():
            own[section] = dataclasses.replace(getattr(self, section), **values)
        return dataclasses.replace(self, **own)

    def identity(self) -> dict[str, Any]:
        """Flat mapping of the fields that determine the result."""
        return {
            name: value
            for part in (self, *(getattr(self, section) for section in sections()))
            for name, value in _own_fields(part, identity_only=True).items()
        }

    def identity_hash(self) -> str:
        """Ten hexadecimal digits that two configurations share if, and practically only if, their identity is equal."""
        canonical = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def sections() -> tuple[str, ...]:
    """Names of the nested parts of a run's configuration."""
    hints = _hints(RunConfig)
    return tuple(f.name for f in dataclasses.fields(RunConfig) if dataclasses.is_dataclass(hints[f.name]))


def field_owners() -> dict[str, str]:
    """Each field's name and the section that holds it ('' for a run's own fields)."""
    owners = dict.fromkeys(_own_fields(RunConfig()), "")
    for section in sections():
        owners |= dict.fromkeys(_own_fields(getattr(RunConfig(), section)), section)
    return owners


def _own_fields(part: Any, identity_only: bool = False) -> dict[str, Any]:
    return {
        item.name: getattr(part, item.name)
        for item in dataclasses.fields(part)
        if not dataclasses.is_dataclass(getattr(part, item.name))
        and (item.metadata.get("identity", True) or not identity_only)
    }


def _from_dict(cls: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise InputError(f"{where}: expected an object with the fields of {cls.__name__}, got {values!r}.")
    hints = _hints(cls)
    known = {item.name for item in dataclasses.fields(cls)}
    for key in values:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; {nearest(key, sorted(known))}")
    try:
        return cls(
            **{
                key: _from_dict(hints[key], value, f"{where}.{key}") if dataclasses.is_dataclass(hints[key]) else value
                for key, value in values.items()
            }
        )
    except InputError as error:
        raise error if str(error).startswith(where) else InputError(f"{where}: {error}") from None
