"""Run by test_vllm_plugin.py in an environment with vLLM and the plugin: continues prompts of an exported folder.

`python vllm_session.py FOLDER OPTIONS`: reads FOLDER/prompts.json, writes what came of it to FOLDER/results.json. The
prompts are continued twice, so that the second time finds the first's prefixes.
"""

import json
import sys
from pathlib import Path


def main(folder: Path, options: dict[str, object]) -> None:
    from vllm import LLM, SamplingParams

    prompts = json.loads((folder / "prompts.json").read_text())
    model = LLM(str(folder / "export"), trust_remote_code=True, dtype="float32", enforce_eager=True, **options)
    sampling = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, detokenize=False)
    rounds = []
    for _ in range(2):
        answers = model.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling)
        rounds.append([[list(one.outputs[0].token_ids), one.num_cached_tokens] for one in answers])
    (folder / "results.json").write_text(json.dumps(rounds))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
