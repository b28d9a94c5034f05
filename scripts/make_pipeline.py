#!/usr/bin/env python3
"""Write a small image pipeline in the layout of diffusers: a directory for each part, each with its own weights.

Needs torch and diffusers. The weights are those of diffusers' own initialisation from a seed, in F16, about 8 MB; the
pictures it makes are noise, which is all that comparing two directories asks for.

    make_pipeline.py DIR
"""
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from diffusers import DDIMScheduler, LDMPipeline, UNet2DModel, VQModel  # noqa: E402


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    torch.manual_seed(0)
    unet = UNet2DModel(sample_size=16, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(64, 128),
                       down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    vqvae = VQModel(in_channels=3, out_channels=3, block_out_channels=(32, 64), layers_per_block=1, latent_channels=3,
                    down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
    pipeline = LDMPipeline(vqvae=vqvae, unet=unet, scheduler=DDIMScheduler()).to(torch.float16)
    pipeline.save_pretrained(sys.argv[1], safe_serialization=True)


if __name__ == "__main__":
    main()
