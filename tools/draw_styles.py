"""Draw the style pictures that come with the project: ``python -m tools.draw_styles OUT``.

Each picture is a function of a random seed, computed with numpy and Pillow at a multiple of its final size. They are
made to be learned from: strong color, clear edges, and texture that repeats at several scales.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFilter

SIZE = 512
_OVERSAMPLING = 3
_DRAWN = SIZE * _OVERSAMPLING

Array = NDArray[np.floating]
Color = tuple[int, int, int]


def _grid() -> tuple[Array, Array]:
    """Return the coordinates (x, y) of all pixels, from 0 to 1."""
    line = (np.arange(_DRAWN, dtype=np.float32) + 0.5) / _DRAWN
    return np.broadcast_to(line, (_DRAWN, _DRAWN)), np.broadcast_to(line[:, None], (_DRAWN, _DRAWN))


def _noise(rng: np.random.Generator, cells: int, octaves: int = 4, stretch: float = 1.0) -> Array:
    """Smooth fractal noise, about -1 to 1; ``cells`` bumps fit across, ``stretch`` times fewer down."""
    total = np.zeros((_DRAWN, _DRAWN), np.float32)
    for octave in range(octaves):
        across = cells * 2**octave
        values = rng.uniform(-1, 1, (max(2, round(across / stretch)), across)).astype(np.float32)
        total += np.asarray(Image.fromarray(values).resize((_DRAWN, _DRAWN), Image.Resampling.BICUBIC)) / 2**octave
    return total


def _ramp(values: Array, colors: Sequence[str]) -> Array:
    """Return colors for values from 0 to 1, evenly spread over a palette; (..., 3) from 0 to 255."""
    palette = np.array([ImageColor.getrgb(color)[:3] for color in colors], np.float32)
    stops = np.linspace(0, 1, len(palette))
    return np.stack([np.interp(values, stops, channel) for channel in palette.T], axis=-1).astype(np.float32)


def _relief(height: Array, strength: float) -> Array:
    """Return the brightness factors of a surface of this height, lit from the upper left; (..., 1)."""
    slope = np.gradient(height, axis=0) + np.gradient(height, axis=1)
    return np.clip(1 + strength * slope, 0.5, 1.6)[..., None]


def _image(colors: Array) -> Image.Image:
    return Image.fromarray(np.clip(colors, 0, 255).round().astype(np.uint8))


def _shaded(color: Color, factor: float) -> Color:
    red, green, blue = (int(np.clip(value * factor, 0, 255)) for value in color)
    return red, green, blue


class _Paint:
    """Paint in oil: strokes leave color and, for the light to catch, thickness."""

    def __init__(self, ground: Image.Image) -> None:
        self.color = ground.copy()
        self.height = Image.new("L", ground.size, 128)
        self._color_pen, self._height_pen = ImageDraw.Draw(self.color), ImageDraw.Draw(self.height)

    def stroke(self, rng: np.random.Generator, path: Array, width: float, color: Color) -> None:
        """Draw a line of bristles along a path of points (n, 2)."""
        along = np.gradient(path, axis=0)
        across = np.stack([-along[:, 1], along[:, 0]], axis=1) / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-6)
        taper = np.sin(np.linspace(0.25, np.pi - 0.25, len(path)))[:, None] ** 0.5
        thickness = int(rng.integers(90, 170))
        bristles = max(3, round(width / 3.5))
        for place in rng.permutation(np.linspace(-0.5, 0.5, bristles)):
            line = [(float(x), float(y)) for x, y in path + across * place * width * taper]
            bristle_width = max(2, round(1.9 * width / bristles))
            self._color_pen.line(line, _shaded(color, rng.normal(1, 0.09)), bristle_width, joint="curve")
            self._height_pen.line(line, int(thickness + rng.integers(-45, 45)), bristle_width, joint="curve")

    def dry(self, strength: float) -> Image.Image:
        """Let the light fall on it."""
        height = np.asarray(self.height.filter(ImageFilter.GaussianBlur(1.5)), np.float32)
        return _image(np.asarray(self.color, np.float32) * _relief(height, strength))


def draw_night(rng: np.random.Generator) -> Image.Image:
    """Draw a night sky in whirling strokes of oil paint, above dark hills and a field."""
    x, y = _grid()
    stars = [
        (0.80, 0.17, 0.150), (0.17, 0.13, 0.085), (0.47, 0.10, 0.060), (0.08, 0.40, 0.060),
        (0.60, 0.49, 0.050), (0.33, 0.26, 0.042), (0.93, 0.45, 0.055), (0.63, 0.06, 0.036),
    ]  # fmt: skip
    whirls = [(0.50, 0.33, 0.17, 1.0), (0.27, 0.46, 0.13, -1.0), (0.76, 0.41, 0.10, -1.0), (0.02, 0.22, 0.12, 1.0)]
    hills = 0.66 + 0.05 * np.sin(5.1 * x + 0.6) + 0.025 * np.sin(13 * x + 2)
    field = 0.80 + 0.045 * np.sin(3.7 * x + 3.4) + 0.01 * np.sin(17 * x)

    wind = _noise(rng, 3, 2)
    u, v = 1 + 0.2 * wind, 0.35 * np.cos(7 * x + 3 * y) + 0.25 * wind
    bright = 0.28 + 0.16 * _noise(rng, 4, 4) + 0.12 * y
    for cx, cy, radius, spin in [*whirls, *((cx, cy, 1.25 * r, 1.0) for cx, cy, r in stars)]:
        dx, dy = x - cx, y - cy
        pull = np.exp(-((np.hypot(dx, dy) / radius) ** 2))
        u, v = u * (1 - pull) - spin * 9 * pull * dy / radius, v * (1 - pull) + spin * 9 * pull * dx / radius
    for cx, cy, radius, _ in whirls:
        away = np.hypot(x - cx, y - cy) / radius
        turn = np.arctan2(y - cy, x - cx)
        bright += 0.34 * np.exp(-(away**2)) * (0.55 + 0.45 * np.cos(2 * turn + 7 * away))
    sky = _ramp(bright, ["#0a1440", "#12287a", "#1f4fae", "#3f86c9", "#8fc3d6", "#dfe6b8"])
    for cx, cy, radius in stars:
        away = np.hypot(x - cx, y - cy) / radius + 0.06 * wind
        glow = _ramp(away / 1.5, ["#fffbe0", "#ffe45e", "#f7b32b", "#f5d76e", "#a9cfa0", "#4f97c4", "#1f4fae"])
        share = np.clip(1.5 * (1.45 - away), 0, 1)[..., None]
        sky = sky * (1 - share) + glow * share
    ridge = _ramp(0.5 + 0.5 * np.sin(38 * (y - hills) + 5 * wind), ["#0b1c3a", "#143c52", "#1f5e63", "#0e2a4c"])
    grain = _ramp(
        0.5 + 0.5 * np.sin(44 * (y - field) + 6 * wind), ["#2b4a24", "#6d7f2a", "#d19a2a", "#f0c64a", "#8a5a1e"]
    )
    below, front = y > hills, y > field
    colors = np.where(front[..., None], grain, np.where(below[..., None], ridge, sky))
    slope = np.where(front, np.gradient(field[0] * _DRAWN)[None] - 0.2, np.gradient(hills[0] * _DRAWN)[None])
    u, v = np.where(below, 1, u), np.where(below, slope + 0.35 * wind, v)
    length = np.hypot(u, v) + 1e-6
    flow = np.stack([u / length, v / length], axis=-1)

    paint = _Paint(_image(0.7 * colors))
    for width, steps, spacing in ((30, 9, 30), (20, 8, 19), (12, 7, 15)):
        starts = np.arange(spacing / 2, _DRAWN, spacing)
        points = np.stack(np.meshgrid(starts, starts), axis=-1).reshape(-1, 2)
        for start in rng.permutation(points + rng.uniform(-spacing / 2, spacing / 2, points.shape)):
            path = _follow(flow, start, steps, 0.55 * width)
            px, py = np.clip(path[len(path) // 2], 0, _DRAWN - 1).astype(int)
            red, green, blue = np.clip(colors[py, px] * rng.normal(1, 0.10) + rng.normal(0, 9, 3), 0, 255).astype(int)
            paint.stroke(rng, path, width * rng.uniform(0.7, 1.1), (int(red), int(green), int(blue)))
    return paint.dry(0.016)


def _follow(flow: Array, start: Array, steps: int, stride: float) -> Array:
    """Walk from a point along a field of directions (H, W, 2)."""
    path = [start]
    for _ in range(steps):
        px, py = np.clip(path[-1], 0, _DRAWN - 1).astype(int)
        path.append(path[-1] + stride * flow[py, px])
    return np.array(path)


def draw_glass(rng: np.random.Generator) -> Image.Image:
    """Draw a rose window: panes of streaked colored glass between dark leads."""
    x, y = _grid()
    seeds, palettes = _rose(rng)
    warped = np.stack([x + 0.006 * _noise(rng, 6, 2), y + 0.006 * _noise(rng, 6, 2)], axis=-1)
    near, far = np.full((2, _DRAWN, _DRAWN), np.inf, np.float32)
    pane, next_pane = np.zeros((2, _DRAWN, _DRAWN), np.int64)
    for number, seed in enumerate(seeds):
        # No pixel has its two nearest seeds farther away than this.
        left, top = np.maximum((seed - 0.12) * _DRAWN, 0).astype(int)
        right, bottom = ((seed + 0.12) * _DRAWN).astype(int)
        here = np.s_[top:bottom, left:right]
        away = ((warped[here] - seed) ** 2).sum(axis=-1)
        nearest, second = away < near[here], away < far[here]
        next_pane[here] = np.where(nearest, pane[here], np.where(second, number, next_pane[here]))
        far[here] = np.where(nearest, near[here], np.where(second, away, far[here]))
        pane[here], near[here] = np.where(nearest, number, pane[here]), np.where(nearest, away, near[here])
    # Half the difference of squared distances over the seeds' distance is the distance to the border between them.
    border = (far - near) / (2 * np.linalg.norm(seeds[pane] - seeds[next_pane], axis=-1) + 1e-6)

    angle = rng.uniform(0, np.pi, len(seeds))[pane]
    streaks = np.sin(150 * (x * np.cos(angle) + y * np.sin(angle)) + 3 * _noise(rng, 8, 3)) * _noise(rng, 10, 3)
    tone = rng.uniform(0.22, 0.72, len(seeds))[pane] + 0.15 * streaks + 0.16 * _noise(rng, 14, 4)
    tone += 5 * (np.minimum(border, 0.025) - 0.018)
    colors = np.zeros((_DRAWN, _DRAWN, 3), np.float32)
    kind = palettes[pane]
    for number, palette in enumerate(_GLASS):
        colors[kind == number] = _ramp(tone[kind == number], palette)
    colors *= (1.12 - 0.45 * np.hypot(x - 0.5, y - 0.5))[..., None]
    bubbles = _relief(_noise(rng, 60, 2), 1.1)
    lead = np.clip(border / 0.0058, 0, 1)
    metal = _ramp(1 - lead + 0.10 * _noise(rng, 90, 2), ["#050507", "#0d0d12", "#1d1d24", "#4a4a52"])
    soft = np.clip((border - 0.0046) / 0.0016, 0, 1)[..., None]
    return _image(colors * bubbles * soft + metal * (1 - soft))


_GLASS = (
    ("#3d0208", "#8f0a14", "#d81e28", "#ff6a4d"),
    ("#04103f", "#0f2f96", "#2a66d9", "#86b8ff"),
    ("#5a2c00", "#c76a06", "#ffb01e", "#fff0a0"),
    ("#02301f", "#08704a", "#2bb673", "#b6f0b0"),
    ("#24063f", "#5a1690", "#9a4ad0", "#dcb4ff"),
    ("#0a4150", "#1590a0", "#58d0d0", "#e4fff4"),
)


def _rose(rng: np.random.Generator) -> tuple[Array, NDArray[np.int64]]:
    """Return the seeds of the panes, ring by ring and then scattered in the corners, and the palette of each."""
    seeds, palettes = [(0.5, 0.5)], [2]
    rings = [(0.065, 8, (0,)), (0.125, 16, (1, 5)), (0.185, 16, (2, 0)), (0.245, 32, (1, 4)), (0.305, 32, (0, 2, 0, 3))]
    rings += [(0.365, 48, (5, 1, 1)), (0.420, 48, (4, 1, 0, 1)), (0.470, 64, (2, 0))]
    for ring, (radius, count, cycle) in enumerate(rings):
        for place in range(count):
            turn = 2 * np.pi * (place + 0.5 * (ring % 2)) / count + rng.normal(0, 0.02)
            reach = radius + rng.normal(0, 0.004)
            seeds.append((0.5 + reach * np.cos(turn), 0.5 + reach * np.sin(turn)))
            palettes.append(cycle[place % len(cycle)])
    while len(seeds) < 470:
        candidate = rng.uniform(-0.03, 1.03, 2)
        apart = min(np.hypot(candidate[0] - sx, candidate[1] - sy) for sx, sy in seeds)
        if np.hypot(*(candidate - 0.5)) > 0.5 and apart > 0.032:
            seeds.append((float(candidate[0]), float(candidate[1])))
            palettes.append(int(rng.choice([1, 1, 3, 5, 4, 2])))
    return np.array(seeds, np.float32), np.array(palettes)


def draw_waves(rng: np.random.Generator) -> Image.Image:
    """Draw breaking waves in the manner of a woodblock print: flat blues, dark contours, claws of foam."""
    _, y = _grid()
    sky = _ramp(y / 0.62 + 0.02 * _noise(rng, 3, 3), ["#5f7f8e", "#c9b98c", "#ecd9a8", "#f3e3bd", "#efc892", "#e9b27c"])
    print_ = _image(sky)
    pen = ImageDraw.Draw(print_)
    _disc(pen, 0.76, 0.17, 0.085, "#c8402c")
    _mountain(pen)
    for row in range(9):
        share = row / 8
        base, height = 0.43 + 0.70 * share, 0.045 + 0.125 * share
        length = 0.19 + 0.33 * share
        _wave_row(pen, rng, base, height, length, offset=rng.uniform(0, 1))
    grain = 1 + 0.05 * np.sin(70 * _noise(rng, 3, 2, stretch=0.12))[..., None] + 0.05 * _noise(rng, 120, 2)[..., None]
    return _image(np.asarray(print_, np.float32) * grain)


def _disc(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, color: str) -> None:
    pen.ellipse([(value * _DRAWN) for value in (x - radius, y - radius, x + radius, y + radius)], color)


def _mountain(pen: ImageDraw.ImageDraw) -> None:
    away = np.linspace(-1, 1, 161)
    outline = 0.165 + 0.30 * np.maximum(np.abs(away), 0.05) ** 0.72
    teeth = 0.245 + 0.030 * np.abs((away * 17) % 2 - 1) + 0.012 * np.sin(9 * away)
    for low, color in ((1.0, "#2b4873"), (teeth, "#f6eedb")):
        points = [*zip(away, outline, strict=True), *zip(away[::-1], np.maximum(outline, low)[::-1], strict=True)]
        pen.polygon([((0.30 + 0.36 * px) * _DRAWN, py * _DRAWN) for px, py in points], color)


def _wave_row(
    pen: ImageDraw.ImageDraw, rng: np.random.Generator, base: float, height: float, length: float, offset: float
) -> None:
    t = np.linspace(-2 * np.pi, 2 * np.pi * (1 / length + 2), int(400 / length))
    swell = 1 + 0.25 * np.sin(0.61 * t + rng.uniform(0, 6))

    def crest(sink: float) -> Array:
        flat = 1 - min(sink, 0.8)
        lift = height * swell * flat * -np.cos(t)
        px = length * ((t + 1.08 * flat * np.sin(t)) / (2 * np.pi) - offset) - 0.75 * (lift + height)
        py = base + sink * height * 1.7 - lift
        return np.stack([px, py], axis=1) * _DRAWN

    blues = ["#16305e", "#f0e6cc", "#2a5a92", "#16305e", "#8fb6c4", "#2a5a92", "#e6dfc6", "#1b3f78"]
    for number in range(22):
        curve = crest(0.075 * number)
        pen.polygon([*map(tuple, curve), (2 * _DRAWN, 2 * _DRAWN), (-_DRAWN, 2 * _DRAWN)], blues[number % len(blues)])
        pen.line([*map(tuple, curve)], "#0d1b3a", 3, joint="curve")
    _foam(pen, rng, crest(0.0), -np.cos(t), height)


def _foam(pen: ImageDraw.ImageDraw, rng: np.random.Generator, curve: Array, lift: Array, height: float) -> None:
    """Paint scalloped foam along the upper part of a wave, with claws that reach ahead, and spray."""
    unit, outline = height * _DRAWN, 2 + 15 * height
    high = np.flatnonzero(lift > 0.2)
    size = unit * (0.03 + 0.08 * np.maximum(lift, 0)) * rng.uniform(0.7, 1.3, len(lift))
    _cloud(pen, [(*curve[index], size[index]) for index in high[:: max(1, len(high) // 500)]], outline)
    for index in np.sort(rng.choice(high, max(1, len(high) // 8), replace=False)):
        (px, py), turn, radius = curve[index], rng.uniform(2.2, 4.4), unit * rng.uniform(0.055, 0.085)
        bend, claw = rng.uniform(0.22, 0.45), []
        for _ in range(9):
            px, py = px + 0.95 * radius * np.cos(turn), py + 0.95 * radius * np.sin(turn)
            turn, radius = turn - bend, 0.88 * radius
            claw.append((px, py, radius))
        _cloud(pen, claw, outline)
    for index in rng.choice(high, len(high) // 6, replace=False):
        px, py = curve[index] + unit * rng.normal((-0.15, -0.35), (0.40, 0.30))
        _cloud(pen, [(px, py, rng.uniform(0.008, 0.028) * unit)], outline)


def _cloud(pen: ImageDraw.ImageDraw, blobs: list[tuple[float, float, float]], outline: float) -> None:
    """Draw circles (x, y, radius) as one white shape with an outline, and bluish where it turns from the light."""
    for grow, factor, shift, color in (
        (outline, 1.0, 0.0, "#0d1b3a"),
        (0, 1.0, 0.0, "#a9c8d2"),
        (0, 0.8, -0.2, "#f9f3e2"),
    ):
        for x, y, size in blobs:
            radius, cx, cy = factor * size + grow, x + shift * size, y + shift * size
            pen.ellipse([cx - radius, cy - radius, cx + radius, cy + radius], color)


def draw_mosaic(rng: np.random.Generator) -> Image.Image:
    """Draw peacock scales laid in small stones."""
    x, y = _grid()
    radius = 0.155
    scale = np.full((_DRAWN, _DRAWN), -1, np.int64)
    away, turn = np.zeros((2, _DRAWN, _DRAWN), np.float32)
    wobble = 0.0035 * _noise(rng, 9, 2)
    for row in range(-2, 16):
        for column in range(-1, 6):
            cx = 2 * radius * (column + 0.5 * (row % 2))
            cy = 0.5 * radius * 1.08 * row
            dx, dy = x - cx, y - cy
            reach = np.hypot(dx, dy) + wobble
            inside = reach < radius
            scale[inside] = 1000 + 10 * row + column
            away[inside], turn[inside] = reach[inside] / radius, np.arctan2(dy, dx)[inside]
    rings = 11
    ring = np.minimum((away * rings).astype(np.int64), rings - 1)
    count = np.maximum(np.round(2 * np.pi * (ring + 0.5) / 1.05), 3)
    shift = rng.uniform(0, 1, (2000, rings))[scale, ring]
    place = (turn / (2 * np.pi) + 0.5) * count + shift
    stone = np.floor(place).astype(np.int64)
    in_ring, in_place = away * rings - ring, place - stone
    across = np.minimum(in_place, 1 - in_place) * 2 * np.pi * (ring + 0.5) / count
    gap = np.minimum(np.minimum(in_ring, 1 - in_ring), across) + 0.05 * _noise(rng, 60, 2)

    key = (scale * 31 + ring) * 127 + stone
    chance = rng.uniform(0, 1, (2, 65536))[:, (key * 2654435761 >> 7) % 65536]
    tone = 0.5 + 0.75 * (chance[0] - 0.5) + 0.08 * _noise(rng, 70, 2)
    colors = np.zeros((_DRAWN, _DRAWN, 3), np.float32)
    bands = np.array([3, 3, 0, 0, 4, 1, 1, 2, 5, 2, 3])
    kind = np.where(chance[1] < 0.06, (bands[ring] + 2) % 6, bands[ring])
    for number, palette in enumerate(_STONES):
        colors[kind == number] = _ramp(tone[kind == number], palette)
    grout = np.clip((gap - 0.09) / 0.05, 0, 1)[..., None]
    dome = np.clip(gap, 0, 0.28) + 0.05 * chance[0]
    lit = colors * _relief(26 * dome, 0.28)
    return _image(lit * grout + np.array([58, 46, 40]) * (1 - grout))


_STONES = (
    ("#0b4f5c", "#128391", "#35b5b5"),
    ("#b3781a", "#e2aa2e", "#ffdc70"),
    ("#0c2350", "#183f86", "#2f6cba"),
    ("#7c1c12", "#b8341f", "#e2603a"),
    ("#d8c39a", "#efe2c4", "#fffaf0"),
    ("#2c5a34", "#4f8a46", "#8fbf62"),
)


def draw_quilt(rng: np.random.Generator) -> Image.Image:
    """Draw an abstract watercolor: squares of rings, fans, stripes and checks in ink contours."""
    x, y = _grid()
    x = x + 0.004 * _noise(rng, 7, 3)
    y = y + 0.004 * _noise(rng, 7, 3)
    wash, blot = _noise(rng, 5, 5), _noise(rng, 40, 3)
    colors = np.zeros((_DRAWN, _DRAWN, 3), np.float32)
    ink = np.zeros((_DRAWN, _DRAWN), np.float32)
    for left, top, side in _squares(rng, -0.02, -0.02, 1.04, 0):
        inside = (x >= left) & (x < left + side) & (y >= top) & (y < top + side)
        u, v = (x[inside] - left) / side, (y[inside] - top) / side
        band = _MOTIFS[rng.integers(len(_MOTIFS))](rng, u, v)
        palette = rng.permutation(_PAINTS)
        number = np.floor(band).astype(np.int64)
        rank = np.array([ImageColor.getrgb(color) for color in palette], np.float32)[number % len(palette)]
        # Watercolor dries darkest along the edges of each brush stroke.
        edge = np.minimum(band - number, 1 - (band - number))
        dried = 1 - 0.22 * np.exp(-edge / 0.07)
        colors[inside] = rank * dried[:, None] + (18 * wash[inside] + 7 * blot[inside])[:, None]
        frame = np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v)) * side
        ink[inside] = np.maximum(np.exp(-((frame / 0.0042) ** 4)), 0.75 * np.exp(-((edge / 0.028) ** 4)))
    ink *= np.clip(0.86 + 0.35 * blot, 0, 1)
    paper = _relief(_noise(rng, 170, 2), 0.22)
    return _image((colors * (1 - ink[..., None]) + np.array([24, 20, 34]) * ink[..., None]) * paper)


_PAINTS = (
    "#e4572e", "#f2a541", "#f6d55c", "#f3e9d2", "#2e86ab", "#173f5f", "#3caea3", "#8e3b6e", "#d1495b", "#7fb069",
)  # fmt: skip


def _squares(
    rng: np.random.Generator, left: float, top: float, side: float, depth: int
) -> list[tuple[float, float, float]]:
    """Divide a square again and again: (left, top, side) of the pieces."""
    if depth > 1 and (depth == 4 or rng.random() < (0.35, 0.62)[depth - 2]):
        return [(left, top, side)]
    half = side / 2
    corners = [(left + a * half, top + b * half) for b in (0, 1) for a in (0, 1)]
    return [piece for corner in corners for piece in _squares(rng, *corner, half, depth + 1)]


def _rings(rng: np.random.Generator, u: Array, v: Array) -> Array:
    return np.hypot(u - rng.uniform(0.42, 0.58), v - rng.uniform(0.42, 0.58)) * rng.uniform(8, 12)


def _arcs(rng: np.random.Generator, u: Array, v: Array) -> Array:
    corner_x, corner_y = rng.integers(0, 2, 2)
    return np.hypot(u - corner_x, v - corner_y) * rng.uniform(6, 9)


def _fan(rng: np.random.Generator, u: Array, v: Array) -> Array:
    center_x, center_y = rng.uniform(0.3, 0.7, 2)
    rays = np.arctan2(v - center_y, u - center_x) / (2 * np.pi) * 14 + 7
    return rays + 3 * np.floor(np.hypot(u - center_x, v - center_y) * 3.2)


def _stripes(rng: np.random.Generator, u: Array, v: Array) -> Array:
    angle = rng.choice([0.25, 0.75, 0.0, 0.5]) * np.pi
    return 20 + (u * np.cos(angle) + v * np.sin(angle)) * rng.uniform(7, 10)


def _checks(rng: np.random.Generator, u: Array, v: Array) -> Array:
    count = int(rng.integers(4, 6))
    column, row = np.floor(u * count), np.floor(v * count)
    off_center = np.maximum(np.abs(u * count - column - 0.5), np.abs(v * count - row - 0.5))
    return (column + row) % 2 + 2 * ((column - row) % 3 == 0) + 0.5 - off_center


def _ripples(rng: np.random.Generator, u: Array, v: Array) -> Array:
    return 20 + 8 * v + 0.8 * np.sin(2 * np.pi * (2 * u + rng.uniform(0, 1)))


_MOTIFS = (_rings, _rings, _rings, _arcs, _arcs, _fan, _stripes, _checks, _ripples)


STYLES: dict[str, tuple[Callable[[np.random.Generator], Image.Image], int]] = {
    "night": (draw_night, 1),
    "glass": (draw_glass, 2),
    "waves": (draw_waves, 3),
    "mosaic": (draw_mosaic, 4),
    "quilt": (draw_quilt, 5),
}


def draw(name: str) -> Image.Image:
    """Draw one of the bundled pictures.

    Args:
        name: A key of ``STYLES``.

    Returns:
        A picture of ``SIZE`` x ``SIZE`` pixels with a palette of 256 colors, which keeps its file small.
    """
    function, seed = STYLES[name]
    picture = function(np.random.default_rng(seed)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return picture.quantize(256, Image.Quantize.MEDIANCUT, kmeans=4, dither=Image.Dither.FLOYDSTEINBERG)


def main() -> None:
    """Draw all pictures into a folder; no file is written over."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="where the PNG files go")
    folder = parser.parse_args().folder
    taken = [name for name in STYLES if (folder / f"{name}.png").exists()]
    if taken:
        parser.error(f"already in {folder}: {', '.join(taken)}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in STYLES:
        draw(name).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
