"""Each route with good questions: what a page gets to see."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastapi
import pytest
from starlette.testclient import TestClient

from gallery_library import TOKEN, Library, asking, opened_library
from lycopatch.engine.catalog import Catalog
from lycopatch.engine.catalog_files import CatalogFiles
from lycopatch.engine.catalog_user import UserShelf
from lycopatch.engine.errors import UnknownModel
from lycopatch.ui.gallery import lookup
from lycopatch.ui.gallery.cards import Loaded
from lycopatch.ui.gallery.routes import PREFIX, add_gallery_routes, gallery_app
from networks import write_network
from preview_files import MP4, opened, write_picture

Post = Callable[..., Any]


def test_a_card_says_everything_about_its_network(client: TestClient, library: Library) -> None:
    library.loaded[0] = Loaded("sd1", "model.safetensors")
    [ink] = client.get("networks", params={"q": "inkwash"}).json()["rows"]
    assert len(ink["id"]) == 16
    assert {key: ink[key] for key in ("name", "why_no_name", "stem", "folder", "kind", "rank", "family")} == {
        "name": "ink",
        "why_no_name": None,
        "stem": "ink",
        "folder": "Lora/styles",
        "kind": "lora",
        "rank": 4,
        "family": "sd1",
    }
    assert (ink["label"], ink["fit"], ink["favourite"], ink["used"]) == ("LoRA r4", "yes", False, 0)
    assert ink["reason"] == "Made for Stable Diffusion 1, as is the model that is loaded."
    assert (ink["tags"], ink["weight"], ink["chosen"]) == (["ink wash", "tree"], 0.7, False)
    assert ink["size"] == (library.folder / "styles" / "ink.safetensors").stat().st_size
    assert ink["preview"]["kind"] == "image"
    assert ink["preview"]["thumb"].startswith(f"{PREFIX}/thumb/{ink['id']}?v=")


def test_cards_come_in_windows_with_counts(client: TestClient) -> None:
    whole = client.get("networks").json()
    assert (whole["total"], whole["found"], whole["offset"], whole["facets"]) == (4, 4, 0, None)
    part = client.get("networks", params={"offset": 1, "limit": 2}).json()
    assert part["rows"] == whole["rows"][1:3]
    assert (part["total"], part["found"], part["offset"]) == (4, 4, 1)
    assert whole["scanning"] == {"running": False, "done": 4, "total": 4}
    assert any("cut.safetensors" in sentence for sentence in whole["problems"])


def test_a_question_may_come_in_the_address_or_as_json(client: TestClient, post: Post) -> None:
    filters = {"kind": {"include": ["lora"]}, "fit": {"exclude": ["damaged"]}}
    question = {"q": "ink", "sort": "size", "descending": True, "seed": 3, "offset": 0, "limit": 50, "facets": True}
    inside = post("networks", **question, filters=filters, prompt="")
    address = {key: int(value) if isinstance(value, bool) else value for key, value in question.items()}
    assert client.get("networks", params={**address, "filters": json.dumps(filters)}).json() == inside
    assert [row["stem"] for row in inside["rows"]] == ["ink"]
    assert ["lora", 1] in inside["facets"]["kind"]


def test_filters_combine_and_facets_count(post: Post) -> None:
    def stems(**filters: object) -> set[str]:
        return {row["stem"] for row in post("networks", filters=filters)["rows"]}

    assert stems(family={"include": ["sdxl"]}) == {"mist"}
    assert stems(folder={"include": ["Lora/styles"]}) == {"ink"}
    assert stems(tag={"include": ["ink wash"]}) == {"ink"}
    assert stems(rank={"min": 1, "max": 4}, family={"exclude": ["sdxl"]}) >= {"ink"}
    assert stems(size={"max": 5000}) == {"cut"}
    assert stems(favourite=True) == set()
    assert "mist" in stems(used=False)


def test_whether_it_fits_is_said_with_a_reason(client: TestClient, library: Library) -> None:
    def fits() -> dict[str, tuple[str, str]]:
        rows = client.get("networks").json()["rows"]
        return {row["stem"]: (row["fit"], row["reason"]) for row in rows if "evil" not in row["stem"]}

    assert fits()["mist"] == ("unknown", "Made for Stable Diffusion XL; no model is loaded to compare it with.")
    library.loaded[0] = Loaded("sd1", "model")
    assert fits()["mist"][0] == "no"
    assert "but the model that is loaded is Stable Diffusion 1" in fits()["mist"][1]
    assert fits()["ink"][0] == "yes"
    assert fits()["cut"][0] == "damaged"
    assert "incomplete" in fits()["cut"][1] or "still being" in fits()["cut"][1]
    assert client.get("networks").json()["loaded"] == {"family": "sd1", "title": "model"}


def test_the_networks_of_the_prompt_are_chosen_by_whatever_name(post: Post) -> None:
    for name in ("ink", "styles/ink", "Inkwash", " INK"):
        rows = post("networks", prompt=f"a <lora:{name}:0.5> b")["rows"]
        assert {row["stem"] for row in rows if row["chosen"]} == {"ink"}, name
    assert not any(row["chosen"] for row in post("networks", prompt="<lora:nothing:1>")["rows"])


def test_a_click_inserts_what_the_user_wants_and_the_next_takes_exactly_that_away(
    post: Post, ids: dict[str, str]
) -> None:
    once = post("toggle", id=ids["ink"], prompt="a cat", negative="low")
    assert once["added"] is True
    assert once["prompt"] == "a cat <lora:ink:0.7> ink wash, mono"
    assert once["negative"] == "low, blurry"
    assert once["inserted"] == {"tag": "<lora:ink:0.7>", "words": "ink wash, mono", "negative": "blurry"}
    typed = once["prompt"].replace("ink wash", "big, ink wash")
    twice = post("toggle", id=ids["ink"], prompt=typed, negative=once["negative"], undo=once["inserted"])
    assert (twice["prompt"], twice["negative"], twice["added"]) == ("a cat big,", "low", False)
    forgotten = post("toggle", id=ids["ink"], prompt=once["prompt"], negative=once["negative"], undo=None)
    assert (forgotten["prompt"], forgotten["negative"]) == ("a cat", "low")


def test_a_network_that_no_tag_can_name_says_so_and_inserts_nothing(client: TestClient, ids: dict[str, str]) -> None:
    [stem] = [stem for stem in ids if "evil" in stem]
    [row] = [row for row in client.get("networks").json()["rows"] if row["stem"] == stem]
    assert row["name"] is None
    assert "rename the file" in row["why_no_name"]
    answer = client.post("toggle", json={"id": ids[stem], "prompt": "a", "negative": ""})
    assert answer.status_code == 422
    assert "rename the file" in answer.json()["error"]


def test_favourites_are_kept(post: Post, client: TestClient, ids: dict[str, str]) -> None:
    assert post("favourite", id=ids["ink"], on=True) == {"favourite": True}
    favourites = post("networks", filters={"favourite": True})["rows"]
    assert [(row["stem"], row["favourite"]) for row in favourites] == [("ink", True)]
    assert post("favourite", id=ids["ink"], on=False) == {"favourite": False}
    assert post("networks", filters={"favourite": True})["found"] == 0


def test_a_favourite_that_can_not_be_kept_is_a_sentence(
    client: TestClient, ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_given: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(UserShelf, "set_favourite", full)
    answer = client.post("favourite", json={"id": ids["ink"], "on": True})
    assert (answer.status_code, answer.json()) == (500, {"error": "This could not be kept: disk I/O error."})


def test_a_thumbnail_is_small_and_asked_for_once(client: TestClient, ids: dict[str, str]) -> None:
    answer = client.get(f"thumb/{ids['ink']}", params={"v": "1"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    assert opened(answer.content).size == (320, 480)
    assert answer.headers["cache-control"].startswith("private, max-age=")
    again = client.get(f"thumb/{ids['ink']}", headers={"If-None-Match": f'"x", W/{answer.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == answer.headers["etag"]


def test_a_new_preview_is_noticed(client: TestClient, ids: dict[str, str], library: Library, post: Post) -> None:
    before = client.get(f"thumb/{ids['ink']}")
    [url] = [row["preview"]["thumb"] for row in post("networks", q="inkwash")["rows"]]
    preview = write_picture(library.folder / "styles" / "ink.preview.png", colour="blue")
    os.utime(preview, (1, 1))
    after = client.get(f"thumb/{ids['ink']}", headers={"If-None-Match": before.headers["etag"]})
    assert after.status_code == 200
    assert after.content != before.content
    post("refresh")
    assert [row["preview"]["thumb"] for row in post("networks", q="inkwash")["rows"]] != [url]


def test_pictures_may_be_asked_for_with_the_token_in_the_address(client: TestClient, ids: dict[str, str]) -> None:
    del client.headers["X-LycoPatch-Token"]
    for route in ("thumb", "preview"):
        assert client.get(f"{route}/{ids['ink']}", params={"token": TOKEN}).status_code == 200
    assert client.get("networks", params={"token": TOKEN}).status_code == 403


def test_a_preview_is_the_file_itself_in_a_box(client: TestClient, ids: dict[str, str], library: Library) -> None:
    answer = client.get(f"preview/{ids['ink']}")
    assert answer.content == (library.folder / "styles" / "ink.preview.png").read_bytes()
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    again = client.get(f"preview/{ids['ink']}", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


@pytest.fixture
def mist(untouched: TestClient) -> str:
    """The id of the network whose preview is a video."""
    [row] = untouched.get("networks", params={"q": "mist"}).json()["rows"]
    return row["id"]


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ("bytes=0-", (0, len(MP4))),
        ("bytes=0-99", (0, 100)),
        ("bytes=100-100", (100, 101)),
        ("bytes=4000-999999999999", (4000, len(MP4))),
        ("bytes=-5", (len(MP4) - 5, len(MP4))),
        ("bytes=-99999", (0, len(MP4))),
    ],
)
def test_a_part_of_a_video_can_be_asked_for(
    untouched: TestClient, mist: str, wanted: str, part: tuple[int, int]
) -> None:
    answer = untouched.get(f"preview/{mist}", headers={"Range": wanted})
    start, end = part
    assert (answer.status_code, answer.content) == (206, MP4[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(MP4)}"
    assert answer.headers["content-length"] == str(end - start)
    assert answer.headers["content-type"] == "video/mp4"


@pytest.mark.parametrize(
    "wanted", ["bytes=-", "bytes=5-1", "bytes=0-1,5-6", "items=0-1", "bytes=a-b", "bytes=" + "9" * 50]
)
def test_a_range_that_means_nothing_gives_the_whole_video(untouched: TestClient, mist: str, wanted: str) -> None:
    answer = untouched.get(f"preview/{mist}", headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (200, MP4)
    assert answer.headers["accept-ranges"] == "bytes"


def test_a_part_behind_the_end_and_a_part_of_another_state_are_not_given(untouched: TestClient, mist: str) -> None:
    beyond = untouched.get(f"preview/{mist}", headers={"Range": "bytes=999999-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(MP4)}")
    stale = untouched.get(f"preview/{mist}", headers={"Range": "bytes=0-9", "If-Range": '"old"'})
    assert (stale.status_code, stale.content) == (200, MP4)


def test_a_video_has_no_thumbnail(client: TestClient, ids: dict[str, str]) -> None:
    [mist] = client.get("networks", params={"q": "mist"}).json()["rows"]
    assert mist["preview"]["kind"] == "video"
    assert mist["preview"]["thumb"] is None
    assert client.get(f"thumb/{ids['mist']}").status_code == 404


def test_details_tell_what_the_file_holds(client: TestClient, ids: dict[str, str]) -> None:
    found = client.get(f"networks/{ids['ink']}").json()
    assert (found["card"]["stem"], found["tag"]) == ("ink", "<lora:ink:1>")
    assert found["file"]["path_below"] == "styles/ink.safetensors"
    assert found["words"]["activation_text"] == "ink wash,\nmono"
    assert found["tags"][0] == ["ink wash", 12]
    cut = client.get(f"networks/{ids['cut']}").json()
    assert cut["error"]


def test_words_are_saved_into_the_side_car_and_found_at_once(post: Post, ids: dict[str, str], library: Library) -> None:
    saved = post("words", id=ids["ink"], notes="for posters", preferred_weight=0.55, weight_range=[0.2, 1.1])
    assert (saved["saved"], saved["kept"]) == (True, None)
    assert saved["details"]["words"]["notes"] == "for posters"
    assert saved["details"]["card"]["weight"] == 0.55
    written = json.loads((library.folder / "styles" / "ink.json").read_text())
    assert (written["notes"], written["mine"], written["activation text"]) == ("for posters", [1], "ink wash,\nmono")
    assert [row["stem"] for row in post("networks", q="posters")["rows"]] == ["ink"]
    again = post("words", id=ids["ink"], groups=[{"name": "looks", "words": ["ink", "paper"]}], weight_range=None)
    assert again["details"]["words"]["groups"] == [{"name": "looks", "words": ["ink", "paper"]}]
    assert again["details"]["words"]["weight_range"] is None
    assert again["details"]["words"]["preferred_weight"] == 0.55


def test_a_damaged_side_car_is_kept_beside_the_new_one(post: Post, ids: dict[str, str], library: Library) -> None:
    (library.folder / "mist.json").write_text("{")
    saved = post("words", id=ids["mist"], description="a fog")
    assert "mist.json.bak" in saved["kept"]
    assert str(library.folder) not in json.dumps(saved)


def test_where_a_network_acts_is_measured(client: TestClient, ids: dict[str, str]) -> None:
    found = client.get(f"influence/{ids['ink']}").json()
    assert {block["part"] for block in found["blocks"]} == {"unet", "te1"}
    assert found["against"] is None
    cut = client.get(f"influence/{ids['cut']}")
    assert cut.status_code == 422
    assert "cut.safetensors" in cut.json()["error"]


def test_the_health_of_a_network_is_told(client: TestClient, ids: dict[str, str]) -> None:
    assert client.get(f"health/{ids['ink']}").json()["status"] == "ok"
    assert client.get(f"health/{ids['cut']}").json()["status"] == "unreadable"


def test_the_stack_has_a_row_for_each_tag(post: Post, ids: dict[str, str]) -> None:
    found = post("stack", prompt="a <lora:Inkwash:0.5> <lora:gone:1>", negative="<lora:ink:1>")
    assert [(row["id"], row["te"], row["fit"]) for row in found["rows"]] == [
        (ids["ink"], 0.5, "unknown"),
        (None, 1.0, "missing"),
    ]
    assert found["rows"][0]["preview"].startswith(f"{PREFIX}/thumb/{ids['ink']}")
    assert len(found["issues"]) == 1
    post("words", id=ids["ink"], weight_range=[0.1, 0.9])
    assert post("stack", prompt="<lora:ink:0.5>")["rows"][0]["range"] == [0.1, 0.9]


def test_a_row_s_change_is_a_change_of_the_prompt(post: Post, client: TestClient) -> None:
    changed = post("stack/edit", prompt="a <lora:ink:0.5> b", index=0, action="weight", value=0.8)
    assert changed["prompt"] == "a <lora:ink:0.8> b"
    assert changed["rows"][0]["te"] == 0.8
    refused = client.post("stack/edit", json={"prompt": "a", "index": 0, "action": "remove"})
    assert refused.status_code == 422
    assert refused.json()["error"].endswith(".")


def test_a_dry_run_without_a_model_tells_which_files_are_meant(post: Post, ids: dict[str, str]) -> None:
    found = post("dry-run", prompt="<lora:ink:1> <lora:gone:1>", negative="")
    assert [(tag["id"], tag["failed"]) for tag in found["tags"]] == [(ids["ink"], False), (None, True)]
    assert (found["model"], found["estimate"]) == (None, None)


def test_a_model_that_networks_can_not_act_on_is_as_good_as_none(
    client: TestClient, library: Library, post: Post, ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd() -> None:
        raise UnknownModel("its structure is not known")

    library.loaded[0] = Loaded(None, "odd.safetensors")
    monkeypatch.setattr(library.service, "_session", odd)
    assert post("dry-run", prompt="<lora:ink:1>")["model"] is None
    assert client.get(f"networks/{ids['ink']}").json()["matched"] is None
    assert client.get(f"influence/{ids['ink']}").json()["against"] is None


def test_a_new_file_is_noticed_without_being_asked_and_read_in_the_background(
    client: TestClient, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = client.get("networks").json()
    write_network(
        library.folder / "new.safetensors", {"lora_te_text_model_encoder_layers_0_self_attn_q_proj": (768, 768)}, "lora"
    )
    monkeypatch.setattr(lookup, "_LOOK_AGAIN_SECONDS", 0.0)
    client.get("networks")
    for _ in range(100):
        state = client.get("scan").json()
        if not state["running"]:
            break
        time.sleep(0.02)
    after = client.get("networks").json()
    assert state["version"] > before["version"]
    assert after["total"] == before["total"] + 1
    assert [row["label"] for row in after["rows"] if row["stem"] == "new"] == ["LoRA r4"]


def test_nobody_waits_for_headers_that_are_being_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    read = Catalog.index
    monkeypatch.setattr(Catalog, "index", lambda catalog, progress: go_on.wait(20) and read(catalog, progress))
    with opened_library(folder, tmp_path / "cache", read=False, prefer_alias=True) as library:
        client = asking(library)
        monkeypatch.setattr(CatalogFiles, "require_index", lambda files: pytest.fail("waited"))
        found = client.post("networks", json={"prompt": "<lora:Inkwash:1> <lora:ink:1>"}).json()
        monkeypatch.undo()
        assert found["scanning"]["running"] is True
        assert {row["name"] for row in found["rows"] if row["name"]} == {"ink", "mist", "cut"}
        go_on.set()
        while client.get("scan").json()["running"]:
            time.sleep(0.01)
        found = client.post("networks", json={"prompt": "<lora:Inkwash:1>"}).json()
        assert {row["name"] for row in found["rows"] if row["chosen"]} == {"Inkwash"}


def test_a_database_that_breaks_is_made_again(
    client: TestClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = client.get("networks").json()["rows"]
    database = tmp_path / "cache" / "index.sqlite3"
    database.write_bytes(b"no database at all" * 1000)
    database.with_name(f"{database.name}-wal").write_bytes(b"")
    for _ in range(200):
        answer = client.get("networks").json()
        if not answer["scanning"]["running"]:
            break
        time.sleep(0.01)
    assert "is made again" in caplog.text
    assert [row["id"] for row in client.get("networks").json()["rows"]] == [row["id"] for row in before]


def test_long_work_ends_when_nobody_waits_for_it_any_more(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def influence(_identity: str, progress: Callable[[int, int], None]) -> None:
        try:
            while True:
                progress(0, 1)
                time.sleep(0.01)
        finally:
            ended.set()

    monkeypatch.setattr(library.service, "influence", influence)
    app = gallery_app(library.service, TOKEN)
    headers = [(b"x-lycopatch-token", TOKEN.encode())]
    scope = {"type": "http", "method": "GET", "path": f"/influence/{'0' * 16}", "headers": headers, "query_string": b""}
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(asyncio.wait_for(app({**scope, "root_path": "", "server": None}, receive, send), 20))
    assert ended.is_set()
    assert sent[0]["status"] == 499


def test_refresh_looks_at_everything_again(post: Post, library: Library) -> None:
    (library.folder / "mist.safetensors").unlink()
    assert set(post("refresh")["scanning"]) == {"running", "done", "total"}
    assert post("networks")["total"] == 3


def test_routes_added_again_belong_to_the_new_page(library: Library) -> None:
    app = fastapi.FastAPI()
    app.add_api_route("/{path:path}", lambda path: {"detail": "the page"}, methods=["GET"])
    for token in ("old", "new"):
        add_gallery_routes(app, library.service, token)
    asked = TestClient(app, base_url="http://host/lycopatch/ui")
    assert asked.get("scan", headers={"X-LycoPatch-Token": "new"}).status_code == 200
    assert asked.get("scan", headers={"X-LycoPatch-Token": "old"}).status_code == 403
    assert sum(getattr(route, "path", "") == PREFIX for route in app.router.routes) == 1
    assert TestClient(app).get("/elsewhere").json() == {"detail": "the page"}


def test_no_answer_says_where_the_folders_are(
    client: TestClient, ids: dict[str, str], tmp_path: Path, post: Post
) -> None:
    (tmp_path / "Lora").joinpath("dangling.safetensors").symlink_to(tmp_path / "nowhere")
    answers = [post("refresh"), post("networks", facets=True), post("stack", prompt="<lora:ink:1>")]
    answers += [post("dry-run", prompt="<lora:ink:1> <lora:cut:1>"), client.get("scan").json()]
    for identity in ids.values():
        answers += [client.get(f"{route}/{identity}").json() for route in ("networks", "influence", "health")]
    assert str(tmp_path) not in json.dumps(answers)
