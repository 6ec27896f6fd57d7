"""Textual inversions inside networks: in the WebUI's database while they are wanted, and nothing of them afterwards."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lycopatch.engine.report import LoadedEmbedding
from stub_modules import shared, stub_modules

Tables = Sequence[tuple[str | None, int]]


class Table(nn.Module):
    """``EmbeddingsWithFixes``: before 1.6 it has no name for its part."""

    def __init__(self, width: int, part: str | None) -> None:
        super().__init__()
        self.wrapped = nn.Embedding(4, width)
        if part is not None:
            self.textual_inversion_key = part


class Encoders(nn.Module):
    """``cond_stage_model``: a token per letter, whatever its case."""

    def __init__(self, tables: Tables) -> None:
        super().__init__()
        self.tables = nn.ModuleList(Table(width, part) for part, width in tables)

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        return [[ord(letter) for letter in text.lower() if not letter.isspace()] for text in texts]


class Database:
    """The WebUI's database, as far as others may touch it."""

    def __init__(self) -> None:
        self.ids_lookup: dict[int, list[tuple[list[int], Any]]] = {}
        self.word_embeddings: dict[str, Any] = {}

    def register_embedding(self, embedding: Any, model: Any) -> None:
        ids = model.cond_stage_model.tokenize([embedding.name])[0]
        same = self.ids_lookup.setdefault(ids[0], [])
        same.append((ids, embedding))
        self.ids_lookup[ids[0]] = sorted(same, key=lambda entry: len(entry[0]), reverse=True)
        self.word_embeddings[embedding.name] = embedding

    def reload(self, *names: str, model: Any) -> None:
        """What a load of a model does: everything goes, the user's own come again."""
        self.ids_lookup.clear()
        self.word_embeddings.clear()
        for name in names:
            self.register_embedding(SimpleNamespace(name=name, vec=torch.zeros(1, 8)), model)


def new_embedding(vec: Any, name: str) -> Any:
    return SimpleNamespace(vec=vec, name=name, shorthash=None, filename=None, vectors=0, shape=None)


SD1 = [("clip_l", 8)]
SDXL = [("clip_l", 8), ("clip_g", 12)]
REFINER = [("clip_g", 12)]


class Host:
    def __init__(self) -> None:
        self.database = Database()
        self.options = SimpleNamespace()
        self.model_data = SimpleNamespace(sd_model=None)
        self.load(SD1)

    def load(self, tables: Tables, *own: str) -> None:
        model = nn.Module()
        model.cond_stage_model = Encoders(tables)
        self.model_data.sd_model = model
        self.database.reload(*own, model=model)

    def found(self, prompt: str) -> list[str]:
        """The embeddings that a prompt of one word names."""
        ids = self.model_data.sd_model.cond_stage_model.tokenize([prompt])[0]
        return [each.name for known, each in self.database.ids_lookup.get(ids[0], ()) if known == ids]


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    modules = {
        "shared": {**shared(), "opts": host.options},
        "devices": {"device": "cpu"},
        "sd_models": {"model_data": host.model_data},
        "sd_hijack": {"EmbeddingsWithFixes": Table, "model_hijack": SimpleNamespace(embedding_db=host.database)},
        "textual_inversion": {"__path__": []},
        "textual_inversion.textual_inversion": {"Embedding": new_embedding},
    }
    with stub_modules(modules):
        yield host


@pytest.fixture
def bundled(host: Host) -> Any:
    return importlib.import_module("lycopatch.hosts.a1111.embeddings").BundledEmbeddings()


def inside(name: str = "inky", path: str = "/networks/ink.safetensors", **parts: Tensor) -> LoadedEmbedding:
    return LoadedEmbedding(name, path, parts or {"string_to_param.*": torch.ones(2, 8)})


def both(left: int = 2, right: int = 2) -> dict[str, Tensor]:
    return {"clip_l": torch.ones(left, 8), "clip_g": torch.ones(right, 12)}


def reasons(bundled: Any, *embeddings: LoadedEmbedding) -> list[str]:
    return [reason for _, reason in bundled.register(embeddings)]


def test_an_embedding_is_known_while_it_is_wanted_and_gone_afterwards(host: Host, bundled: Any) -> None:
    assert bundled.register([inside(), inside()]) == []
    assert host.found("inky") == ["inky"]
    entry = host.database.word_embeddings["inky"]
    assert (entry.vectors, entry.shape, entry.filename) == (2, 8, "/networks/ink.safetensors")
    assert entry.vec.dtype == torch.float32
    bundled.register([])
    assert host.database.word_embeddings == {}
    assert host.database.ids_lookup == {}


@pytest.mark.parametrize("part", ["string_to_param.*", "emb_params", "clip_l"])
def test_one_part_serves_a_model_with_one_text_encoder_whatever_its_name(host: Host, bundled: Any, part: str) -> None:
    assert reasons(bundled, inside(**{part: torch.ones(8)})) == []
    assert host.database.word_embeddings["inky"].vec.shape == (1, 8)


def test_two_parts_serve_the_two_text_encoders(host: Host, bundled: Any) -> None:
    host.load(SDXL)
    assert reasons(bundled, inside(**both())) == []
    entry = host.database.word_embeddings["inky"]
    assert {part: tuple(tensor.shape) for part, tensor in entry.vec.items()} == {"clip_l": (2, 8), "clip_g": (2, 12)}
    assert (entry.vectors, entry.shape) == (2, 20)


def test_the_refiner_takes_its_part_of_two(host: Host, bundled: Any) -> None:
    host.load(REFINER)
    assert reasons(bundled, inside(**both())) == []
    assert list(host.database.word_embeddings["inky"].vec) == ["clip_g"]


OTHER_MODEL = "it was made for another base model, as its parts {} are not those of the loaded one"
MISFITS: list[tuple[Tables, dict[str, Tensor], str]] = [
    (SD1, {"emb_params": torch.ones(2, 9)}, "its vectors are 9 wide, the loaded model's 8: another base model"),
    (SD1, both(), OTHER_MODEL.format('"clip_l", "clip_g"')),
    ([(None, 8)], both(), OTHER_MODEL.format('"clip_l", "clip_g"')),
    (SDXL, {"emb_params": torch.ones(2, 8)}, OTHER_MODEL.format('"emb_params"')),
    (SDXL, both(2, 3), "its parts have different numbers of vectors"),
    ([(None, 8), (None, 12)], both(), "this WebUI knows no embeddings for models like the one that is loaded"),
    ([], both(), "this WebUI knows no embeddings for models like the one that is loaded"),
    (SD1, {"emb_params": torch.ones(76, 8)}, "it has 76 vectors, and a prompt takes 1 to 75"),
    (SD1, {"emb_params": torch.ones(0, 8)}, "it has 0 vectors, and a prompt takes 1 to 75"),
    (SD1, {"emb_params": torch.ones(2, 2, 8)}, "its vectors are 8 wide, the loaded model's 8: another base model"),
    (SD1, {"emb_params": torch.full((1, 8), torch.nan)}, "it holds numbers that are not finite"),
]


@pytest.mark.parametrize(("tables", "parts", "reason"), MISFITS)
def test_what_would_spoil_or_lose_the_picture_is_left_out(
    host: Host, bundled: Any, tables: Tables, parts: dict[str, Tensor], reason: str
) -> None:
    host.load(tables)
    assert reasons(bundled, inside(**parts)) == [reason]
    assert host.database.word_embeddings == {}


@pytest.mark.parametrize("name", ["<img src=x>", "a'b", 'a"b', "a\nb", "a\\b", "x" * 201, "&lt;"])
def test_a_name_that_a_page_could_obey_is_refused(host: Host, bundled: Any, name: str) -> None:
    assert reasons(bundled, inside(name)) == ["its name is none that a prompt could use"]


def test_a_name_without_tokens_is_refused(host: Host, bundled: Any) -> None:
    assert reasons(bundled, inside(" ")) == ["its name is no text"]


@pytest.mark.parametrize("own", ["inky", "Inky"])
def test_an_embedding_of_the_users_own_is_never_replaced(host: Host, bundled: Any, own: str) -> None:
    host.load(SD1, own)
    kept = host.database.word_embeddings[own]
    assert reasons(bundled, inside()) == [f'there is already an embedding named "{own}"']
    bundled.remove()
    assert host.database.word_embeddings == {own: kept}
    assert host.found("inky") == [own]


def test_of_two_networks_with_the_same_embedding_the_first_has_it(host: Host, bundled: Any) -> None:
    first, second = inside(), inside(path="/networks/other.safetensors")
    [(refused, _)] = bundled.register([first, second])
    assert refused is second
    assert host.database.word_embeddings["inky"].filename == first.path


def test_embeddings_come_back_after_the_host_has_emptied_its_database(host: Host, bundled: Any) -> None:
    bundled.register([inside()])
    host.load(SD1, "other")
    assert host.found("inky") == []
    bundled.register([inside()])
    assert host.found("inky") == ["inky"]
    bundled.remove()
    assert list(host.database.word_embeddings) == ["other"]


def test_what_the_user_has_put_in_our_place_meanwhile_stays(host: Host, bundled: Any) -> None:
    bundled.register([inside()])
    host.load(SD1, "inky")
    bundled.remove()
    assert list(host.database.word_embeddings) == ["inky"]
    assert host.found("inky") == ["inky"]


def test_the_state_tells_names_and_vectors_and_nothing_else(host: Host, bundled: Any) -> None:
    nothing = bundled.state
    bundled.register([inside()])
    one = bundled.state
    assert hash(one) != hash(nothing)
    bundled.register([inside(path="/networks/copy.safetensors")])
    assert bundled.state == one
    bundled.register([inside(emb_params=torch.full((2, 8), 1.5))])
    assert bundled.state != one
    bundled.register([inside("other")])
    assert bundled.state != one
    bundled.remove()
    assert bundled.state == nothing


def test_no_model_means_no_embedding(host: Host, bundled: Any) -> None:
    host.model_data.sd_model = None
    assert bundled.register([inside()]) == []
    assert bundled.state == frozenset()


@pytest.mark.parametrize(("wanted", "shown"), [(True, "ink v1"), (False, None)])
def test_the_hosts_setting_decides_whether_the_network_stands_among_the_ti_hashes(
    host: Host, bundled: Any, tmp_path: Path, wanted: bool, shown: str | None
) -> None:
    host.options.lora_bundled_ti_to_infotext = wanted
    bundled.register([inside(path=str(tmp_path / "ink: v1.safetensors"))])
    assert host.database.word_embeddings["inky"].shorthash == shown


def test_a_webui_knows_the_embedding_for_as_long_as_the_tag_is_there(webui: Any) -> None:
    ink = webui.data / "models" / "Lora" / "ink.safetensors"
    tensors = load_file(ink) | {"bundle_emb.inky.string_to_param.*": torch.ones(2, 16)}
    save_file(tensors, ink.with_name("bundle.safetensors"))
    database = webui.module("sd_hijack").model_hijack.embedding_db
    seen: list[list[str]] = []
    for prompt in ("inky", "inky <lora:bundle>", "inky <lora:bundle>", "inky"):
        picture = webui.txt2img(prompt, on_step=lambda p, step: seen.append(list(database.word_embeddings)))
        assert picture.comments == ""
    assert seen[::2] == [[], ["inky"], ["inky"], []]
    assert webui.errors == []
