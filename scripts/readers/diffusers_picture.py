"""diffusers: a picture of an image pipeline, bit for bit, and one file of it as ComfyUI loads a checkpoint."""
import hashlib
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import safetensors.torch  # noqa: E402
import torch  # noqa: E402
from diffusers import DiffusionPipeline  # noqa: E402
from diffusers.utils import logging  # noqa: E402

from common import Digest, directory, report  # noqa: E402


def main():
    logging.disable_progress_bar()
    # Sums over threads may be added in another order from run to run; over one thread they may not.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    root = directory()
    pipeline = DiffusionPipeline.from_pretrained(root, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline(generator=torch.Generator().manual_seed(1), num_inference_steps=4, output_type="np").images
    digest = Digest()
    for path in sorted(root.rglob("*.safetensors")):
        for name, tensor in safetensors.torch.load_file(path, device="cpu").items():
            digest.add(f"{path.relative_to(root)} {name}", str(tensor.dtype), tensor.shape, tensor.numpy().tobytes())
    report(reader="diffusers", pipeline=type(pipeline).__name__, shape=list(picture.shape), tensors=len(digest),
           weights_sha256=digest.hex(), picture_sha256=hashlib.sha256(picture.tobytes()).hexdigest())


if __name__ == "__main__":
    main()
