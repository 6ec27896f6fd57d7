"""The built-in extension "Lora", reduced to plain LoRA: its places in the WebUI are the true ones."""

from __future__ import annotations

import re

import extra_networks_lora
import gradio as gr
import lora  # noqa: F401
import lora_patches
import ui_extra_networks_lora
from modules import _host, extra_networks, script_callbacks, shared, ui_extra_networks

import networks


def unload():
    networks.originals.undo()


def before_ui():
    ui_extra_networks.register_page(ui_extra_networks_lora.ExtraNetworksPageLora())
    handler = extra_networks_lora.ExtraNetworkLora()
    if _host.at_least(6):
        networks.extra_network_lora = handler
    extra_networks.register_extra_network(handler)
    extra_networks.register_extra_network_alias(handler, "lyco")


networks.originals = lora_patches.install()

script_callbacks.on_model_loaded(networks.assign_network_names_to_compvis_modules)
script_callbacks.on_script_unloaded(unload)
script_callbacks.on_before_ui(before_ui)
script_callbacks.on_infotext_pasted(networks.infotext_pasted)

OPTIONS = {
    "sd_lora": shared.OptionInfo("None", "Add network to prompt", gr.Dropdown, lambda: {"choices": ["None"]}),
    "lora_preferred_name": shared.OptionInfo("Alias from file", "When adding to prompt, refer to Lora by"),
    "lora_add_hashes_to_infotext": shared.OptionInfo(True, "Add Lora hashes to infotext"),
    "lora_show_all": shared.OptionInfo(False, "Always show all networks on the Lora page"),
    "lora_hide_unknown_for_versions": shared.OptionInfo([], "Hide networks of unknown versions", gr.CheckboxGroup),
    "lora_functional": shared.OptionInfo(False, "Use old method"),
}
if _host.at_least(6):
    OPTIONS["lora_in_memory_limit"] = shared.OptionInfo(0, "Number of Lora networks to keep cached in memory")
if _host.at_least(10):
    OPTIONS["lora_bundled_ti_to_infotext"] = shared.OptionInfo(True, "Add Lora name as TI hashes")
shared.options_templates.update(shared.options_section(("extra_networks", "Extra Networks"), OPTIONS))


def api_networks(_, app):
    @app.get("/sdapi/v1/loras")
    async def get_loras():
        found = networks.available_networks.values()
        return [{"name": n.name, "alias": n.alias, "path": n.filename, "metadata": n.metadata} for n in found]

    @app.post("/sdapi/v1/refresh-loras")
    async def refresh_loras():
        return networks.list_available_networks()


script_callbacks.on_app_started(api_networks)


def infotext_pasted(infotext, d):
    """Names that the text's hashes belong to are put in place of those in the prompt (only ``<lora:``)."""
    pairs = [pair.strip().split(":", 1) for pair in d.get("Lora hashes", "").split(",")]
    hashes = {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}

    def replaced(match):
        found = networks.available_network_hash_lookup.get(hashes.get(match[1]))
        return match[0] if found is None else f"<lora:{found.get_alias()}:"

    d["Prompt"] = re.sub("<lora:([^:]+):", replaced, d["Prompt"])


script_callbacks.on_infotext_pasted(infotext_pasted)

if _host.at_least(6):
    shared.opts.onchange("lora_in_memory_limit", networks.purge_networks_from_memory)
