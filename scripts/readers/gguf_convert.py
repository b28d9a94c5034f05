"""llama.cpp's converter: the GGUF file made from a directory, by its SHA-256.

The converter refuses tokenizers that it does not know by a hash of their behaviour, a byte-level one without merges among
them. A directory without tokenizer.model is therefore shown to it through links, beside a small SentencePiece model with
one piece for each token id. The weights still come from the directory itself.
"""
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2 as spm

from common import directory, report


def tokenizer_model(count):
    model = spm.ModelProto()
    model.trainer_spec.model_type = spm.TrainerSpec.BPE
    model.trainer_spec.vocab_size = count
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    kinds = spm.ModelProto.SentencePiece
    pieces = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    pieces += [(f"<0x{b:02X}>", kinds.BYTE) for b in range(256)]
    pieces += [(f"\u2581{i}", kinds.NORMAL) for i in range(len(pieces), count)]
    for i, (piece, kind) in enumerate(pieces[:count]):
        model.pieces.add(piece=piece, score=-float(i), type=kind)
    return model.SerializeToString(deterministic=True)


def main():
    root = directory().resolve()
    with tempfile.TemporaryDirectory() as work:
        # one name for both directories: the converter writes the directory's name into its output
        shown = Path(work) / "model"
        shown.mkdir()
        for path in root.iterdir():
            (shown / path.name).symlink_to(path)
        if not (root / "tokenizer.model").exists():
            for name in ("tokenizer.json", "tokenizer_config.json"):
                (shown / name).unlink(missing_ok=True)
            size = json.loads((root / "config.json").read_text())["vocab_size"]
            (shown / "tokenizer.model").write_bytes(tokenizer_model(size))
        out = Path(work) / "model.gguf"
        subprocess.run([sys.executable, "-m", "convert_hf_to_gguf", str(shown), "--outfile", str(out), "--outtype",
                        "bf16", "--model-name", "model"], check=True, stdout=sys.stderr,
                       env={**os.environ, "HF_HUB_OFFLINE": "1"})
        data = out.read_bytes()
        report(reader="gguf", bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


if __name__ == "__main__":
    main()
