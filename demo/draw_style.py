"""Draw the demo's style picture: brush strokes along a swirling field. python -m demo.draw_style demo/images/style.jpg"""

import sys

import numpy
from PIL import Image, ImageDraw

SIZE, OVERSAMPLING, STROKES, STEPS = 512, 2, 9000, 14
SWIRLS = numpy.array([[0.30, 0.30, 1.0], [0.72, 0.22, -1.0], [0.62, 0.70, 1.0], [0.15, 0.80, -0.7]])  # x, y, turn
SKY = numpy.array([[18, 32, 92], [26, 62, 140], [44, 102, 176], [92, 150, 200], [178, 206, 214]])
LIGHTS = numpy.array([[250, 214, 92], [242, 178, 48], [255, 240, 178]])


def direction(x: numpy.ndarray) -> numpy.ndarray:
    """Unit vectors (N, 2) of the field at points (N, 2) in [0, 1]^2: a drift to the right, turned around each swirl."""
    flow = numpy.tile([0.55, 0.12], (len(x), 1))
    for cx, cy, turn in SWIRLS:
        d = x - (cx, cy)
        weight = turn * numpy.exp(-(d ** 2).sum(1, keepdims=True) / 0.03) * 9
        flow += weight * numpy.stack([-d[:, 1], d[:, 0]], 1) / 0.6
    return flow / numpy.linalg.norm(flow, axis=1, keepdims=True)


def draw(seed: int = 7) -> Image.Image:
    rng = numpy.random.default_rng(seed)
    side = SIZE * OVERSAMPLING
    image = Image.new("RGB", (side, side), tuple(int(c) for c in SKY[1]))
    canvas = ImageDraw.Draw(image)
    points = rng.random((STROKES, 2))
    paths = [points]
    for _ in range(STEPS):
        paths.append(paths[-1] + direction(paths[-1]) * 0.004)
    paths = numpy.stack(paths, 1)
    distance = numpy.sqrt(((points[:, None] - SWIRLS[None, :, :2]) ** 2).sum(-1)).min(1)
    shade = numpy.clip((0.34 - distance) * 9 + rng.normal(0, 0.8, STROKES), 0, len(SKY) - 1).astype(int)
    bright = distance + rng.normal(0, 0.02, STROKES) < 0.065
    for path, s, lit, jitter in zip(paths, shade, bright, rng.normal(0, 12, (STROKES, 3))):
        base = LIGHTS[rng.integers(len(LIGHTS))] if lit else SKY[s]
        color = tuple(int(c) for c in numpy.clip(base + jitter, 0, 255))
        canvas.line([tuple(p) for p in path * side], fill=color, width=int(rng.integers(4, 10)), joint="curve")
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    draw().save(sys.argv[1], quality=90)
