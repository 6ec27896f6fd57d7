"""Something else in place of the U-Net (a compiled engine, say), which does not see what is patched into ours."""

from __future__ import annotations

from typing import Any

from modules import script_callbacks, shared

unet_options: list[Any] = []
current_unet_option: Any = None
current_unet: Any = None


class SdUnetOption:
    model_name: str | None = None
    label: str | None = None

    def create_unet(self) -> Any:
        raise NotImplementedError


def list_unets() -> None:
    unet_options[:] = script_callbacks.list_unets_callback()


def apply_unet(option: str | None = None) -> None:
    global current_unet_option, current_unet
    wanted = option or shared.opts.sd_unet
    found = next((each for each in unet_options if each.label == wanted), None)
    if found is current_unet_option:
        return
    current_unet_option = found
    current_unet = None if found is None else found.create_unet()
    if current_unet is not None:
        current_unet.option = found
