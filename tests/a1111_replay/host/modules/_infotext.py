"""Writing the text: which values may be a list or a function differs by release."""

from __future__ import annotations

import importlib
from typing import Any

from modules import _host, errors

quote = importlib.import_module(
    "modules.infotext_utils" if _host.at_least(8) else "modules.generation_parameters_copypaste"
).quote


def create_infotext(
    p: Any,
    all_prompts: list[str],
    all_seeds: list[int],
    all_subseeds: list[int],
    comments: Any = None,
    iteration: int = 0,
    position_in_batch: int = 0,
    use_main_prompt: bool = False,
    index: int | None = None,
    all_negative_prompts: list[str] | None = None,
) -> str:
    index = position_in_batch + iteration * p.batch_size if index is None else index
    prompt_text = all_prompts[index]
    negative_prompt = (p.all_negative_prompts if all_negative_prompts is None else all_negative_prompts)[index]
    params: dict[str, Any] = {
        "Steps": p.steps,
        "Sampler": p.sampler_name,
        "CFG scale": p.cfg_scale,
        "Seed": all_seeds[index],
        "Size": f"{p.width}x{p.height}",
        "Model hash": p.sd_model_hash,
        "Model": p.sd_model_name,
        **p.extra_generation_params,
    }
    if _host.at_least(9):
        local = {"p": p, "index": index, "prompt_text": prompt_text, "negative_prompt": negative_prompt}
        params = {key: _resolved(key, value, index, local) for key, value in params.items()}
    line = ", ".join(
        key if key == value else f"{key}: {quote(value)}" for key, value in params.items() if value is not None
    )
    negative = f"\nNegative prompt: {negative_prompt}" if negative_prompt else ""
    return f"{prompt_text}{negative}\n{line}".strip()


def _resolved(key: str, value: Any, index: int, local: dict[str, Any]) -> Any:
    """Since 1.9: one value per picture, or a function of the picture."""
    try:
        if isinstance(value, list):
            return value[index]
        return value(**local) if callable(value) else value
    except Exception:
        errors.report(f'Error creating infotext for key "{key}"', exc_info=True)
        return None
