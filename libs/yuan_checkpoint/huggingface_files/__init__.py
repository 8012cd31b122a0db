"""What makes an exported Hugging Face folder usable alone: code, tokenizer, generation settings, model card.

`modeling_yuan.py`, `configuration_yuan.py` and `tokenization_yuan.py` are copied into the folder, where `transformers`
runs them (`trust_remote_code=True`). Nothing of ours imports them: they need `transformers`, which this product does
not.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from yuan_checkpoint.files import json_text
from yuan_model import YuanConfig

CODE_FILES = ("configuration_yuan.py", "modeling_yuan.py")
TOKENIZER_CODE_FILE = "tokenization_yuan.py"
_CARD = "model_card.md"
_OLDEST_TRANSFORMERS = "4.56"
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ message['content'] + '<sep>' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + '<eod>' }}"
    "{% else %}{{ raise_exception('Yuan knows the roles user and assistant, not ' + message['role']) }}{% endif %}"
    "{% endfor %}"
)
"""Turns as in Yuan's fine-tuning data: question, `<sep>`, answer, `<eod>`."""


def companion_config(config: YuanConfig) -> dict[str, Any]:
    """Returns the keys that config.json needs so that `transformers` finds the code and computes this network."""
    return {
        "auto_map": {
            "AutoConfig": "configuration_yuan.YuanConfig",
            "AutoModel": "modeling_yuan.YuanModel",
            "AutoModelForCausalLM": "modeling_yuan.YuanForCausalLM",
        },
        # Left out where the published code, which has no such keys, computes the same.
        **({} if config.rope_theta == 10000.0 else {"rope_theta": config.rope_theta}),
        **({} if config.rope_precision == "fp32" else {"rope_precision": config.rope_precision}),
        **({} if config.localized_filtering else {"localized_filtering": False}),
    }


def companion_texts(config: YuanConfig, tokenizer: Path | None = None) -> list[tuple[str, str]]:
    """Returns name and content of the texts that lie beside weights, config.json and `tokenizer.model`.

    Args:
        config: of the network.
        tokenizer: folder with `tokenizer.model`, which the export holds too; None: it has none.

    Raises:
        TokenizerError: if the tokenizer is none.
    """
    names: list[str] = [*CODE_FILES]
    special_ids, size = dict[str, int](), config.vocab_size
    texts: list[tuple[str, str]] = []
    if tokenizer is not None:
        values, size = _tokenizer_config(config, tokenizer)
        special_ids = values["special_ids"]
        names.append(TOKENIZER_CODE_FILE)
        texts.append(("tokenizer_config.json", json_text(values)))
        own_table = tokenizer / "special_tokens.json"
        if own_table.is_file():
            texts.append((own_table.name, own_table.read_text(encoding="utf-8")))
    here = Path(__file__).parent
    texts += [(name, (here / name).read_text(encoding="utf-8")) for name in names]
    card = Template((here / _CARD).read_text(encoding="utf-8")).substitute(_facts(config, special_ids))
    generation = json_text(_generation_config(config, special_ids, size))
    return [*texts, ("generation_config.json", generation), ("README.md", card)]


def _tokenizer_config(config: YuanConfig, folder: Path) -> tuple[dict[str, Any], int]:
    """Returns the content of tokenizer_config.json and how many ids the tokenizer has."""
    from yuan_corpus import Tokenizer  # noqa: PLC0415 - sentencepiece is needed for a tokenizer alone

    tokenizer = Tokenizer.load(folder)
    special = dict(sorted(tokenizer.special_ids.items(), key=lambda item: item[1]))
    values = {
        "tokenizer_class": "YuanTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_yuan.YuanTokenizer", None]},
        "special_ids": special,
        "decoding": tokenizer.decoding.value,
        "eos_token": "<eod>",
        "pad_token": "<pad>" if "<pad>" in special else "<eod>",
        # A string that the text is not split at must not be named: `transformers` would begin to split at it.
        **({"unk_token": "<unk>"} if "<unk>" in special else {}),
        "padding_side": "left",
        "model_max_length": config.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
        **({"chat_template": _CHAT_TEMPLATE} if "<sep>" in special else {}),
    }
    return values, tokenizer.vocab_size


def _generation_config(config: YuanConfig, special_ids: Mapping[str, int], size: int) -> dict[str, Any]:
    # Rows that only pad the embedding stand for no id: they are never taken, as in our engine.
    padding_rows = list(range(size, config.vocab_size))
    suppressed = {"suppress_tokens": padding_rows} if padding_rows else {}
    eod = config.eod_token_id
    if eod is None:
        return {"do_sample": False, **suppressed}
    return {
        "bos_token_id": eod,
        "eos_token_id": eod,
        "pad_token_id": special_ids.get("<pad>", eod),
        "do_sample": False,
        **suppressed,
    }


def _facts(config: YuanConfig, special_ids: Mapping[str, int]) -> dict[str, str]:
    """Returns what the model card says of this model."""
    ends = (
        f"attention ends at document ends (token {config.eod_token_id})"
        if config.attention_reset_at_eod
        else "attention crosses document ends"
    )
    prompt = "问题<sep>" if "<sep>" in special_ids else "import os"
    return {
        "parameters": f"{config.parameter_count():,}",
        "layers": str(config.num_hidden_layers),
        "hidden": str(config.hidden_size),
        "heads": str(config.num_attention_heads),
        "feed_forward": str(config.intermediate_size),
        "vocabulary": str(config.vocab_size),
        "context": str(config.max_position_embeddings),
        "filtering": "yes" if config.localized_filtering else "no",
        "ends": ends,
        "rope": f"base {config.rope_theta:g}, `rope_precision: {config.rope_precision}`",
        "oldest": _OLDEST_TRANSFORMERS,
        "needs": "torch transformers sentencepiece" if special_ids else "torch transformers",
        "usage": _WITH_TOKENIZER.format(prompt=json.dumps(prompt, ensure_ascii=False))
        if special_ids
        else _WITHOUT_TOKENIZER,
        "special": _SPECIAL.format(count=len(special_ids)) if special_ids else "This export has no tokenizer.",
    }


_WITH_TOKENIZER = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "path/to/this/folder"
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype="auto")
batch = tokenizer([{prompt}], return_tensors="pt", padding=True)
print(tokenizer.batch_decode(model.generate(**batch, max_new_tokens=64)))"""

_WITHOUT_TOKENIZER = """\
import torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder", trust_remote_code=True, dtype="auto")
print(model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=64))"""

_SPECIAL = """\
The tokenizer adds neither a first nor a last token and pads on the left. {count} strings stand for one id each wherever
they are in a text: `<eod>` ends a document (it is the end of generation), `<sep>` stands between question and answer;
`tokenizer.apply_chat_template` writes turns that way. They are listed in `tokenizer_config.json`."""
