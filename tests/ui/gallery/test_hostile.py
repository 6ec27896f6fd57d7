"""Each route with questions of somebody who means harm: none leads out of the library, and none ends in a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastapi
import pytest
from starlette.testclient import TestClient

from gallery_library import EVIL, TOKEN, Library
from lycopatch.ui.gallery.routes import add_gallery_routes
from preview_files import HTML, MP4, SVG, bomb, opened, write_picture

WITH_ID = ("networks", "influence", "health", "thumb", "preview")
QUESTIONS: dict[str, dict[str, object]] = {
    "networks": {"q": "ink"},
    "toggle": {"id": "0" * 16, "prompt": "a", "negative": ""},
    "favourite": {"id": "0" * 16, "on": True},
    "words": {"id": "0" * 16, "notes": "x"},
    "stack": {"prompt": "a"},
    "stack/edit": {"prompt": "<lora:ink:1>", "index": 0, "action": "weight", "value": 1},
    "dry-run": {"prompt": "a"},
    "refresh": {},
}
EVERY_GET = ("networks", "scan", *(f"{route}/{'0' * 16}" for route in WITH_ID))
IDS = (
    "..",
    ".%2e",
    "%2e%2e",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%2f..%2fetc%2fpasswd",
    "..%5c..%5cwindows%5cwin.ini",
    "%2fetc%2fpasswd",
    "/etc/passwd",
    "../../../../etc/passwd",
    "C:%5cwindows%5cwin.ini",
    "file:%2f%2f%2fetc%2fpasswd",
    "%00",
    "0000000000000000%00.png",
    "0" * 15,
    "0" * 17,
    "0" * 16,
    "0" * 5000,
    "ABCDEF0123456789",
    "\uff10" * 16,
    "\u2024\u2024%2f\uff0e\uff0e",
    "%c0%ae%c0%ae",
    "ink",
    "styles%2fink.safetensors",
    "0000000000000000%0a",
    "' OR 1=1 --",
    "%3cscript%3e",
)


@pytest.mark.parametrize("identity", IDS)
@pytest.mark.parametrize("route", WITH_ID)
def test_an_id_that_is_none_finds_nothing(untouched: TestClient, route: str, identity: str) -> None:
    answer = untouched.get(f"{route}/{identity}")
    assert answer.status_code == 404
    assert b"root:" not in answer.content
    assert b"Traceback" not in answer.content


@pytest.mark.parametrize("identity", [*IDS, "", 5, None, ["0" * 16], {"a": 1}, True])
@pytest.mark.parametrize("route", ["toggle", "favourite", "words"])
def test_an_id_that_is_none_changes_nothing(
    untouched: TestClient, route: str, identity: object, untouched_files: Callable[[], dict[Path, bytes]]
) -> None:
    before = untouched_files()
    answer = untouched.post(route, json={**QUESTIONS[route], "id": identity})
    assert answer.status_code in (404, 422)
    assert answer.json()["error"].endswith(".")
    assert untouched_files() == before


@pytest.mark.parametrize(
    "token", [None, "", "wrong", "a-token-of-this-pag", "a-token-of-this-page ", "ä", "x" * 10_000]
)
@pytest.mark.parametrize("route", EVERY_GET)
def test_without_the_token_nothing_is_told(stranger: TestClient, route: str, token: str | None) -> None:
    headers = [] if token is None else [("X-LycoPatch-Token", token.encode("utf-8"))]
    answer = stranger.get(route, headers=headers)
    assert answer.status_code == 403
    assert set(answer.json()) == {"error"}
    if token is not None:
        assert stranger.get(route, params={"token": token}).status_code == 403


def test_a_page_without_a_token_has_no_routes(untouched_library: Library) -> None:
    app = fastapi.FastAPI()
    with pytest.raises(ValueError, match="token"):
        add_gallery_routes(app, untouched_library.service, "")
    assert TestClient(app).get("/lycopatch/ui/scan", headers={"X-LycoPatch-Token": ""}).status_code == 404


@pytest.mark.parametrize("route", QUESTIONS)
def test_without_the_token_nothing_is_done(stranger: TestClient, route: str) -> None:
    assert stranger.post(route, json=QUESTIONS[route]).status_code == 403
    assert stranger.post(route, json=QUESTIONS[route], params={"token": TOKEN}).status_code == 403


@pytest.mark.parametrize("route", QUESTIONS)
def test_what_pages_of_others_can_send_is_refused(untouched: TestClient, route: str) -> None:
    body = json.dumps(QUESTIONS[route])
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "text/json"):
        answer = untouched.post(route, content=body, headers={"Content-Type": kind})
        assert answer.status_code == 415, kind
    assert untouched.post(route, json=QUESTIONS[route], params={"q": "x"}).status_code == 422


@pytest.mark.parametrize("route", QUESTIONS)
def test_a_question_that_is_too_large_is_not_read(untouched: TestClient, route: str) -> None:
    def endless() -> Any:
        for _ in range(100):
            yield b'{"a":"' + b"x" * 10_000

    kind = {"Content-Type": "application/json"}
    for content in (b'{"q":"' + b"x" * (256 << 10) + b'"}', endless()):
        answer = untouched.post(route, content=content, headers=kind)
        assert answer.status_code == 413
        assert "256 KB" in answer.json()["error"]


@pytest.mark.parametrize("route", QUESTIONS)
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nonsense",
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"a":' * 20_000,
        b"[]",
        b"null",
        b'"x"',
        b"5",
        b'{"":1}',
        b"9" * 9000,
    ],
    ids=lambda body: repr(body[:8]),
)
def test_a_body_that_is_no_question_is_refused_with_a_sentence(untouched: TestClient, route: str, body: bytes) -> None:
    answer = untouched.post(route, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"].endswith(".")


@pytest.mark.parametrize("route", QUESTIONS)
def test_a_field_that_is_not_known_is_refused_by_name(untouched: TestClient, route: str) -> None:
    answer = untouched.post(route, json={**QUESTIONS[route], "path": "/etc/passwd", "id": "0" * 16})
    assert answer.status_code in (404, 422)
    named = {"path": "/etc/passwd", **QUESTIONS[route]}
    answer = untouched.post(route, json=named)
    assert answer.status_code == 422
    assert '"path"' in answer.json()["error"]


@pytest.mark.parametrize("route", EVERY_GET)
def test_a_field_in_the_address_that_is_not_known_is_refused(untouched: TestClient, route: str) -> None:
    answer = untouched.get(route, params={"file": "/etc/passwd"})
    assert answer.status_code == 422
    assert '"file"' in answer.json()["error"]


WRONG: list[tuple[str, dict[str, object]]] = [
    ("networks", {"limit": 0}),
    ("networks", {"limit": 501}),
    ("networks", {"limit": 1.5}),
    ("networks", {"limit": 1e400}),
    ("networks", {"limit": "many"}),
    ("networks", {"offset": -1}),
    ("networks", {"offset": 10**30}),
    ("networks", {"seed": "x"}),
    ("networks", {"seed": True}),
    ("networks", {"sort": "path; DROP TABLE files"}),
    ("networks", {"sort": ["name"]}),
    ("networks", {"descending": "perhaps"}),
    ("networks", {"q": "x" * 501}),
    ("networks", {"q": ["ink"]}),
    ("networks", {"facets": 2}),
    ("networks", {"filters": []}),
    ("networks", {"filters": {"kinds": {}}}),
    ("networks", {"filters": {"kind": ["lora"]}}),
    ("networks", {"filters": {"kind": {"include": "lora"}}}),
    ("networks", {"filters": {"kind": {"include": [1]}}}),
    ("networks", {"filters": {"kind": {"includes": []}}}),
    ("networks", {"filters": {"kind": {"include": ["x"] * 201}}}),
    ("networks", {"filters": {"kind": {"include": ["x" * 5000]}}}),
    ("networks", {"filters": {"rank": {"min": "a"}}}),
    ("networks", {"filters": {"rank": {"least": 1}}}),
    ("networks", {"filters": {"size": {"max": -1}}}),
    ("networks", {"filters": {"favourite": "yes"}}),
    ("networks", {"filters": {"used": 3}}),
    ("toggle", {"prompt": 5}),
    ("toggle", {"prompt": "x" * 250_000}),
    ("toggle", {"undo": "x"}),
    ("toggle", {"undo": {"words": "x"}}),
    ("toggle", {"undo": {"tag": 1}}),
    ("toggle", {"undo": {"tag": "x", "path": "x"}}),
    ("favourite", {"on": "perhaps"}),
    ("favourite", {"on": None}),
    ("words", {"notes": ["x"]}),
    ("words", {"notes": "x" * 70_000}),
    ("words", {"preferred_weight": "heavy"}),
    ("words", {"preferred_weight": 1e9}),
    ("words", {"weight_range": [1]}),
    ("words", {"weight_range": [1, 0]}),
    ("words", {"weight_range": ["a", "b"]}),
    ("words", {"weight_range": {"min": 0}}),
    ("words", {"groups": "x"}),
    ("words", {"groups": [{"name": "x"}]}),
    ("words", {"groups": [{"name": "x", "words": ["y"]}] * 101}),
    ("words", {"contents": {"a": 1}}),
    ("stack", {"prompt": {}}),
    ("stack/edit", {"index": -1}),
    ("stack/edit", {"index": 99}),
    ("stack/edit", {"index": "x"}),
    ("stack/edit", {"action": "__class__"}),
    ("stack/edit", {"value": "NaN"}),
    ("stack/edit", {"value": 1e300}),
    ("dry-run", {"negative": 1}),
]


@pytest.mark.parametrize(("route", "wrong"), WRONG, ids=lambda value: json.dumps(value)[:40])
def test_a_value_that_can_not_be_is_refused_with_a_sentence(
    untouched: TestClient, route: str, wrong: dict[str, object]
) -> None:
    [ink] = untouched.get("networks", params={"q": "inkwash"}).json()["rows"]
    question = {**QUESTIONS[route], **({"id": ink["id"]} if "id" in QUESTIONS[route] else {}), **wrong}
    answer = untouched.post(route, content=json.dumps(question), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert set(answer.json()) == {"error"}
    assert answer.json()["error"].endswith(".")
    assert len(answer.text) < 1000


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(untouched: TestClient, value: str) -> None:
    body = f'{{"prompt": "<lora:ink:1>", "index": 0, "action": "weight", "value": {value}}}'
    answer = untouched.post("stack/edit", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "POST"])
@pytest.mark.parametrize("route", EVERY_GET[1:])
def test_a_wrong_method_is_refused(untouched: TestClient, route: str, method: str) -> None:
    answer = untouched.request(method, route)
    assert (answer.status_code, set(answer.json())) == (405, {"error"})


@pytest.mark.parametrize("route", [*QUESTIONS][1:])
def test_what_changes_something_is_never_a_get(untouched: TestClient, route: str) -> None:
    assert untouched.get(route).status_code == 405


@pytest.mark.parametrize(
    "path", ["", "/", "thumb", "thumb/", "preview/", "nothing", "networks/", "scan/x", "stack/edit/x", "%2e%2e"]
)
def test_other_addresses_hold_nothing(untouched: TestClient, path: str) -> None:
    answer = untouched.get(path, follow_redirects=False)
    assert answer.status_code in (404, 405)


def test_words_of_strangers_come_back_as_data(
    client: TestClient, ids: dict[str, str], post: Callable[..., Any]
) -> None:
    listed = client.get("networks")
    assert listed.headers["content-type"] == "application/json"
    assert listed.headers["x-content-type-options"] == "nosniff"
    assert listed.headers["cache-control"] == "no-store"
    [stem] = [stem for stem in ids if "evil" in stem]
    assert any(row["stem"] == stem for row in listed.json()["rows"])
    question = {"id": ids["ink"], "notes": EVIL, "description": "\ud800\u202e\0" + EVIL}
    post("words", **{**question, "description": EVIL})
    body = json.dumps(question)  # with half a character, which only an escape can write
    assert client.post("words", content=body, headers={"Content-Type": "application/json"}).status_code == 200
    words = client.get(f"networks/{ids['ink']}").json()["words"]
    assert words["notes"] == EVIL
    assert EVIL in words["description"]


@pytest.mark.parametrize("data", [HTML, SVG, b"", b"GIF8", b"%PDF"])
@pytest.mark.parametrize("route", ["thumb", "preview"])
def test_a_page_that_is_called_a_picture_is_never_shown(
    client: TestClient, ids: dict[str, str], library: Library, route: str, data: bytes
) -> None:
    (library.folder / "styles" / "ink.preview.png").write_bytes(data)
    answer = client.get(f"{route}/{ids['ink']}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")


@pytest.mark.parametrize("route", ["thumb", "preview"])
def test_a_preview_that_became_a_link_is_looked_at_again(
    client: TestClient, ids: dict[str, str], library: Library, route: str, tmp_path: Path
) -> None:
    preview = library.folder / "styles" / "ink.preview.png"
    elsewhere = write_picture(tmp_path / "private.png")
    assert client.get(f"{route}/{ids['ink']}").status_code == 200
    for target in ("/etc/passwd", "/dev/zero", str(elsewhere), "../../private.png", str(tmp_path)):
        preview.unlink()
        preview.symlink_to(target)
        answer = client.get(f"{route}/{ids['ink']}")
        assert answer.status_code == 404
        assert str(tmp_path) not in answer.text


@pytest.mark.parametrize("route", ["thumb", "preview"])
def test_a_network_or_preview_that_is_gone_is_not_found(
    client: TestClient, ids: dict[str, str], library: Library, route: str
) -> None:
    (library.folder / "styles" / "ink.preview.png").unlink()
    assert client.get(f"{route}/{ids['ink']}").status_code == 404
    (library.folder / "mist.safetensors").unlink()
    client.post("refresh", json={})
    assert client.get(f"{route}/{ids['mist']}").status_code == 404


@pytest.mark.parametrize(
    "data", [bomb(60_000, 60_000), bomb(9_000, 9_000), bomb(300, 300), b"\x89PNG\r\n\x1a\n" + b"x" * 99]
)
def test_a_picture_made_to_do_harm_becomes_one_that_says_so(
    client: TestClient, ids: dict[str, str], library: Library, data: bytes
) -> None:
    (library.folder / "styles" / "ink.preview.png").write_bytes(data)
    answer = client.get(f"thumb/{ids['ink']}")
    assert answer.status_code == 200
    assert opened(answer.content).size == (320, 320)
    assert answer.headers["x-lycopatch-problem"].startswith("The preview ")


def test_a_video_that_is_called_a_picture_has_no_thumbnail(
    client: TestClient, ids: dict[str, str], library: Library
) -> None:
    (library.folder / "styles" / "ink.preview.png").write_bytes(MP4)
    assert client.get(f"thumb/{ids['ink']}").status_code == 404
    assert client.get(f"preview/{ids['ink']}").headers["content-type"] == "video/mp4"


def test_a_bug_is_a_sentence_on_the_page_and_a_traceback_in_the_console(
    client: TestClient, library: Library, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_given: object) -> None:
        raise RuntimeError(f"at {library.folder}")

    monkeypatch.setattr(library.service, "stack", broken)
    answer = client.post("stack", json={"prompt": "a"})
    assert (answer.status_code, set(answer.json())) == (500, {"error"})
    assert str(library.folder) not in answer.text
    assert "RuntimeError" in caplog.text
