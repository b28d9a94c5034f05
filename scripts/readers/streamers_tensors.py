"""fastsafetensors and Run:ai's model streamer, both with direct I/O on the CPU: every tensor of a directory."""
import torch
from fastsafetensors import SafeTensorsFileLoader, SingleGroup
from runai_model_streamer import SafetensorsStreamer

from common import Digest, directory, header, report, weight_files


def raw(tensor):
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def by_fastsafetensors(files):
    digest = Digest()
    loader = SafeTensorsFileLoader(SingleGroup(), torch.device("cpu"), nogds=True)
    loader.add_filenames({0: files})
    buffers = loader.copy_files_to_device()
    try:
        for name in buffers.key_to_rank_lidx:
            tensor = buffers.get_tensor(name)
            digest.add(name, tensor.dtype, tensor.shape, raw(tensor))
    finally:
        buffers.close()
        loader.close()
    return digest


def by_runai(files):
    digest = Digest()
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(files)
        for name, tensor in streamer.get_tensors():
            digest.add(name, tensor.dtype, tensor.shape, raw(tensor))
    return digest


def main():
    files = [str(p) for p in weight_files(directory())]
    names = sum(len(header(f)[0]) for f in files)
    seen = {"fastsafetensors": by_fastsafetensors(files), "runai": by_runai(files)}
    for reader, digest in seen.items():
        if len(digest) != names:
            raise SystemExit(f"{reader} gave {len(digest)} of {names} tensors")
    if len({d.hex() for d in seen.values()}) != 1:
        raise SystemExit("the two streamers differ")
    report(reader="streamers", tensors=names, sha256=seen["runai"].hex())


if __name__ == "__main__":
    main()
