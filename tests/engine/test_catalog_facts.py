"""What cards, filters and searches know of a file: its kind, rank, base model and variant, and the words beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keyset_files import keyset_file, keyset_names, read_keyset
from lycopatch.engine import catalog_structure
from lycopatch.engine.catalog_beside import Beside
from lycopatch.engine.catalog_facts import Facts, Words, read_facts
from lycopatch.engine.catalog_identity import identities, identity
from lycopatch.engine.catalog_scan import SeenFile
from lycopatch.engine.catalog_structure import Structure, Structures

PARTS = ["unet", "te", "unet+te"]


@pytest.fixture(scope="module")
def structures() -> Structures:
    return Structures()


def facts(
    folder: Path, structures: Structures, keyset: str = "sdxl_peft_te2_lora_bias", name: str = "a", **about: object
) -> Facts:
    """The facts of a file with the header of a keyset. ``about``: metadata, words."""
    words, metadata = about.get("words"), about.get("metadata", {})
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for key, spec in read_keyset(keyset).items():
        header[key] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [end, end + spec.nbytes]}
        end += spec.nbytes
    raw = json.dumps(header).encode()
    path = folder / f"{name}.safetensors"
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)
    status = path.stat()
    beside = Beside("words", None, isinstance(words, Words))
    seen = SeenFile(str(path), "Lora", name, path.suffix, False, status.st_size, status.st_mtime_ns, beside)
    return read_facts(seen, structures, lambda path: words if isinstance(words, Words) else Words())


@pytest.mark.parametrize(
    ("keyset", "kind", "label", "rank", "family", "parts"),
    [
        ("sd1_kohya_lora_r4", "lora", "LoRA r4", 4, "sd1", "unet+te"),
        ("sd1_kohya_locon_r4c2", "lora", "LoCon r4", 4, "sd1", "unet+te"),
        ("sd1_peft_unet_lora", "lora", "LoRA r4", 4, "sd1", "unet"),
        ("sd2_peft_te_lora", "lora", "LoRA r4", 4, "sd2", "te"),
        ("sdxl_lycoris_loha", "loha", "LoHa r2", 2, "sdxl", "unet+te"),
        ("sd1_lycoris_lokr_f8", "lokr", "LoKr f8", 4, "sd1", "unet+te"),
        ("sd1_lycoris_lokr_decompose_both", "lokr", "LoKr f16", 4, "sd1", "unet+te"),
        ("sd1_lycoris_lora_dora_out", "dora", "DoRA r4", 4, "sd1", "unet+te"),
        ("sd1_lycoris_loha_dora_out", "dora", "LoHa r4 DoRA", 4, "sd1", "unet+te"),
        ("sd1_lycoris_ia3", "ia3", "(IA)³", None, "sd1", "unet+te"),
        ("sd1_lycoris_full", "full", "Full", None, "sd1", "unet+te"),
        ("sd1_lycoris_glora", "glora", "GLoRA r4", 4, "sd1", "unet+te"),
        ("sd1_peft_unet_oft", "oft", "OFT", None, "sd1", "unet"),
        ("sd1_lycoris_boft", "boft", "BOFT", None, "sd1", "unet+te"),
        ("sd1_lycoris_tlora", "tlora", "T-LoRA r4", 4, "sd1", "unet+te"),
        ("future/flux_lora_kohya_with_te1", "lora", "LoRA r4", 4, "flux", "unet+te"),
        ("future/qwen_image_lora_kohya", "lokr", "LoKr", None, "qwen_image", "unet"),
    ],
)
def test_a_structure_gives_a_badge(
    structures: Structures, keyset: str, kind: str, label: str, rank: int | None, family: str, parts: str
) -> None:
    found = structures.of(keyset_file(keyset))
    assert (found.kind, found.label, found.rank, found.family, found.parts) == (kind, label, rank, family, parts)
    assert found.keys == len(read_keyset(keyset))


def test_every_published_structure_has_a_badge(structures: Structures) -> None:
    for name in [*keyset_names()[::6], *keyset_names("future")[::6]]:
        found = structures.of(keyset_file(name))
        assert found.kind, name
        assert found.label, name
        assert found.family, name
        assert found.family in found.families, name
        assert found.parts in PARTS, name


def test_equal_structures_are_judged_once_and_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[int] = []
    original = catalog_structure.structure_of

    def counting(adapter: object) -> Structure:
        judged.append(1)
        return original(adapter)  # type: ignore[arg-type]

    monkeypatch.setattr(catalog_structure, "structure_of", counting)
    few = Structures(most_kept=1)
    first, second = keyset_file("sd1_peft_unet_lora"), keyset_file("sd1_peft_unet_loha")
    assert [few.of(file).kind for file in (first, first, second, second, first)] == ["lora"] * 2 + ["loha"] * 2 + [
        "lora"
    ]
    assert len(judged) == 3


def test_what_metadata_say_of_the_base_model_is_part_of_the_judgement(structures: Structures) -> None:
    for said, family in (({}, "sdxl"), ({"ss_base_model_version": "sd3"}, "sd3")):
        assert structures.of(keyset_file("sdxl_peft_te2_lora_bias", said)).family == family


def test_dylora_is_known_by_its_trainers_word(tmp_path: Path, structures: Structures) -> None:
    for metadata in (
        {"ss_network_module": "networks.dylora"},
        {"ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "dylora"}'},
    ):
        found = facts(tmp_path, structures, "sd1_lycoris_dylora", metadata=metadata)
        assert (found.kind, found.label) == ("dylora", "DyLoRA r8")


@pytest.mark.parametrize(
    ("name", "about", "variant"),
    [
        ("a", {}, None),
        ("a", {"metadata": {"ss_sd_model_name": "ponyDiffusionV6XL_v6.safetensors"}}, "pony"),
        ("a", {"metadata": {"ss_sd_model_name": "noobaiXLNAIXL_vPred.safetensors"}}, "noobai"),
        ("a", {"metadata": {"ss_sd_model_name": "Illustrious-XL-v0.1.safetensors"}}, "illustrious"),
        ("a", {"words": Words(base_model="Pony")}, "pony"),
        ("ink_IL_v2", {}, "illustrious"),
        ("ink ilxl", {}, "illustrious"),
        ("ink-PonyXL", {}, "pony"),
        ("ink noobai", {}, "noobai"),
        ("pony_il", {"metadata": {"ss_sd_model_name": "noob.safetensors"}}, "noobai"),
        ("silk", {}, None),
        ("ponytail", {}, None),
        ("a", {"metadata": {"ss_tag_frequency": '{"a": {"score_9": 3, "tree": 9}}'}}, "pony"),
        ("a", {"metadata": {"ss_tag_frequency": '{"a": {"pony": 3}}'}}, None),
    ],
)
def test_a_variant_of_sdxl_is_known_by_what_people_write(
    tmp_path: Path, structures: Structures, name: str, about: dict[str, object], variant: str | None
) -> None:
    assert facts(tmp_path, structures, name=name, **about).variant == variant


def test_other_base_models_have_no_variant(tmp_path: Path, structures: Structures) -> None:
    assert facts(tmp_path, structures, "sd2_peft_te_lora", name="my little pony").variant is None


@pytest.mark.parametrize(
    ("version", "family"),
    [("lycopatch_demo", "lycopatch_demo"), ("sd_v1", None), ("Über Model", None), ("x" * 41, None), ("", None)],
)
def test_a_base_model_that_only_the_trainer_knows_has_his_name_for_it(
    tmp_path: Path, structures: Structures, version: str, family: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        catalog_structure,
        "structure_of",
        lambda adapter: Structure("lora", "LoRA", 4, None, None, 0, (), "unet", 1, 2, None),
    )
    found = facts(tmp_path, Structures(), metadata={"ss_base_model_version": version})
    assert (found.family, found.family_title) == (family, family)


def test_words_and_tags_are_facts_and_can_be_searched(tmp_path: Path, structures: Structures) -> None:
    words = Words("Título", "ink style,", 0.7, ("Mine",), "", "NOTES\0")
    metadata = {
        "ss_output_name": "Inkwash",
        "ss_tag_frequency": json.dumps({"10": {f"Tag {number}": number + 1 for number in range(50)}}),
        "modelspec.trigger_phrase": "inkwsh",
        "modelspec.description": "What it is",
        "sshs_model_hash": "ab" * 32,
        "thumbnail": "data:image/png;base64,",
    }
    found = facts(tmp_path, structures, metadata=metadata, words=words)
    assert (found.alias, found.title, found.trigger, found.weight) == ("Inkwash", "Título", "ink style,", 0.7)
    assert (len(found.tags), found.tags[0], found.own_tags) == (20, ("Tag 49", 50), ("Mine",))
    assert found.stated_hashes == ["ab" * 32]
    assert "thumbnail" not in found.metadata
    for text in ("inkwash", "título", "ink style", "tag 49", "mine", "notes", "what it is", "lora r2", "lora\na"):
        assert text in found.searched
    assert "\0" not in found.searched
    plain = facts(tmp_path, structures, metadata=metadata)
    assert (plain.trigger, plain.weight, plain.title) == ("inkwsh", None, None)


def test_texts_of_any_length_stay_short(tmp_path: Path, structures: Structures) -> None:
    assert len(facts(tmp_path, structures, words=Words(text="word " * 10**5)).searched) < 10_000


def test_identities_say_nothing_and_differ() -> None:
    found = identities([("/x/a.pt", "a.pt"), ("/x/b/c.pt", "b/c.pt"), ("/y/b/c.pt", "b/c.pt"), ("/x/\udcff", "\udcff")])
    assert len(set(found.values())) == 4
    assert found["/x/a.pt"] == identity("a.pt")
    assert found["/x/b/c.pt"] == identity("/x/b/c.pt")
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in found.values())
