"""Several SentencePiece models made one: scores averaged, pieces left out, added and taken over (paper 3.6).

Unigram. A shard's model is a distribution over its pieces, and a score the logarithm of a probability. The merged
probability of a piece is the mean of its probabilities in the shards, weighted by their bytes of text; in a shard that
lacks it, it is 0. So the result is the distribution of the whole text, of which a shard is a part: a name that is
frequent in one shard of a hundred counts a hundredth. To leave the absent ones out of the mean would rank that name
with pieces that are as frequent everywhere; to average logarithms would let one shard forbid a piece.

BPE. A score is minus the number of the merge; the merged one orders pieces by the mean, weighted alike, of how far a
merge is from the end of its shard's list, 0 where the shard lacks it: as if it came right behind the last. A piece
comes behind its parts in every shard that has it, so merges stay in an order in which they can be made. Single
characters, which SentencePiece lists last though everything is made of them, count as first.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from yuan_corpus import special_tokens
from yuan_corpus.cleaning.scripts import is_han
from yuan_corpus.decoding import SPACE
from yuan_corpus.errors import TokenizerError
from yuan_corpus.special_tokens import SPECIAL_TOKENS

Scores = Mapping[str, float]
"""Pieces and their scores."""

_pb2: Any = sentencepiece_model_pb2  # generated, without types
_PIECE = _pb2.ModelProto.SentencePiece
# What keyboards write: printable ASCII; of Chinese input methods, the punctuation of both widths and a few signs.
_KEYBOARD = frozenset(
    [chr(code) for code in range(0x20, 0x7F)]
    + [chr(code) for code in range(0xFF01, 0xFF5F)]
    + list("\u3000、。〈〉《》「」『』【】〔〕‘’“”—–…·～￥€£¥°×÷±" + SPACE)
)


class Algorithm(StrEnum):
    """SentencePiece's algorithms."""

    UNIGRAM = "unigram"
    BPE = "bpe"


@dataclass(frozen=True)
class Filters:
    """Pieces to leave out.

    Attributes:
        letters_and_digits: those with a digit, or a letter that is no Han character.
        max_han: those with more Han characters than this; None: no bound.
        keyboard: those with a sign (no Han, letter or digit) that is on no keyboard of English or Chinese.
    """

    letters_and_digits: bool = False
    max_han: int | None = None
    keyboard: bool = False

    def reason(self, piece: str) -> str | None:
        """Returns why a piece is left out, None if it is not."""
        han = sum(map(is_han, piece))
        if self.max_han is not None and han > self.max_han:
            return "max_han"
        others = [character for character in piece if not is_han(character)]
        if self.letters_and_digits and any(map(str.isalnum, others)):
            return "letters_and_digits"
        if self.keyboard and any(not other.isalnum() and other not in _KEYBOARD for other in others):
            return "keyboard"
        return None


def read_model(model: bytes, name: str) -> Any:
    """Returns the parsed content of a `tokenizer.model`.

    Raises:
        TokenizerError: if it is none.
    """
    proto = _pb2.ModelProto()
    try:
        proto.ParseFromString(model)
    except Exception as error:  # protobuf's own class differs between its implementations
        raise TokenizerError(f"{name}: not a SentencePiece model") from error
    if not proto.pieces:
        raise TokenizerError(f"{name}: not a SentencePiece model")
    return proto


def pieces_of(proto: Any) -> dict[str, float]:
    """Returns the pieces that text is cut into, best first: no special tokens and no bytes."""
    normal = [piece for piece in proto.pieces if piece.type in (_PIECE.NORMAL, _PIECE.USER_DEFINED)]
    ordered = sorted(normal, key=lambda piece: -piece.score)  # stable: of equal scores the smaller id comes first
    return {piece.piece: piece.score for piece in ordered if piece.piece not in SPECIAL_TOKENS}


def algorithm_of(proto: Any) -> Algorithm:
    """Returns how a model cuts text."""
    return Algorithm.BPE if proto.trainer_spec.model_type == _pb2.TrainerSpec.BPE else Algorithm.UNIGRAM


def merged_scores(shards: Sequence[Scores], weights: Sequence[float], algorithm: Algorithm) -> dict[str, float]:
    """Returns the pieces of all shards with the scores that the module's head describes, best first.

    Args:
        shards: pieces and scores of each.
        weights: bytes of text of each; at least one is positive.
        algorithm: of all shards.
    """
    total = sum(weights)
    means: dict[str, float] = {}
    for scores, weight in zip(shards, weights, strict=True):
        ordered = sorted(scores, key=lambda piece: -scores[piece])
        for rank, piece in enumerate(ordered):
            if algorithm is Algorithm.UNIGRAM:
                value = math.exp(scores[piece])
            else:
                value = float(len(ordered) if len(piece) == 1 else len(ordered) - rank)
            means[piece] = means.get(piece, 0.0) + value * weight / total
    best = sorted(means, key=lambda piece: (-means[piece], piece))
    if algorithm is Algorithm.UNIGRAM:
        return {piece: math.log(means[piece]) for piece in best}
    return {piece: -float(rank) for rank, piece in enumerate(best)}


@dataclass
class Merge:
    """A vocabulary being put together.

    Attributes:
        algorithm: of the result.
        scores: of the pieces so far, best first.
        dropped: how many pieces each filter left out.
        below_top: pieces that passed the filters and were not among the best.
        added_characters: how many were added.
        added_words: how many were added.
        taken_over: of each other tokenizer, how many pieces were new.
    """

    algorithm: Algorithm
    scores: dict[str, float]
    dropped: Counter[str] = field(default_factory=Counter[str])
    below_top: int = 0
    added_characters: int = 0
    added_words: int = 0
    taken_over: dict[str, int] = field(default_factory=dict[str, int])

    def keep(self, filters: Filters, top: int | None) -> None:
        """Leaves out what the filters say, and of the rest all but the `top` best."""
        reasons = {piece: filters.reason(piece) for piece in self.scores if piece != SPACE}
        self.dropped.update(reason for reason in reasons.values() if reason is not None)
        left = [piece for piece in self.scores if reasons.get(piece) is None]
        kept = left[:top]
        if SPACE in self.scores and SPACE not in kept:  # what encoding puts in front of text is never left out
            kept[-1:] = [SPACE]
        self.below_top = len(left) - len(kept)
        self.scores = {piece: self.scores[piece] for piece in kept}

    def add_characters(self, characters: Iterable[str], most: int) -> None:
        """Adds single characters that are no pieces yet, the first ones, as rare as the rarest piece."""
        self.added_characters += self._add((one for one in characters if len(one) == 1), most)

    def add_words(self, words: Iterable[str]) -> None:
        """Adds words that are no pieces yet, as rare as the rarest piece."""
        self.added_words += self._add((word.replace(" ", SPACE) for word in words), None)

    def _add(self, pieces: Iterable[str], most: int | None) -> int:
        lowest = min(self.scores.values(), default=0.0)
        before = len(self.scores)
        for piece in pieces:
            if most is not None and len(self.scores) - before >= most:
                break
            if piece and piece not in self.scores and piece not in SPECIAL_TOKENS:
                step = len(self.scores) - before + 1
                # Of BPE every piece has a place of its own; probabilities may be equal.
                self.scores[piece] = lowest - step if self.algorithm is Algorithm.BPE else lowest
        return len(self.scores) - before

    def take_over(self, name: str, proto: Any) -> None:
        """Adds the pieces of another tokenizer that are none yet.

        Scores of its own kind are taken as they are. A probability is made of a rank by Zipf's law; a rank of
        probabilities by their order.
        """
        others = pieces_of(proto)
        as_it_is = algorithm_of(proto) is Algorithm.UNIGRAM and self.algorithm is Algorithm.UNIGRAM
        harmonic = math.log(max(1, len(others))) + 0.5772
        count = 0
        for rank, (piece, score) in enumerate(others.items()):
            if piece in self.scores:
                continue
            if self.algorithm is Algorithm.BPE:
                self.scores[piece] = -float(rank)
            else:
                self.scores[piece] = score if as_it_is else -math.log((rank + 1) * harmonic)
            count += 1
        self.taken_over[name] = count

    def model(self, template: Any) -> bytes:
        """Returns a model with these pieces.

        Args:
            template: a model of ours, whose special tokens, bytes and rules of splitting are kept.
        """
        proto = _pb2.ModelProto()
        proto.CopyFrom(template)
        del proto.pieces[:]
        proto.pieces.extend(piece for piece in template.pieces if piece.type != _PIECE.NORMAL)
        own = {piece.piece for piece in proto.pieces}
        for piece, score in self.scores.items():
            if piece not in own:
                proto.pieces.add(piece=piece, score=score, type=_PIECE.NORMAL)
        proto.trainer_spec.vocab_size = len(proto.pieces)
        proto.trainer_spec.model_type = (
            _pb2.TrainerSpec.BPE if self.algorithm is Algorithm.BPE else _pb2.TrainerSpec.UNIGRAM
        )
        return proto.SerializeToString(deterministic=True)


def count_unreachable(model: bytes, pieces: Collection[str]) -> int:
    """Returns how many pieces the model never gives, not even for their own text: merges that nothing leads to."""
    proto = read_model(model, "the merged model")
    proto.normalizer_spec.add_dummy_prefix = False
    processor = sentencepiece.SentencePieceProcessor()
    processor.load_from_serialized_proto(proto.SerializeToString())
    return sum(processor.encode(piece.replace(SPACE, " "), out_type=str) != [piece] for piece in pieces)


def special_ids_of(model: bytes) -> dict[str, int]:
    """Returns the ids of the special tokens of a model of ours."""
    processor = sentencepiece.SentencePieceProcessor()
    processor.load_from_serialized_proto(model)
    return {string: int(processor.piece_to_id(string)) for string in special_tokens.SPECIAL_TOKENS}
