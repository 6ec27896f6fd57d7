"""LyCORIS' own wrapper: ``lycoris_`` and the path with underscores of whatever module was wrapped.

Source: LyCORIS ``lycoris/wrapper.py``. A wrapped pipeline puts the attribute's name in front.
"""

from lycopatch.engine.dialects.base import Dialect, underscored

DIALECT = Dialect(
    name="lycoris",
    title="LyCORIS",
    owns=lambda name: name.startswith("lycoris_"),
    spell=underscored(
        {
            "unet": ("lycoris_", "lycoris_unet_", "lycoris_transformer_"),
            "te1": ("lycoris_", "lycoris_text_encoder_"),
            "te2": ("lycoris_", "lycoris_text_encoder_2_"),
            "te3": ("lycoris_", "lycoris_text_encoder_3_"),
        }
    ),
)
