"""Draw the style pictures of the demo and the tests: brush strokes along a field. python -m tools.demo.draw_style
swirls swirls.jpg
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy
from PIL import Image, ImageDraw

SIZE, OVERSAMPLING = 512, 2
SWIRLS = numpy.array([[0.30, 0.30, 1.0], [0.72, 0.22, -1.0], [0.62, 0.70, 1.0], [0.15, 0.80, -0.7]])  # x, y, turn


def swirling(x: numpy.ndarray) -> numpy.ndarray:
    """A drift to the right, turned around each swirl."""
    flow = numpy.tile([0.55, 0.12], (len(x), 1))
    for cx, cy, turn in SWIRLS:
        d = x - (cx, cy)
        weight = turn * numpy.exp(-(d ** 2).sum(1, keepdims=True) / 0.03) * 9
        flow += weight * numpy.stack([-d[:, 1], d[:, 0]], 1) / 0.6
    return flow


def straight(degrees: float) -> Callable[[numpy.ndarray], numpy.ndarray]:
    angle = numpy.radians(degrees)
    return lambda x: numpy.tile([numpy.cos(angle), numpy.sin(angle)], (len(x), 1))


def wavy(x: numpy.ndarray) -> numpy.ndarray:
    return numpy.stack([numpy.ones(len(x)), numpy.cos(x[:, 0] * 25 + x[:, 1] * 9)], 1)


class Style(NamedTuple):
    """Strokes along `field` (points (N, 2) in [0, 1]^2 to directions), their width in pixels, their length as a share
    of the picture, and colors for the ground, by distance from the swirls' centers, and for what is near a center.
    """
    field: Callable[[numpy.ndarray], numpy.ndarray]
    ground: list[tuple[int, int, int]]
    lights: list[tuple[int, int, int]]
    strokes: int
    length: float
    width: tuple[int, int]
    jitter: float = 12


STYLES = {
    "swirls": Style(swirling, [(18, 32, 92), (26, 62, 140), (44, 102, 176), (92, 150, 200), (178, 206, 214)],
                    [(250, 214, 92), (242, 178, 48), (255, 240, 178)], 9000, 0.056, (2, 5)),
    "dots": Style(straight(0), [(222, 196, 120), (198, 170, 90), (122, 150, 70), (84, 120, 96), (236, 220, 170)],
                  [(214, 92, 48), (240, 130, 60), (160, 50, 40)], 26000, 0.002, (4, 7), 22),
    "hatching": Style(straight(-50), [(238, 230, 212), (246, 240, 226), (40, 34, 30), (226, 214, 190), (58, 50, 44)],
                      [(24, 20, 18), (36, 30, 26), (70, 60, 52)], 9000, 0.05, (1, 3), 6),
    "waves": Style(wavy, [(10, 54, 66), (20, 98, 104), (70, 150, 140), (150, 200, 176), (226, 236, 210)],
                   [(240, 246, 230), (200, 226, 206), (252, 252, 240)], 8000, 0.08, (3, 6)),
    "embers": Style(straight(80), [(40, 8, 16), (98, 16, 24), (160, 36, 28), (206, 78, 34), (70, 12, 40)],
                    [(250, 190, 70), (246, 150, 50), (255, 226, 140)], 6000, 0.09, (5, 10), 16),
    "ink": Style(swirling, [(226, 224, 216), (206, 204, 196), (186, 184, 178), (150, 150, 146), (214, 212, 206)],
                 [(30, 32, 34), (54, 56, 58), (86, 88, 88)], 5000, 0.1, (4, 12), 8),
}
STEPS = 14


def broader(style: Style, factor: float = 3.0) -> Style:
    """With fewer, wider and longer strokes: of some latents' width, as the small models draw nothing finer."""
    width = tuple(round(factor * width) for width in style.width)
    return style._replace(width=width, strokes=round(style.strokes / factor), length=style.length * factor ** 0.5)


def random_style(rng: numpy.random.Generator, narrowest: tuple[int, int] = (1, 8)) -> Style:
    """Any field, colors, and strokes from dots to ribbons: for training, so that strokes are nothing new to the model.

    Widths begin at one of the range `narrowest`, in pixels, and vary by up to 5.
    """
    field = [swirling, wavy, straight(rng.uniform(-90, 90)), straight(rng.uniform(-90, 90))][rng.integers(4)]
    ground = rng.uniform(0, 255, 3) + rng.normal(0, rng.uniform(15, 60), (5, 3))
    lights = rng.uniform(0, 255, 3) + rng.normal(0, 25, (3, 3))
    narrow = int(rng.integers(*narrowest))
    colors = [[tuple(int(c) for c in color) for color in numpy.clip(table, 0, 255)] for table in (ground, lights)]
    length = 0.002 if rng.random() < 0.15 else rng.uniform(0.03, 0.1)
    return Style(field, *colors, int(60000 / (narrow + 4)), length, (narrow, narrow + int(rng.integers(2, 7))),
                 rng.uniform(4, 20))


def draw(style: Style, seed: int = 7) -> Image.Image:
    rng = numpy.random.default_rng(seed)
    side = SIZE * OVERSAMPLING
    ground, lights = numpy.array(style.ground), numpy.array(style.lights)
    image = Image.new("RGB", (side, side), style.ground[1])
    canvas = ImageDraw.Draw(image)
    points = rng.random((style.strokes, 2))
    paths = [points]
    for _ in range(STEPS):
        flow = style.field(paths[-1])
        paths.append(paths[-1] + flow / numpy.linalg.norm(flow, axis=1, keepdims=True) * style.length / STEPS)
    paths = numpy.stack(paths, 1)
    distance = numpy.sqrt(((points[:, None] - SWIRLS[None, :, :2]) ** 2).sum(-1)).min(1)
    shade = numpy.clip((0.34 - distance) * 9 + rng.normal(0, 0.8, style.strokes), 0, len(ground) - 1).astype(int)
    bright = distance + rng.normal(0, 0.02, style.strokes) < 0.065
    for path, s, lit, jitter in zip(paths, shade, bright, rng.normal(0, style.jitter, (style.strokes, 3))):
        base = lights[rng.integers(len(lights))] if lit else ground[s]
        color = tuple(int(c) for c in numpy.clip(base + jitter, 0, 255))
        width = OVERSAMPLING * int(rng.integers(*style.width))
        canvas.line([tuple(p) for p in path * side], fill=color, width=width, joint="curve")
        if style.length < 0.01:
            x, y = path[0] * side
            canvas.ellipse([x - width, y - width, x + width, y + width], fill=color)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    draw(STYLES[sys.argv[1]]).save(sys.argv[2], quality=90)
