"""The HTTP routes, asked through a real FastAPI."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fastapi
import pytest
from starlette.testclient import TestClient

from lycopatch.engine.catalog import Catalog
from lycopatch.engine.report import Issue, Report, TagReport
from lycopatch.hosts.a1111.api import Api, add_routes
from lycopatch.ui.networks import Networks
from networks import write_network

LAYERS = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": (320, 768),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
}
TAGS = {"10_ink": {"ink wash": 12}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good network, one of hostile metadata, one cut short, one whose header is no header, one that is a folder."""
    folder = tmp_path / "Lora"
    (folder / "styles").mkdir(parents=True)
    metadata = {"ss_output_name": "Inkwash", "ss_base_model_version": "sd_v1", "ss_tag_frequency": json.dumps(TAGS)}
    good = write_network(folder / "styles" / "ink.safetensors", LAYERS, "lora", metadata=metadata)
    numbers = {"ss_learning_rate": "NaN", "ss_tag_frequency": '{"a": {"b": NaN, "c": 1e999}}', "open": '{"'}
    deep = {"deep": '{"a":' * 5000 + "1" + "}" * 5000, "halves": '{"a": "\\ud800"}', "ss_output_name": "x:y"}
    write_network(folder / "hostile.safetensors", LAYERS, "lora", metadata=numbers | deep)
    (folder / "cut.safetensors").write_bytes(good.read_bytes()[:4000])
    (folder / "page.safetensors").write_text("<html>404</html>")
    (folder / "folder.safetensors").mkdir()
    return folder


@pytest.fixture
def last() -> SimpleNamespace:
    return SimpleNamespace(activation=None)


@pytest.fixture
def client(folder: Path, last: SimpleNamespace) -> Callable[..., TestClient]:
    """A new app with the routes."""
    catalog = Catalog([folder, folder.parent / "missing"])
    api = Api(Networks(lambda: catalog), lambda: last.activation, lambda: False, catalog.refresh)

    def new(app: Any = None, api_auth: str | None = None) -> TestClient:
        app = app or fastapi.FastAPI()
        add_routes(app, api, api_auth=api_auth)
        return TestClient(app)  # raises what a route raises: no answer can be an error of the server

    return new


def test_the_built_in_s_list_has_its_shape(client: Callable[..., TestClient], folder: Path) -> None:
    found = {each["name"]: each for each in client().get("/sdapi/v1/loras").json()}
    assert set(found) == {"ink", "hostile", "cut", "page"}
    assert found["ink"] == {
        "name": "ink",
        "alias": "Inkwash",
        "path": str(folder / "styles" / "ink.safetensors"),
        "metadata": {"ss_output_name": "Inkwash", "ss_base_model_version": "sd_v1", "ss_tag_frequency": TAGS},
    }
    assert (found["cut"]["alias"], found["cut"]["metadata"]) == ("cut", {})
    assert found["hostile"]["metadata"]["ss_tag_frequency"] == {"a": {"b": None, "c": None}}


def test_refresh_sees_new_files_and_answers_null(client: Callable[..., TestClient], folder: Path) -> None:
    asked = client()
    assert len(asked.get("/sdapi/v1/loras").json()) == 4
    write_network(folder / "new.safetensors", LAYERS, "lora")
    answer = asked.post("/sdapi/v1/refresh-loras")
    assert (answer.status_code, answer.json()) == (200, None)
    assert len(asked.get("/sdapi/v1/loras").json()) == 5


def test_the_built_in_s_own_routes_stay(client: Callable[..., TestClient]) -> None:
    app = fastapi.FastAPI()
    app.add_api_route("/sdapi/v1/loras", lambda: ["the built-in's"], methods=["GET"])
    asked = client(app)
    assert asked.get("/sdapi/v1/loras").json() == ["the built-in's"]
    assert asked.post("/sdapi/v1/refresh-loras").status_code == 200
    client(app)
    assert sum(getattr(route, "path", "") == "/lycopatch/v1/report" for route in app.routes) == 1


def test_networks_come_in_pages_searched_and_sorted(client: Callable[..., TestClient]) -> None:
    asked = client()
    whole = asked.get("/lycopatch/v1/networks").json()
    assert (whole["total"], whole["offset"], len(whole["networks"])) == (4, 0, 4)
    assert len(whole["problems"]) == 3
    assert "The folder missing does not exist." in whole["problems"]
    part = asked.get("/lycopatch/v1/networks", params={"offset": 1, "limit": 2}).json()
    assert part["networks"] == whole["networks"][1:3]
    assert part["total"] == 4
    [ink] = asked.get("/lycopatch/v1/networks", params={"search": "wash styles", "sort": "newest"}).json()["networks"]
    assert {key: ink[key] for key in ("name", "file", "alias", "base_model", "trigger_words", "error")} == {
        "name": "ink",
        "file": "styles/ink.safetensors",
        "alias": "Inkwash",
        "base_model": "Stable Diffusion 1",
        "trigger_words": ["ink wash"],
        "error": None,
    }


@pytest.mark.parametrize("wrong", [{"limit": 501}, {"limit": 0}, {"offset": -1}, {"sort": "__class__"}, {"limit": "x"}])
def test_a_wrong_question_is_refused_as_such(client: Callable[..., TestClient], wrong: dict[str, Any]) -> None:
    assert client().get("/lycopatch/v1/networks", params=wrong).status_code == 422


def test_our_routes_say_nothing_of_where_the_folders_are(client: Callable[..., TestClient], tmp_path: Path) -> None:
    asked = client()
    listed = asked.get("/lycopatch/v1/networks")
    answers = [listed.text]
    for each in listed.json()["networks"]:
        for more in ({}, {"details": True}, {"details": True, "check": True}):
            answer = asked.get(f"/lycopatch/v1/networks/{each['id']}", params=more)
            assert answer.status_code == 200
            assert (answer.json()["details"] is None) == (not more)
            answers.append(answer.text)
    assert not any(str(tmp_path) in answer for answer in answers)


def test_details_are_what_inspect_says(client: Callable[..., TestClient]) -> None:
    asked = client()
    ids = {each["name"]: each["id"] for each in asked.get("/lycopatch/v1/networks").json()["networks"]}
    ink = asked.get(f"/lycopatch/v1/networks/{ids['ink']}", params={"details": True}).json()["details"]
    assert (ink["family"], ink["algorithms"], ink["keys"]["explained"]) == ("sd1", {"LoRA": 2}, 6)
    assert (ink["hashes"], ink["health"]) == (None, None)
    full = asked.get(f"/lycopatch/v1/networks/{ids['ink']}", params={"details": True, "check": True}).json()
    assert full["details"]["health"]["healthy"] is True
    assert len(full["details"]["hashes"]["sha256"]) == 64
    cut = asked.get(f"/lycopatch/v1/networks/{ids['cut']}", params={"details": True}).json()
    assert (cut["details"]["status"], "incomplete" in cut["error"]) == ("unreadable", True)


@pytest.mark.parametrize("wrong", ["0000000000000000", "..%2f..%2fetc%2fpasswd", "ink", "%00", "x" * 5000])
def test_an_unknown_id_is_not_found(client: Callable[..., TestClient], wrong: str) -> None:
    assert client().get(f"/lycopatch/v1/networks/{wrong}").status_code == 404


def test_a_file_that_vanished_is_described_as_unreadable(client: Callable[..., TestClient], folder: Path) -> None:
    asked = client()
    [ink] = asked.get("/lycopatch/v1/networks", params={"search": "ink"}).json()["networks"]
    (folder / "styles" / "ink.safetensors").unlink()
    answer = asked.get(f"/lycopatch/v1/networks/{ink['id']}", params={"details": True})
    assert answer.status_code in (200, 404)
    assert answer.status_code == 404 or answer.json()["details"]["status"] == "unreadable"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_file_name_that_is_no_text_can_be_listed(client: Callable[..., TestClient], folder: Path) -> None:
    good = (folder / "styles" / "ink.safetensors").read_bytes()
    Path(os.fsdecode(os.fsencode(folder) + b"/odd\xff.safetensors")).write_bytes(good)
    asked = client()
    names = [each["name"] for each in asked.get("/lycopatch/v1/networks").json()["networks"]]
    assert "odd?" in names
    assert "odd?" in [each["name"] for each in asked.get("/sdapi/v1/loras").json()]


def test_the_report_is_null_before_the_first_picture(client: Callable[..., TestClient]) -> None:
    answer = client().get("/lycopatch/v1/report")
    assert (answer.status_code, answer.json()) == (200, None)


def test_the_report_counts_keys_and_gives_the_sentences(
    client: Callable[..., TestClient], last: SimpleNamespace, folder: Path
) -> None:
    tag = TagReport("<lora:ink:1>", "ink", path=str(folder / "styles" / "ink.safetensors"), layers_total=2)
    tag.keys["unmatched"] = ["a", "b"]
    tag.issues = [Issue("unmatched", "Not in this model.", tag.tag, tag.path, "a\ud800")]
    report = Report([tag], [Issue("malformed", "Not closed.")], seconds=0.5, tensors_written=3)
    last.activation = SimpleNamespace(report=report, when=1.5e9, model="m", bytes_held=7)
    answer = client().get("/lycopatch/v1/report")
    assert str(folder) not in answer.text
    found = answer.json()
    assert (found["when"], found["model"], found["bytes_held"], found["tensors_written"]) == (1.5e9, "m", 7, 3)
    assert found["issues"] == [{"kind": "malformed", "message": "Not closed.", "tag": None, "layer": None}]
    assert found["tags"][0]["file"] == "ink.safetensors"
    assert found["tags"][0]["keys"] == {"applied": 0, "unmatched": 2, "unknown": 0, "skipped": 0, "embedding": 0}
    assert found["tags"][0]["issues"][0]["layer"] == "a?"


OURS = ["/lycopatch/v1/networks", "/lycopatch/v1/networks/x", "/lycopatch/v1/report", "/sdapi/v1/loras"]


@pytest.mark.parametrize("path", OURS)
def test_with_api_auth_only_known_people_enter(client: Callable[..., TestClient], path: str) -> None:
    asked = client(api_auth="me:secret,you:with:colon")
    assert asked.get(path).status_code == 401
    assert asked.get(path).headers["www-authenticate"].startswith("Basic")
    for wrong in (("me", "wrong"), ("you", "secret"), ("", ""), ("ünknown", "sécret")):
        assert asked.get(path, auth=wrong).status_code == 401
    for right in (("me", "secret"), ("you", "with:colon")):
        assert asked.get(path, auth=right).status_code in (200, 404)


def test_credentials_that_can_not_be_read_let_nobody_in(client: Callable[..., TestClient]) -> None:
    asked = client(api_auth="nonsense")
    for pair in (("nonsense", ""), ("", ""), ("nonsense", "nonsense")):
        assert asked.get("/lycopatch/v1/report", auth=pair).status_code == 401


def test_the_routes_are_described_also_when_the_description_was_read_before(client: Callable[..., TestClient]) -> None:
    app = fastapi.FastAPI()
    assert TestClient(app).get("/openapi.json").json()["paths"] == {}
    described = client(app).get("/openapi.json").json()
    assert described["paths"]["/lycopatch/v1/networks"]["get"]["summary"] == "Search the networks"
    assert {"Network", "NetworkPage", "NetworkDetails", "LastReport", "TagResult"} <= set(
        described["components"]["schemas"]
    )
