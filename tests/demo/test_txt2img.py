"""From a prompt to pictures: what can be asked for, what is told meanwhile, and how it is stopped."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("diffusers", reason="the demo's model is one of diffusers")

import huggingface_hub.constants
import torch
from PIL import Image, ImageChops

from lycopatch.demo import model
from lycopatch.demo.txt2img import MOST_PICTURES, MOST_STEPS, Made, Settings, Stopped, TextToImage
from lycopatch.hosts.diffusers import NetworkLoader
from lycopatch.ui.report_view import report_html

NETWORK = min((file.stem for file in model.NETWORKS.glob("*.safetensors")), default="a network is missing")
TAG = f"<lora:{NETWORK}:1>"
PROMPT = "a red circle on blue"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return model.load_pipeline()


@pytest.fixture
def studio(pipe: Any) -> Iterator[TextToImage]:
    with NetworkLoader(pipe, [model.NETWORKS]) as loader:
        yield TextToImage(pipe, loader, model.NAME)


def make(studio: TextToImage, prompt: str = PROMPT, **wanted: Any) -> Made:
    return studio.make(Settings(prompt, **{"steps": 3, **wanted}))


def largest_difference(one: Image.Image, other: Image.Image) -> int:
    return max(most for _, most in ImageChops.difference(one, other).getextrema())


# --- what can be asked for


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"steps": 0}, f"The steps must be between 1 and {MOST_STEPS}, not 0."),
        ({"steps": MOST_STEPS + 1}, f"The steps must be between 1 and {MOST_STEPS}, not {MOST_STEPS + 1}."),
        ({"cfg": 0.5}, "The CFG must be between 1 and 30, not 0.5."),
        ({"cfg": 30.5}, "The CFG must be between 1 and 30, not 30.5."),
        ({"cfg": math.nan}, "The CFG must be between 1 and 30, not nan."),
        ({"batch": 0}, f"The batch must be between 1 and {MOST_PICTURES}, not 0."),
        ({"batch": MOST_PICTURES + 1}, f"The batch must be between 1 and {MOST_PICTURES}, not {MOST_PICTURES + 1}."),
        ({"seed": -1}, f"The seed must be between 0 and {2**63 - MOST_PICTURES}, not -1."),
        ({"seed": 2**63}, f"The seed must be between 0 and {2**63 - MOST_PICTURES}, not {2**63}."),
    ],
)
def test_what_can_not_be_made_is_refused_with_a_sentence(wanted: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as refused:
        Settings(PROMPT, **wanted)
    assert str(refused.value) == sentence


@pytest.mark.parametrize("wanted", [{"steps": 1}, {"cfg": 1}, {"seed": 2**63 - MOST_PICTURES}, {"prompt": ""}])
def test_the_bounds_themselves_can_be_made(wanted: dict[str, Any], studio: TextToImage) -> None:
    made = studio.make(Settings(**{"prompt": PROMPT, "steps": 2, "batch": 2, **wanted}))
    assert [picture.size for picture in made.pictures] == [(64, 64)] * 2


# --- the pictures


def test_the_same_settings_give_the_same_picture(studio: TextToImage) -> None:
    one, other = make(studio), make(studio)
    assert one.pictures[0].tobytes() == other.pictures[0].tobytes()
    assert make(studio, seed=1).pictures[0].tobytes() != one.pictures[0].tobytes()


def test_each_picture_of_a_batch_is_that_of_its_seed_alone(studio: TextToImage) -> None:
    """Within one step of 255: a processor may add up in another order when there is more to add up."""
    together = make(studio, seed=5, batch=3, steps=12).pictures
    for number, picture in enumerate(together):
        assert largest_difference(picture, make(studio, seed=5 + number, steps=12).pictures[0]) <= 1


def test_a_network_changes_the_picture_and_its_tag_is_no_part_of_the_words(studio: TextToImage) -> None:
    plain = make(studio).pictures[0].tobytes()
    with_network = make(studio, f"{PROMPT}{TAG}")
    assert with_network.report.ok
    assert with_network.report.tensors_active > 0
    assert with_network.pictures[0].tobytes() != plain
    assert make(studio, f"{PROMPT}<lora:{NETWORK}:0>").pictures[0].tobytes() == plain
    assert make(studio).pictures[0].tobytes() == plain


def test_the_negative_prompt_counts_and_its_tags_do_not(studio: TextToImage) -> None:
    plain = make(studio)
    assert plain.report.ok
    negative = make(studio, negative_prompt="blue")
    assert negative.pictures[0].tobytes() != plain.pictures[0].tobytes()
    tagged = make(studio, negative_prompt=f"blue{TAG}")
    assert tagged.pictures[0].tobytes() == negative.pictures[0].tobytes()
    assert tagged.report.messages() == [
        f"The tag {TAG} stands in the negative prompt, where tags do nothing; move it.",
    ]


def test_the_parameters_are_written_as_the_webui_writes_them(studio: TextToImage) -> None:
    made = make(studio, f"{PROMPT} {TAG}", negative_prompt="star", seed=7, cfg=4.5, batch=2)
    assert made.infotext(1) == (
        f"{PROMPT} {TAG}\nNegative prompt: star\nSteps: 3, CFG scale: 4.5, Seed: 8, Model: {model.NAME}"
    )
    assert make(studio, cfg=4.0).infotext() == f"{PROMPT}\nSteps: 3, CFG scale: 4, Seed: 0, Model: {model.NAME}"


def test_the_last_pictures_are_what_the_tab_tells_about(studio: TextToImage) -> None:
    assert "No picture was made yet" in report_html(studio.last)
    made = make(studio, f"{PROMPT} {TAG} <lora:nobody-has-this:1>")
    assert studio.last is made
    told = report_html(studio.last)
    assert model.NAME in told
    assert f"&lt;lora:{NETWORK}:1&gt;" in told
    assert "nobody-has-this" in told
    assert made.bytes_held > 0
    assert made.seconds > 0


# --- meanwhile


def test_each_step_is_told(studio: TextToImage) -> None:
    told: list[tuple[int, int]] = []
    studio.make(Settings(PROMPT, steps=4), lambda done, all_of_them: told.append((done, all_of_them)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_it_can_be_stopped_from_another_thread_and_goes_on_with_the_next(studio: TextToImage) -> None:
    before = make(studio)
    begun, told = threading.Event(), list[int]()

    def stop_it() -> None:
        begun.wait(60)
        studio.stop()
        stopped.set()

    def after_step(done: int, _: int) -> None:
        told.append(done)
        begun.set()
        stopped.wait(60)

    stopped = threading.Event()
    other = threading.Thread(target=stop_it)
    other.start()
    with pytest.raises(Stopped):
        studio.make(Settings(f"{PROMPT}{TAG}", steps=100), after_step)
    other.join()
    assert told == [1]
    assert studio.last is before
    assert make(studio).pictures[0].tobytes() == before.pictures[0].tobytes()


def test_a_stop_when_nothing_is_made_stops_nothing(studio: TextToImage) -> None:
    studio.stop()
    assert len(make(studio).pictures) == 1


def test_what_the_progress_raises_ends_the_picture_alone(studio: TextToImage) -> None:
    def gone(_: int, __: int) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        studio.make(Settings(PROMPT, steps=3), gone)
    assert len(make(studio).pictures) == 1


def test_those_who_ask_at_once_get_their_own_pictures(studio: TextToImage) -> None:
    wanted = [f"{PROMPT}{TAG}", PROMPT]
    alone = [make(studio, prompt).pictures[0].tobytes() for prompt in wanted]
    together: dict[str, bytes] = {}

    def ask(prompt: str) -> None:
        together[prompt] = make(studio, prompt).pictures[0].tobytes()

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[prompt] for prompt in wanted] == alone


# --- the model


def test_the_model_is_loaded_in_full_precision_and_asks_nothing_of_the_network(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("somebody tried to reach the network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    pipe = model.load_pipeline()
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}
        assert not part.training
    assert not caplog.records
