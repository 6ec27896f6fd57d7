"""A dry run as a page gets it: numbers ready for JSON, sentences for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lycopatch.engine.catalog import Catalog
from lycopatch.engine.dry_run import DryRun, Estimate
from lycopatch.engine.errors import AdapterNotFound
from lycopatch.engine.overlap import BlockOverlap, Overlap
from lycopatch.engine.report import Issue, LeftOut, TagReport
from lycopatch.hosts.memory import NetworkLoader
from lycopatch.ui.gallery.dry_run import MOST_TAGS, NO_MODEL, dry_run, dry_run_view, verdict
from networks import write_network
from random_models import layers_of, sd15

COST = Estimate(1.5, False, 10, 2, 1000, 2000)
CARD = {"id": "1" * 16, "label": "LoRA r4", "family_title": "Stable Diffusion 1", "fit": "yes"}


def find(name: str) -> Mapping[str, Any]:
    if name.strip() in ("gone", "nowhere"):
        raise AdapterNotFound(name)
    return CARD


def overlap(*blocks: tuple[str, float | None], cosine: float | None = 0.5, **more: Any) -> Overlap:
    made = tuple(BlockOverlap(name, value, 1 / len(blocks)) for name, value in blocks)
    facts: dict[str, Any] = {"share": 1.0, "measured": 10, "common": 10, "unmeasured": {}, **more}
    return Overlap(0, 1, cosine, blocks=made, **facts)


AGAINST = '"ink" and "sea" pull in opposite directions '
ALONG = '"ink" and "sea" pull in the same direction '
ADD_UP = "their effects add up; consider lower weights."

VERDICTS = [
    (
        overlap(("OUT02", 0.01), ("OUT03", -0.4), ("OUT04", -0.62), ("OUT05", -0.3), ("TE1.00", 0.0), cosine=-0.3),
        f"{AGAINST}in OUT03–OUT05 (cosine down to −0.62): each takes back part of what the other does.",
    ),
    (
        overlap(("IN01", 0.9), ("MID", 0.85), cosine=0.88),
        f"{ALONG}wherever both act (cosine 0.88): {ADD_UP}",
    ),
    (
        overlap(("IN01", 0.9), ("MID", -0.85), ("OUT03", 0.4), cosine=0.1),
        f"{AGAINST}in MID (cosine −0.85), and in the same direction in IN01 and OUT03 (cosine up to 0.90).",
    ),
    (
        overlap(("IN01", 0.02), ("MID", -0.05), ("OUT00", None), cosine=-0.001),
        '"ink" and "sea" change the same weights in ways that have little in common (cosine 0.00).',
    ),
    (
        overlap(("LAST", 0.5), ("TE1.00", 0.6), ("TE1.01", 0.7), ("TE2.00", 0.7), ("TE2.01", 0.0), cosine=0.4),
        f"{ALONG}in LAST, TE1.00–TE1.01 and TE2.00 (cosine up to 0.70): {ADD_UP}",
    ),
    (
        overlap(*((f"IN{n:02}", 0.5 * (n % 2)) for n in range(12)), cosine=0.3),
        f"{ALONG}in IN01, IN03, IN05, IN07 and elsewhere (cosine up to 0.50): {ADD_UP}",
    ),
    (
        overlap(("MID", 0.5), measured=6, common=1000, unmeasured={"it sleeps": 1, "it is cut": 2}),
        (
            f"{ALONG}in MID (cosine 0.50): {ADD_UP} 1 weight could not be compared: it sleeps. "
            "2 weights could not be compared: it is cut. Only 9 of 1,000 weights were looked at in the time there is."
        ),
    ),
]


@pytest.mark.parametrize(("measured", "sentence"), VERDICTS)
def test_a_verdict_is_a_sentence_about_blocks(measured: Overlap, sentence: str) -> None:
    assert verdict(measured, "ink", "sea") == sentence


def test_blocks_in_which_hardly_anything_happens_are_not_named() -> None:
    blocks = (BlockOverlap("MID", 0.0, 0.99), BlockOverlap("LAST", -0.9, 0.01))
    assert "little in common" in verdict(Overlap(0, 1, 0.0, 1.0, blocks, 2, 2, {}), "a", "b")


def test_names_of_strangers_are_quoted_and_short() -> None:
    sentence = verdict(VERDICTS[0][0], '<img src="x">\n' + "x" * 500, "b")
    assert "\n" not in sentence
    assert len(sentence) < 400


def report(name: str, **more: Any) -> TagReport:
    facts: dict[str, Any] = {
        "path": f"/secret/place/{name}.safetensors",
        "layers_applied": 3,
        "layers_total": 4,
        **more,
    }
    return TagReport(f"<lora:{name}:1>", name, **facts)


def test_a_tag_tells_what_becomes_of_its_file() -> None:
    tag = report("ink")
    tag.keys["applied"] += ["a", "b"]
    tag.keys["unmatched"] += ["c"]
    tag.left_out = [
        LeftOut("lora_a", "unmatched", "no such layer", "this model has no layer of that name", keys=2),
        LeftOut("lora_b", "unmatched", "no such layer", "this model has no layer of that name", keys=3),
        LeftOut("x", "unknown", "unknown key", "nobody knows it"),
    ]
    tag.issues = [Issue("odd", "The file /secret/place/ink.safetensors is odd.", file="/secret/place/ink.safetensors")]
    view = dry_run_view(DryRun(tags=[tag], estimate=COST), find, model="Paper v2")
    assert view["tags"] == [
        {
            "tag": "<lora:ink:1>",
            "name": "ink",
            "file": "ink.safetensors",
            "id": "1" * 16,
            "label": "LoRA r4",
            "family_title": "Stable Diffusion 1",
            "layers_applied": 3,
            "layers_total": 4,
            "keys": {"applied": 2, "unmatched": 1, "unknown": 0, "skipped": 0, "embedding": 0},
            "reasons": [
                {"reason": "this model has no layer of that name", "count": 5, "example": "lora_a"},
                {"reason": "nobody knows it", "count": 1, "example": "x"},
            ],
            "issues": ["The file ink.safetensors is odd."],
            "failed": False,
        }
    ]
    assert view["model"] == "Paper v2"
    assert view["issues"] == []


def test_a_lost_tag_has_no_file_and_a_file_that_goes_meanwhile_is_still_told_of() -> None:
    lost = report("nowhere", path=None, failed=True, issues=[Issue("not found", "There is no network named so.")])
    gone = report("gone")
    first, second = dry_run_view(DryRun(tags=[lost, gone], estimate=COST), find, model="m")["tags"]
    assert (first["file"], first["id"], first["failed"]) == (None, None, True)
    assert first["issues"] == ["There is no network named so."]
    assert (second["file"], second["id"]) == ("gone.safetensors", None)


def test_what_belongs_to_no_tag_is_said() -> None:
    found = DryRun(
        tags=[report("ink"), report("sea")],
        issues=[Issue("duplicate", '"ink" is named 2 times in the prompt; the effects add up.')],
        overlaps=[
            overlap(cosine=None, measured=0, common=4, unmeasured={"it sleeps": 4}),
            overlap(("MID", None), cosine=None),
        ],
        pairs_left_out=1,
    )
    view = dry_run_view(found, find, model=None, negative="bad <lora:ink:1>")
    assert (view["conflicts"], view["estimate"]) == ([], None)
    assert view["issues"] == [
        '"ink" is named 2 times in the prompt; the effects add up.',
        "The tag <lora:ink:1> stands in the negative prompt, where tags do nothing; move it.",
        '"ink" and "sea" change the same weights. 4 weights could not be compared: it sleeps.',
        "1 more pair of networks that share weights: not compared.",
        NO_MODEL,
    ]


def test_a_conflict_and_the_estimate_are_plain_numbers() -> None:
    found = DryRun(
        tags=[report(" ink "), report("sea")],
        overlaps=[overlap(("IN01", -0.5), ("MID", None), cosine=-0.5, share=None)],
        estimate=COST,
    )
    view = dry_run_view(found, find, model="m")
    assert json.loads(json.dumps(view)) == view
    (conflict,) = view["conflicts"]
    assert (conflict["a"], conflict["b"], conflict["cosine"], conflict["share"]) == ("ink", "sea", -0.5, None)
    assert conflict["blocks"] == [
        {"block": "IN01", "cosine": -0.5, "share": 0.5},
        {"block": "MID", "cosine": None, "share": 0.5},
    ]
    assert conflict["verdict"] == verdict(found.overlaps[0], "ink", "sea")
    assert view["estimate"] == {
        "seconds": 1.5,
        "sure": False,
        "tensors": 10,
        "restored": 2,
        "bytes_read": 1000,
        "bytes_originals": 2000,
    }


def test_too_many_tags_are_not_looked_at_and_that_is_said(tmp_path: Path) -> None:
    view = dry_run("<lora:nowhere>" * 1200, "", find, session=None, catalog=Catalog([tmp_path]), model=None)
    assert len(view["tags"]) == MOST_TAGS
    assert view["issues"][1] == "Only the first 50 of 1,200 networks in the prompt were looked at."


def test_half_characters_are_no_trouble() -> None:
    view = dry_run_view(DryRun(tags=[report("a\ud800b")], issues=[Issue("x", "\udfff")]), find, model="\ud800")
    json.dumps(view, ensure_ascii=False).encode("utf-8")


def test_a_real_prompt_from_end_to_end(tmp_path: Path) -> None:
    model = sd15(shrink=40)
    places = layers_of(model, only=("down_blocks_0_attentions_0",))
    for seed, name in ((1, "ink"), (1, "twin"), (2, "sea")):
        write_network(tmp_path / f"{name}.safetensors", places, "lora", seed=seed)
    loader = NetworkLoader(model, [tmp_path])
    prompt = "a cat <lora:ink:0.5> <lora:twin:-1> <lora:nowhere> <lora:sea:x>"
    catalog = Catalog([tmp_path])
    view = dry_run(prompt, "", find, session=loader.session, catalog=catalog, model="m")
    assert [tag["failed"] for tag in view["tags"]] == [False, False, True]
    (conflict,) = view["conflicts"]
    assert conflict["verdict"].startswith('"ink" and "twin" pull in opposite directions in IN01 (cosine −1.00)')
    assert view["estimate"]["bytes_originals"] > 0
    assert "not a number" in view["issues"][0]
    without = dry_run(prompt, "", find, session=None, catalog=catalog, model="m")
    assert [tag["layers_applied"] for tag in without["tags"]] == [None, None, None]
    assert (without["model"], without["issues"][1:]) == (None, [NO_MODEL])
