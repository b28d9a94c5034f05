"""vLLM on the CPU: greedy completions, by the default loader and by the one that reads ahead."""
import os

os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1", HF_HUB_OFFLINE="1",
                  VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1", VLLM_HOST_IP="127.0.0.1", GLOO_SOCKET_IFNAME="lo")

from vllm import LLM, SamplingParams  # noqa: E402

from common import PROMPTS, directory, report  # noqa: E402


def main():
    root, texts = str(directory()), {}
    for strategy in ("lazy", "prefetch"):
        engine = LLM(model=root, dtype="bfloat16", max_model_len=256, enforce_eager=True, seed=1,
                     safetensors_load_strategy=strategy)
        greedy = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
        texts[strategy] = [r.outputs[0].text for r in engine.generate(PROMPTS, greedy)]
        if not all(texts[strategy]):
            raise SystemExit("an empty completion")
        del engine
    if texts["lazy"] != texts["prefetch"]:
        raise SystemExit(f"the two ways to load differ: {texts}")
    report(reader="vllm", prompts=PROMPTS, texts=texts["lazy"])


if __name__ == "__main__":
    main()
