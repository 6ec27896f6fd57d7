"""A library with what people have, behind a real FastAPI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import fastapi
from starlette.testclient import TestClient

from lycopatch.engine.catalog import Catalog
from lycopatch.engine.catalog_store import CatalogStore
from lycopatch.engine.catalog_user import UserShelf
from lycopatch.engine.session import Session
from lycopatch.ui.beside import read_words
from lycopatch.ui.gallery.cards import Loaded
from lycopatch.ui.gallery.reading import BackgroundReading
from lycopatch.ui.gallery.routes import add_gallery_routes
from lycopatch.ui.gallery.service import GalleryService
from lycopatch.ui.gallery.thumbnails import Thumbnails
from networks import write_network
from preview_files import HTML, MP4, write_picture

TOKEN = "a-token-of-this-page"
EVIL = '"><img src=x onerror=alert(1)>'
SD1 = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": (320, 768),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
}
SDXL = {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (640, 2048)}


@dataclass
class Library:
    """The library, what it serves, and the model that it believes to be loaded."""

    folder: Path
    catalog: Catalog
    service: GalleryService
    loaded: list[Loaded | None] = field(default_factory=lambda: [None])
    session: list[Session | None] = field(default_factory=lambda: [None])


def write_library(folder: Path) -> Path:
    """Good networks of two families, a damaged one, one that no tag can name; words, a picture, a video, a page."""
    (folder / "styles").mkdir(parents=True)
    tags = {"ss_output_name": "Inkwash", "ss_tag_frequency": json.dumps({"10_ink": {"ink wash": 12, "tree": 3}})}
    ink = write_network(folder / "styles" / "ink.safetensors", SD1, "lora", metadata=tags)
    words = {"activation text": "ink wash,\nmono", "negative text": "blurry", "preferred weight": 0.7, "mine": [1]}
    ink.with_suffix(".json").write_text(json.dumps(words))
    write_picture(ink.with_suffix(".preview.png"))
    write_network(folder / "mist.safetensors", SDXL, "loha")
    (folder / "mist.mp4").write_bytes(MP4)
    evil = write_network(folder / f"{_evil_stem()}.safetensors", SD1, "lora", metadata={"ss_output_name": EVIL})
    evil.with_suffix(".png").write_bytes(HTML)
    (folder / "cut.safetensors").write_bytes(ink.read_bytes()[:5000])
    return folder


@contextmanager
def opened_library(folder: Path, cache: Path, *, read: bool = True, prefer_alias: bool = False) -> Iterator[Library]:
    """The library as a host opens it, with all headers read."""
    store = CatalogStore(cache / "index.sqlite3", cache / "user.sqlite3")
    catalog = Catalog([folder], store=store, read_words=read_words)
    if read:
        catalog.index()
    reading = BackgroundReading(lambda: catalog)
    loaded: list[Loaded | None] = [None]
    session: list[Session | None] = [None]
    service = GalleryService(
        lambda: catalog,
        UserShelf(store),
        reading,
        Thumbnails(cache / "thumbnails"),
        loaded=lambda: loaded[0],
        session=lambda: session[0],
        prefer_alias=lambda: prefer_alias,
    )
    try:
        yield Library(folder, catalog, service, loaded, session)
    finally:
        reading.close()
        catalog.close()
        store.close()


def asking(library: Library) -> TestClient:
    """Asks with the page's token. Raises what a route raises: no answer can be an error of the server."""
    app = fastapi.FastAPI()
    add_gallery_routes(app, library.service, TOKEN)
    return TestClient(app, base_url="http://host/lycopatch/ui", headers={"X-LycoPatch-Token": TOKEN})


def _evil_stem() -> str:
    return f"evil {EVIL.replace('/', '')}"
