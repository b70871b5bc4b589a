"""What defines a run: frozen dataclasses, checked once at construction.

They are the single source of the Python API, the command line's flags and help, and ``config.json``. The text under a
field is its help. Field names are unique across the sections, so that a flag or a keyword needs no prefix.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from msgspec import Meta

from convmixer.datasets import DATASETS, loader_of
from convmixer.errors import InputError, nearest
from convmixer.parts.branches import BRANCHES, Activation, Block
from convmixer.parts.freezing import frozen_modules
from convmixer.parts.heads import HEADS
from convmixer.records import Checked, build

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
BadImages = Literal["fail", "skip"]

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")

Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Amount = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Probability = Annotated[float, Meta(ge=0, lt=1)]
PerBlock = Positive | tuple[Positive, ...]
"""One number for all blocks, or one for each; equal numbers become one number."""

_INCIDENTAL = {"identity": False}
"""Metadata of fields that say where and how conveniently a run happens, not what it computes."""

_LATER = {"later": True}
"""Metadata of fields that version 0.1 did not have: at its default such a field is no part of the identity hash."""

RENAMED = {"matrix_lr": "muon_lr", "branch_gamma": "init_residual_gamma"}
"""Fields of older versions and what they are called now; ``config.json`` and the command line may have either."""

_VARIANTS: dict[str, dict[str, str]] = {
    "base": {},
    "rh": {"head": "rh"},
    "lc": {"head": "lc"},
    "bn": {"branch": "bottleneck"},
}
"""What older versions called variant, as head and branch."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
    """The architecture. Number of classes and image channels come from the data."""

    head: str = "linear"
    """Classifier behind the pooling: linear (the paper's), rh, lc, or another one that `convmixer models` lists."""
    branch: str = "depthwise"
    """Residual branch of the blocks: depthwise (the paper's), bottleneck, or another one that `convmixer models`
    lists."""
    dim: Positive = 256
    """Hidden dimension h: channels of every block (alias: --hidden-dim)."""
    depth: Positive = 8
    """Number of ConvMixer blocks."""
    kernel_size: PerBlock = 9
    """Side of the depthwise kernels in positions, odd; one number, or one for each block as in 9,9,5,5."""
    patch_size: Positive = 2
    """Side of the patches in pixels; it has to divide the image size."""
    activation: Activation = "gelu"
    """Nonlinearity after every convolution."""
    bottleneck_factor: Positive = 2
    """How many times narrower the bottleneck branch is; other branches ignore it."""
    dropout: Probability = 0.0
    """Dropout probability in front of the classifier."""
    drop_path: Probability = 0.0
    """Stochastic depth: drop probability of the last block's residual branch, rising linearly from 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.kernel_size, tuple) and len(set(self.kernel_size)) == 1:
            object.__setattr__(self, "kernel_size", self.kernel_size[0])

    def _problems(self) -> Iterator[str]:
        for name, registry in (("head", HEADS), ("branch", BRANCHES)):
            if (value := getattr(self, name)) not in registry:
                yield f"`{name}`: {value!r} is unknown; {nearest(value, registry)}"
        given = self.kernel_size
        if isinstance(given, tuple) and len(given) != self.depth:
            yield (
                f"`kernel_size`: {per_block_text(given)} has {len(given)} numbers, but `depth` is {self.depth}; "
                "give one number, or one for each block."
            )
        for k in (given,) if isinstance(given, int) else given:
            if k % 2 == 0:
                neighbours = f"choose {k - 1 or 1} or {k + 1}"
                yield f"`kernel_size`: {k} is even, and only an odd kernel has a centre; {neighbours}."
        yield from filter(None, map(BRANCHES[self.branch].problem, self.blocks()))

    def blocks(self) -> tuple[Block, ...]:
        """The sizes of each block."""
        kernels = (self.kernel_size,) * self.depth if isinstance(self.kernel_size, int) else self.kernel_size
        return tuple(Block(self.dim, kernel, self.bottleneck_factor, self.activation) for kernel in kernels)


def per_block_text(value: PerBlock) -> str:
    """``9`` or ``9,9,5,5``, as the command line takes it."""
    return str(value) if isinstance(value, int) else ",".join(map(str, value))


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """Which images, and how they are split."""

    dataset: str = "cifar10"
    """Name of a data set, such as digits or cifar10, or folder:PATH (PATH/train/<class>/* and PATH/test/<class>/*, or
    PATH/<class>/*)."""
    image_size: Positive | None = None
    """Side in pixels that the images of a folder are resized and cropped to; by default their own where all agree."""
    val_fraction: Annotated[float, Meta(ge=0, le=0.9)] = 0.1
    """Fraction of the training images held out, stratified by class, to choose the epoch whose weights are kept."""
    test_fraction: Annotated[float, Meta(ge=0.01, le=0.9)] = 0.2
    """Fraction of a folder without a test split to set aside as one."""
    split_seed: Count = 0
    """Seed of these splits. Kept apart from the run's seed, so that runs with different seeds see the same split."""
    bad_images: BadImages = field(default="fail", metadata=_INCIDENTAL)
    """What to do if files of a folder cannot be read as images: fail, or skip them and say which."""
    data_dir: str = field(default="data", metadata=_INCIDENTAL)
    """Directory to search for archives and download to."""
    source: str | None = field(default=None, metadata=_INCIDENTAL)
    """Where to download an archive from instead of the known hosts: an https:// URL, hub (Hugging Face), or none, which
    never downloads."""

    def _problems(self) -> Iterator[str]:
        if loader_of(self.dataset) is None:
            yield f"`dataset`: {self.dataset!r} is unknown; {nearest(self.dataset, DATASETS)}"


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Checked):
    """Random changes to training images, in the order of these fields."""

    crop: Crop = "none"
    """none; pad (shift by up to --crop-padding pixels); resized (a square of random area)."""
    crop_padding: Count | None = None
    """Pixels of padding for --crop pad; by default an eighth of the image's side."""
    crop_fill: CropFill = "black"
    """What --crop pad shows beyond the edge: black, or the image mirrored there (reflect)."""
    crop_scale: Annotated[float, Meta(ge=0.01, le=1)] = 1.0
    """Smallest area of a --crop resized, as a fraction of the image; 1 leaves the image as it is."""
    flip: bool | None = None
    """Mirror half of the images; by default on, except for data whose mirror images mean something else (digits)."""
    flip_mode: FlipMode = "random"
    """random (a coin for each image in every epoch) or alternating (each image in every other epoch, its first
    orientation random; arXiv 2404.00498)."""
    randaugment: Count = 0
    """Number of RandAugment operations for each image (arXiv 1909.13719); 0 is off."""
    randaugment_magnitude: Annotated[int, Meta(ge=0, le=30)] = 12
    """Strength of these operations, 0 to 30."""
    trivialaugment: bool = False
    """One operation of random strength for each image, from wider ranges (TrivialAugmentWide, arXiv 2103.10158)."""
    color_jitter: Amount = 0.0
    """Relative range of random brightness, contrast and saturation; 0 is off."""
    erasing: Fraction = 0.0
    """Probability that a random rectangle of an image is replaced by the mean colour (arXiv 1708.04896)."""
    cutout: Count = 0
    """Side in pixels of a square that is replaced by the mean colour, its centre anywhere (arXiv 1708.04552); 0 is
    off."""

    mixup: Amount = 0.0
    """Parameter of the beta distribution that says how two images and their labels are mixed, the same for a whole
    batch (arXiv 1710.09412); 0 is off."""
    cutmix: Amount = 0.0
    """Parameter of the beta distribution of the area that is cut out of another image, the same for a whole batch
    (arXiv 1905.04899); 0 is off. With --mixup as well a coin decides for each batch."""
    mix_probability: Fraction = 1.0
    """Probability that a batch is mixed, where --mixup or --cutmix is on."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Checked):
    """The optimisation: a learning rate that changes every step, and what is done with it."""

    epochs: Positive = 25
    """Passes over the training images."""
    batch_size: Annotated[int, Meta(ge=2, le=2**31 - 1)] | None = None
    """Images in a step; by default the recipe's, but smaller where an epoch would have fewer than 40 steps, or (none)
    the largest power of two from 16 to 256 with which it has 40. A last, smaller batch is left out (the order changes
    every epoch)."""
    accumulate: Positive = 1
    """Parts of a batch that go through the model one after the other, to save memory; the statistics of batch
    normalisation are those of a part."""
    init_from: str | None = field(default=None, metadata=_LATER)
    """Trained weights to start from: a run directory, a file, timm:NAME, or hub:OWNER/REPOSITORY (Hugging Face). Other
    classes get a new head."""
    freeze: str = field(default="", metadata=_LATER)
    """Parts that are not trained, between commas: stem, blocks.0-3 (blocks by number), blocks, head, or features (all
    but the head)."""
    backbone_lr_scale: Amount = field(default=1.0, metadata=_LATER)
    """Factor on the learning rate of everything but the head, for fine-tuning."""
    optimizer: Optimizer = "adamw"
    """adamw; sgd (with Nesterov momentum); muon (orthogonal steps for the weights of pointwise and patch convolutions,
    with a learning rate of their own, and adamw for all others)."""
    lr: Amount = 0.01
    """Peak learning rate."""
    muon_lr: Amount = 0.02
    """Peak learning rate of muon's orthogonal steps."""
    momentum: Probability = 0.9
    """Momentum of sgd, and of muon's orthogonal steps."""
    weight_decay: Amount = 0.01
    """Weight decay: decoupled (times the learning rate) in adamw and muon, part of the gradient in sgd."""
    decay_norms: bool = True
    """Weight decay on normalisations and biases too."""
    clip_norm: Amount = 1.0
    """Largest norm of the gradient of all parameters together; 0 does not clip."""
    schedule: Schedule = "cosine"
    """cosine (linear warm-up, then half a cosine to 0), linear (linear warm-up, then a line to 0), triangular (0 to
    peak at 2/5, 1/20 of it at 4/5, then 0) or onecycle (half a cosine up until 3/10, then half a cosine to 0)."""
    warmup_epochs: Amount = 1.0
    """Length of the linear warm-up of cosine and linear in epochs, at most half of the run."""
    init_residual_gamma: Amount = 1.0
    """Initial weight of the batch normalisation that ends each residual branch; below 1 the branches are down-weighted
    at initialisation (arXiv 1706.02677, section 5.1, uses 0)."""
    label_smoothing: Probability = 0.0
    """Probability mass spread evenly over all classes in the training loss."""
    ema_decay: Probability = 0.0
    """Decay for each step of a moving average of the weights, which is then what is kept; 0 is off."""
    image_size_start: Positive | None = None
    """Side in pixels that training images are scaled down to in the first epoch; it then rises linearly, in whole
    patches, to the full size at 3/5 of the run. By default all epochs see the full size."""
    eval_every: Positive = 1
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
    to be faster on this machine (auto). A resumed run stays with the engine it began with."""
    cuda_graph: bool = field(default=True, metadata=_INCIDENTAL)
    """On a CUDA device, record an update once and replay it, which spares the time between its operations."""
    checkpoint_minutes: Amount = field(default=10.0, metadata=_INCIDENTAL)
    """Minutes between checkpoints within an epoch; they are written after epochs as well."""
    track: str = field(default="tensorboard", metadata=_INCIDENTAL)
    """Trackers to record metrics, settings and pictures with, as in tensorboard,wandb: tensorboard (files in the run
    directory), wandb, trackio, mlflow; or none."""

    def trackers(self) -> tuple[str, ...]:
        """The names in ``track``."""
        names = tuple(dict.fromkeys(name.strip() for name in self.track.split(",")))
        return () if names == ("none",) else names

    def _problems(self) -> Iterator[str]:
        for name in self.trackers():
            if name not in TRACKERS:
                yield f"`track`: {name!r} is not a tracker; {nearest(name, (*TRACKERS, 'none'))}"
        try:
            frozen_modules(self.freeze)
        except InputError as error:
            yield error.args[0]


@dataclass(frozen=True, kw_only=True)
class RunConfig(Checked):
    """Everything needed to repeat a run."""

    model: str = "convmixer"
    """Preset that the architecture's defaults come from (see: convmixer models)."""
    recipe: str = "baseline"
    """Recipe that the augmentation's and optimisation's defaults come from: baseline, reference, strong, strong-short,
    finetune."""
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """Seed of initial weights, order of images, augmentation and dropout."""
    protocol: Protocol = "validation"
    """validation: choose the epoch on held-out training images, read the test set once. original: train on all images
    and report the best test epoch, as the first study did."""
    architecture: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as ``config.json`` holds them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any, where: str = "config") -> Self:
        """The inverse of :meth:`to_dict`, also for files of older versions; missing keys take their defaults.

        Raises:
            InputError: unknown key (with the nearest known one), wrong type or impossible value.
        """
        return build(cls, _current(values), where)

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
                now = (RENAMED | {"variant": "head and branch"}).get(name)
                hint = f"it is now called {now}." if now else nearest(name, owner)
                raise InputError(f"{name!r} is not a field of a run's configuration; {hint}")
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
        """Ten hexadecimal digits that two configurations share if, and practically only if, their identity is equal.

        They name directories, so what older versions could say hashes as it did there.
        """
        old_names = {new: old for old, new in RENAMED.items()}
        unset = _later_defaults()
        identity = {
            old_names.get(name, name): value
            for name, value in self.identity().items()
            if name not in unset or value != unset[name]
        }
        parts = {"head": identity["head"], "branch": identity["branch"]}
        for variant, changed in _VARIANTS.items():
            if parts == {"head": "linear", "branch": "depthwise"} | changed:
                del identity["head"], identity["branch"]
                identity["variant"] = variant
        canonical = json.dumps(identity, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:10]


@functools.cache
def sections() -> tuple[str, ...]:
    """Names of the nested parts of a run's configuration."""
    return tuple(f.name for f in dataclasses.fields(RunConfig) if isinstance(f.default_factory, type))


@functools.cache
def field_owners() -> dict[str, str]:
    """Each field's name and the section that holds it ('' for a run's own fields)."""
    owners = dict.fromkeys(_own_fields(RunConfig()), "")
    for section in sections():
        owners |= dict.fromkeys(_own_fields(getattr(RunConfig(), section)), section)
    return owners


@functools.cache
def _later_defaults() -> dict[str, Any]:
    """The defaults of the fields that version 0.1 did not have."""
    parts = (RunConfig(), *(getattr(RunConfig(), section) for section in sections()))
    return {f.name: f.default for part in parts for f in dataclasses.fields(part) if f.metadata.get("later")}


def _own_fields(part: Any, identity_only: bool = False) -> dict[str, Any]:
    return {
        item.name: getattr(part, item.name)
        for item in dataclasses.fields(part)
        if not dataclasses.is_dataclass(getattr(part, item.name))
        and (item.metadata.get("identity", True) or not identity_only)
    }


def _current(values: Any) -> Any:
    """The plain values of a configuration under the names that fields have now."""
    if not isinstance(values, dict):
        return values
    values = {RENAMED.get(name, name): _current(value) for name, value in values.items()}
    if isinstance(variant := values.get("variant"), str) and variant in _VARIANTS:
        del values["variant"]
        values = _VARIANTS[variant] | values
    return values
