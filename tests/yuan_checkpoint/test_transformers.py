"""An exported folder is what `transformers` makes of it: our logits, continuations, gradients and ids.

`transformers` lives in environments of its own, made once below pytest's cache folder; torch comes from this one. What
is done there is in transformers_session.py; what it must come to is computed here by our own network and tokenizer.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_models import make_tokenizer, write_text
from tests.yuan_model.conftest import small_model
from torch import Tensor

from yuan_checkpoint import write_hugging_face
from yuan_corpus import Tokenizer
from yuan_model import ModelFolder, Yuan, cross_entropy, generate, load_model

pytestmark = pytest.mark.slow

VERSIONS = ("5.24.0", "4.57.6")
TEXTS = [
    "hello world",
    "你好<sep>world",
    " leading and  double spaces\n\n\ttabs ",
    "<eod><sep><pad>",
    "x<FIM_PREFIX> y <mask>z",
    "▁ is a character, too ▁▁",
    "naïve 🙂 \U0001f9d1\u200d\U0001f680",
    "<s></s><unk>",
    "def f(x):\n    return x ** 2  # 平方\n",
    "",
]


@dataclass(frozen=True)
class Case:
    """A model, what it was asked, and what `transformers` answered."""

    model: Yuan
    tokenizer: Tokenizer | None
    inputs: dict[str, Tensor]
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    folder: Path


@pytest.fixture(scope="module", params=VERSIONS)
def python(request: pytest.FixtureRequest) -> Path:
    """The interpreter of an environment with one version of transformers."""
    home = Path(str(request.config.cache.mkdir(f"transformers-{request.param}")))  # pyright: ignore[reportOptionalMemberAccess]
    interpreter, done = home / "bin" / "python", home / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        command = [interpreter, "-m", "pip", "install", "--quiet", f"transformers=={request.param}"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            pytest.skip(f"pip cannot install transformers {request.param}: {found.stderr.strip().splitlines()[-1]}")
        packages = next(home.glob("lib/python*/site-packages"))
        (packages / "torch_from.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
        done.touch()
    return interpreter


def answers(python: Path, folder: Path, model: Yuan, tokenizer: Path | None) -> Case:
    """Exports a model and has it used."""
    config = model.config
    generator = torch.Generator().manual_seed(3)
    length = min(config.max_position_embeddings - 20, 380)
    ids = torch.randint(0, config.vocab_size, (2, length), generator=generator)
    if config.eod_token_id is not None:
        ids[0, 4] = ids[1, 9] = config.eod_token_id
    batch, mask = ids[:, :14].clone(), torch.ones(2, 14, dtype=torch.int64)
    batch[1, :5], mask[1, :5] = 0 if config.eod_token_id is None else config.eod_token_id, 0
    inputs = {
        "ids": ids,
        "batch": batch,
        "mask": mask,
        "batch_right": batch.roll(-5, 1),
        "mask_right": mask.roll(-5, 1),
    }
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, folder / "inputs.safetensors")
    (folder / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    write_hugging_face(folder / "export", config, model.named_parameters(), tokenizer=tokenizer)
    if tokenizer is not None:
        (folder / "export" / "tokenizer.model").write_bytes((tokenizer / "tokenizer.model").read_bytes())
    session = Path(__file__).with_name("transformers_session.py")
    environment = {"HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    found = subprocess.run([python, session, folder], env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    return Case(
        model,
        None if tokenizer is None else Tokenizer.load(tokenizer),
        inputs,
        load_file(folder / "results.safetensors"),
        json.loads((folder / "results.json").read_text(encoding="utf-8")),
        folder,
    )


def own_tokenizer(folder: Path) -> Path:
    make_tokenizer(folder / "tokenizer", write_text(folder / "text.txt"))
    return folder / "tokenizer"


def small(**changes: object) -> Callable[[Path], tuple[Yuan, Path | None]]:
    return lambda folder: (small_model(**changes), own_tokenizer(folder))


MODELS: dict[str, Callable[[Path], tuple[Yuan, Path | None]]] = {
    # Odd heads: q_proj and k_proj each hold half of one. Long enough for bf16 positions to be rounded.
    "bf16 angles": small(vocab_size=370, rope_precision="bf16", rope_theta=500.0, max_position_embeddings=400),
    "reset": small(vocab_size=360, attention_reset_at_eod=True),
    "no filter": lambda folder: (small_model(localized_filtering=False, eod_token_id=None), None),
}


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("exported")
    return answers(python, folder / "case", *MODELS[request.param](folder))


@pytest.fixture(scope="module")
def published(python: Path, shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The golden model with Yuan's own tokenizer."""
    golden = shared_folder / "golden" / "yuan-hf-tiny"
    tokenizer = shared_folder / "data" / "yuan-tokenizer"
    return answers(python, tmp_path_factory.mktemp("published") / "case", load_model(golden), tokenizer)


@pytest.fixture(scope="module")
def shared_folder() -> Path:
    folder = Path(__file__).resolve().parents[3] / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("the developers' golden files (../shared) are not on this machine")
    return folder


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@torch.inference_mode()
def test_logits_are_ours_however_the_sequence_is_cut(case: Case) -> None:
    expected = case.model(case.inputs["ids"])
    for name in ("logits", "pieces", "eager"):
        assert_close(case.tensors[name], expected)
    assert_close(case.tensors["last_two"], expected[:, -2:])
    hidden = case.model.hidden_states(case.inputs["ids"])
    assert_close(case.tensors["hidden"], hidden)
    assert_close(case.tensors["last_hidden"], hidden)


@torch.inference_mode()
def test_padding_on_either_side_is_as_if_it_were_not_there(case: Case) -> None:
    alone = [case.model(case.inputs["ids"][:1, :14])[0], case.model(case.inputs["batch"][1:, 5:])[0]]
    for name in ("padded", "padded_pieces"):
        assert_close(case.tensors[name][0], alone[0])
        assert_close(case.tensors[name][1, 5:], alone[1])
    assert_close(case.tensors["padded_right"][1, :9], alone[1])
    assert not case.tensors["padded"].isnan().any()
    weights = case.tensors["attention"]  # layers, batch, heads, queries, keys
    assert torch.all(weights[:, 1, :, 5:, :5] == 0)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


def test_a_batch_of_unequal_prompts_is_continued_as_each_alone(case: Case) -> None:
    for row, first in ((0, 0), (1, 5)):
        prompt = case.inputs["batch"][row, first:].tolist()
        padding_rows = None if case.tokenizer is None else case.tokenizer.vocab_size
        expected = list(generate(case.model, prompt, 12, vocabulary=padding_rows))
        assert case.tensors["greedy"][row, 14:].tolist() == expected
    assert torch.equal(case.tensors["greedy_long"], case.tensors["greedy_long_pieces"])


def test_beam_search_with_a_cache_finds_what_it_finds_without(case: Case) -> None:
    assert case.tensors["beams"].shape == (6, 26)
    assert torch.equal(case.tensors["beams"], case.tensors["beams_without_cache"])
    assert len({tuple(beam) for beam in case.tensors["beams"].tolist()}) == 6


def test_what_the_filters_state_cannot_do_is_refused_in_words(case: Case) -> None:
    assisted, static, crop = case.facts["refused"]
    assert "assisted generation is not supported" in assisted
    assert "StaticCache has no place for the localized filter's state; use DynamicCache" in static
    assert "cannot be cropped" in crop


def test_loss_and_gradients_are_ours_and_recomputing_layers_changes_no_bit(case: Case) -> None:
    model, ids = case.model, case.inputs["ids"]
    model.zero_grad()
    loss = cross_entropy(model(ids[:, :-1]), ids[:, 1:])
    loss.backward()
    assert_close(case.tensors["loss_kept"][0], loss.detach())
    assert case.facts["recomputed_layers"] == 2 * model.config.num_hidden_layers
    for name, parameter in model.named_parameters():
        parts = [name.replace("qk_proj", half) for half in ("q_proj", "k_proj")] if "qk_proj" in name else [name]
        assert parameter.grad is not None
        for part, expected in zip(parts, parameter.grad.chunk(len(parts)), strict=True):
            assert_close(case.tensors[f"kept.{part}"], expected)
            assert torch.equal(case.tensors[f"recomputed.{part}"], case.tensors[f"kept.{part}"])


def test_what_save_pretrained_writes_is_the_model_to_us_too(case: Case) -> None:
    assert ModelFolder(case.folder / "saved").config == case.model.config
    ours, saved = dict(case.model.named_parameters()), dict(ModelFolder(case.folder / "saved").tensors())
    assert ours.keys() == saved.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in ours.items())
    assert (case.folder / "saved" / "modeling_yuan.py").is_file()
    assert case.facts["tied"]


@torch.inference_mode()
def test_in_bf16_the_logits_are_as_near_to_exact_ones_as_ours_are(case: Case) -> None:
    exact = case.model(case.inputs["ids"])
    ours = load_model(case.folder / "export", dtype=torch.bfloat16)(case.inputs["ids"]).float()
    theirs = case.tensors["bf16"]
    assert theirs.dtype == torch.bfloat16
    assert (theirs.float() - exact).abs().mean() < 1.2 * (ours - exact).abs().mean()


def check_tokenizer(case: Case) -> None:
    found, ours = case.facts["tokenizer"], case.tokenizer
    assert ours is not None
    assert found["ids"] == [ours.encode(text) for text in TEXTS]
    assert found["ids_again"] == found["ids"]
    assert found["texts"] == [ours.decode(ours.encode(text)) for text in TEXTS]
    assert found["size"] == [ours.piece_count, ours.vocab_size]
    assert found["eos"] == ours.eod_id
    first, second = (ours.encode(text) for text in TEXTS[:2])
    longest = max(len(first), len(second))
    assert found["padded_ids"] == [[ours.pad_id] * (longest - len(ids)) + ids for ids in (first, second)]
    assert found["padding"] == [[0] * (longest - len(ids)) + [1] * len(ids) for ids in (first, second)]
    assert "<eod>" not in found["without_special"]
    assert "\u2047" in found["beyond"]
    assert found["chat"] == "q<sep>a<eod>"


def test_our_own_tokenizers_give_their_ids_and_texts_through_auto_tokenizer(case: Case) -> None:
    if case.tokenizer is None:
        assert "tokenizer" not in case.facts
        assert not (case.folder / "export" / "tokenization_yuan.py").exists()
    else:
        check_tokenizer(case)


def test_the_published_tokenizer_gives_yuans_ids_through_auto_tokenizer(published: Case, shared_folder: Path) -> None:
    check_tokenizer(published)
    golden = json.loads((shared_folder / "data" / "golden" / "yuan_tokenizer_and_fim.json").read_text(encoding="utf-8"))
    assert published.facts["tokenizer"]["size"] == [golden["vocab_size"], golden["len"]]


@torch.inference_mode()
def test_the_golden_model_gives_the_golden_logits(published: Case, shared_folder: Path) -> None:
    assert_close(published.tensors["logits"], published.model(published.inputs["ids"]))
    assert published.facts["eos"] == 300
