"""Which family a live model is, from the structure of its parts, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lycopatch.engine.families import clip, mmdit, t5, unet
from lycopatch.engine.families.family import DenoiserConfig, EncoderConfig, Family
from lycopatch.engine.families.layers import Part
from lycopatch.engine.families.mmdit import MMDiTConfig
from lycopatch.engine.families.unet import UNetConfig

VARIANTS = {9: "inpainting", 8: "instruct-pix2pix", 5: "depth-to-image"}
"""What a U-Net's first convolution takes beside the usual 4 channels → what such a model is for."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The families that fit (usually one), the variant, and the sentences that say why."""

    candidates: tuple[str, ...]
    variant: str | None
    evidence: tuple[str, ...]


def identify(parts: Sequence[Part], families: Sequence[Family]) -> Identity:
    """Compare the parts with each family; the denoiser decides, text encoders only when there is no denoiser."""
    evidence: list[str] = [_where(part) for part in parts]
    denoiser = next((part for part in parts if part.component == "unet"), None)
    if denoiser is None:
        fitting = [family for family in families if all(_has_encoder(family, part) for part in parts)]
        names = _listed([family.title for family in fitting]) or "no known family"
        evidence.append(f"There is no U-Net or transformer; text encoders like these belong to {names}.")
        return Identity(tuple(family.name for family in fitting), None, tuple(evidence))
    config = unet.read_config(denoiser) if denoiser.structure == "unet" else mmdit.read_config(denoiser)
    if config is None:
        evidence.append("Its blocks are not numbered as in any known model, so only the model's own names are known.")
        return Identity((), None, tuple(evidence))
    evidence.append(_describe(config))
    variant = VARIANTS.get(config.in_channels) if isinstance(config, UNetConfig) else None
    if variant is not None and isinstance(config, UNetConfig):
        evidence.append(f"The first convolution takes {config.in_channels} channels: a model for {variant}.")
    for family in families:
        for known in family.denoisers:
            if _resembles(config, known.config):
                also = f" ({known.variant})" if known.variant else ""
                evidence.append(f"Those are the blocks of {family.title}{also}.")
                return Identity((family.name,), known.variant or variant, tuple(evidence))
    evidence.append("No known family has these blocks, so it is treated as a custom model.")
    return Identity((), variant, tuple(evidence))


def _resembles(config: DenoiserConfig, known: DenoiserConfig) -> bool:
    if isinstance(config, UNetConfig):
        return isinstance(known, UNetConfig) and config.resembles(known)
    return isinstance(known, MMDiTConfig) and config.resembles(known)


def _has_encoder(family: Family, part: Part) -> bool:
    config = _encoder_config(part)
    return config is not None and any(
        encoder.component == part.component
        and type(encoder.config) is type(config)
        and encoder.config.width == config.width
        for encoder in family.encoders
    )


def _encoder_config(part: Part) -> EncoderConfig | None:
    return clip.read_config(part) if part.structure == "clip" else t5.read_config(part)


_TITLES = {"unet": "a U-Net", "mmdit": "an MMDiT", "clip": "a CLIP text encoder", "t5": "a T5 text encoder"}


def _where(part: Part) -> str:
    place = f'below "{part.prefix}"' if part.prefix else "at the top"
    sentence = f"There is {_TITLES[part.structure]} in {part.naming} names {place}"
    if part.component == "unet":
        return sentence + "."
    config = _encoder_config(part)
    size = f", width {config.width}, {config.layers} layers" if config is not None else ""
    return f"{sentence}, used as {part.component}{size}."


def _describe(config: DenoiserConfig) -> str:
    if isinstance(config, MMDiTConfig):
        second = f", {config.dual_blocks} of them with a second attention" if config.dual_blocks else ""
        return f"The MMDiT is {config.hidden} wide and has {config.depth} blocks{second}."
    channels = "/".join(str(width) for width in config.channels)
    text = f"attends to text of width {config.context_dim}" if config.context_dim else "attends to no text"
    depth = "/".join(str(max(level, default=0)) for level in config.layout.down)
    return f"The U-Net has {channels} channels, attention of depth {depth}, and {text}."


def _listed(titles: Sequence[str]) -> str:
    return " or ".join(titles)
