"""The editor that opens from a card: one hidden box per page and tab."""

from __future__ import annotations

import datetime
import html
import json
import os
from typing import Any

import gradio as gr

from modules import _host


class UserMetadataEditor:
    def __init__(self, ui: Any, tabname: str, page: Any) -> None:
        self.ui = ui
        self.tabname = tabname
        self.page = page
        part = page.extra_networks_tabname if _host.at_least(8) else page.id_page
        self.id_part = f"{tabname}_{part}_edit_user_metadata"
        self.box: Any = None
        self.edit_name_input: Any = None
        self.button_edit: Any = None
        self.edit_name: Any = None
        self.edit_description: Any = None
        self.edit_notes: Any = None
        self.html_filedata: Any = None
        self.html_preview: Any = None
        self.html_status: Any = None
        self.button_cancel: Any = None
        self.button_replace_preview: Any = None
        self.button_save: Any = None

    def get_user_metadata(self, name: str) -> dict[str, Any]:
        item = self.page.items.get(name, {})
        metadata = item.get("user_metadata") or {"description": item.get("description", "")}
        item["user_metadata"] = metadata
        return metadata

    def create_extra_default_items_in_left_column(self) -> None: ...

    def create_default_editor_elems(self) -> None:
        with gr.Row():
            with gr.Column():
                self.edit_name = gr.HTML(elem_classes="extra-network-name")
                self.edit_description = gr.Textbox(label="Description", lines=4)
                self.html_filedata = gr.HTML()
                self.create_extra_default_items_in_left_column()
            with gr.Column():
                self.html_preview = gr.HTML()

    def create_default_buttons(self) -> None:
        with gr.Row():
            self.button_cancel = gr.Button("Cancel")
            self.button_replace_preview = gr.Button("Replace preview")
            self.button_save = gr.Button("Save")
        self.html_status = gr.HTML(elem_classes="edit-user-metadata-status")
        self.button_cancel.click(fn=None, _js="closePopup")

    def get_card_html(self, name: str) -> str:
        item = self.page.items.get(name, {})
        preview = item.get("preview") or self.page.find_preview(os.path.splitext(item["filename"])[0])
        image = f'<img src="{html.escape(preview)}" class="preview">' if preview else ""
        return f"<div class='card standalone-card-preview'>{image}</div>"

    def get_metadata_table(self, name: str) -> list[tuple[str, Any]]:
        item = self.page.items.get(name, {})
        stat = os.stat(item["filename"])
        changed = datetime.datetime.fromtimestamp(stat.st_mtime).strftime("%Y-%m-%d %H:%M")
        found = [("Filename: ", os.path.basename(item["filename"])), ("File size: ", f"{stat.st_size} B")]
        return [*found, ("Hash: ", item.get("shorthash")), ("Modified: ", changed)]

    def put_values_into_components(self, name: str) -> tuple[Any, ...]:
        metadata = self.get_user_metadata(name)
        rows = "".join(f"<tr><th>{k}</th><td>{v}</td></tr>" for k, v in self.get_metadata_table(name) if v is not None)
        table = f'<table class="file-metadata">{rows}</table>'
        description, notes = metadata.get("description", ""), metadata.get("notes", "")
        return html.escape(name), description, table, self.get_card_html(name), notes

    def write_user_metadata(self, name: str, metadata: dict[str, Any]) -> None:
        path = os.path.splitext(self.page.items.get(name, {})["filename"])[0] + ".json"
        with open(path, "w", encoding="utf8") as file:
            json.dump(metadata, file, indent=4, ensure_ascii=False)
        if _host.at_least(9):
            self.page.lister.update_file_entry(path)

    def save_user_metadata(self, name: str, desc: str, notes: str) -> None:
        metadata = self.get_user_metadata(name)
        metadata["description"] = desc
        metadata["notes"] = notes
        self.write_user_metadata(name, metadata)

    def setup_save_handler(self, button: Any, func: Any, components: list[Any]) -> None:
        refresh = f"function(name){{extraNetworksRefreshSingleCard({json.dumps(self.page.name)}, name);}}"
        saved = button.click(fn=func, inputs=[self.edit_name_input, *components], outputs=[])
        saved.then(fn=None, _js=refresh, inputs=[self.edit_name_input], outputs=[])

    def create_editor(self) -> None:
        self.create_default_editor_elems()
        self.edit_notes = gr.TextArea(label="Notes", lines=4)
        self.create_default_buttons()
        shown = [self.edit_name, self.edit_description, self.html_filedata, self.html_preview, self.edit_notes]
        opened = self.button_edit.click(self.put_values_into_components, inputs=[self.edit_name_input], outputs=shown)
        opened.then(fn=lambda: gr.update(visible=True), inputs=[], outputs=[self.box])
        self.setup_save_handler(self.button_save, self.save_user_metadata, [self.edit_description, self.edit_notes])

    def create_ui(self) -> None:
        with gr.Box(visible=False, elem_id=self.id_part, elem_classes="edit-user-metadata") as box:
            self.box = box
            self.edit_name_input = gr.Textbox(
                "Edit user metadata card id", visible=False, elem_id=f"{self.id_part}_name"
            )
            self.button_edit = gr.Button("Edit user metadata", visible=False, elem_id=f"{self.id_part}_button")
            self.create_editor()

    def setup_ui(self, gallery: Any) -> None:
        self.button_replace_preview.click(
            fn=self.save_preview,
            inputs=[self.edit_name_input, gallery, self.edit_name_input],
            outputs=[self.html_preview, self.html_status],
        )

    def save_preview(self, index: Any, gallery: list[Any], name: str) -> tuple[str, str]:
        if not gallery:
            return self.get_card_html(name), "There is no image in gallery to save as a preview."
        with open(self.page.items[name]["local_preview"], "wb") as file:
            file.write(gallery[max(0, min(int(index), len(gallery) - 1))])
        return self.get_card_html(name), ""
