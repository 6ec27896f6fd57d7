"""A folder as people have it: several hundred networks, and among them what strangers name and write.

Files are real ones with few and small layers. Nothing in them or in their names may ever run.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

EVIL = "<img src=x onerror=\"window.hacked='{0}'\"><script>window.hacked='{0}'</script>"
HOSTILE_STEMS = (
    "<img src=x onerror=alert(1)>",
    'it\'s & "quoted"',
    "' onmouseover='alert(1)",
    "&lt;b&gt; &amp;",
    "水墨画の風景",
    "party 🎉 time",
    "dots..",
    "javascript:alert(1)",
    "${alert(1)} {{7*7}}",
    "x" * 240,
)


def write_crowd(folder: Path, count: int = 300) -> None:
    """``count`` ordinary networks in three folders, ``plain-000`` …, then the strange ones in ``strange``."""
    for number in range(count):
        place = folder / ("people", "places", "styles/ink")[number % 3]
        colour = ("red", "blue")[number % 2]
        tags = json.dumps({"10_set": {f"subject {number}": 10, colour: 5}})
        metadata = {"ss_output_name": f"trained-{number:03}", "ss_tag_frequency": tags, "ss_network_dim": "4"}
        write(place / f"plain-{number:03}.safetensors", metadata)
    strange = folder / "strange"
    for stem in HOSTILE_STEMS:
        texts = {key: EVIL.format(key) for key in ("ss_output_name", "ss_sd_model_name", "modelspec.title", "<b>key")}
        texts["ss_tag_frequency"] = json.dumps({EVIL.format("set"): {EVIL.format("tag"): 3}})
        with contextlib.suppress(OSError):  # not every system takes every name
            write(strange / f"{stem}.safetensors", texts)
    write(strange / "words.safetensors", {})
    keys = ("description", "notes", "activation text", "negative text", "sd version")
    (strange / "words.json").write_text(json.dumps({key: EVIL.format(key) for key in keys}), encoding="utf-8")
    civitai = {"model": {"name": EVIL.format("civitai"), "description": EVIL.format("html")}, "trainedWords": ["<b>"]}
    (strange / "words.civitai.info").write_text(json.dumps(civitai), encoding="utf-8")
    (strange / "empty.safetensors").write_bytes(b"")
    whole = (folder / "people" / "plain-000.safetensors").read_bytes()
    (strange / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (strange / "page.safetensors").write_bytes(b"<html><script>window.hacked=1</script></html>")
    (strange / "dots...png").write_bytes(b"<svg onload='window.hacked=1'/>")
    for name in ("empty", "cut", "page"):
        os.utime(strange / f"{name}.safetensors", (1.6e9, 1.6e9))  # else they may still be on their way
    with contextlib.suppress(OSError):
        (strange / "lost.safetensors").symlink_to("nowhere")
        (strange / "round").symlink_to(folder, target_is_directory=True)


def write(path: Path, metadata: Mapping[str, str]) -> None:
    """A LoRA of rank 4 on one layer of Stable Diffusion 1."""
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    shapes = {f"{layer}.lora_up.weight": [320, 4], f"{layer}.lora_down.weight": [4, 768], f"{layer}.alpha": []}
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for key, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(end))
