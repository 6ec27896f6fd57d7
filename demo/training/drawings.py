"""The synthetic pictures that the demo's model learns from: one coloured shape on one colour, and what to call it.

Everything follows from a ``random.Random``: the same seed gives the same scenes, pictures and captions.
Styles (stripes, outline) are never part of a base model's pictures; adapters and the judge learn them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
"""Width and height of a picture in pixels."""

_FINER = 4
"""Pictures are drawn this many times larger and averaged down: smooth edges."""

STRIPE = 16
"""Width of a stripe in pixels, measured along a row."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 40),
    "orange": (245, 140, 20),
    "yellow": (250, 220, 40),
    "green": (40, 160, 70),
    "blue": (40, 80, 210),
    "purple": (130, 50, 170),
    "pink": (245, 150, 190),
    "white": (245, 245, 245),
    "black": (20, 20, 25),
}
PLACES: dict[str, tuple[float, float]] = {
    "middle": (0.0, 0.0),
    "left": (-0.24, 0.0),
    "right": (0.24, 0.0),
    "top": (0.0, -0.24),
    "bottom": (0.0, 0.24),
}
"""Offset of a shape's middle from the picture's, as a part of its width."""

SIZES: dict[str, float] = {"small": 0.17, "medium": 0.25, "big": 0.33}
"""Radius of a shape as a part of the picture's width."""

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")


@dataclass(frozen=True, slots=True)
class Scene:
    """All that decides a picture. ``x``, ``y`` and ``radius`` are parts of its width."""

    shape: str
    colour: str
    background: str
    place: str
    size: str
    x: float
    y: float
    radius: float
    stripes: bool = False
    outline: bool = False


def random_scene(random: Random, *, stripes: bool = False, outline: bool = False) -> Scene:
    """Any shape in any colour on any other colour, most often in the middle and of medium size."""
    colour, background = random.sample(list(COLOURS), 2)
    place = random.choices(list(PLACES), (4, 1, 1, 1, 1))[0]
    size = random.choices(list(SIZES), (1, 2, 1))[0]
    x, y = (0.5 + offset + random.uniform(-0.025, 0.025) for offset in PLACES[place])
    radius = SIZES[size] * random.uniform(0.93, 1.07)
    # a big shape at the side comes back in, so that it can be told by its whole outline
    x, y = (min(max(middle, radius), 1 - radius) for middle in (x, y))
    return Scene(random.choice(SHAPES), colour, background, place, size, x, y, radius, stripes, outline)


def draw(scene: Scene) -> np.ndarray:
    """The picture: uint8 [SIZE, SIZE, 3]."""
    large = SIZE * _FINER
    picture = Image.fromarray(_background(scene, large))
    middle = (scene.x * large, scene.y * large)
    shape = _mask(scene.shape, large, middle, scene.radius * large)
    if scene.outline:
        edge = _mask(scene.shape, large, middle, scene.radius * large, grown=2 * _FINER)
        picture.paste(_outline_colour(scene), mask=edge)
    picture.paste(COLOURS[scene.colour], mask=shape)
    return np.asarray(picture.reduce(_FINER))


def caption(scene: Scene, random: Random) -> str:
    """One of many ways to say what a picture shows; place, size and background are sometimes left out."""
    size = scene.size if scene.size != "medium" and random.random() < 0.7 else ""
    place = _place(scene, random)
    thing = f"{size} {scene.colour} {scene.shape}".strip()
    if random.random() < 0.1:
        return _article(thing) + (f" {place}" if place else "")
    ground = random.choice((scene.background, f"{_article(scene.background)} background"))
    return (
        random.choice(
            (
                f"{_article(thing)} {place} on {ground}",
                f"{_article(thing)} on {ground} {place}",
                f"{_article(thing)} {place}, {scene.background} background",
                f"{thing} {place}, {scene.background} background",
                f"{thing} on {scene.background} {place}",
            )
        )
        .replace(" ,", ",")
        .strip()
        .replace("  ", " ")
    )


def scenes(seed: int, count: int, *, stripes: bool = False, outline: bool = False) -> Iterator[Scene]:
    """``count`` scenes of one seed."""
    random = Random(seed)
    for _ in range(count):
        yield random_scene(random, stripes=stripes, outline=outline)


def lighter(colour: str) -> tuple[int, int, int]:
    """The second colour of stripes; stripes on white are grey."""
    towards = 150 if colour == "white" else 255
    red, green, blue = (round(0.45 * each + 0.55 * towards) for each in COLOURS[colour])
    return red, green, blue


def _background(scene: Scene, large: int) -> np.ndarray:
    picture = np.empty((large, large, 3), np.uint8)
    picture[:] = COLOURS[scene.background]
    if scene.stripes:
        rows, columns = np.indices((large, large))
        picture[(rows + columns) // (STRIPE * _FINER) % 2 == 1] = lighter(scene.background)
    return picture


def _outline_colour(scene: Scene) -> tuple[int, int, int]:
    return COLOURS["white" if "black" in (scene.colour, scene.background) else "black"]


def _place(scene: Scene, random: Random) -> str:
    if scene.place == "middle":
        return random.choice(("in the middle", "in the centre")) if random.random() < 0.15 else ""
    if random.random() < 0.2:
        return ""
    return f"{'on' if scene.place in ('left', 'right') else 'at'} the {scene.place}"


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _mask(shape: str, large: int, middle: tuple[float, float], radius: float, grown: float = 0.0) -> Image.Image:
    """Where the shape is: white on black; ``grown`` by so many pixels on all sides."""
    mask = Image.new("L", (large, large))
    pen = ImageDraw.Draw(mask)

    def disc(x: float, y: float, part: float, fill: int, more: float) -> None:
        r = part * radius + more
        x, y = middle[0] + x * radius, middle[1] + y * radius
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    if shape in ("circle", "ring", "moon"):
        disc(0, 0, 0.95, 255, grown)
    if shape == "ring":
        disc(0, 0, 0.5, 0, -grown)
    elif shape == "moon":
        disc(0.5, -0.15, 0.8, 0, -grown)
    elif shape != "circle":
        points = [(middle[0] + x * radius, middle[1] + y * radius) for x, y in _corners(shape)]
        pen.polygon(points, fill=255)
        if grown:
            pen.line([*points, *points[:2]], fill=255, width=round(2 * grown), joint="curve")
    return mask


def _corners(shape: str) -> list[tuple[float, float]]:
    """Corners of a shape of radius 1, y downwards."""
    if shape == "square":
        return [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
    if shape == "triangle":
        return [(0.0, -0.9), (0.95, 0.8), (-0.95, 0.8)]
    if shape == "star":
        radii = (1.05, 0.42)
        return [_turned(radii[i % 2], i * math.pi / 5) for i in range(10)]
    if shape == "cross":
        long, thin = 0.95, 0.32
        corner = [(-thin, -long), (thin, -long), (thin, -thin)]
        return [(x, y) for quarter in range(4) for x, y in (_quarter_turned(point, quarter) for point in corner)]
    if shape == "heart":
        return [_on_a_heart(i * math.tau / 48) for i in range(48)]
    raise ValueError(f"nobody has said how to draw a {shape}")


def _turned(radius: float, angle: float) -> tuple[float, float]:
    """The point at an angle, clockwise from the top."""
    return radius * math.sin(angle), -radius * math.cos(angle)


def _quarter_turned(point: tuple[float, float], times: int) -> tuple[float, float]:
    x, y = point
    for _ in range(times):
        x, y = -y, x
    return x, y


def _on_a_heart(angle: float) -> tuple[float, float]:
    x = 16 * math.sin(angle) ** 3
    y = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)
    return x / 16, -(y + 2) / 15
