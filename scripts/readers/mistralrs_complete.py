"""mistral.rs (candle, shared mappings): greedy completions of two prompts."""
import os

from common import PROMPTS, directory, report

os.environ["HF_HUB_OFFLINE"] = "1"

from mistralrs import Architecture, CompletionRequest, Runner, Which  # noqa: E402


def main():
    runner = Runner(which=Which.Plain(model_id=str(directory()), arch=Architecture.Llama))
    texts = []
    for prompt in PROMPTS:
        request = CompletionRequest(prompt=prompt, model="default", max_tokens=40, temperature=0.0, ignore_eos=True)
        texts.append(runner.send_completion_request(request).choices[0].text)
    if not all(texts):
        raise SystemExit("an empty completion")
    report(reader="mistralrs", prompts=PROMPTS, texts=texts)


if __name__ == "__main__":
    main()
