"""The original's tokenizer: ids, splitting and decoding as its reference implementation has them."""

import json
from pathlib import Path
from typing import Any

import pytest

from yuan_corpus import Decoding, Tokenizer


@pytest.fixture(scope="module")
def yuan(shared: Path) -> Tokenizer:
    return Tokenizer.load(shared / "data" / "yuan-tokenizer")


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "data" / "golden" / "yuan_tokenizer_and_fim.json").read_text(encoding="utf-8"))


def test_special_tokens_have_the_originals_ids_and_the_missing_five_are_appended(
    yuan: Tokenizer, golden: dict[str, Any]
) -> None:
    # "</s>" and "<n>" are pieces that do not split text.
    assert yuan.special_ids == {
        string: token for string, token in golden["special_ids"].items() if string not in {"</s>", "<n>"}
    }
    assert (yuan.piece_count, yuan.vocab_size) == (golden["vocab_size"], golden["len"])
    assert (yuan.eod_id, yuan.sep_id, yuan.pad_id) == (77185, 77187, 77188)


def test_golden_texts_have_the_originals_ids(yuan: Tokenizer, golden: dict[str, Any]) -> None:
    for case in golden["encodings"]:
        assert yuan.encode(case["text"]) == case["ids"], case["text"]
        assert [yuan.piece(token) for token in case["ids"]] == case["tokens"]


def test_golden_ids_decode_to_the_originals_text_with_its_stray_spaces(yuan: Tokenizer, golden: dict[str, Any]) -> None:
    for case in golden["encodings"]:
        assert yuan.decode(case["ids"]) == case["decoded"], case["text"]


def test_exact_decoding_gives_the_text_itself(yuan: Tokenizer, golden: dict[str, Any]) -> None:
    for case in golden["encodings"]:
        assert yuan.decode(case["ids"], Decoding.EXACT) == case["text"]


def test_tokens_appended_to_the_model_decode_with_spaces_around_them(yuan: Tokenizer) -> None:
    assert yuan.decode(yuan.encode("前<FIM_MIDDLE>后<mask>")) == "前 <FIM_MIDDLE> 后 <mask>"


def test_streaming_chinese_gives_whole_characters(yuan: Tokenizer) -> None:
    decoder = yuan.stream_decoder()
    text = "详细分析并求解：１２３🙂<sep>答案"
    pieces = [decoder.push(token) for token in yuan.encode(text)]

    assert "".join(pieces) + decoder.finish() == text
    assert not any("\ufffd" in piece for piece in pieces)
