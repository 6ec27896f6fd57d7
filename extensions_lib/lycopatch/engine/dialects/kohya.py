"""kohya: ``lora_unet_`` / ``lora_te1_`` and the path with underscores; ``oft_unet_`` for its OFT.

Source: sd-scripts ``networks/*.py``. SD1 and SD2 files hold diffusers names, SDXL files LDM names; converters mix them.
"""

from lycopatch.engine.dialects.base import Dialect, underscored

_TEXT = ("lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "lora_prior_te_")
_UNET = ("lora_unet_", "oft_unet_", "lora_prior_unet_")

DIALECT = Dialect(
    name="kohya",
    title="kohya",
    owns=lambda name: name.startswith((*_TEXT, *_UNET)),
    spell=underscored(
        {
            "unet": ("lora_unet_", "oft_unet_"),
            "te1": ("lora_te_", "lora_te1_"),
            "te2": ("lora_te2_",),
            "te3": ("lora_te3_",),
        }
    ),
)
