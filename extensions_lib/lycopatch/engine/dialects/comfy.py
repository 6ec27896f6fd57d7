"""ComfyUI's names: ``diffusion_model.`` and the LDM path, ``text_encoders.clip_l.transformer.`` and the HF path.

Source: ComfyUI ``comfy/lora.py``; written by OneTrainer (format COMFY) and ai-toolkit.
"""

from lycopatch.engine.dialects.base import Dialect, dotted

_TEXT_ROOTS = {"te1": ("clip_l", "clip_h"), "te2": ("clip_g",), "te3": ("t5xxl",)}


def _text(component: str) -> tuple[str, ...]:
    roots = _TEXT_ROOTS[component]
    return tuple(f"{front}{root}.transformer." for root in roots for front in ("text_encoders.", ""))


DIALECT = Dialect(
    name="comfy",
    title="ComfyUI",
    owns=lambda name: name.startswith(
        ("diffusion_model.", "model.diffusion_model.", *_text("te1"), *_text("te2"), *_text("te3"))
    ),
    spell=dotted(
        {
            "unet": ("diffusion_model.", "model.diffusion_model."),
            "te1": _text("te1"),
            "te2": _text("te2"),
            "te3": _text("te3"),
        }
    ),
)
