"""The replay itself: point 17 of the contract, the page of cards, and what surrounds it."""

from __future__ import annotations

import pytest

from a1111_replay import WebUI, probes, write_lora

VERSIONS = ("1.5", "1.6", "1.9", "1.10")
LAYERS = {"lora_unet_mid_block_attentions_0_proj_in": (16, 16)}

PAGE = """
    from modules import ui_extra_networks

    class Page(ui_extra_networks.ExtraNetworksPage):
        def __init__(self, title):
            super().__init__(title)
            self.fail = False

        def refresh(self):
            log(f"refresh:{self.title}")

        def create_item(self, name, index=None, enable_filter=True):
            log(f"create:{name}:{enable_filter}")
            item = {"name": name, "filename": "/nowhere/a.safetensors", "local_preview": "/nowhere/a.png"}
            item |= {"prompt": '"<x:a>"', "user_metadata": {}, "description": "<b>x", "shorthash": None}
            return item | {"search_term": "old words", "search_terms": ["new words"]}

        def list_items(self):
            log(f"list:{self.title}")
            if self.fail:
                raise ValueError("this page is broken")
            yield self.create_item("a<b>", 0)

    script_callbacks.on_before_ui(lambda: [ui_extra_networks.register_page(Page(title)) for title in ("One", "Two")])
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_point_17_both_tabs_share_a_page_and_list_it_late(version, tmp_path):
    with WebUI(version, tmp_path, extensions=[probes.extension(tmp_path, "probe", PAGE)], builtin_lora=False) as webui:
        webui.start()
        assert not probes.only(webui.events, "list:")
        card = webui.cards("txt2img")["One"]
        assert "a&lt;b&gt;" in card
        assert "a<b>" not in card
        assert ("new words" in card, "old words" in card) == (
            (True, False) if version in ("1.9", "1.10") else (False, True)
        )
        assert ("<b>x" in card) == (version in ("1.5", "1.6"))
        assert webui.cards("txt2img")["One"] == card
        assert probes.only(webui.events, "list:") == ["list:One", "list:Two"]
        webui.cards("img2img")
        assert len(probes.only(webui.events, "list:")) == 4
        tabs = webui.module("ui").extra_networks_uis
        assert tabs["txt2img"].stored_extra_pages[0] is tabs["img2img"].stored_extra_pages[0]
        webui.cards("txt2img", refresh=True)
        assert probes.only(webui.events, "refresh:") == ["refresh:One", "refresh:Two"]


@pytest.mark.parametrize("version", VERSIONS)
def test_point_17_one_broken_page_breaks_all(version, tmp_path):
    with WebUI(version, tmp_path, extensions=[probes.extension(tmp_path, "probe", PAGE)], builtin_lora=False) as webui:
        webui.start()
        webui.module("ui_extra_networks").extra_pages[1].fail = True
        with pytest.raises(ValueError, match="this page is broken"):
            webui.cards()


@pytest.mark.parametrize("version", VERSIONS)
def test_point_17_what_a_card_must_bring(version, tmp_path):
    probe = probes.extension(tmp_path, "probe", PAGE)
    settings = {"extra_networks_tree_view_style": "Tree"}
    with WebUI(version, tmp_path, extensions=[probe], builtin_lora=False, settings=settings) as webui:
        webui.start()
        page = webui.module("ui_extra_networks").extra_pages[0]
        folder = webui.data / "models" / "Lora"
        (folder / "a.safetensors").write_bytes(b"")
        item = page.create_item("a") | {"filename": str(folder / "a.safetensors")}
        page.allowed_directories_for_previews = lambda: [str(folder)]
        new = version in ("1.9", "1.10")
        for missing, fails in (("shorthash", new), ("local_preview", True), ("prompt", True), ("search_terms", False)):
            page.list_items = lambda missing=missing: [{key: item[key] for key in item if key != missing}]
            if fails:
                with pytest.raises(KeyError, match=missing):
                    page.create_html("txt2img")
            else:
                page.create_html("txt2img")


@pytest.mark.parametrize("version", VERSIONS)
def test_point_17_one_card_is_asked_for_without_filter_and_by_the_name_of_the_page(version, tmp_path):
    with WebUI(version, tmp_path, extensions=[probes.extension(tmp_path, "probe", PAGE)], builtin_lora=False) as webui:
        webui.start().cards()
        webui.events.clear()
        page = webui.module("ui_extra_networks").extra_pages[0]
        page.read_user_metadata = lambda item, use_cache=True: None
        answer = webui.client().get(
            "/sd_extra_networks/get-single-card", params={"page": "one", "tabname": "txt2img", "name": "z"}
        )
        assert "z" in answer.json()["html"]
        assert webui.events == ["create:z:False"]
        assert hasattr(page, "id_page") == (version in ("1.5", "1.6"))
        assert hasattr(page, "extra_networks_tabname") == (version in ("1.9", "1.10"))


@pytest.mark.parametrize("version", VERSIONS)
def test_previews_are_served_from_registered_folders_only(version, tmp_path):
    with WebUI(version, tmp_path) as webui:
        folder = webui.data / "models" / "Lora"
        write_lora(folder / "ink.safetensors", LAYERS)
        (folder / "ink.png").write_bytes(b"picture")
        (tmp_path / "secret.png").write_bytes(b"secret")
        client = webui.start().client()
        answers = [
            client.get("/sd_extra_networks/thumb", params={"filename": str(path)}).status_code
            for path in (folder / "ink.png", tmp_path / "secret.png", folder / "ink.safetensors", folder / "no.png")
        ]
        assert answers == [200, 500, 500, 404]


@pytest.mark.parametrize("version", ["1.9", "1.10"])
def test_the_lister_raises_for_a_missing_folder_and_remembers_until_it_is_reset(version, tmp_path):
    with WebUI(version, tmp_path) as webui:
        lister = webui.module("util").MassFileLister()
        with pytest.raises(FileNotFoundError):
            lister.exists(str(tmp_path / "no" / "file"))
        file = tmp_path / "file"
        assert not lister.exists(str(file))
        file.write_text("")
        assert not lister.exists(str(file))
        lister.reset()
        assert lister.exists(str(file))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_infotext_that_was_written_can_be_read_and_hashes_become_names(version, tmp_path):
    with WebUI(version, tmp_path) as webui:
        write_lora(webui.data / "models" / "Lora" / "ink.safetensors", LAYERS, ss_output_name="inkwash")
        webui.start()
        text = webui.txt2img("a <lora:ink:0.5>", negative_prompt="b").infotexts[0]
        fields = webui.paste(text)
        assert fields["Prompt"] == "a <lora:inkwash:0.5>"
        assert fields["Negative prompt"] == "b"
        assert fields["Lora hashes"].startswith("ink: ")
        assert (fields["Size-1"], fields["Size-2"], fields["Steps"]) == ("32", "32", "2")
        assert webui.txt2img("a <lora:gone:1>").comments.endswith("gone\n")


@pytest.mark.parametrize("version", VERSIONS)
def test_values_of_infotexts_may_be_lists_or_functions_since_1_9(version, tmp_path):
    body = """
        from modules import scripts
        class Add(scripts.Script):
            def title(self): return "add"
            def show(self, is_img2img): return scripts.AlwaysVisible
            def process(self, p):
                p.extra_generation_params["Listed"] = ["first", "second"]
                p.extra_generation_params["Computed"] = lambda index, **given: f"n{index}"
    """
    with WebUI(version, tmp_path, extensions=[probes.extension(tmp_path, "probe", body)]) as webui:
        texts = webui.start().txt2img("a", batch_size=2).infotexts
        assert ("Listed: second, Computed: n1" in texts[1]) == (version in ("1.9", "1.10"))


def test_the_recorder_of_gradio_refuses_what_gradio_would_and_calls_handlers(tmp_path):
    body = """
        import gradio as gr
        gr.HTML("at import")

        def tabs():
            with gr.Blocks(analytics_enabled=False) as tab:
                box = gr.Textbox(label="Word", elem_id="word")
                button = gr.Button("Go", elem_id="go")
                button.click(lambda word: word.upper(), inputs=[box], outputs=[box]).then(fn=None)
            return [(tab, "Probe", "probe")]
        script_callbacks.on_ui_tabs(tabs)
        script_callbacks.on_ui_tabs(lambda: gr.Button("x", no_such_argument=1))
    """
    with WebUI("1.10", tmp_path, extensions=[probes.extension(tmp_path, "probe", body)]) as webui:
        webui.start()
        assert [title for _, title, _ in webui.module("ui").extension_tabs] == ["Probe"]
        assert webui.gradio.fire(webui.gradio.find("go"), "click", "cat") == "CAT"
        assert [component.value for component in webui.gradio.outside] == ["at import"]
        assert "no_such_argument" in str(webui.errors[0].exception)
