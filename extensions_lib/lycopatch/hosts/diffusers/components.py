"""What of a pipeline can be patched, and what another library did to it that is in the way.

Nothing here imports diffusers: a pipeline is any object with modules under the names of ``COMPONENTS``.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from lycopatch.engine.errors import UnknownModel
from lycopatch.hosts.modules import ModuleModel, uncompiled

COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")


def find_components(pipe: object) -> dict[str, nn.Module]:
    """The patchable modules of a pipeline by name; a lone U-Net or transformer counts as ``unet``.

    Raises UnknownModel when there is none.
    """
    if isinstance(pipe, nn.Module):
        return {"unet": uncompiled(pipe)}
    found: dict[str, nn.Module] = {}
    for name in COMPONENTS:
        module = getattr(pipe, name, None)
        if isinstance(module, nn.Module):
            found[name] = uncompiled(module)
    if not found:
        raise UnknownModel(f"a {type(pipe).__name__} has no {', '.join(COMPONENTS[:-1])} or {COMPONENTS[-1]}")
    return found


def live_model(components: Mapping[str, nn.Module]) -> ModuleModel:
    """The components as one model, named ``unet.…``, ``text_encoder.…``."""
    return ModuleModel({f"{name}.": module for name, module in components.items()})


def check_untouched(components: Mapping[str, nn.Module]) -> None:
    """Raise UnknownModel when a component computes with more than its own weights now, and patching is wrong."""
    for name, module in components.items():
        if getattr(module, "peft_config", None):
            raise UnknownModel(
                f"its {name} already holds networks that were loaded with load_lora_weights or peft. "
                "Call unload_lora_weights on the pipeline first"
            )
        if any(_is_fused(each) for each in module.modules()):
            raise UnknownModel(
                f"the attention projections of its {name} are fused. Call unfuse_qkv_projections on the pipeline first"
            )


def _is_fused(module: nn.Module) -> bool:
    # the flag on the layer stays when it is split again, the processor does not
    return type(module.__dict__.get("processor")).__name__.startswith("Fused")


def quantised(components: Mapping[str, nn.Module]) -> dict[str, str]:
    """Component → the integer type in which (some of) its weights are stored; networks leave those alone."""
    found: dict[str, str] = {}
    for name, module in components.items():
        for parameter in module.parameters():
            if not parameter.is_floating_point():
                found[name] = str(parameter.dtype).removeprefix("torch.")
    return found
