"""RandAugment (arXiv 1909.13719) on whole batches, pixel for pixel what Pillow does to one image at a time.

The operations, their ranges and their 31 steps of magnitude are torchvision's. Each operation works on the part of a
batch that drew it, with an argument of its own for each image, in integers or in float32 with Pillow's own roundings:
the results on a CPU and on a GPU are the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor

MAGNITUDES = 31
"""Steps between no effect (0) and the strongest one (30)."""

Kernel = Callable[[Tensor, Tensor], Tensor]
"""Changes (M, C, H, W) uint8 images as one argument for each, (M, ...), says."""


def transfer(tensors: Iterable[Tensor], device: torch.device) -> list[Tensor]:
    """CPU tensors on ``device``, moved together in one copy."""
    sources = [tensor.contiguous() for tensor in tensors]
    raw = [source.flatten().view(torch.uint8) for source in sources]
    # Every tensor starts at a multiple of 8 bytes: a view as its own type has to be aligned.
    padded = [torch.nn.functional.pad(part, (0, -len(part) % 8)) for part in raw]
    buffer = torch.cat(padded).to(device, non_blocking=device.type == "cuda")
    starts = accumulate((len(part) for part in padded), initial=0)
    return [
        buffer[start : start + len(part)].view(source.dtype).view(source.shape)
        for start, part, source in zip(starts, raw, sources, strict=False)
    ]


def apply_groups(images: Tensor, groups: Iterable[tuple[Kernel, Tensor, Tensor]]) -> Tensor:
    """Images (N, C, H, W) after each kernel has changed its own ones.

    Args:
        images: (N, C, H, W) uint8, left as they are.
        groups: Kernel, which images, (M,) int64, and their arguments, (M, ...), both on the CPU. No image twice.
    """
    chosen = [group for group in groups if len(group[1])]
    moved = iter(transfer((tensor for group in chosen for tensor in group[1:]), images.device) if chosen else [])
    result = images.clone()
    for kernel, _, _ in chosen:
        index, argument = next(moved), next(moved)
        result.index_copy_(0, index, kernel(images.index_select(0, index), argument))
    return result


# Geometry.


def fixed_point(*matrix: Tensor | float) -> Tensor:
    """Affine maps as Pillow follows them, in units of 2**-16 pixels.

    Args:
        matrix: a, b, c, d, e, f, each (M,) float64 or one number for all. The pixel at column x and row y of the result
            comes from column a x + b y + c and row d x + e y + f, measured to the pixels' corners.

    Returns:
        (M, 6) int32; c and f now count from centre to centre.
    """
    values = [torch.as_tensor(value, dtype=torch.float64) for value in matrix]
    shape = max(values, key=Tensor.dim).shape
    a, b, c, d, e, f = (value.expand(shape) for value in values)
    corrected = torch.stack([a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5], dim=-1)
    return (corrected * 65536 + 0.5).floor().to(torch.int32)


def affine(images: Tensor, matrix: Tensor) -> Tensor:
    """The nearest source pixel under each map of :func:`fixed_point`, black outside the image."""
    channels, height, width = images.shape[1:]
    x = torch.arange(width, dtype=torch.int32, device=images.device)
    y = torch.arange(height, dtype=torch.int32, device=images.device)[:, None]
    a, b, c, d, e, f = matrix[:, :, None, None].unbind(1)
    column = (a * x + b * y + c) >> 16
    row = (d * x + e * y + f) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    source = torch.where(inside, row * width + column, 0).long().flatten(1)
    pixels = images.flatten(2).gather(2, source[:, None].expand(-1, channels, -1))
    return pixels.view_as(images) * inside[:, None]


def _rotation(degrees: Tensor, size: int) -> Tensor:
    """Counter-clockwise about the centre of the image."""
    angle, centre = -degrees * (math.pi / 180), size / 2
    cos, sin = angle.cos(), angle.sin()
    return fixed_point(cos, sin, centre - (cos + sin) * centre, -sin, cos, centre - (cos - sin) * centre)


# Colour.


def grey(images: Tensor) -> Tensor:
    """Luma of ITU-R BT.601 in 16-bit fixed point. (M, C, H, W) uint8 -> (M, 1, H, W) int32."""
    levels = images.to(torch.int32)
    if images.shape[1] == 1:
        return levels
    red, green, blue = levels.unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16)[:, None]


def _blend(degenerate: Tensor | float, images: Tensor, factor: Tensor) -> Tensor:
    """From ``degenerate`` (factor 0) through the image (1) and beyond: float32, cut to [0, 255], fraction dropped."""
    mixed = degenerate + factor.view(-1, 1, 1, 1) * (images.float() - degenerate)
    return mixed.clamp_(0, 255).to(torch.uint8)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Towards or away from black by ``factor``, (M,) float32."""
    return _blend(0.0, images, factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Towards or away from the grey image by ``factor``, (M,) float32; leaves a grey one as it is."""
    return _blend(grey(images).float(), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Towards or away from the image's mean grey, rounded, by ``factor``, (M,) float32."""
    pixels = images.shape[2] * images.shape[3]
    total = grey(images).sum((1, 2, 3), keepdim=True)
    return _blend(((2 * total + pixels) // (2 * pixels)).float(), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Towards or away from the smoothed image by ``factor``, (M,) float32.

    The smoothing kernel is 3×3, 5 in the middle and 1 elsewhere, over 13. The image's outermost pixels stay.
    """
    levels = images.to(torch.int16)
    middle = levels[:, :, 1:-1, 1:-1]
    rows = levels[:, :, :-2] + levels[:, :, 1:-1] + levels[:, :, 2:]
    weighted = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * middle
    smooth = images.float()
    # Rounded; no multiple of 1/13 lies near a half, so that Pillow's float32 arrives at the same integer.
    smooth[:, :, 1:-1, 1:-1] = ((weighted + 6) // 13).float()
    return _blend(smooth, images, factor)


def posterize(images: Tensor, mask: Tensor) -> Tensor:
    """Keeps the bits of ``mask``, (M,) uint8."""
    return images & mask.view(-1, 1, 1, 1)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Inverts the levels from ``threshold``, (M,) float32, on."""
    return torch.where(images < threshold.view(-1, 1, 1, 1), images, 255 - images)


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretches each channel's levels to the whole range; a constant channel stays."""
    # Pillow works in float64, and its roundings show where the exact value is an integer. MPS has no float64.
    exact = torch.device("cpu") if images.device.type == "mps" else images.device
    low, high = (level.to(exact).double()[..., None] for level in (images.amin(dim=(2, 3)), images.amax(dim=(2, 3))))
    levels = torch.arange(256, dtype=torch.float64, device=exact)
    scale = levels[-1] / (high - low).clamp(min=1)  # of tensors: a number over a tensor would be rounded twice
    stretched = (levels * scale + -low * scale).clamp(0, 255)
    return _look_up(images, torch.where(high > low, stretched, levels).to(torch.uint8).to(images.device))


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Spreads each channel's levels so that their histogram is nearly flat.

    A level becomes the number of darker pixels in units of a 255th of all pixels but the brightest ones. Where that
    unit is less than a pixel (constant channels, images below 16×16) the channel stays.
    """
    levels = images.flatten(2)
    ones = torch.ones((), dtype=torch.int32, device=images.device).expand_as(levels)
    histogram = ones.new_zeros(*levels.shape[:2], 256).scatter_add_(2, levels.long(), ones)
    brightest = histogram.gather(2, levels.amax(2, keepdim=True).long())
    step = (levels.shape[2] - brightest) // 255
    darker = histogram.cumsum(2, dtype=torch.int32) - histogram
    spread = ((step // 2 + darker) // step.clamp(min=1)).clamp(max=255)
    unchanged = torch.arange(256, dtype=torch.int32, device=images.device)
    return _look_up(images, torch.where(step > 0, spread, unchanged).to(torch.uint8))


def _look_up(images: Tensor, table: Tensor) -> Tensor:
    """Each level replaced as ``table``, (M, C, 256) uint8, says."""
    return table.gather(2, images.flatten(2).long()).view_as(images)


def _identity(images: Tensor, _: Tensor) -> Tensor:
    return images


# The table of operations.


def _none(size: int) -> Tensor:
    return torch.zeros(MAGNITUDES)


def _up_to(largest: float) -> Callable[[int], Tensor]:
    return lambda size: torch.linspace(0.0, largest, MAGNITUDES)


def _shift(size: int) -> Tensor:
    return torch.linspace(0.0, 150.0 / 331.0 * size, MAGNITUDES)


def _bits(size: int) -> Tensor:
    return 8 - (torch.arange(MAGNITUDES) / ((MAGNITUDES - 1) / 4)).round()


def _threshold(size: int) -> Tensor:
    return torch.linspace(255.0, 0.0, MAGNITUDES)


def _factor(value: Tensor, size: int) -> Tensor:
    return (1.0 + value).float()


@dataclass(frozen=True)
class Operation:
    """One row of RandAugment's table."""

    name: str
    kernel: Kernel
    signed: bool = False
    """Whether half of the images get the negative of the magnitude's value."""
    values: Callable[[int], Tensor] = _none
    """Side of the images -> value at every magnitude, (31,) float32."""
    argument: Callable[[Tensor, int], Tensor] = lambda value, size: value.float()
    """Signed values, (M,) float64, and side of the images -> what the kernel takes, on the CPU."""


OPERATIONS = (
    Operation("Identity", _identity),
    Operation("ShearX", affine, True, _up_to(0.3), lambda value, size: fixed_point(1, value, 0, 0, 1, 0)),
    Operation("ShearY", affine, True, _up_to(0.3), lambda value, size: fixed_point(1, 0, 0, value, 1, 0)),
    Operation("TranslateX", affine, True, _shift, lambda value, size: fixed_point(1, 0, -value.trunc(), 0, 1, 0)),
    Operation("TranslateY", affine, True, _shift, lambda value, size: fixed_point(1, 0, 0, 0, 1, -value.trunc())),
    Operation("Rotate", affine, True, _up_to(30.0), _rotation),
    Operation("Brightness", brightness, True, _up_to(0.9), _factor),
    Operation("Color", saturation, True, _up_to(0.9), _factor),
    Operation("Contrast", contrast, True, _up_to(0.9), _factor),
    Operation("Sharpness", sharpness, True, _up_to(0.9), _factor),
    Operation("Posterize", posterize, False, _bits, lambda value, size: (256 - 2 ** (8 - value)).to(torch.uint8)),
    Operation("Solarize", solarize, False, _threshold),
    Operation("AutoContrast", autocontrast),
    Operation("Equalize", equalize),
)


@dataclass(frozen=True)
class RandAugmentDraw:
    """What each step does to each of N images."""

    operation: Tensor
    """(steps, N) int64: rows of OPERATIONS."""
    value: Tensor
    """(steps, N) float64: strength in the operation's own unit, with its sign."""


@dataclass(frozen=True)
class RandAugment:
    """``steps`` operations for each image, drawn uniformly and with replacement, all of one magnitude, 0 to 30."""

    steps: int
    magnitude: int

    def draw(self, count: int, size: int, generator: torch.Generator) -> RandAugmentDraw:
        """Operations and signs for ``count`` images of side ``size``."""
        operation = torch.randint(len(OPERATIONS), (self.steps, count), generator=generator)
        negative = torch.randint(2, (self.steps, count), generator=generator).bool()
        # float32 steps, as torchvision has them: where a value is cut to an integer their rounding can decide.
        values = torch.stack([row.values(size)[self.magnitude] for row in OPERATIONS]).double()[operation]
        signed = torch.tensor([row.signed for row in OPERATIONS])[operation]
        return RandAugmentDraw(operation, torch.where(negative & signed, -values, values))

    def apply(self, images: Tensor, draw: RandAugmentDraw) -> Tensor:
        """Images (N, C, H, H) uint8, changed as drawn."""
        for operation, value in zip(draw.operation, draw.value, strict=True):
            images = apply_groups(images, _groups(operation, value, images.shape[-1]))
        return images


def _groups(operation: Tensor, value: Tensor, size: int) -> Iterable[tuple[Kernel, Tensor, Tensor]]:
    """The images of one step by kernel: all geometric operations are one map, and run at once."""
    for kernel, rows in groupby(enumerate(OPERATIONS), key=lambda row: row[1].kernel):
        if kernel is _identity:
            continue
        members = [((operation == number).nonzero().flatten(), row) for number, row in rows]
        index = torch.cat([own for own, _ in members])
        yield kernel, index, torch.cat([row.argument(value[own], size) for own, row in members])
