"""Photographs in strokes along their own edges, coarse to fine (Hertzmann 1998), in the colors of a drawn style."""

import math
from collections.abc import Callable
from functools import partial

import numpy
from PIL import Image, ImageDraw, ImageOps
from scipy.ndimage import gaussian_filter

from ..demo.draw_style import Style
from ..demo.measures import LUMINANCE

SHORT_SIDE = 512
LAYERS = (2.0, 1.0)  # stroke widths as multiples of the style's
COVERAGE = 2.2  # strokes of a layer over every point
STEPS = 9  # of a stroke
FLATTEST = 0.3  # share of the picture whose edges say no direction


def paint(photograph: Image.Image, style: Style, rng: numpy.random.Generator) -> Image.Image:
    """The photograph with its shorter side at 512 pixels: what is dark in it has the darkest of the style's colors."""
    gray = ImageOps.cover(photograph, (SHORT_SIDE, SHORT_SIDE), Image.Resampling.LANCZOS).convert("L")
    light, size = numpy.asarray(gray, float) / 255, gray.size
    angles = edge_angles(light, rng.uniform(0, math.pi))
    tones = lightness(light, equalized=rng.random() < 0.5)
    colors = numpy.array(style.ground + style.lights, float)
    colors = colors[(colors @ LUMINANCE).argsort()]

    def at(field: numpy.ndarray, points: numpy.ndarray) -> numpy.ndarray:
        x, y = points.astype(int).T
        return field[y.clip(0, size[1] - 1), x.clip(0, size[0] - 1)]

    image = Image.new("RGB", size, tuple(colors[len(colors) // 2].astype(int).tolist()))
    canvas, length = ImageDraw.Draw(image), style.length * SHORT_SIDE
    for layer in LAYERS:
        narrow, wide = (round(layer * side) for side in style.width)
        count = round(COVERAGE * light.size / (wide * max(wide, length)))
        paths = strokes(rng.random((count, 2)) * size, partial(at, angles), length / STEPS)
        tone = at(tones, paths[:, STEPS // 2]) * (len(colors) - 1) + rng.normal(0, 0.35, count)
        shades = colors[tone.round().clip(0, len(colors) - 1).astype(int)] + rng.normal(0, style.jitter, (count, 3))
        for path, color, side in zip(paths, shades.clip(0, 255).astype(int).tolist(),
                                     rng.integers(narrow, wide + 1, count).tolist()):
            if length < side:
                x, y = path[0]
                canvas.ellipse([x - side / 2, y - side / 2, x + side / 2, y + side / 2], fill=tuple(color))
            else:
                canvas.line([tuple(point) for point in path.tolist()], fill=tuple(color), width=side, joint="curve")
    return image


def edge_angles(light: numpy.ndarray, elsewhere: float) -> numpy.ndarray:
    """Along which direction (H, W), in radians, the picture's edges run; the angle `elsewhere` where it is flat."""
    dy, dx = numpy.gradient(gaussian_filter(light, 10))
    xx, xy, yy = (gaussian_filter(product, 12) for product in (dx * dx, dx * dy, dy * dy))
    strength = xx + yy
    return numpy.where(strength > numpy.quantile(strength, FLATTEST), (numpy.arctan2(2 * xy, xx - yy) + math.pi) / 2,
                       elsewhere)


def lightness(light: numpy.ndarray, equalized: bool) -> numpy.ndarray:
    """From 0 to 1 over the picture, with as much of every tone if `equalized`."""
    smooth = gaussian_filter(light, 2)
    if equalized:
        return smooth.ravel().argsort().argsort().reshape(smooth.shape) / smooth.size
    return (smooth - smooth.min()) / max(numpy.ptp(smooth), 1e-6)


def strokes(starts: numpy.ndarray, angle: Callable[[numpy.ndarray], numpy.ndarray], step: float) -> numpy.ndarray:
    """Paths (N, STEPS + 1, 2) from `starts` (N, 2) along `angle(points)`, which has no sign: none turns back."""
    paths, heading = [starts], 0
    for _ in range(STEPS):
        a = angle(paths[-1])
        along = numpy.stack([numpy.cos(a), numpy.sin(a)], 1)
        along *= numpy.where((along * heading).sum(1, keepdims=True) < 0, -1, 1)
        heading = 0.6 * heading + 0.4 * along
        paths.append(paths[-1] + heading / numpy.linalg.norm(heading, axis=1, keepdims=True) * step)
    return numpy.stack(paths, 1)
