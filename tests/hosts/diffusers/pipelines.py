"""Real pipelines of the diffusers package, a few thousand numbers each, made from configurations."""

from __future__ import annotations

import json
import string
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
transformers = pytest.importorskip("transformers", exc_type=ImportError)

WIDTH = 32
"""Width of the first text encoder; the second one of SDXL is twice as wide."""

TEXT_QUERY = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
UNET_QUERY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def tokenizer(folder: Path) -> Any:
    """A CLIP tokenizer that knows letters, digits and some signs; its files are written into ``folder``."""
    characters = string.ascii_lowercase + string.digits + ",.!_-<>"
    words = [*characters, *(f"{each}</w>" for each in characters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    return transformers.CLIPTokenizer(*files, model_max_length=77, pad_token="<|endoftext|>")


def text_encoder(kind: type[nn.Module], vocabulary: int, width: int = WIDTH, **more: Any) -> Any:
    # eos_token_id=2 is what the published SD1 and SDXL configurations say, wrongly
    config = transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
        **more,
    )
    return kind(config).eval()


def vae(**more: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        **more,
    ).eval()


def unet(**more: Any) -> Any:
    options: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
        "sample_size": 8,
    }
    return diffusers.UNet2DConditionModel(**(options | more)).eval()


def scheduler() -> Any:
    return diffusers.DDIMScheduler(clip_sample=False, steps_offset=1, set_alpha_to_one=False)


def tiny_sd1(folder: Path) -> Any:
    """The same tiny StableDiffusionPipeline each time."""
    torch.manual_seed(1)
    words = tokenizer(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = diffusers.StableDiffusionPipeline(
            vae=vae(),
            text_encoder=text_encoder(transformers.CLIPTextModel, len(words)),
            tokenizer=words,
            unet=unet(),
            scheduler=scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_sdxl(folder: Path) -> Any:
    """The same tiny StableDiffusionXLPipeline each time."""
    torch.manual_seed(2)
    first, second = tokenizer(folder), tokenizer(folder)
    denoiser = unet(
        cross_attention_dim=3 * WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 2 * WIDTH,
        use_linear_projection=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = diffusers.StableDiffusionXLPipeline(
            vae=vae(),
            text_encoder=text_encoder(transformers.CLIPTextModel, len(first)),
            text_encoder_2=text_encoder(transformers.CLIPTextModelWithProjection, len(second), 2 * WIDTH),
            tokenizer=first,
            tokenizer_2=second,
            unet=denoiser,
            scheduler=scheduler(),
            add_watermarker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_sd3(folder: Path) -> Any:
    """The same tiny StableDiffusion3Pipeline each time, without T5."""
    torch.manual_seed(3)
    first, second = tokenizer(folder), tokenizer(folder)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        caption_projection_dim=16,
        joint_attention_dim=3 * WIDTH,
        pooled_projection_dim=3 * WIDTH,
        pos_embed_max_size=16,
    ).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = diffusers.StableDiffusion3Pipeline(
            transformer=transformer,
            vae=vae(shift_factor=0.0),
            text_encoder=text_encoder(transformers.CLIPTextModelWithProjection, len(first)),
            text_encoder_2=text_encoder(transformers.CLIPTextModelWithProjection, len(second), 2 * WIDTH),
            text_encoder_3=None,
            tokenizer=first,
            tokenizer_2=second,
            tokenizer_3=None,
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(pipe: Any, prompt: str = "a cat", output: str = "np") -> Any:
    """One small picture of the pipeline, [height, width, 3] between 0 and 1 (or its latents)."""
    with torch.no_grad():
        return pipe(
            prompt,
            num_inference_steps=2,
            guidance_scale=3.0,
            height=16,
            width=16,
            generator=torch.Generator().manual_seed(7),
            output_type=output,
        ).images[0]


def offload(pipe: Any, blocks: list[str] | None = None) -> None:
    """What ``enable_sequential_cpu_offload`` does, without an accelerator: weights lie elsewhere between their uses."""
    accelerate = pytest.importorskip("accelerate", exc_type=ImportError)
    # all of them, as there: a pipeline that is offloaded in part takes its device from whichever comes first
    for module in (pipe.text_encoder, pipe.unet, pipe.vae):
        accelerate.cpu_offload(module, execution_device=torch.device("cpu"), preload_module_classes=blocks)


def weights(pipe: Any) -> dict[str, Tensor]:
    """A copy of everything a pipeline computes with."""
    return {
        f"{name}.{key}": tensor.detach().clone()
        for name, module in pipe.components.items()
        if isinstance(module, nn.Module)
        for key, tensor in module.state_dict().items()
    }


def same_weights(pipe: Any, before: dict[str, Tensor]) -> bool:
    after = weights(pipe)
    return after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def lora(shapes: dict[str, tuple[int, int]], rank: int = 2) -> dict[str, Tensor]:
    """A kohya LoRA with noticeable numbers: layer name → (out, in)."""
    tensors: dict[str, Tensor] = {}
    for name, (rows, cols) in shapes.items():
        tensors[f"{name}.lora_up.weight"] = torch.randn(rows, rank)
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, cols) / cols**0.5
        tensors[f"{name}.alpha"] = torch.tensor(float(rank))
    return tensors
