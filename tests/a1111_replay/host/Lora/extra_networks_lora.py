"""``<lora:…>``, and by an alias ``<lyco:…>``."""

from __future__ import annotations

from modules import _host, extra_networks, shared

import networks


class ExtraNetworkLora(extra_networks.ExtraNetwork):
    def __init__(self):
        super().__init__("lora")
        self.errors: dict = {}

    def activate(self, p, params_list):
        additional = shared.opts.sd_lora
        self.errors.clear()
        named = [params.items[0] for params in params_list]
        if additional != "None" and additional in networks.available_networks and additional not in named:
            multiplier = shared.opts.extra_networks_default_multiplier
            p.all_prompts = [f"{prompt}<lora:{additional}:{multiplier}>" for prompt in p.all_prompts]
            params_list.append(extra_networks.ExtraNetworkParams(items=[additional, multiplier]))
        wanted = [self._read(params) for params in params_list]
        networks.load_networks(*([each[n] for each in wanted] for n in range(4)))
        if shared.opts.lora_add_hashes_to_infotext:
            self._add_hashes(p)

    def _read(self, params):
        """A number that is none raises, and with it the whole activation."""
        assert params.items
        positional = [*params.positional, None, None, None][:4]
        te = float(params.named.get("te", 1.0 if positional[1] is None else positional[1]))
        unet = float(params.named.get("unet", te if positional[2] is None else positional[2]))
        dyn = params.named.get("dyn", positional[3])
        return params.positional[0], te, unet, None if dyn is None else int(dyn)

    def _add_hashes(self, p):
        fresh = not _host.at_least(10) or not getattr(p, "is_hr_pass", False) or not hasattr(p, "lora_hashes")
        found = {} if fresh else p.lora_hashes
        for net in networks.loaded_networks:
            if net.network_on_disk.shorthash and net.mentioned_name:
                found[net.mentioned_name.replace(":", "").replace(",", "")] = net.network_on_disk.shorthash
        if _host.at_least(10):
            p.lora_hashes = found
        if found:
            p.extra_generation_params["Lora hashes"] = ", ".join(f"{name}: {value}" for name, value in found.items())

    def deactivate(self, p):
        if self.errors:
            p.comment("Networks with errors: " + ", ".join(f"{name} ({count})" for name, count in self.errors.items()))
            self.errors.clear()
