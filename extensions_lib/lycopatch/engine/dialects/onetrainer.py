"""OneTrainer's intermediate names: ``lora_unet.`` / ``lora_te1.`` and the dotted path, ``lora_transformer_`` for DiTs.

Source: OneTrainer ``modules/util/convert_lora_util.py``. Its other formats are spelled as kohya, diffusers or ComfyUI
do.
"""

from lycopatch.engine.dialects.base import Dialect, both, dotted, underscored

_DOTTED = ("lora_unet.", "lora_transformer.", "lora_te.", "lora_te1.", "lora_te2.", "lora_te3.")

DIALECT = Dialect(
    name="onetrainer",
    title="OneTrainer",
    owns=lambda name: name.startswith((*_DOTTED, "lora_transformer_")),
    spell=both(
        dotted(
            {
                "unet": ("lora_unet.", "lora_transformer."),
                "te1": ("lora_te.", "lora_te1."),
                "te2": ("lora_te2.",),
                "te3": ("lora_te3.",),
            }
        ),
        underscored({"unet": ("lora_transformer_",)}),
    ),
)
