"""``Lora hashes``: what was used is written as sites read it, and what others wrote finds the files of this machine."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lycopatch.engine.catalog import Catalog
from lycopatch.engine.report import Report, TagReport
from networks import write_network
from stub_modules import shared, stub_modules

LAYERS = {"lora_unet_nowhere_to_q": (8, 8)}
STATED = "0123456789abcdef" * 4


class Host:
    """A WebUI with networks; ``hashed`` lists the titles of what it had to hash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, str] = {}
        self.hashed: list[tuple[str, bool]] = []
        self.no_hashing = False
        self.settings = SimpleNamespace(add_hashes=True, prefer_alias=False)

    def add(self, name: str, stated: str | None = None, alias: str | None = None, seed: int = 0) -> Path:
        metadata = {"sshs_model_hash": stated, "ss_output_name": alias}
        given = {key: value for key, value in metadata.items() if value is not None}
        path = self.folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_network(path, LAYERS, "lora", metadata=given, seed=seed)

    def sha256_from_cache(self, filename: str, title: str, use_addnet_hash: bool = False) -> str | None:
        return self.known.get(title)

    def sha256(self, filename: str, title: str, use_addnet_hash: bool = False) -> str | None:
        if title not in self.known and not self.no_hashing:
            self.hashed.append((title, use_addnet_hash))
            self.known[title] = content_hash(Path(filename))
        return self.known.get(title)

    def hashes(self) -> Any:
        room = importlib.import_module("lycopatch.hosts.a1111.infotext")
        return room.LoraHashes(SimpleNamespace(catalog=Catalog([self.folder], allow_pickle=True)), self.settings)

    def paste(self, **params: Any) -> dict[str, Any]:
        named = {key.replace("_", " "): value for key, value in params.items()}
        self.hashes().pasted("", named)
        return named


def content_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    with stub_modules(
        {"shared": shared(), "hashes": {"sha256": host.sha256, "sha256_from_cache": host.sha256_from_cache}}
    ):
        yield host


def report(*names: str, **changes: Any) -> Report:
    return Report(tags=[TagReport(f"<lora:{name}>", name, **{"layers_applied": 1, **changes}) for name in names])


def job(**more: Any) -> SimpleNamespace:
    return SimpleNamespace(extra_generation_params={}, is_hr_pass=False, **more)


def written(hashes: Any, *reports: Report, p: Any = None) -> str | None:
    p = p or job()
    for one in reports:
        hashes.write(p, one)
    return p.extra_generation_params.get("Lora hashes")


def test_twelve_digits_of_what_the_file_states(host: Host) -> None:
    host.add("ink", STATED)
    assert written(host.hashes(), report("ink")) == "ink: 0123456789ab"
    assert host.hashed == []


@pytest.mark.parametrize("useless", ["", "none", "<b>", "0123", "x" * 64])
def test_a_stated_hash_that_is_none_does_not_count(host: Host, useless: str) -> None:
    path = host.add("ink", useless)
    assert written(host.hashes(), report("ink")) == f"ink: {content_hash(path)[:12]}"


def test_a_file_without_a_stated_hash_is_hashed_once_under_the_title_of_the_built_in(host: Host) -> None:
    path = host.add("sub/ink")
    assert written(host.hashes(), report("ink"), report("sub/ink")) == f"sub/ink: {content_hash(path)[:12]}"
    assert host.hashed == [("lora/ink", True)]


def test_files_of_one_name_do_not_share_a_title(host: Host) -> None:
    one, two = host.add("one/ink", seed=1), host.add("two/ink", seed=2)
    expected = f"one/ink: {content_hash(one)[:12]}, two/ink: {content_hash(two)[:12]}"
    assert written(host.hashes(), report("one/ink", "two/ink")) == expected
    assert len({title for title, _ in host.hashed}) == 2


def test_a_pickle_is_hashed_as_a_whole(host: Host) -> None:
    (host.folder / "old.pt").write_bytes(b"PK\x03\x04")
    written(host.hashes(), report("old"))
    assert host.hashed == [("lora/old", False)]


def test_without_hashing_only_known_hashes_are_written(host: Host) -> None:
    host.add("ink")
    host.add("paper", STATED)
    host.no_hashing = True
    assert written(host.hashes(), report("ink", "paper")) == "paper: 0123456789ab"


@pytest.mark.parametrize("changes", [{"failed": True}, {"layers_applied": 0}])
def test_what_was_not_used_is_not_listed(host: Host, changes: dict[str, Any]) -> None:
    host.add("ink", STATED)
    assert written(host.hashes(), report("ink", **changes)) is None


def test_a_network_of_nothing_but_an_embedding_is_listed(host: Host) -> None:
    host.add("ink", STATED)
    one = report("ink", layers_applied=0)
    one.tags[0].keys["embedding"].append("bundle_emb.x.string_to_param.*")
    assert written(host.hashes(), one) == "ink: 0123456789ab"


def test_a_file_that_has_gone_meanwhile_is_not_listed(host: Host) -> None:
    assert written(host.hashes(), report("ink")) is None


def test_the_punctuation_of_the_field_is_left_out_of_names(host: Host) -> None:
    host.add("a,b", STATED)
    assert written(host.hashes(), report(" a,b ")) == "ab: 0123456789ab"


def test_each_first_pass_starts_anew_and_a_hires_pass_adds(host: Host) -> None:
    for name, digit in (("ink", "a"), ("paper", "b"), ("wash", "c")):
        host.add(name, digit * 64)
    hashes, p = host.hashes(), job()
    assert written(hashes, report("ink"), p=p) == "ink: aaaaaaaaaaaa"
    p.is_hr_pass = True
    assert written(hashes, report("paper"), p=p) == "ink: aaaaaaaaaaaa, paper: bbbbbbbbbbbb"
    p.is_hr_pass = False
    assert written(hashes, report("wash"), p=p) == "wash: cccccccccccc"
    assert written(hashes, report(), p=p) is None


def test_nothing_is_written_when_the_setting_is_off(host: Host) -> None:
    host.add("ink", STATED)
    host.settings.add_hashes = False
    assert written(host.hashes(), report("ink")) is None


# --- and back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lora", "lyco"])
def test_a_pasted_tag_gets_the_local_name(host: Host, kind: str) -> None:
    host.add("mine", STATED)
    params = host.paste(Prompt=f"a <{kind}:theirs:0.8> b", Lora_hashes="theirs: 0123456789ab")
    assert params["Prompt"] == f"a <{kind}:mine:0.8> b"


def test_a_tag_without_a_weight_and_the_hires_prompt_get_it_too(host: Host) -> None:
    host.add("mine", STATED)
    params = host.paste(Prompt="<lora:theirs>", Hires_prompt="<lyco:theirs:1:0>", Lora_hashes="theirs: 0123456789ab")
    assert params["Prompt"] == "<lora:mine>"
    assert params["Hires prompt"] == "<lyco:mine:1:0>"


def test_what_was_written_is_read_back(host: Host) -> None:
    host.add("a,b", STATED)
    field = written(host.hashes(), report("a,b"))
    (host.folder / "a,b.safetensors").rename(host.folder / "renamed.safetensors")
    assert host.paste(Prompt="<lora:a,b:1>", Lora_hashes=field)["Prompt"] == "<lora:renamed:1>"


def test_a_name_that_already_means_the_file_is_kept(host: Host) -> None:
    host.add("sub/mine", STATED, alias="Trained")
    for name in ("Trained", "sub/mine", "mine"):
        tag = f"<lora:{name}:1>"
        assert host.paste(Prompt=tag, Lora_hashes=f"{name}: 0123456789ab")["Prompt"] == tag


def test_a_name_that_means_another_file_here_is_corrected(host: Host) -> None:
    host.add("ink", "f" * 64)
    host.add("right", STATED)
    assert host.paste(Prompt="<lora:ink:1>", Lora_hashes="ink: 0123456789ab")["Prompt"] == "<lora:right:1>"


def test_a_name_that_fits_several_files_here_gets_its_folder(host: Host) -> None:
    host.add("one/ink", STATED, seed=1)
    host.add("two/ink", "f" * 64, seed=2)
    assert host.paste(Prompt="<lora:ink:1>", Lora_hashes="ink: 0123456789ab")["Prompt"] == "<lora:one/ink:1>"


def test_the_trainers_name_is_written_when_the_setting_wants_it(host: Host) -> None:
    host.add("mine", STATED, alias="Trained")
    host.settings.prefer_alias = True
    assert host.paste(Prompt="<lora:x:1>", Lora_hashes="x: 0123456789ab")["Prompt"] == "<lora:Trained:1>"


def test_a_file_that_states_no_hash_is_found_by_what_the_host_knows(host: Host) -> None:
    path = host.add("mine")
    host.sha256(str(path), "lora/mine", use_addnet_hash=True)
    field = f"theirs: {content_hash(path)[:12]}"
    assert host.paste(Prompt="<lora:theirs:1>", Lora_hashes=field)["Prompt"] == "<lora:mine:1>"


def test_pasting_hashes_nothing(host: Host) -> None:
    host.add("mine")
    assert host.paste(Prompt="<lora:mine:1>", Lora_hashes="mine: 0123456789ab")["Prompt"] == "<lora:mine:1>"
    assert host.hashed == []


@pytest.mark.parametrize(
    "field",
    [None, "", ":", ",,,", "theirs", "theirs: ", "theirs: xyz", "theirs: 0123", "other: 0123456789ab", 7, ["a"]],
)
def test_a_field_that_says_nothing_about_a_tag_leaves_it_alone(host: Host, field: Any) -> None:
    host.add("mine", STATED)
    assert host.paste(Prompt="<lora:theirs:1>", Lora_hashes=field)["Prompt"] == "<lora:theirs:1>"


def test_an_unknown_hash_leaves_the_tag_alone(host: Host) -> None:
    host.add("mine", STATED)
    assert host.paste(Prompt="<lora:theirs:1>", Lora_hashes="theirs: ffffffffffff")["Prompt"] == "<lora:theirs:1>"


def test_parameters_without_a_prompt_are_left_alone(host: Host) -> None:
    host.add("mine", STATED)
    assert host.paste(Lora_hashes="theirs: 0123456789ab", Hires_prompt=None) == {
        "Lora hashes": "theirs: 0123456789ab",
        "Hires prompt": None,
    }


# --- in a WebUI ------------------------------------------------------------------------------------------------------


def test_a_picture_names_what_it_was_made_with_and_finds_it_again_under_another_name(webui: Any) -> None:
    picture = webui.txt2img("a cat <lora:ink:0.8> <lyco:gone:1>")
    ink = webui.data / "models" / "Lora" / "ink.safetensors"
    raw = ink.read_bytes()
    digits = hashlib.sha256(raw[8 + int.from_bytes(raw[:8], "little") :]).hexdigest()[:12]
    assert f'Lora hashes: "ink: {digits}"' in picture.infotexts[0]
    ink.rename(ink.with_name("renamed.safetensors"))
    assert webui.client().post("/sdapi/v1/refresh-loras").status_code == 200
    webui.txt2img("<lora:renamed:0.8>")
    pasted = webui.paste(picture.infotexts[0])
    assert pasted["Prompt"] == "a cat <lora:renamed:0.8> <lyco:gone:1>"
    assert webui.errors == []


def test_a_picture_without_networks_names_none(webui: Any) -> None:
    assert "Lora hashes" not in webui.txt2img("a cat").infotexts[0]
