"""transformers: the logits of two prompts, bit for bit, and a greedy generation."""
import hashlib
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from transformers.utils import logging  # noqa: E402

from common import PROMPTS, directory, report  # noqa: E402


def main():
    logging.disable_progress_bar()
    # Sums over threads may be added in another order from run to run; over one thread they may not.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    root = directory()
    tokenizer = AutoTokenizer.from_pretrained(root)
    model = AutoModelForCausalLM.from_pretrained(root).eval()
    texts, logits = [], hashlib.sha256()
    with torch.inference_mode():
        for prompt in PROMPTS:
            inputs = tokenizer(prompt, return_tensors="pt")
            got = model(**inputs).logits.float()
            if not torch.isfinite(got).all():
                raise SystemExit("logits that are no numbers")
            logits.update(got.numpy().tobytes())
            out = model.generate(**inputs, do_sample=False, max_new_tokens=40, pad_token_id=0)
            texts.append(tokenizer.decode(out[0][inputs["input_ids"].shape[1]:]))
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    report(reader="transformers", dtype=str(model.dtype), tied=tied, prompts=PROMPTS, texts=texts,
           logits_sha256=logits.hexdigest())


if __name__ == "__main__":
    main()
