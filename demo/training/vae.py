"""Train the demo's VAE: 64 × 64 pictures to 16 × 16 latents of 4 channels and back.

It sees pictures of all styles, because an adapter for the U-Net can not paint what the VAE can not decode.
"""

# What diffusers says of its types is not what it takes and gives.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false

from __future__ import annotations

import copy
from pathlib import Path
from random import Random

import numpy as np
import torch
from diffusers import AutoencoderKL
from drawings import Scene, draw, random_scene
from running import Training, arguments, generator, learning_rate, prepare, set_learning_rate
from torch import Tensor
from torch.nn import functional as F

from lycopatch.demo.model import FOLDER

SEED = 1
PICTURES = 8192
BATCH = 16
KL_WEIGHT = 1e-6


def new_vae() -> AutoencoderKL:
    """Stable Diffusion's class, two halvings instead of three."""
    torch.manual_seed(SEED)
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )
    with torch.no_grad():
        vae.quant_conv.bias[4:] = -4  # little noise on the latents at the start: colours are learned much sooner
    return vae


def pictures(scenes: list[Scene]) -> Tensor:
    """uint8 [n, 3, height, width]."""
    return torch.from_numpy(np.stack([draw(scene) for scene in scenes])).permute(0, 3, 1, 2).contiguous()


def unit(picture: Tensor) -> Tensor:
    """uint8 to −1 … 1, as a VAE takes it."""
    return picture.float() / 127.5 - 1


def styled_scenes(seed: int, count: int) -> list[Scene]:
    """Half of them plain, the others with stripes, an outline or both."""
    random = Random(seed)
    return [random_scene(random, stripes=i % 4 in (1, 3), outline=i % 8 in (2, 3)) for i in range(count)]


def edge_difference(decoded: Tensor, wanted: Tensor) -> Tensor:
    """How far neighbouring pixels differ otherwise than they should: without it, small shapes end as blots."""
    wrong = decoded - wanted
    return wrong.diff(dim=-1).abs().mean() + wrong.diff(dim=-2).abs().mean()


def train(vae: AutoencoderKL, file: Path, steps: int) -> None:
    """Train what of the VAE is not frozen, or go on with training."""
    learning = [each for each in vae.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=0.0, weight_decay=1e-4)
    training = Training(file, steps, {"vae": vae, "optimiser": optimiser})
    seen = pictures(styled_scenes(SEED, PICTURES))
    for step in training:
        set_learning_rate(optimiser, learning_rate(step, steps, 2e-3))
        random = generator(SEED, step)
        batch = unit(seen[torch.randint(len(seen), (BATCH,), generator=random)])
        with torch.autocast("cpu", torch.bfloat16):
            latent = vae.encode(batch).latent_dist
            decoded = vae.decode(latent.sample(random)).sample.float()
        difference = F.l1_loss(decoded, batch) + F.mse_loss(decoded, batch) + edge_difference(decoded, batch)
        loss = difference + KL_WEIGHT * latent.kl().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        training.shown = f"difference {difference.item():.4f}, KL {latent.kl().mean().item():.0f}"


def freeze_encoder(vae: AutoencoderKL) -> None:
    """From here on latents stay what they are: base.py can already run."""
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)


@torch.no_grad()
def set_scale(vae: AutoencoderKL) -> None:
    """Latents of plain pictures times the scaling factor have a standard deviation of 1."""
    plain = [scene for scene in styled_scenes(SEED + 1, 512) if not scene.stripes and not scene.outline]
    latents = torch.cat([vae.encode(unit(part)).latent_dist.mean for part in pictures(plain).split(64)])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))


def save(vae: AutoencoderKL) -> None:
    """Into the package, in half precision."""
    set_scale(vae.eval())
    copy.deepcopy(vae).half().save_pretrained(FOLDER / "vae")
    vae.train()


def main() -> None:
    """Train all of it, then its decoder alone; save it after both."""
    parser = arguments(__doc__, steps=1700)
    parser.add_argument("--decoder-steps", type=int, default=2000, help="steps for the decoder (default: %(default)s)")
    options = parser.parse_args()
    prepare(options.work, options.threads)
    vae = new_vae()
    train(vae, options.work / "vae.pt", options.steps)
    save(vae)
    freeze_encoder(vae)
    train(vae, options.work / "decoder.pt", options.decoder_steps)
    save(vae)


if __name__ == "__main__":
    main()
