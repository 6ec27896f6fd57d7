"""peft: ``base_model.model.`` and the dotted path of the wrapped model, which does not say which model that was.

Source: peft ``utils/save_and_load.py``.
"""

from lycopatch.engine.dialects.base import Dialect, dotted

_ROOT = "base_model.model."

DIALECT = Dialect(
    name="peft",
    title="peft",
    owns=lambda name: name.startswith(_ROOT) or f".{_ROOT}" in name,
    spell=dotted(
        {
            "unet": (_ROOT, f"unet.{_ROOT}", f"transformer.{_ROOT}"),
            "te1": (_ROOT, f"text_encoder.{_ROOT}"),
            "te2": (_ROOT, f"text_encoder_2.{_ROOT}"),
            "te3": (_ROOT, f"text_encoder_3.{_ROOT}"),
        }
    ),
)
