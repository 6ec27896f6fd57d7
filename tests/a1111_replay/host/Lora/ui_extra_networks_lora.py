"""The page "Lora"."""

from __future__ import annotations

import os

import network
from modules import shared, ui_extra_networks
from modules.ui_extra_networks import quote_js

import networks


class ExtraNetworksPageLora(ui_extra_networks.ExtraNetworksPage):
    def __init__(self):
        super().__init__("Lora")

    def refresh(self):
        networks.list_available_networks()

    def create_item(self, name, index=None, enable_filter=True):
        entry = networks.available_networks.get(name)
        if entry is None:
            return None
        stem = os.path.splitext(entry.filename)[0]
        term = self.search_terms_from_path(entry.filename)
        item = {
            "name": name,
            "filename": entry.filename,
            "shorthash": entry.shorthash,
            "preview": self.find_preview(stem),
            "description": self.find_description(stem),
            "search_term": term,
            "search_terms": [term, *([entry.hash] if entry.hash else [])],
            "local_preview": f"{stem}.{shared.opts.samples_format}",
            "metadata": entry.metadata,
            "sort_keys": {"default": index, **self.get_sort_keys(entry.filename)},
            "sd_version": entry.sd_version.name,
        }
        self.read_user_metadata(item)
        weight = item["user_metadata"].get("preferred weight", 0.0) or "opts.extra_networks_default_multiplier"
        item["prompt"] = " + ".join([quote_js(f"<lora:{entry.get_alias()}:"), str(weight), quote_js(">")])
        if enable_filter and not shared.opts.lora_show_all and not self._fits(entry.sd_version):
            return None
        return item

    def _fits(self, version):
        """Looking at the model loads it."""
        model = shared.sd_model
        if model is None:
            return True
        name = "SDXL" if model.is_sdxl else "SD2" if model.is_sd2 else "SD1"
        if version == network.SdVersion.Unknown:
            return name not in shared.opts.lora_hide_unknown_for_versions
        return version.name == name

    def list_items(self):
        for index, name in enumerate(list(networks.available_networks)):
            item = self.create_item(name, index)
            if item is not None:
                yield item

    def allowed_directories_for_previews(self):
        return [shared.cmd_opts.lora_dir, shared.cmd_opts.lyco_dir_backcompat]
