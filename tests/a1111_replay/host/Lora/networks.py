"""What is available, what is selected, and the merging of it into a layer when the layer is called."""

from __future__ import annotations

import os
import re

import network
import torch
from modules import _host, devices, errors, sd_hijack, sd_models, shared

extra_network_lora = None
originals = None
available_networks: dict = {}
available_network_aliases: dict = {}
available_network_hash_lookup: dict = {}
forbidden_network_aliases: dict = {}
loaded_networks: list = []
networks_in_memory: dict = {}
loaded_bundle_embeddings: dict = {}

EXTENSIONS = [".pt", ".ckpt", ".safetensors"]
BACKS_UP_AT_ONCE = not _host.at_least(6)
"""1.5 copies every weight at its layer's first call, whether or not a network is selected."""

BACKS_UP_BIASES_AT_ONCE = _host.at_least(6) and not _host.at_least(10)
"""1.6 to 1.9 do the same with biases."""


def assign_network_names_to_compvis_modules(sd_model):
    """Name → module for all of the current model (whichever model was loaded)."""
    mapping = {}
    if shared.sd_model.is_sdxl:
        for i, embedder in enumerate(shared.sd_model.conditioner.embedders):
            if hasattr(embedder, "wrapped"):
                mapping |= {f"{i}_{_flat(name)}": module for name, module in embedder.wrapped.named_modules()}
    else:
        encoder = shared.sd_model.cond_stage_model
        mapping |= {_flat(name): each for name, each in getattr(encoder, "wrapped", encoder).named_modules()}
    mapping |= {_flat(name): module for name, module in shared.sd_model.model.named_modules()}
    for name, module in mapping.items():
        module.network_layer_name = name
    sd_model.network_layer_mapping = mapping


def _flat(name):
    return name.replace(".", "_")


def convert_diffusers_name_to_compvis(key, is_sd2):
    """The names that the small models of the replay know: the middle block's and the text encoder's."""
    middle = re.fullmatch(r"lora_unet_mid_block_attentions_0_(.+)", key)
    if middle:
        return f"diffusion_model_middle_block_1_{middle[1]}"
    text = re.fullmatch(r"lora_te(\d?)_text_model_encoder_layers_(\d+)_(.+)", key)
    if not text:
        return key.replace("lora_unet", "diffusion_model")
    if is_sd2 or text[1] == "2":
        short = text[3].replace("mlp_fc1", "mlp_c_fc").replace("mlp_fc2", "mlp_c_proj").replace("self_attn", "attn")
        return f"{'1_' if text[1] == '2' else ''}model_transformer_resblocks_{text[2]}_{short}"
    return f"{'0_' if text[1] == '1' else ''}transformer_text_model_encoder_layers_{text[2]}_{text[3]}"


def load_network(name, network_on_disk):
    net = network.Network(name, network_on_disk)
    mapping = shared.sd_model.network_layer_mapping
    layers: dict = {}
    for key, weight in sd_models.read_state_dict(network_on_disk.filename).items():
        layer, _, part = key.partition(".")
        layers.setdefault(layer, {})[part] = weight
    for layer, weights in layers.items():
        key = convert_diffusers_name_to_compvis(layer, "model_transformer_resblocks" in mapping)
        if key in mapping or re.sub(r"_([qkv]_proj)$", "", key) in mapping:
            net.modules[key] = network.NetworkModule(net, key, weights)
    return net


def load_networks(names, te_multipliers=None, unet_multipliers=None, dyn_dims=None):
    kept = {net.name: net for net in loaded_networks}
    loaded_networks.clear()
    if any(name not in available_network_aliases for name in names):
        list_available_networks()
    missing = []
    for i, name in enumerate(names):
        on_disk = available_networks.get(name) if name.lower() in forbidden_network_aliases else None
        on_disk = on_disk or available_network_aliases.get(name)
        if on_disk is None:
            missing.append(name)
            continue
        net = kept.get(name)
        if net is None or os.path.getmtime(on_disk.filename) > net.mtime:
            try:
                net = load_network(name, on_disk)
            except Exception as e:
                errors.display(e, f"loading network {on_disk.filename}")
                continue
        net.mentioned_name = name
        on_disk.read_hash()
        net.te_multiplier = te_multipliers[i] if te_multipliers else 1.0
        net.unet_multiplier = unet_multipliers[i] if unet_multipliers else 1.0
        net.dyn_dim = dyn_dims[i] if dyn_dims else 1.0
        loaded_networks.append(net)
    if missing:
        words = "Lora not found: " if _host.at_least(8) else "Networks not found: "
        sd_hijack.model_hijack.comments.append(words + ", ".join(missing))


def purge_networks_from_memory():
    networks_in_memory.clear()


def _copy(tensor):
    return None if tensor is None else tensor.detach().to(devices.cpu, copy=True)


def network_restore_weights_from_backup(self):
    weights, bias = getattr(self, "network_weights_backup", None), getattr(self, "network_bias_backup", None)
    if weights is None and bias is None:
        return
    owner = self.out_proj if isinstance(self, torch.nn.MultiheadAttention) else self
    if weights is not None and owner is not self:
        self.in_proj_weight.copy_(weights[0])
        owner.weight.copy_(weights[1])
    elif weights is not None:
        self.weight.copy_(weights)
    if bias is not None:
        owner.bias.copy_(bias)
    elif _host.at_least(6):
        owner.bias = None


def network_reset_cached_weight(self):
    """ "The weights are pristine now". 1.6 forgets to forget the bias."""
    self.network_current_names = ()
    self.network_weights_backup = None
    if _host.at_least(7):
        self.network_bias_backup = None


def _back_up(self, wanted):
    is_attention = isinstance(self, torch.nn.MultiheadAttention)
    owner = self.out_proj if is_attention else self
    if getattr(self, "network_weights_backup", None) is None and (wanted or BACKS_UP_AT_ONCE):
        if _host.at_least(6) and getattr(self, "network_current_names", ()) != ():
            raise RuntimeError("no backup weights found and current weights are not unchanged")
        weights = (_copy(self.in_proj_weight), _copy(owner.weight)) if is_attention else _copy(self.weight)
        self.network_weights_backup = weights
    if getattr(self, "network_bias_backup", None) is None and _host.at_least(6) and (wanted or BACKS_UP_BIASES_AT_ONCE):
        self.network_bias_backup = _copy(getattr(owner, "bias", None))


def network_apply_weights(self):
    """Called by every forward of every layer; layers that are no part of the model have no name."""
    layer_name = getattr(self, "network_layer_name", None)
    if layer_name is None:
        return
    wanted = tuple((net.name, net.te_multiplier, net.unet_multiplier, net.dyn_dim) for net in loaded_networks)
    _back_up(self, wanted)
    if getattr(self, "network_current_names", ()) == wanted:
        return
    network_restore_weights_from_backup(self)
    with torch.no_grad():
        for net in loaded_networks:
            try:
                _merge(self, layer_name, net)
            except RuntimeError:
                if _host.at_least(6):
                    extra_network_lora.errors[net.name] = extra_network_lora.errors.get(net.name, 0) + 1
                else:
                    raise
    self.network_current_names = wanted


def _merge(self, layer_name, net):
    module = net.modules.get(layer_name)
    if module is not None and hasattr(self, "weight"):
        # a cached weight is taken afresh for each network: of several, only the last stays
        cached = getattr(self, "fp16_weight", None)
        base = self.weight if cached is None else cached
        updown = module.calc_updown(base)
        if updown.dim() == 4 and base.shape[1] == 9:
            updown = torch.nn.functional.pad(updown, (0, 0, 0, 0, 0, 5))
        self.weight.copy_((base.to(updown.dtype) + updown).to(self.weight.dtype))
        return
    parts = [net.modules.get(f"{layer_name}_{part}") for part in ("q_proj", "k_proj", "v_proj", "out_proj")]
    if isinstance(self, torch.nn.MultiheadAttention) and all(parts):
        rows = self.in_proj_weight.chunk(3, 0)
        fused = torch.vstack([part.calc_updown(row) for part, row in zip(parts, rows)])  # noqa: B905
        self.in_proj_weight += fused
        self.out_proj.weight += parts[3].calc_updown(self.out_proj.weight)


def list_available_networks():
    for known in (
        available_networks,
        available_network_aliases,
        forbidden_network_aliases,
        available_network_hash_lookup,
    ):
        known.clear()
    forbidden_network_aliases.update({"none": 1, "Addams": 1})
    os.makedirs(shared.cmd_opts.lora_dir, exist_ok=True)
    for folder in (shared.cmd_opts.lora_dir, shared.cmd_opts.lyco_dir_backcompat):
        for filename in shared.walk_files(folder, allowed_extensions=EXTENSIONS):
            name = os.path.splitext(os.path.basename(filename))[0]
            entry = network.NetworkOnDisk(name, filename)
            available_networks[name] = entry
            if entry.alias in available_network_aliases:
                forbidden_network_aliases[entry.alias.lower()] = 1
            available_network_aliases[name] = available_network_aliases[entry.alias] = entry


def infotext_pasted(infotext, params): ...


list_available_networks()
