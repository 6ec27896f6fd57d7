"""The WebUI's own settings that the replay, or an extension, looks at."""

from __future__ import annotations

from modules import _host
from modules._options import OptionInfo, options_section


def templates() -> dict[str, OptionInfo]:
    found = options_section(
        ("sd", "Stable Diffusion"),
        {
            "sd_model_checkpoint": OptionInfo(None, "Stable Diffusion checkpoint"),
            "sd_checkpoint_cache": OptionInfo(0, "Checkpoints to cache in RAM"),
            "sd_vae": OptionInfo("Automatic", "SD VAE"),
            "sd_unet": OptionInfo("Automatic", "SD Unet"),
            "CLIP_stop_at_last_layers": OptionInfo(1, "Clip skip"),
            "sdxl_crop_top": OptionInfo(0, "crop top coordinate"),
            "sdxl_crop_left": OptionInfo(0, "crop left coordinate"),
            "hires_fix_use_firstpass_conds": OptionInfo(False, "For hires fix, use the first pass's conditioning"),
            "samples_save": OptionInfo(True, "Always save all generated images"),
            "samples_format": OptionInfo("png", "File format for images"),
            "disabled_extensions": OptionInfo([], "Disable these extensions"),
            "disable_all_extensions": OptionInfo("none", "Disable all extensions"),
            "sd_checkpoint_hash": OptionInfo("", "SHA256 hash of the current checkpoint"),
            "outdir_samples": OptionInfo("", "Output directory"),
        },
    )
    found |= options_section(
        ("extra_networks", "Extra Networks"),
        {
            "extra_networks_show_hidden_directories": OptionInfo(True, "Show hidden directories"),
            "extra_networks_hidden_models": OptionInfo("When searched", "Show cards for models in hidden directories"),
            "extra_networks_default_multiplier": OptionInfo(1.0, "Default multiplier"),
            "extra_networks_card_width": OptionInfo(0, "Card width"),
            "extra_networks_card_height": OptionInfo(0, "Card height"),
            "extra_networks_card_text_scale": OptionInfo(1.0, "Card text scale"),
            "extra_networks_card_show_desc": OptionInfo(True, "Show description on card"),
            "extra_networks_add_text_separator": OptionInfo(" ", "Extra networks separator"),
            "ui_extra_networks_tab_reorder": OptionInfo("", "Extra networks tab order"),
            "textual_inversion_add_hashes_to_infotext": OptionInfo(True, "Add Textual Inversion hashes to infotext"),
        },
    )
    if _host.at_least(6):
        found |= options_section(
            ("sd", "Stable Diffusion"),
            {
                "sd_checkpoints_limit": OptionInfo(1, "Maximum number of checkpoints loaded at the same time"),
                "sd_checkpoints_keep_in_cpu": OptionInfo(True, "Only keep one model on device"),
                "persistent_cond_cache": OptionInfo(True, "Persistent cond cache"),
                "enable_reloading_ui_scripts": OptionInfo(False, "Reload UI scripts when using Reload UI option"),
                "hires_fix_refiner_pass": OptionInfo("second pass", "Hires fix: which pass to enable refiner for"),
            },
        )
    else:
        found |= options_section(
            ("sd", "Stable Diffusion"),
            {"experimental_persistent_cond_cache": OptionInfo(False, "persistent cond cache")},
        )
    if _host.at_least(8):
        found |= options_section(
            ("optimizations", "Optimizations"),
            {
                "fp8_storage": OptionInfo("Disable", "FP8 weight"),
                "cache_fp16_weight": OptionInfo(False, "Cache FP16 weight for LoRA"),
                "emphasis": OptionInfo("Original", "Emphasis mode"),
                "extra_networks_tree_view_style": OptionInfo("Dirs", "Extra Networks directory view style"),
                "extra_networks_card_description_is_html": OptionInfo(False, "Treat card description as HTML"),
            },
        )
    return found
