"""The editor that opens from a card: the user's words about a network, and how it was trained."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lycopatch.engine.catalog import AdapterFile
from lycopatch.engine.metadata import as_number
from lycopatch.engine.training import training_facts
from lycopatch.engine.wording import printable, size_text
from lycopatch.hosts.a1111 import host_api
from lycopatch.hosts.a1111.cards import VERSIONS, version_of
from lycopatch.ui import markup
from lycopatch.ui.sidecar import Sidecar, read_sidecar, sidecar_path, write_sidecar

_GONE = "There is no such network any more; refresh the page."


def new_editor(ui: Any, tabname: str, page: Any) -> Any:
    """The editor, as a subclass of the WebUI's class of this moment. ``page`` has a ``shelf``."""
    import gradio as gr  # pyright: ignore[reportMissingImports] - the host brings it

    base = host_api.metadata_editor()

    class NetworkEditor(base):
        def create_extra_default_items_in_left_column(self) -> None:
            self.version = gr.Dropdown(
                list(VERSIONS), value=VERSIONS[-1], label="Stable Diffusion version", interactive=True
            )

        def create_editor(self) -> None:
            self.create_default_editor_elems()
            self.training = gr.HTML()
            self.activation_text = gr.Textbox(label="Activation text", info="Added to the prompt along with the tag")
            self.weight = gr.Slider(
                label="Preferred weight", info="0: the WebUI's default", minimum=0.0, maximum=2.0, step=0.01
            )
            self.negative_text = gr.Textbox(label="Negative prompt", info="Added to the negative prompt")
            self.edit_notes = gr.Textbox(label="Notes", lines=4)
            self.create_default_buttons()
            fields = [
                self.edit_description,
                self.version,
                self.activation_text,
                self.weight,
                self.negative_text,
                self.edit_notes,
            ]
            shown = [self.edit_name, self.html_filedata, self.html_preview, self.training, self.html_status, *fields]
            self.button_edit.click(
                fn=self.put_values_into_components, inputs=[self.edit_name_input], outputs=shown
            ).then(fn=lambda: gr.update(visible=True), inputs=[], outputs=[self.box])
            self.setup_save_handler(self.button_save, self.save_network_metadata, fields)

        def put_values_into_components(self, name: str) -> list[Any]:
            """One value for each of ``shown``."""
            file = self.page.shelf.file(name)
            if file is None:
                return [html.escape(name), "", "", "", markup.notice(_GONE, "trouble"), *[gr.update()] * 6]
            words = read_sidecar(file.path)
            trouble = markup.notice(words.problem.message, "trouble") if words.problem else ""
            version = version_of(file, words)
            choices = list(dict.fromkeys([*VERSIONS, version]))
            return [
                html.escape(name),
                file_html(file),
                self.get_card_html(name),
                training_html(file.metadata),
                trouble,
                words.description,
                gr.update(choices=choices, value=version),
                words.activation_text,
                gr.update(value=words.preferred_weight, **_range(words.preferred_weight)),
                words.negative_text,
                words.notes,
            ]

        def get_card_html(self, name: str) -> str:
            """The preview alone; the WebUI's own would look for it beside a path that may be escaped."""
            file = self.page.shelf.file(name)
            preview = self.page.shelf.preview(file) if file else None
            picture = f'<img src="{html.escape(preview)}" class="preview">' if preview else ""
            return f"<div class='card standalone-card-preview'>{picture}</div>"

        def save_network_metadata(
            self,
            name: str,
            description: str | None,
            version: str | None,
            activation_text: str | None,
            weight: float | None,
            negative_text: str | None,
            notes: str | None,
        ) -> None:
            """Raises the error that gradio shows as a message, with nothing changed on disk."""
            file = self.page.shelf.file(name)
            if file is None:
                raise gr.Error(_GONE)
            wanted = replace(
                read_sidecar(file.path),
                description=description or "",
                notes=notes or "",
                activation_text=activation_text or "",
                preferred_weight=float(as_number(weight) or 0.0),
                negative_text=negative_text or "",
                sd_version=_chosen_version(file, version or ""),
            )
            try:
                kept = write_sidecar(file.path, wanted)
            except OSError as error:
                reason = error.strerror or str(error)
                raise gr.Error(f"What you wrote about {file.stem} could not be saved: {reason}.") from error
            notice_file = getattr(getattr(self.page, "lister", None), "update_file_entry", None)  # from 1.9
            if notice_file is not None and sidecar_path(file.path).exists():
                notice_file(str(sidecar_path(file.path)))
            if kept is not None and hasattr(gr, "Warning"):
                gr.Warning(kept.message)

    return NetworkEditor(ui, tabname, page)


def file_html(file: AdapterFile) -> str:
    """Where the file is, how large and how old; why it can not be used, if so."""
    changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(file.fingerprint.mtime_ns / 1e9))
    facts = {
        "File": markup.text(printable(file.relative + file.path.suffix)),
        "Size": size_text(file.fingerprint.size),
        "Modified": changed,
        "Trained as": markup.text(printable(file.alias or "")),
    }
    return (markup.notice(printable(file.error), "trouble") if file.error else "") + markup.fields(facts)


def training_html(metadata: Mapping[str, str]) -> str:
    """How a network was trained, and the tags of its pictures, the most frequent first."""
    facts = training_facts(metadata)
    tags, different = facts.pop("tags", []), facts.pop("different_tags", 0)
    rows = {fact.replace("_", " ").capitalize(): markup.text(printable(_line(value))) for fact, value in facts.items()}
    counted = [(markup.text(each["tag"], 80), str(each["count"])) for each in tags]
    table = markup.table(("Tag", "Pictures"), counted, markup.counted(different, "tag")) if counted else ""
    return markup.folded("How it was trained", markup.fields(rows)) + markup.folded("Tags of its pictures", table)


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_line(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return "; ".join(map(_line, value))
    return str(value)


def _chosen_version(file: AdapterFile, version: str) -> str:
    """What to write down: a version that the metadata say as well is not the user's choice."""
    own = read_sidecar(file.path).sd_version
    return own if version == version_of(file, Sidecar(sd_version=own)) else version


def _range(weight: float) -> dict[str, Any]:
    """The ends of the slider, wider where the user's file holds a weight beyond them."""
    return {"minimum": min(0.0, weight), "maximum": max(2.0, weight)}
