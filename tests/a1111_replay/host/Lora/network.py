"""A network file, and a network in memory. Plain LoRA only."""

from __future__ import annotations

import enum
import os

from modules import cache, errors, hashes, sd_models, shared


class SdVersion(enum.Enum):
    Unknown = 1
    SD1 = 2
    SD2 = 3
    SDXL = 4


class NetworkOnDisk:
    def __init__(self, name, filename):
        self.name = name
        self.filename = filename
        self.metadata = {}
        self.is_safetensors = os.path.splitext(filename)[1].lower() == ".safetensors"
        if self.is_safetensors:
            try:
                self.metadata = cache.cached_data_for_file(
                    "safetensors-metadata",
                    "lora/" + name,
                    filename,
                    lambda: sd_models.read_metadata_from_safetensors(filename),
                )
            except Exception as e:
                errors.display(e, f"reading lora {filename}")
        self.alias = self.metadata.get("ss_output_name", name)
        self.hash = None
        self.shorthash = None
        known = hashes.sha256_from_cache(filename, "lora/" + name, use_addnet_hash=self.is_safetensors)
        self.set_hash(self.metadata.get("sshs_model_hash") or known or "")
        self.sd_version = self.detect_version()

    def detect_version(self):
        if str(self.metadata.get("ss_base_model_version", "")).startswith("sdxl_"):
            return SdVersion.SDXL
        if str(self.metadata.get("ss_v2", "")) == "True":
            return SdVersion.SD2
        return SdVersion.SD1 if self.metadata else SdVersion.Unknown

    def set_hash(self, v):
        import networks

        self.hash = v
        self.shorthash = v[:12]
        if self.shorthash:
            networks.available_network_hash_lookup[self.shorthash] = self

    def read_hash(self):
        if not self.hash:
            value = hashes.sha256(self.filename, "lora/" + self.name, use_addnet_hash=self.is_safetensors)
            self.set_hash(value or "")

    def get_alias(self):
        import networks

        by_name = shared.opts.lora_preferred_name == "Filename"
        return self.name if by_name or self.alias.lower() in networks.forbidden_network_aliases else self.alias


class Network:
    def __init__(self, name, network_on_disk):
        self.name = name
        self.network_on_disk = network_on_disk
        self.te_multiplier = 1.0
        self.unet_multiplier = 1.0
        self.dyn_dim = None
        self.modules = {}
        self.bundle_embeddings = {}
        self.mtime = os.path.getmtime(network_on_disk.filename)
        self.mentioned_name = None


class NetworkModule:
    """One layer: up, down and alpha."""

    def __init__(self, net, sd_key, weights):
        self.network = net
        self.sd_key = sd_key
        self.up = weights["lora_up.weight"].float()
        self.down = weights["lora_down.weight"].float()
        self.scale = float(weights.get("alpha", self.down.shape[0])) / self.down.shape[0]

    def multiplier(self):
        return self.network.te_multiplier if "transformer" in self.sd_key[:20] else self.network.unet_multiplier

    def calc_updown(self, target):
        updown = (self.up.flatten(1) @ self.down.flatten(1)).reshape(self.up.shape[0], *self.down.shape[1:])
        if updown.numel() == target.numel():
            updown = updown.reshape(target.shape)
        return updown * self.scale * self.multiplier()
