"""Models of parts of a text merged into one: scores by hand, what is left out and added, and how it is reported."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yuan_corpus import Algorithm, TextError, Tokenizer, TokenizerError, VocabularyError
from yuan_corpus.tokenizer_merging import Filters, Merge, count_unreachable, merged_scores, pieces_of, read_model
from yuan_corpus.tokenizer_report import Contender, compare
from yuan_corpus.tokenizer_shards import MergedTokenizer, Recipe, Shard, train_merged_tokenizer
from yuan_events import Progress, RecordingSink


def test_probabilities_are_averaged_by_bytes_and_a_shard_without_the_piece_counts_as_zero() -> None:
    shards = [{"a": math.log(0.5), "b": math.log(0.5)}, {"a": math.log(0.2), "c": math.log(0.8)}]
    merged = merged_scores(shards, [300, 100], Algorithm.UNIGRAM)

    assert {piece: round(math.exp(score), 6) for piece, score in merged.items()} == {"a": 0.425, "b": 0.375, "c": 0.2}
    assert list(merged) == ["a", "b", "c"]


PROBABILITIES = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0.01, 1), min_size=1)


@given(st.lists(st.tuples(PROBABILITIES, st.integers(1, 1000)), min_size=1, max_size=5))
def test_the_merged_probabilities_are_those_of_the_whole_text(shards: list[tuple[dict[str, float], int]]) -> None:
    scores = [{piece: math.log(p / sum(row.values())) for piece, p in row.items()} for row, _ in shards]
    merged = merged_scores(scores, [size for _, size in shards], Algorithm.UNIGRAM)

    assert math.isclose(sum(map(math.exp, merged.values())), 1)
    assert list(merged.values()) == sorted(merged.values(), reverse=True)


@given(st.lists(st.permutations(["t", "h", "e", "th", "the"]), min_size=1, max_size=4), st.data())
def test_merges_stay_behind_their_parts(orders: list[list[str]], data: st.DataObject) -> None:
    # In every shard the parts of `the` come before it, as training makes them; one may end before it.
    shards: list[dict[str, float]] = []
    for order in orders:
        made = sorted(order, key=len)[: data.draw(st.integers(3, 5))]
        shards.append({piece: -float(rank) for rank, piece in enumerate(made)})
    sizes = data.draw(st.lists(st.integers(1, 100), min_size=len(orders), max_size=len(orders)))
    merged = list(merged_scores(shards, sizes, Algorithm.BPE))

    if "the" in merged:
        assert merged.index("th") < merged.index("the")


@pytest.mark.parametrize(
    ("piece", "reason"),
    [
        ("天下大势", None),
        ("▁天下", None),
        ("，“", None),
        ("一二三四五六七八", "max_han"),
        ("一二三四五六七", None),
        ("第1", "letters_and_digits"),
        ("word", "letters_and_digits"),
        ("Б", "letters_and_digits"),
        ("カ", "letters_and_digits"),
        ("√", "keyboard"),
        ("天★", "keyboard"),
        ("+-*/", None),
    ],
)
def test_pieces_are_left_out_by_the_papers_rules(piece: str, reason: str | None) -> None:
    assert Filters(letters_and_digits=True, max_han=7, keyboard=True).reason(piece) == reason
    assert Filters().reason(piece) is None


def test_the_best_are_kept_others_counted_and_added_ones_are_the_rarest() -> None:
    merge = Merge(Algorithm.UNIGRAM, {"天": -1.0, "a": -2.0, "下": -3.0, "▁": -4.0, "大": -5.0})
    merge.keep(Filters(letters_and_digits=True), 2)

    assert merge.scores == {"天": -1.0, "▁": -4.0}  # the space is never left out
    assert (dict(merge.dropped), merge.below_top) == ({"letters_and_digits": 1}, 2)
    merge.add_characters(["天", "势", "力", "气"], 2)
    merge.add_words(["天下", "势", "a word"])
    assert merge.scores == {"天": -1.0, "▁": -4.0, "势": -4.0, "力": -4.0, "天下": -4.0, "a▁word": -4.0}
    assert (merge.added_characters, merge.added_words) == (2, 2)


# --- from text --------------------------------------------------------------------------------------------------


def shards_of(texts: list[str]) -> list[Shard]:
    def reader(text: str) -> Iterable[str]:
        return [text]

    return [Shard(lambda text=text: reader(text), len(text.encode())) for text in texts]


@pytest.fixture(scope="module")
def parts(texts: list[str]) -> list[str]:
    chinese, code = texts[-1] * 3, "\n".join(texts[:-1])
    return [code[: len(code) // 2] + chinese, code[len(code) // 2 :] + chinese[::-1]]


RECIPE = Recipe(
    Algorithm.UNIGRAM, 700, 500, Filters(max_han=3), added_characters=5, added_words=["def __init__", "人工智能"]
)


@pytest.fixture(scope="module")
def merged(parts: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[MergedTokenizer, Path, RecordingSink]:
    folder, sink = tmp_path_factory.mktemp("merged"), RecordingSink()
    return train_merged_tokenizer(shards_of(parts), [], folder, RECIPE, workers=2, sink=sink), folder, sink


def test_a_merged_tokenizer_has_our_special_tokens_and_gives_text_back(
    merged: tuple[MergedTokenizer, Path, RecordingSink], parts: list[str], tokenizer: Tokenizer
) -> None:
    made, folder, sink = merged
    loaded = Tokenizer.load(folder)

    assert loaded.digest == made.tokenizer.digest
    assert sorted(path.name for path in folder.iterdir()) == ["special_tokens.json", "tokenizer.model"]
    assert loaded.special_ids == tokenizer.special_ids
    for text in (*parts, "not seen: ☃ 龘\t<sep>x"):
        assert loaded.decode(loaded.encode(text)) == text
    assert loaded.piece(loaded.encode("人工智能")[-1]) == "人工智能"
    percents = [event.done for event in sink.events if isinstance(event, Progress)]
    assert percents == sorted(percents)
    assert percents[-1] == 100


def test_the_result_does_not_depend_on_how_many_models_are_trained_at_once(
    merged: tuple[MergedTokenizer, Path, RecordingSink], parts: list[str], tmp_path: Path
) -> None:
    assert train_merged_tokenizer(shards_of(parts), [], tmp_path, RECIPE).tokenizer.digest == merged[0].tokenizer.digest


def test_other_tokenizers_give_their_pieces_last(
    merged: tuple[MergedTokenizer, Path, RecordingSink], tokenizer_folder: Path, parts: list[str], tmp_path: Path
) -> None:
    other = (tokenizer_folder / "tokenizer.model").read_bytes()
    made = train_merged_tokenizer(shards_of(parts), [("other", other)], tmp_path, RECIPE)
    before = merged[0].tokenizer
    new = pieces_of(read_model(other, "other")).keys() - set(merged[0].merge.scores)

    assert made.merge.taken_over == {"other": len(new)}
    assert made.tokenizer.vocab_size == before.vocab_size + len(new)
    assert {made.tokenizer.piece(token) for token in range(before.vocab_size, made.tokenizer.vocab_size)} == new
    text = parts[0][:5000]
    assert len(made.tokenizer.encode(text)) < len(before.encode(text))
    with pytest.raises(TokenizerError, match="nothing: not a SentencePiece model"):
        train_merged_tokenizer(shards_of(parts), [("nothing", b"junk")], tmp_path, RECIPE)


def test_merged_bpe_can_make_its_pieces(parts: list[str], tmp_path: Path) -> None:
    made = train_merged_tokenizer(shards_of(parts), [], tmp_path, Recipe(Algorithm.BPE, 540, 500))
    model = (tmp_path / "tokenizer.model").read_bytes()

    assert made.tokenizer.vocab_size == 540
    common = {character for character in set(parts[0]) - set(" \n") if parts[0].count(character) > 50}
    assert common <= set(made.merge.scores)  # no character is left out for a merge
    assert made.unreachable == count_unreachable(model, made.merge.scores) <= 0.05 * len(made.merge.scores)
    assert made.tokenizer.decode(made.tokenizer.encode(parts[0])) == parts[0]


@pytest.mark.parametrize(
    ("texts", "recipe", "error", "words"),
    [
        (
            ["text and more text " * 50, " \n"],
            Recipe(Algorithm.BPE, 300, 280),
            TextError,
            "shard 2 of 2: there is no text",
        ),
        (
            ["text and more text " * 50, "ab"],
            Recipe(Algorithm.BPE, 400, 280),
            VocabularyError,
            r"shard_vocab_size: shard 2 of 2: 280 is more than this text",
        ),
        (
            ["text and more text " * 50],
            Recipe(Algorithm.BPE, 280, 280, added_characters=10),
            VocabularyError,
            "no room",
        ),
    ],
)
def test_what_cannot_be_merged_is_said_with_its_part(
    tmp_path: Path, texts: list[str], recipe: Recipe, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        train_merged_tokenizer(shards_of(texts), [], tmp_path, recipe)
    assert list(tmp_path.iterdir()) == []


# --- the report -------------------------------------------------------------------------------------------------


def test_tokenizers_are_compared_language_by_language(tokenizer: Tokenizer, tmp_path: Path) -> None:
    english = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 5
    chinese = "话说天下大势，分久必合，合久必分。☃" * 5
    found = compare(
        [(english, "a.txt"), (chinese, "b.txt"), ("x = 1\n" * 20, "c.py")], [Contender.of("this", tokenizer)]
    )
    text, measures = found.text, {language: row["this"] for language, row in found.measures.items()}

    assert list(text) == ["all", "en", "zh", "code"]
    assert text["zh"] == {"documents": 1, "bytes": len(chinese.encode()), "words": 14 * 5}
    tokens = tokenizer.encode(chinese)
    snowman_and_rare = sum(map(tokenizer.is_byte, tokens))
    assert measures["zh"].tokens == len(tokens)
    assert measures["zh"].bytes_per_token == round(len(chinese.encode()) / len(tokens), 4)
    assert measures["zh"].fertility == round(len(tokens) / 70, 4)
    assert measures["zh"].unknown_rate == round(snowman_and_rare / len(tokens), 6) > 0
    assert measures["code"].unknown_rate == 0  # line ends are bytes, and no unknown characters
    assert measures["all"].tokens == sum(measures[language].tokens for language in ("en", "zh", "code"))
    found.write(tmp_path, {"merging": {}})
    assert json.loads((tmp_path / "report.json").read_text())["measures"]["en"]["this"]["tokens"] > 0
    plot = (tmp_path / "report.svg").read_text()
    assert plot.startswith("<svg")
    assert all(f">{language}<" in plot for language in text)
