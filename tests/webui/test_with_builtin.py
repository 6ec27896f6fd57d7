"""Inside a real WebUI with its built-in Lora extension enabled, which is how most people have it.

The tests share one process. Each leaves it with the first checkpoint and this extension's settings as they were.
"""

from __future__ import annotations

import threading
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch
from safetensors import safe_open

from webui.made_networks import SAMPLES, TAGS, WORD, expected
from webui.process import PROMPT, Picture, Refused, WebUI, timings

pytestmark = [pytest.mark.webui, pytest.mark.usefixtures("as_it_was")]

INK, HALF_INK, KRON, MAGNITUDE, BOTH = TAGS
OURS = "lycopatch.hosts.a1111.tag_handler.TagHandler"
FILES = {INK: ("ink", 1.0), HALF_INK: ("ink", 0.5), KRON: ("kron", 1.0), MAGNITUDE: ("magnitude", 1.0)}
"""Tags of one file each: its name and the multiplier. Their weights are also compared with the formula."""

VISIBLE = 5.0
"""A mean difference of pixels that is no rounding."""


@pytest.fixture(scope="module")
def webui(start, reference, right_weights) -> Iterator[WebUI]:
    with start("with the built-in") as running:
        yield running


@pytest.fixture(scope="module")
def plain(webui) -> Picture:
    return webui.generate(PROMPT)


@pytest.fixture(scope="module")
def ink(webui) -> Picture:
    return webui.generate(PROMPT + INK)


def test_it_starts_takes_the_tags_and_reports_no_error(webui):
    state = webui.state()
    assert state["registry"]["lora"] == state["registry"]["lyco"] == OURS
    assert state["pages"].count("NetworksPage") == 1
    assert "ExtraNetworksPageLora" not in state["pages"]
    assert not webui.errors_of_ours()


def test_without_tags_picture_and_weights_are_those_of_a_webui_without_us(webui, plain, reference, first):
    assert plain.pixels == reference.pictures[""].pixels
    assert webui.weights() == reference.weights
    first.holds("")


@pytest.mark.parametrize("tag", TAGS)
def test_with_a_tag_every_weight_is_the_expected_one_to_the_bit(webui, plain, first, tag):
    picture = webui.generate(PROMPT + tag)
    assert picture.distance(plain) > VISIBLE
    assert picture.messages == ""
    first.holds(tag)
    for name in SAMPLES if tag in FILES else ():
        file, multiplier = FILES[tag]
        path = next((webui.installation.data / "models").rglob(f"{file}.safetensors"))
        with safe_open(webui.installation.checkpoints[0], "pt") as checkpoint:
            formula = expected(path, name, checkpoint.get_tensor(name), multiplier)
        live = live_tensor(webui, name)
        ulp = torch.finfo(live.dtype).eps * formula.abs().max().item()
        torch.testing.assert_close(live.double(), formula, rtol=0, atol=2 * ulp)


def test_after_tags_picture_and_weights_are_as_before(webui, plain, first):
    webui.generate(PROMPT + INK)
    assert webui.generate(PROMPT).pixels == plain.pixels
    first.holds("")


def test_the_builtin_makes_the_same_picture(webui, ink, reference):
    """Its arithmetic rounds in other places."""
    assert ink.distance(reference.pictures[INK]) < 1
    assert webui.generate(PROMPT + HALF_INK).distance(reference.pictures[HALF_INK]) < 1


def test_names_aliases_and_both_tags_mean_the_same_network(webui, ink):
    assert webui.generate(f"{PROMPT}<lyco:ink:1>").pixels == ink.pixels
    assert webui.generate(f"{PROMPT}<lora:inkwash:1:1>").pixels == ink.pixels


def test_the_order_of_tags_does_not_matter(webui, first):
    webui.generate(f"{PROMPT}<lyco:kron:0.5:0.3><lora:ink:0.7>")
    first.holds(BOTH)


def test_multipliers_for_text_encoder_and_unet_are_two(webui, plain, first):
    picture = webui.generate(f"{PROMPT}<lora:ink:0:1>")
    assert picture.distance(plain) > VISIBLE
    weights = webui.weights()
    for name, digest in weights.items():
        wanted = first.weights[INK if name.startswith("model.") else ""]
        assert digest == wanted[name], name


def test_an_unknown_name_is_told_with_a_suggestion_and_the_rest_works(webui, ink):
    picture = webui.generate(f"{PROMPT}<lora:inc:1>{INK}")
    assert "inc" in picture.messages
    assert "ink" in picture.messages
    assert picture.pixels == ink.pixels
    assert names(picture.hashes()) == ["ink"]


def test_a_damaged_file_is_told_and_the_rest_works(webui, ink):
    picture = webui.generate(f"{PROMPT}<lora:torn:1>{INK}")
    assert "torn" in picture.messages
    assert picture.pixels == ink.pixels
    assert names(picture.hashes()) == ["ink"]


@pytest.mark.parametrize("tag", ["<lora:>", "<lora:ink:much>", "<lora::1>", "<lyco:ink:1:1:1:1:1>", "<lora:ink:nan>"])
def test_a_malformed_tag_is_told_and_costs_no_picture(webui, tag):
    picture = webui.generate(PROMPT + tag, steps=1)
    assert picture.messages.strip()
    webui.generate(PROMPT, steps=1)
    assert not webui.errors_of_ours()


def test_the_field_lora_hashes_is_the_builtins(ink, plain, reference):
    assert ink.hashes() == reference.pictures[INK].hashes() != ""
    assert plain.hashes() is None


def test_a_bundled_embedding_is_there_as_long_as_its_network(webui):
    tag = "<lora:charm:0>"
    with_word = webui.generate(f"{PROMPT} {WORD}{tag}")
    assert WORD in webui.state()["embeddings"]
    alone = webui.generate(f"{PROMPT} {WORD}")
    assert WORD not in webui.state()["embeddings"]
    assert with_word.distance(alone) > VISIBLE


def test_a_switch_of_the_checkpoint_takes_the_networks_along(webui, plain, first, second):
    webui.generate(PROMPT + INK)
    there = webui.generate(PROMPT + INK, **second.chosen_at_once)
    second.holds(INK)
    bare = webui.generate(PROMPT, **second.chosen_at_once)
    second.holds("")
    assert there.distance(bare) > VISIBLE
    webui.generate(PROMPT + INK, **first.chosen_at_once)
    first.holds(INK)
    assert webui.generate(PROMPT).pixels == plain.pixels
    first.holds("")


def test_a_checkpoint_chosen_in_the_settings_gets_the_networks_with_the_next_picture(webui, plain, first, second):
    webui.generate(PROMPT + INK)
    webui.set(**second.chosen)
    second.holds("")
    webui.generate(PROMPT + INK)
    second.holds(INK)
    webui.set(**first.chosen)
    first.holds("")
    assert webui.generate(PROMPT).pixels == plain.pixels


def test_a_refiner_in_the_middle_of_a_picture_gets_the_networks(webui, plain, first, second):
    if "refiner_checkpoint" not in webui.get("/openapi.json")["components"]["schemas"][TXT2IMG]["properties"]:
        pytest.skip("this WebUI has no refiner")
    webui.post("/probe/watch", {"names": list(SAMPLES)})
    more = {"refiner_checkpoint": second.name, "refiner_switch_at": 0.5, "steps": 4}
    webui.generate(PROMPT + INK, **more)
    seen = watched(webui)
    assert {entry["checkpoint"] for entry in seen if entry["module"] == "UNetModel"} == {first.name, second.name}
    for entry in seen:
        model = first if entry["checkpoint"] == first.name else second
        assert entry["digests"] == {name: model.weights[INK][name] for name in SAMPLES}, entry["module"]
    webui.generate(PROMPT, **more)
    for entry in watched(webui):
        model = first if entry["checkpoint"] == first.name else second
        assert entry["digests"] == {name: model.weights[""][name] for name in SAMPLES}, entry["module"]
    assert webui.generate(PROMPT).pixels == plain.pixels
    first.holds("")


def test_a_hires_pass_has_the_networks_of_its_own_prompt(webui, plain, first):
    webui.post("/probe/watch", {"names": list(SAMPLES)})
    webui.generate(
        PROMPT + INK,
        enable_hr=True,
        hr_prompt=PROMPT + HALF_INK,
        hr_scale=2,
        hr_upscaler="Latent",
        denoising_strength=0.9,
    )
    seen = [entry["digests"] for entry in watched(webui) if entry["module"] == "UNetModel"]
    one, half = ({name: first.weights[tag][name] for name in SAMPLES} for tag in (INK, HALF_INK))
    assert seen[0] == one
    assert seen[-1] == half
    assert all(digests in (one, half) for digests in seen)
    assert webui.generate(PROMPT).pixels == plain.pixels


def test_a_hires_pass_with_its_own_checkpoint_has_the_networks(webui, plain, first, second):
    if "hr_checkpoint_name" not in webui.get("/openapi.json")["components"]["schemas"][TXT2IMG]["properties"]:
        pytest.skip("this WebUI has no checkpoint for the hires pass")
    webui.post("/probe/watch", {"names": list(SAMPLES)})
    more = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.9}
    webui.generate(PROMPT + INK, hr_checkpoint_name=second.name, **more)
    seen = [entry for entry in watched(webui) if entry["module"] == "UNetModel"]
    assert [entry["checkpoint"] for entry in (seen[0], seen[-1])] == [first.name, second.name]
    for entry in seen:
        model = first if entry["checkpoint"] == first.name else second
        assert entry["digests"] == {name: model.weights[INK][name] for name in SAMPLES}
    assert webui.generate(PROMPT).pixels == plain.pixels
    first.holds("")


def test_an_interrupted_generation_leaves_nothing_behind(webui, plain, first):
    with interruption(webui, lambda state: state["step"] >= 1):
        webui.generate(PROMPT + INK, steps=150)
    assert webui.state()["step"] < 149
    assert webui.generate(PROMPT).pixels == plain.pixels
    first.holds("")


def test_interrupted_while_networks_are_put_in_the_model_is_pristine(webui, plain, first):
    with interruption(webui, lambda state: state["progress"].startswith("Networks:")):
        picture = webui.generate(PROMPT + BOTH)
    if "interrupted" not in picture.messages:
        pytest.skip("this machine is too fast to be interrupted")
    first.holds("")
    assert webui.generate(PROMPT).pixels == plain.pixels
    webui.generate(PROMPT + INK)
    first.holds(INK)


def test_an_exception_in_the_middle_of_a_generation_leaves_nothing_behind(webui, plain, first):
    webui.post("/probe/fail", {"call": 2})
    with pytest.raises(Refused, match="500"):
        webui.generate(PROMPT + INK)
    assert webui.generate(PROMPT).pixels == plain.pixels
    first.holds("")
    assert not webui.errors_of_ours()


def test_a_batch_is_made_with_one_application(webui):
    webui.generate(PROMPT + INK, n_iter=2)
    report = webui.get("/lycopatch/v1/report")
    assert report["tensors_written"] == 0
    assert report["tensors_active"] > 0


def test_others_still_find_the_networks_of_the_builtin(webui):
    state = webui.state()
    assert {"ink", "charm", "kron"} <= set(state["available_networks"])
    assert state["loaded_networks"] == []
    assert {network["name"] for network in webui.get("/sdapi/v1/loras")} >= {"ink", "charm"}


def test_our_routes_answer(webui):
    webui.generate(PROMPT + KRON)
    report = webui.get("/lycopatch/v1/report")
    assert [tag["name"] for tag in report["tags"]] == ["kron"]
    assert report["tags"][0]["layers_applied"] == report["tags"][0]["layers_total"] > 100
    page = webui.get("/lycopatch/v1/networks", search="kron")
    assert [network["name"] for network in page["networks"]] == ["kron"]
    known = webui.get(f"/lycopatch/v1/networks/{page['networks'][0]['id']}", details="true")
    assert known["algorithm"] or known["details"]
    described = webui.get("/openapi.json")["paths"]
    assert {"/lycopatch/v1/networks", "/lycopatch/v1/networks/{id}", "/lycopatch/v1/report"} <= described.keys()


def test_turned_off_the_builtin_works_as_without_us_and_turned_on_we_do(
    webui, plain, ink, reference, first, second, note
):
    tags = ("", INK, INK, HALF_INK, "")
    names = ("plain", "ink at 1", "same again", "ink at 0.5", "without again", "other checkpoint", "back")

    def measure(who: str) -> list[Picture]:
        pictures = [webui.generate(PROMPT + tag) for tag in tags]
        switches = [webui.generate(PROMPT + INK, **chosen) for chosen in (second.chosen_at_once, first.chosen_at_once)]
        note(f"the same process, {who}: " + timings(names, [*pictures, *switches]))
        return pictures

    measure("ours    ")
    webui.set(lycopatch_enabled=False)
    state = webui.state()
    assert state["registry"]["lora"].startswith("extra_networks_lora.")
    assert state["hooks"] == 0
    first.holds("")
    theirs = measure("built-in")  # and its network stays in the model
    assert [picture.pixels for picture in theirs] == [reference.pictures[tag].pixels for tag in tags]
    webui.set(lycopatch_enabled=True)
    assert webui.state()["registry"]["lora"] == OURS
    first.holds("")
    assert webui.generate(PROMPT + INK).pixels == ink.pixels
    first.holds(INK)
    webui.set(lycopatch_enabled=False)  # while our network is in the model
    first.holds("")
    assert webui.generate(PROMPT + INK).pixels == reference.pictures[INK].pixels
    webui.set(lycopatch_enabled=True)
    assert webui.generate(PROMPT).pixels == plain.pixels
    first.holds("")


def test_two_checkpoints_in_memory_each_have_what_they_should(webui, plain, first, second):
    if "sd_checkpoints_limit" not in webui.get("/sdapi/v1/options"):
        pytest.skip("this WebUI keeps one checkpoint")
    webui.set(sd_checkpoints_limit=2)
    try:
        for model in (first, second, first, second):
            webui.generate(PROMPT + INK, **model.chosen_at_once)
            model.holds(INK)
        webui.generate(PROMPT, **first.chosen_at_once)
        first.holds("")
        webui.generate(PROMPT, **second.chosen_at_once)
        second.holds("")
        webui.set(**first.chosen)
    finally:
        webui.set(sd_checkpoints_limit=1)
    assert webui.generate(PROMPT).pixels == plain.pixels


def test_reload_ui_keeps_everything_right_and_nothing_twice(webui, plain, first):
    webui.generate(PROMPT + INK)
    before = webui.state()
    for _ in range(2):
        webui.reload()
        after = webui.state()
        for what in ("registry", "pages", "callbacks", "model", "loaded_networks"):
            assert after[what] == before[what], what
        assert webui.generate(PROMPT).pixels == plain.pixels
        webui.generate(PROMPT + INK)
        first.holds(INK)
        assert webui.state()["hooks"] == before["hooks"]
    assert [tag["name"] for tag in webui.get("/lycopatch/v1/report")["tags"]] == ["ink"]


def test_nothing_of_ours_went_wrong_in_all_this(webui):
    assert not webui.errors_of_ours()


TXT2IMG = "StableDiffusionProcessingTxt2Img"


def names(hashes: str | None) -> list[str]:
    return [] if hashes is None else [part.partition(":")[0].strip() for part in hashes.split(",")]


@contextmanager
def interruption(webui: WebUI, is_time: Callable[[dict], bool]) -> Iterator[None]:
    """Press "Interrupt" as soon as it is time, once."""
    over = threading.Event()

    def wait() -> None:
        while not over.wait(0.02):
            if is_time(webui.state()):
                webui.post("/sdapi/v1/interrupt")
                return

    stopper = threading.Thread(target=wait)
    stopper.start()
    try:
        yield
    finally:
        over.set()
        stopper.join()


def watched(webui: WebUI) -> list[Mapping]:
    """What was in the watched weights at each run of a text encoder or the U-Net since the last call."""
    seen = webui.get("/probe/watched")
    assert seen
    webui.post("/probe/watch", {"names": list(SAMPLES)})
    return seen


def live_tensor(webui: WebUI, name: str) -> torch.Tensor:
    found = webui.get("/probe/tensor", name=name)
    content = bytearray(b64decode(found["content"]))
    return torch.frombuffer(content, dtype=getattr(torch, found["dtype"])).reshape(found["shape"])
