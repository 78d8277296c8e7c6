"""Formula-driven images: distorted glyphs and radial contours, at 32 px, in batches.

Nothing here is a photograph or a handwritten character; every pixel follows from a formula, a font and a
generator. The downstream data are 8 x 8 scans enlarged to 32 px, so a share of the images passes through the
same bottleneck.

Shapes: B images in a batch, S = 32 pixels a side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Generator, Tensor

from recipes.vit_nano.glyphs import glyph_atlas, glyph_classes

IMAGE_SIZE = 32
BOTTLENECK_SIZE = 8
GREY_LEVELS = 16


@dataclass(frozen=True, slots=True)
class Distortion:
    """How far images are distorted; every value is the half-width or the probability of a uniform draw."""

    rotation_radians: float = 0.3
    shear: float = 0.3
    log_scale: float = 0.2  # one draw for each axis
    shift: float = 0.06  # of the image side
    elastic: float = 0.09  # standard deviation of the displacement field, of half the image side
    bottleneck_share: float = 0.7  # images that pass through 8 px
    inverted_share: float = 0.1  # dark ink on a light ground
    noise: float = 0.06  # largest standard deviation of the pixel noise


@dataclass(frozen=True, slots=True)
class Mixture:
    """What a batch consists of; classes are numbered glyphs first, contours after."""

    contour_classes: int = 32
    contour_share: float = 0.15
    distortion: Distortion = Distortion()

    @property
    def class_count(self) -> int:
        """Number of classes of the pretraining task."""
        return len(glyph_classes()) + self.contour_classes


def uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    """Uniform draws in [low, high) from the given generator."""
    return torch.rand(shape, generator=generator) * (high - low) + low


def sampling_grid(count: int, distortion: Distortion, generator: Generator) -> Tensor:
    """Random affine map plus a smooth displacement field (Simard et al. 2003), `[B, S, S, 2]`.

    x_source = A x + t + e(x), with e a 4 x 4 Gaussian field enlarged bicubically.
    """
    angle = uniform((count,), -distortion.rotation_radians, distortion.rotation_radians, generator)
    shear = uniform((count,), -distortion.shear, distortion.shear, generator)
    scale = uniform((count, 2), -distortion.log_scale, distortion.log_scale, generator).exp()
    shift = uniform((count, 2), -2 * distortion.shift, 2 * distortion.shift, generator)
    cosine, sine = angle.cos(), angle.sin()
    first = torch.stack([cosine * scale[:, 0], (shear * cosine - sine) * scale[:, 1], shift[:, 0]], dim=1)
    second = torch.stack([sine * scale[:, 0], (shear * sine + cosine) * scale[:, 1], shift[:, 1]], dim=1)
    matrix = torch.stack([first, second], dim=1) * (torch.tensor([0.8, 0.8, 1.0]))
    grid = functional.affine_grid(matrix, [count, 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    field = torch.randn(count, 2, 4, 4, generator=generator) * distortion.elastic
    field = functional.interpolate(field, (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=True)
    return grid + field.permute(0, 2, 3, 1)


def vary_stroke(images: Tensor, generator: Generator) -> Tensor:
    """Thins 15 %, keeps 30 %, thickens 30 % and doubly thickens 25 % of the strokes.

    Grey erosion and dilation with a 3 x 3 square.

    Takes and returns float `[B, 1, H, W]` in [0, 1].
    """
    choice = torch.rand(len(images), 1, 1, 1, generator=generator)
    thick = functional.max_pool2d(images, 3, stride=1, padding=1)
    thicker = functional.max_pool2d(thick, 3, stride=1, padding=1)
    thin = 1 - functional.max_pool2d(1 - images, 3, stride=1, padding=1)
    vanished = thin.amax(dim=(1, 2, 3), keepdim=True) < 0.8
    varied = torch.where(choice < 0.15, torch.where(vanished, images, thin), images)
    varied = torch.where(choice > 0.45, thick, varied)
    return torch.where(choice > 0.75, thicker, varied)


def render_glyphs(labels: Tensor, distortion: Distortion, generator: Generator) -> Tensor:
    """Distorted glyphs of the given rendering numbers (rows of the atlas), float `[B, 1, S, S]` in [0, 1]."""
    atlas, _ = glyph_atlas()
    images = vary_stroke(atlas[labels].unsqueeze(1).float() / 255.0, generator)
    grid = sampling_grid(len(labels), distortion, generator)
    return functional.grid_sample(images, grid, mode="bilinear", align_corners=False)


def contour_parameters(label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lobes, rings and eccentricity of contour classes; 4 x 2 x 4 = 32 combinations, repeated after that."""
    lobes = 3 + label % 4
    rings = 1 + label // 4 % 2
    eccentricity = 0.55 + 0.15 * (label // 8 % 4)
    return lobes, rings, eccentricity


def render_contours(labels: Tensor, distortion: Distortion, generator: Generator) -> Tensor:
    """Radial contours (after Takashima et al. 2023), float `[B, 1, S, S]` in [0, 1].

    r_k(theta) = R_k (1 + a sin(n theta + phi)) in a plane squeezed by the eccentricity; the ink is
    exp(-((|x| - r_k(theta)) / w)^2), maximised over the rings k.
    """
    count = len(labels)
    lobes, rings, eccentricity = (value.view(-1, 1, 1) for value in contour_parameters(labels))
    plane = sampling_grid(count, distortion, generator)
    x, y = plane[..., 0] / eccentricity, plane[..., 1]
    radius, theta = torch.hypot(x, y), torch.atan2(y, x)
    amplitude = uniform((count, 1, 1), 0.2, 0.4, generator)
    phase = uniform((count, 1, 1), 0, 2 * math.pi, generator)
    width = uniform((count, 1, 1), 0.06, 0.14, generator)
    wave = 1 + amplitude * torch.sin(lobes * theta + phase)
    outer = torch.exp(-(((radius - 0.65 * wave) / width) ** 2))
    inner = torch.exp(-(((radius - 0.3 * wave) / width) ** 2)) * (rings > 1)
    return torch.maximum(outer, inner).unsqueeze(1)


def through_bottleneck(images: Tensor) -> Tensor:
    """What scikit-learn's digits undergo: 4 x 4 blocks averaged to 8 px, 17 grey levels, enlarged to 32 px.

    Takes and returns float `[B, 1, S, S]` in [0, 1].
    """
    small = functional.avg_pool2d(images, IMAGE_SIZE // BOTTLENECK_SIZE)
    small = (small * GREY_LEVELS).round() / GREY_LEVELS
    large = functional.interpolate(small, (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=False)
    return large.clamp(0, 1)


def degrade(images: Tensor, distortion: Distortion, generator: Generator) -> Tensor:
    """Bottleneck, contrast, noise and inversion, each for its own share, float `[B, 1, S, S]` in [0, 1]."""
    count = len(images)
    # Scans are binary before they are averaged, so half-ink is pushed towards 0 or 1.
    images = ((images - 0.5) * uniform((count, 1, 1, 1), 1.0, 4.0, generator) + 0.5).clamp(0, 1)
    bottleneck = torch.rand(count, 1, 1, 1, generator=generator) < distortion.bottleneck_share
    images = torch.where(bottleneck, through_bottleneck(images), images)
    images = images * uniform((count, 1, 1, 1), 0.7, 1.0, generator)
    level = uniform((count, 1, 1, 1), 0, distortion.noise, generator)
    images = images + torch.randn(images.shape, generator=generator) * level
    inverted = torch.rand(count, 1, 1, 1, generator=generator) < distortion.inverted_share
    return torch.where(inverted, 1 - images, images).clamp(0, 1)


def draw_batch(count: int, mixture: Mixture, generator: Generator) -> tuple[Tensor, Tensor]:
    """One batch: pixel values `[B, 3, S, S]` in [-1, 1] (mean = std = 0.5) and labels int64 `[B]`."""
    _, atlas_labels = glyph_atlas()
    contour_count = round(count * mixture.contour_share) if mixture.contour_classes else 0
    glyph_labels = torch.randint(len(glyph_classes()), (count - contour_count,), generator=generator)
    renderings = pick_renderings(glyph_labels, atlas_labels, generator)
    parts = [render_glyphs(renderings, mixture.distortion, generator)]
    labels = [glyph_labels]
    if contour_count:
        contour_labels = torch.randint(mixture.contour_classes, (contour_count,), generator=generator)
        parts.append(render_contours(contour_labels, mixture.distortion, generator))
        labels.append(contour_labels + len(glyph_classes()))
    images = degrade(torch.cat(parts), mixture.distortion, generator)
    return (images * 2 - 1).expand(-1, 3, -1, -1), torch.cat(labels)


def pick_renderings(glyph_labels: Tensor, atlas_labels: Tensor, generator: Generator) -> Tensor:
    """A random face for each glyph: row numbers of the atlas, int64 `[B]`. `atlas_labels` must be sorted."""
    first = torch.searchsorted(atlas_labels, glyph_labels)
    faces = torch.searchsorted(atlas_labels, glyph_labels, right=True) - first
    return first + (torch.rand(len(glyph_labels), generator=generator) * faces).long()
