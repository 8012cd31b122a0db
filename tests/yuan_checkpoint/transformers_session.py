"""Run by test_transformers.py in an environment with `transformers`: what a stranger does with an exported folder.

`python transformers_session.py FOLDER`: loads FOLDER/export and writes FOLDER/results.safetensors and results.json. It
knows nothing of this product.
"""

import json
import pickle
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, DynamicCache


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    inputs = load_file(folder / "inputs.safetensors")
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    export = folder / "export"
    tensors: dict[str, torch.Tensor] = {}
    facts: dict[str, object] = {"config": AutoConfig.from_pretrained(export, trust_remote_code=True).model_type}
    model = AutoModelForCausalLM.from_pretrained(export, trust_remote_code=True).eval()
    facts["tied"] = model.lm_head.weight is model.model.embed_tokens.weight
    facts["eos"] = model.generation_config.eos_token_id
    with torch.no_grad():
        reading(model, inputs, tensors)
        facts["refused"] = generation(model, inputs, tensors)
    facts["recomputed_layers"] = training(model, inputs["ids"], tensors)
    model.save_pretrained(folder / "saved")
    again = AutoModelForCausalLM.from_pretrained(
        folder / "saved", trust_remote_code=True, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        tensors["eager"] = again(inputs["ids"], attention_mask=torch.ones_like(inputs["ids"])).logits
        output = again(inputs["batch"], attention_mask=inputs["mask"], output_attentions=True)
        tensors["attention"] = torch.stack(output.attentions)
        inner = AutoModel.from_pretrained(folder / "saved", trust_remote_code=True).eval()
        tensors["hidden"] = inner(inputs["ids"]).last_hidden_state
        half = AutoModelForCausalLM.from_pretrained(export, trust_remote_code=True, dtype=torch.bfloat16).eval()
        tensors["bf16"] = half(inputs["ids"]).logits
    if (export / "tokenizer_config.json").exists():
        facts["tokenizer"] = tokenizer(export, folder / "saved-tokenizer", texts)
    save_file(
        {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, folder / "results.safetensors"
    )
    (folder / "results.json").write_text(json.dumps(facts), encoding="utf-8")


def reading(model, inputs, tensors) -> None:
    ids, batch, mask = inputs["ids"], inputs["batch"], inputs["mask"]
    output = model(ids, output_hidden_states=True)
    tensors["logits"] = output.logits
    tensors["last_hidden"] = output.hidden_states[-1]
    tensors["last_two"] = model(ids, logits_to_keep=2).logits
    tensors["padded"] = model(batch, attention_mask=mask).logits
    tensors["padded_right"] = model(inputs["batch_right"], attention_mask=inputs["mask_right"]).logits
    for name, (given, seen) in {"pieces": (ids, torch.ones_like(ids)), "padded_pieces": (batch, mask)}.items():
        cache, found, start = DynamicCache(), [], 0
        for stop in (1, 2, 3, 5, 11, given.shape[1]):
            piece = model(given[:, start:stop], attention_mask=seen[:, :stop], past_key_values=cache, use_cache=True)
            found.append(piece.logits)
            start = stop
        tensors[name] = torch.cat(found, dim=1)


def generation(model, inputs, tensors) -> list[str]:
    batch, mask = inputs["batch"], inputs["mask"]
    plain = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    tensors["greedy"] = model.generate(batch, attention_mask=mask, **plain)
    # Unpadded: version 4 forgets padding in the positions of a prompt that it reads in pieces.
    ids = inputs["ids"][:1]
    for name, chunk in {"greedy_long": None, "greedy_long_pieces": 4}.items():
        tensors[name] = model.generate(ids, attention_mask=torch.ones_like(ids), prefill_chunk_size=chunk, **plain)
    beams = {**plain, "num_beams": 4, "num_return_sequences": 3}
    tensors["beams"] = model.generate(batch, attention_mask=mask, **beams)
    tensors["beams_without_cache"] = model.generate(batch, attention_mask=mask, use_cache=False, **beams)
    refused = []
    for options in ({"assistant_model": model}, {"cache_implementation": "static"}):
        try:
            model.generate(inputs["ids"][:1, :9], **plain, **options)
        except ValueError as error:
            refused.append(str(error))
    cache = DynamicCache()
    model(inputs["ids"], past_key_values=cache)
    try:
        cache.crop(-1)
    except ValueError as error:
        refused.append(str(error))
    return refused


def training(model, ids, tensors) -> int:
    """Returns how often attention was computed with gradient checkpointing."""
    model.train()
    calls: list[int] = []
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(lambda *_: calls.append(1))
    for kind in ("kept", "recomputed"):
        if kind == "recomputed":
            model.gradient_checkpointing_enable()
        model.zero_grad()
        calls.clear()
        loss = model(ids, labels=ids).loss
        loss.backward()
        tensors[f"loss_{kind}"] = loss[None]
        for name, parameter in model.named_parameters():
            tensors[f"{kind}.{name}"] = parameter.grad.clone()
    model.gradient_checkpointing_disable()
    model.eval()
    return len(calls)


def tokenizer(export: Path, saved: Path, texts: list[str]) -> dict[str, object]:
    first = AutoTokenizer.from_pretrained(export, trust_remote_code=True)
    first.save_pretrained(saved)
    again = pickle.loads(pickle.dumps(AutoTokenizer.from_pretrained(saved, trust_remote_code=True)))  # noqa: S301
    ids = [first(text)["input_ids"] for text in texts]
    padded = first(texts[:2], padding=True)
    return {
        "ids": ids,
        "ids_again": [again(text)["input_ids"] for text in texts],
        "tokens": [first.tokenize(text) for text in texts],
        "texts": [first.decode(each) for each in ids],
        "size": [first.vocab_size, len(first)],
        "eos": first.eos_token_id,
        "padded_ids": padded["input_ids"],
        "padding": padded["attention_mask"],
        "without_special": first.decode(first("a<eod>b")["input_ids"], skip_special_tokens=True),
        "beyond": first.decode([len(first) + 5]),
        "chat": first.apply_chat_template(
            [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], tokenize=False
        ),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
