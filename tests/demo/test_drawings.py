"""The demo's synthetic pictures: the same for the same seed, as their captions say, and never cut off."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

TRAINING = Path(__file__).resolve().parents[2] / "demo" / "training"


@pytest.fixture(scope="module")
def drawings() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TRAINING)
        yield importlib.import_module("drawings")


@pytest.fixture(scope="module")
def red_square(drawings: Any) -> Any:
    return drawings.Scene("square", "red", "blue", "middle", "medium", 0.5, 0.5, 0.2)


def test_the_same_seed_gives_the_same_pictures_and_captions(drawings: Any) -> None:
    first, second = list(drawings.scenes(5, 20)), list(drawings.scenes(5, 20))
    assert first == second
    assert first != list(drawings.scenes(6, 20))
    assert all(
        np.array_equal(drawings.draw(one), drawings.draw(other)) for one, other in zip(first, second, strict=True)
    )
    assert [drawings.caption(each, Random(1)) for each in first] == [
        drawings.caption(each, Random(1)) for each in second
    ]


def test_a_picture_has_the_shapes_colour_inside_and_the_backgrounds_around(drawings: Any, red_square: Any) -> None:
    picture = drawings.draw(red_square)
    assert (picture.shape, picture.dtype) == ((64, 64, 3), np.uint8)
    assert tuple(picture[32, 32]) == drawings.COLOURS["red"]
    assert all(tuple(picture[y, x]) == drawings.COLOURS["blue"] for y, x in ((0, 0), (0, 63), (63, 0), (63, 63)))


@pytest.mark.parametrize("shape", ["circle", "square", "triangle", "star", "heart", "cross", "ring", "moon"])
def test_every_shape_is_drawn_whole_wherever_it_lies(drawings: Any, shape: str) -> None:
    assert shape in drawings.SHAPES
    for other in drawings.scenes(3, 40):
        scene = replace(other, shape=shape, colour="red", background="blue")
        covered = (drawings.draw(scene)[:, :, 0] > 130).sum()
        assert 0.8 * (scene.radius * 64) ** 2 < covered < 3.2 * (scene.radius * 64) ** 2


def test_stripes_change_the_background_and_leave_the_shape(drawings: Any, red_square: Any) -> None:
    plain, striped = drawings.draw(red_square), drawings.draw(replace(red_square, stripes=True))
    assert np.array_equal(plain[26:38, 26:38], striped[26:38, 26:38])
    colours = {tuple(map(int, colour)) for colour in striped[0]}
    assert {drawings.COLOURS["blue"], drawings.lighter("blue")} <= colours
    changed = (plain[0] != striped[0]).any(-1).mean()
    assert 0.4 < changed < 0.7


def test_an_outline_is_black_and_white_where_black_would_not_show(drawings: Any, red_square: Any) -> None:
    def darkest_and_lightest(scene: Any) -> tuple[int, int]:
        sums = drawings.draw(replace(scene, outline=True)).astype(int).sum(-1)
        return int(sums.min()), int(sums.max())

    assert darkest_and_lightest(red_square)[0] == sum(drawings.COLOURS["black"])
    assert darkest_and_lightest(replace(red_square, background="black"))[1] == sum(drawings.COLOURS["white"])


def test_a_caption_says_only_what_is_there(drawings: Any) -> None:
    random = Random(2)
    for scene in drawings.scenes(4, 300):
        words = drawings.caption(scene, random).replace(",", "").split()
        assert scene.colour in words
        assert scene.shape in words
        assert set(words) & set(drawings.COLOURS) <= {scene.colour, scene.background}
        assert set(words) & set(drawings.SIZES) <= {scene.size}
        assert set(words) & {"left", "right", "top", "bottom", "middle"} <= {scene.place}


def test_captions_of_one_scene_vary_and_sometimes_leave_the_background_out(drawings: Any, red_square: Any) -> None:
    random = Random(3)
    said = {drawings.caption(red_square, random) for _ in range(200)}
    assert len(said) > 8
    assert {"a red square", "a red square on blue", "a red square, blue background"} <= said


def test_an_unknown_shape_is_refused(drawings: Any, red_square: Any) -> None:
    with pytest.raises(ValueError, match="a teapot"):
        drawings.draw(replace(red_square, shape="teapot"))
