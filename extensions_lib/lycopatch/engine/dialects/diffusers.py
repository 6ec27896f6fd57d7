"""diffusers: ``unet.`` / ``text_encoder.`` and the dotted path, with its attention processors' names of old.

Source: diffusers ``loaders/lora_conversion_utils.py``, ``loaders/lora_base.py``.
"""

from lycopatch.engine.dialects.base import Dialect, dotted

_PREFIXES = ("unet.", "transformer.", "text_encoder.", "text_encoder_2.", "text_encoder_3.")


def _owns(name: str) -> bool:
    # openclip paths below a bare root start with "transformer." as well, and peft nests its own root inside
    return (
        name.startswith(_PREFIXES)
        and not name.startswith("transformer.resblocks.")
        and ".base_model.model." not in name
    )


DIALECT = Dialect(
    name="diffusers",
    title="diffusers",
    owns=_owns,
    spell=dotted(
        {
            "unet": ("unet.", "transformer."),
            "te1": ("text_encoder.",),
            "te2": ("text_encoder_2.",),
            "te3": ("text_encoder_3.",),
        }
    ),
)
