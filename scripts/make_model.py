#!/usr/bin/env python3
"""Write a small Llama model directory in the Hugging Face layout, the same bytes on every run.

Needs nothing but Python's standard library. The weights are Gaussian BF16 numbers from a seed: they compress as
trained weights do (the exponent carries about 2.6 bits of 8), every engine can load them, and what an engine says
with them is nonsense, which is all that comparing two directories asks for.

    make_model.py DIR                          50 MB in 3 shards, tied embeddings
    make_model.py DIR --hidden 256 --layers 4  6 MB
    make_model.py DIR --shards 1 --untied      one file with a head of its own, no shard index
"""
import argparse
import array
import hashlib
import json
import math
import statistics
import struct
import sys
from pathlib import Path

VOCAB = 320
SPECIAL = ["<unk>", "<s>", "</s>"]


def byte_symbols():
    """The printable stand-in of each byte in byte-level BPE, as every such tokenizer has it."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(other))]


TOKENS = SPECIAL + sorted(byte_symbols())
LETTERS = {chr(256 + 32), *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"}


def bf16(x):
    """The bits of the BF16 number nearest to x, ties to even."""
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


class Gaussian:
    """BF16 normal numbers by table: a uniform 16-bit word picks one of 65,536 quantiles.

    Drawing 25 million numbers one by one takes minutes in plain Python; a table look-up takes a second. The words come
    from SHAKE-128, whose output is fixed by a standard, so neither the Python release nor the machine changes a byte.
    """

    def __init__(self, seed):
        normal = statistics.NormalDist()
        self.seed = seed
        self.quantiles = [normal.inv_cdf((i + 0.5) / 65536) for i in range(65536)]
        self.tables = {}

    def table(self, mean, sigma):
        key = (mean, sigma)
        if key not in self.tables:
            self.tables[key] = [bf16(mean + sigma * q) for q in self.quantiles]
        return self.tables[key]

    def tensor(self, name, rows, mean=0.0):
        """Little-endian BF16 numbers, one (count, sigma) for each run of rows; they depend on seed and name only."""
        words = array.array("H", hashlib.shake_128(f"{self.seed}/{name}".encode()).digest(2 * sum(n for n, _ in rows)))
        if sys.byteorder == "big":
            words.byteswap()
        values, at = array.array("H"), 0
        for count, sigma in rows:
            values.extend(map(self.table(mean, sigma).__getitem__, words[at:at + count]))
            at += count
        if sys.byteorder == "big":
            values.byteswap()
        return values.tobytes()


def weights(gaussian, name, shape):
    """The bytes of one tensor, scaled so that a completion is varied and readable, though without sense."""
    if len(shape) == 1:
        return gaussian.tensor(name, [(shape[0], 0.05)], mean=1.0)
    sigma = 1 / math.sqrt(shape[1])
    if shape[0] == VOCAB:
        # Other tokens than letters and the space get short vectors, thus small logits: no control characters, no
        # halves of a UTF-8 sequence, no early end of the text.
        spoken = [i < len(TOKENS) and TOKENS[i] in LETTERS for i in range(VOCAB)]
        return gaussian.tensor(name, [(shape[1], sigma if s else sigma / 16) for s in spoken])
    # The factor 2 lets the layers outweigh the embedding they are added to: with 1 a tied model repeats one token.
    return gaussian.tensor(name, [(math.prod(shape), 2 * sigma)])


def shapes(a):
    """(name, shape) of every tensor, in the model's own order."""
    h, inner, kv = a.hidden, a.hidden * 3, max(1, a.hidden // 64) * 32
    yield "model.embed_tokens.weight", (VOCAB, h)
    for i in range(a.layers):
        at = f"model.layers.{i}."
        yield at + "self_attn.q_proj.weight", (h, h)
        yield at + "self_attn.k_proj.weight", (kv, h)
        yield at + "self_attn.v_proj.weight", (kv, h)
        yield at + "self_attn.o_proj.weight", (h, h)
        yield at + "mlp.gate_proj.weight", (inner, h)
        yield at + "mlp.up_proj.weight", (inner, h)
        yield at + "mlp.down_proj.weight", (h, inner)
        yield at + "input_layernorm.weight", (h,)
        yield at + "post_attention_layernorm.weight", (h,)
    yield "model.norm.weight", (h,)
    if a.untied:
        yield "lm_head.weight", (VOCAB, h)


def split(tensors, shards):
    """The list of tensors cut into `shards` runs of about equal size, none of them empty."""
    total = sum(math.prod(s) for _, s in tensors)
    runs, done = [[]], 0
    for i, (name, shape) in enumerate(tensors):
        left = shards - len(runs)
        if runs[-1] and left and (done >= total * len(runs) / shards or len(tensors) - i <= left):
            runs.append([])
        runs[-1].append((name, shape))
        done += math.prod(shape)
    return runs


def write_shard(path, tensors, gaussian):
    tensors = sorted(tensors)
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        end = at + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors:
            f.write(weights(gaussian, name, shape))
    return at


def tokenizer():
    vocab = {s: i for i, s in enumerate(TOKENS)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i, s in enumerate(SPECIAL)],
        "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": []},
    }


def config(a):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB,
        "hidden_size": a.hidden, "intermediate_size": a.hidden * 3, "num_hidden_layers": a.layers,
        "num_attention_heads": a.hidden // 32, "num_key_value_heads": max(1, a.hidden // 64), "head_dim": 32,
        "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "initializer_range": 0.02,
        # Top-level, because engines outside the transformers library look for it here only.
        "rope_theta": 10000.0, "rope_scaling": None,
        "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False, "pretraining_tp": 1, "use_cache": True,
        "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": not a.untied, "torch_dtype": "bfloat16",
    }


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out", type=Path, metavar="DIR", help="directory to write; its .safetensors files are replaced")
    ap.add_argument("--shards", type=int, default=3, help="number of weight files (default 3)")
    ap.add_argument("--untied", action="store_true", help="store lm_head.weight instead of tying it to the embeddings")
    ap.add_argument("--hidden", type=int, default=512, help="hidden size, a multiple of 64 (default 512)")
    ap.add_argument("--layers", type=int, default=8, help="number of layers (default 8)")
    ap.add_argument("--seed", type=int, default=1, help="another seed, other weights (default 1)")
    a = ap.parse_args()
    if a.hidden < 64 or a.hidden % 64:
        ap.error("--hidden must be a multiple of 64")
    if a.layers < 1:
        ap.error("--layers must be at least 1")
    tensors = list(shapes(a))
    if not 1 <= a.shards <= len(tensors):
        ap.error(f"--shards must be from 1 to {len(tensors)}, the number of tensors")

    a.out.mkdir(parents=True, exist_ok=True)
    for old in a.out.glob("*.safetensors*"):
        old.unlink()
    gaussian, total, where = Gaussian(a.seed), 0, {}
    runs = split(tensors, a.shards)
    for i, run in enumerate(runs, 1):
        name = "model.safetensors" if a.shards == 1 else f"model-{i:05}-of-{a.shards:05}.safetensors"
        total += write_shard(a.out / name, run, gaussian)
        where.update((tensor, name) for tensor, _ in run)

    def save(name, value):
        (a.out / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    if a.shards > 1:
        save("model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))})
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    save("config.json", config(a))
    save("generation_config.json", {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2})
    save("tokenizer.json", tokenizer())
    save("tokenizer_config.json", {**special, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048,
                                   "clean_up_tokenization_spaces": False})
    save("special_tokens_map.json", special)
    print(f"{a.out}: {len(tensors)} BF16 tensors, {total} bytes in {len(runs)} "
          f"{'shard' if len(runs) == 1 else 'shards'}, {'untied' if a.untied else 'tied'} embeddings, seed {a.seed}")


if __name__ == "__main__":
    main()
