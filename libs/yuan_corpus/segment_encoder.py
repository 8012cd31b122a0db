"""A BPE model's ids, faster: text is cut where no piece can reach across, and what lies between is looked up.

Why the ids are SentencePiece's own. BPE begins with single characters and joins neighbours whose union is a piece;
which pair is next depends on the pieces' scores and, among equals, on the place. A join across the gap between two
characters a and b makes a piece in which b follows a. Where no piece of the vocabulary has b behind a, none ever
happens, whatever stands around: what is left and right of the gap is encoded as if it were alone. That set of pairs is
read from the vocabulary of each model. Pieces with the score 0 join first and user-defined ones are never taken apart,
but both are pieces as others are, so the argument holds for them. Models for which it does not hold (unigram sums
scores over the whole text, normalization looks at neighbours, without byte pieces unknown characters melt into one)
are refused by `segment_encoder`.

All text of a call is one array of UTF-16 units. Gaps, and the ids of segments of up to 16 units and 4 ids, are found by
numpy for all at once, in tables; longer and new segments take the way of a dictionary. All are bounded: tables that
are full are begun anew; a dictionary that is full, too, but stays as the older one, out of which what is still in use
comes back without being encoded again. Special tokens come in as `marker` characters, which belong to no piece.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from sentencepiece import SentencePieceProcessor

from yuan_corpus.decoding import SPACE
from yuan_corpus.errors import TokenizerError
from yuan_corpus.segment_table import MOST_IDS, UNITS_PER_WORD, Rows, SegmentTable, Words

Ids = npt.NDArray[np.int32]

MOST_MARKERS = 1024
"""How many tokens can come in as markers."""

_MOST_SEGMENTS = 1 << 18
"""Segments that are remembered, and as many older ones: about 60 MB each."""
_LONGEST_REMEMBERED = 64
_WINDOW = 1 << 17
"""Characters that are cut at once: what bounds the memory of arrays."""
_LOOK = 1 << 9
_LONGEST_SEGMENT = 1 << 22
_PAIR_BITS = 22
_SHORT_BITS = 19
_LONG_BITS = 18
_ROW_BYTES = 4 * MOST_IDS
_PADDING = bytes(2 * 16)
# Field 3 of ModelProto (normalizer_spec), in it field 3 (add_dummy_prefix) = false; a later value replaces an earlier.
_WITHOUT_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
_FIRST_MARKER = 0xDC00  # a low surrogate, which no text has without a high one before it
_KIND = 0xFC00  # of a unit: 0xD800 is a high surrogate, 0xDC00 a low one
_PLAIN, _UNKNOWN, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 4, 5, 6  # SentencePiece's types of pieces
_BPE = 2  # its number of the algorithm


def marker(number: int) -> str:
    """Returns the character that stands for the token with a number in `encode`'s `tokens`."""
    return chr(_FIRST_MARKER + number)


def segment_encoder(model: bytes) -> "SegmentEncoder | None":
    """Returns an encoder with the ids of a SentencePiece model, or None where it cannot be proven to have them."""
    # Processes that are given an encoder never need it.
    from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model  # noqa: PLC0415

    proto = cast("Any", sentencepiece_model).ModelProto()
    proto.ParseFromString(model)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    bytes_there = sum(piece.type == _BYTE for piece in proto.pieces)
    if (
        trainer.model_type != _BPE
        or not trainer.byte_fallback
        or bytes_there != 256
        or trainer.treat_whitespace_as_suffix
        or normalizer.precompiled_charsmap
        or normalizer.remove_extra_whitespaces
        or not normalizer.add_dummy_prefix
        or not normalizer.escape_whitespaces
    ):
        return None
    joinable = {
        piece.piece: number
        for number, piece in enumerate(proto.pieces)
        if piece.type in (_PLAIN, _USER_DEFINED, _UNUSED)
    }
    return SegmentEncoder(model, _pair_table(joinable), _single_characters(joinable))


class SegmentEncoder:
    """See the module."""

    def __init__(self, model: bytes, reached: npt.NDArray[np.bool_], single: tuple[Words, Rows]) -> None:
        """Makes an encoder that knows single characters only.

        Args:
            model: of SentencePiece, for which the module's argument holds.
            reached: of `_pair_table`: the pairs of characters that a piece can reach across.
            single: of `_single_characters`. Chinese falls into them, so they are known from the beginning.
        """
        self._model = model
        self._processor = SentencePieceProcessor()
        self._processor.load_from_serialized_proto(model + _WITHOUT_DUMMY_PREFIX)
        self._joined = reached
        self._single = single
        self._known: dict[bytes, bytes] = {}
        self._older: dict[bytes, bytes] = {}
        self._begin_tables()

    def __reduce__(self) -> tuple[Any, ...]:
        """Is pickled with what it read from the vocabulary, and without what it remembers of texts."""
        return _unpickled, (self._model, np.packbits(self._joined), self._single)

    def _begin_tables(self) -> None:
        self._short = SegmentTable(2, _SHORT_BITS)
        self._long = SegmentTable(4, _LONG_BITS)
        units, ids = self._single
        self._short.add([units, np.zeros_like(units)], ids)

    def encode(self, text: str, tokens: Sequence[int], space_ids: Sequence[int] | None = None) -> Ids:
        """Returns the ids of a text in which the dummy prefixes stand as spaces already.

        Args:
            text: characters that `marker` made for tokens, and text between them, without any surrogate.
            tokens: ids by the markers' numbers.
            space_ids: of the character U+2581, which is no space then; None: it is one.

        Returns:
            int32 ids of text and tokens, in order.
        """
        if space_ids is None:
            text = text.replace(SPACE, " ")
        parts = [self._encode(part, tokens, space_ids) for part in self._windows(text)]
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.int32), *parts])

    def _windows(self, text: str) -> Iterator[str]:
        """Yields parts of a text of a bounded size, cut at a gap, the last one rest."""
        begin = 0
        while len(text) - begin > _WINDOW:
            end = begin + _WINDOW
            while end < len(text):
                look = text[max(begin, end - _LOOK) : end]
                starts, _ = self._segments(np.frombuffer(look.encode("utf-16-le", "surrogatepass"), "<u2"))
                if len(starts) > 1:
                    # From the back, since units are not characters: the last segment begins where the next part does.
                    last = look.encode("utf-16-le", "surrogatepass")[2 * int(starts[-1]) :]
                    end -= len(last.decode("utf-16-le", "surrogatepass"))
                    break
                end += _LOOK
                if end - begin > _LONGEST_SEGMENT:
                    raise TokenizerError(
                        f"more than {_LONGEST_SEGMENT:,} characters at a stretch in which every two neighbours stand "
                        f"in some piece ({text[begin : begin + 20]!r}…): no text, and more than memory has room for"
                    )
            yield text[begin:end]
            begin = end
        if begin < len(text):
            yield text[begin:]

    def _encode(self, text: str, tokens: Sequence[int], space_ids: Sequence[int] | None) -> Ids:
        if len(self._known) > _MOST_SEGMENTS:
            self._older, self._known = self._known, {}
        if self._short.full or self._long.full:
            self._begin_tables()
        data = text.encode("utf-16-le", "surrogatepass") + _PADDING
        count = (len(data) - len(_PADDING)) // 2
        starts, lengths = self._segments(np.frombuffer(data, "<u2", count))
        # The four units from each on; laid out once, or every look at them would do it.
        words = np.ndarray((len(data) // 2 - UNITS_PER_WORD + 1,), "<u8", data, strides=(2,)).copy()
        if "\0" in text:  # which a key would take for nothing
            zero = np.logical_or.reduceat(np.frombuffer(data, "<u2", count) == 0, starts)
            keyed = np.where(zero, _LONGEST_SEGMENT, lengths)
        else:
            keyed = lengths
        ids, hit = self._short.find(self._short.keys(words, starts, keyed))
        missing = np.flatnonzero(~hit | (keyed > self._short.units))
        if len(missing):
            longer, hit = self._long.find(self._long.keys(words, starts.take(missing), keyed.take(missing)))
            ids[missing] = longer
            missing = missing.compress(~hit | (keyed.take(missing) > self._long.units))
        if not len(missing):
            return _joined(ids)
        begin, end = starts.take(missing), (starts + lengths).take(missing)
        segments = [data[2 * a : 2 * b] for a, b in zip(begin.tolist(), end.tolist(), strict=True)]
        found = self._look_up(segments, tokens, space_ids)
        many = {row: ids_of for row, ids_of in zip(missing.tolist(), found, strict=True) if len(ids_of) > _ROW_BYTES}
        few = [bytes(_ROW_BYTES) if len(ids_of) > _ROW_BYTES else ids_of for ids_of in found] if many else found
        ids[missing] = np.frombuffer(b"".join(few), "<u4").reshape(-1, MOST_IDS)
        self._remember(words, missing, starts, keyed, ids)
        return _with_longer(ids, many) if many else _joined(ids)

    def _segments(self, units: npt.NDArray[np.uint16]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Returns where segments begin, and how many units each has."""
        pairs = np.ndarray((len(units) - 1,), "<u4", units.data, strides=(2,))
        cut = ~self._joined[_pair_slots(pairs)]
        kinds = units & _KIND
        lows = np.flatnonzero(kinds == _FIRST_MARKER)
        highs = np.flatnonzero(kinds == 0xD800)
        cut[highs[highs < len(cut)]] = False
        if len(highs):
            lows = lows[(lows == 0) | (kinds[lows - 1] != 0xD800)]
        for alone in (lows, np.flatnonzero(units == ord(SPACE))):
            cut[alone[alone > 0] - 1] = True
            cut[alone[alone < len(cut)]] = True
        starts = np.concatenate([np.zeros(1, np.int64), np.flatnonzero(cut) + 1])
        return starts, np.diff(starts, append=len(units))

    def _look_up(
        self, segments: Sequence[bytes], tokens: Sequence[int], space_ids: Sequence[int] | None
    ) -> list[bytes]:
        """Returns the ids of segments, uint32, each plus one, as bytes: padded with zeros to a row, or longer."""
        found = list(map(self._known.get, segments))
        fresh: dict[bytes, bytes] = {}
        if None in found:
            fresh = dict.fromkeys(segment for segment, known in zip(segments, found, strict=True) if known is None)  # pyright: ignore[reportAssignmentType]
            texts: list[str] = []
            plain: list[bytes] = []
            for segment in fresh:
                if (older := self._older.get(segment)) is not None:
                    fresh[segment] = older
                    continue
                text = segment.decode("utf-16-le", "surrogatepass")
                if len(text) == 1 and _FIRST_MARKER <= ord(text) < _FIRST_MARKER + MOST_MARKERS:
                    fresh[segment] = _row([tokens[ord(text) - _FIRST_MARKER]])
                elif text == SPACE:
                    fresh[segment] = _row(space_ids or [])
                else:
                    texts.append(text)
                    plain.append(segment)
            encoded = self._processor.encode(texts, num_threads=1)
            every = (np.fromiter(chain.from_iterable(encoded), np.uint32) + np.uint32(1)).astype("<u4").tobytes()
            begin = 0
            for segment, ids in zip(plain, encoded, strict=True):
                end = begin + 4 * len(ids)
                fresh[segment] = every[begin:end].ljust(_ROW_BYTES, b"\0")
                begin = end
            found = [fresh[segment] if known is None else known for segment, known in zip(segments, found, strict=True)]
            self._known.update(
                (segment, ids) for segment, ids in fresh.items() if len(segment) <= 2 * _LONGEST_REMEMBERED
            )
        return cast("list[bytes]", found)

    def _remember(
        self,
        words: Words,
        missing: npt.NDArray[np.int64],
        starts: npt.NDArray[np.int64],
        keyed: npt.NDArray[np.int64],
        ids: Rows,
    ) -> None:
        """Puts segments that were looked up into the first table that has room for them."""
        # None at all, or more than a row has, has no row.
        left = missing.compress((ids[missing, 0] != 0) & (keyed.take(missing) <= self._long.units))
        for table in (self._short, self._long):
            fits = keyed.take(left) <= table.units
            fitting = left.compress(fits)
            fits[fits] = table.add(
                table.keys(words, starts.take(fitting), keyed.take(fitting)), ids.take(fitting, axis=0)
            )
            left = left.compress(~fits)


def _row(ids: Sequence[int]) -> bytes:
    return (np.array(ids, "<u4") + np.uint32(1)).tobytes().ljust(_ROW_BYTES, b"\0")


def _joined(ids: Rows) -> Ids:
    """Returns the ids of all segments, given plus one."""
    every = ids.ravel()
    return (every.compress(every != 0) - np.uint32(1)).view(np.int32)


def _with_longer(ids: Rows, many: Mapping[int, bytes]) -> Ids:
    """Returns the ids of all segments, some of which have more than a row holds: these by their rows' numbers."""
    short = _joined(ids)
    # A byte a flag: the product's highest byte is the sum of all four.
    counts = (ids != 0).view("<u4").ravel() * np.uint32(0x01010101) >> np.uint32(24)
    before = np.cumsum(counts, dtype=np.int64).take(list(many)).tolist()
    parts: list[Ids] = []
    begin = 0
    for place, more in zip(before, many.values(), strict=True):
        own = np.frombuffer(more, "<u4")
        parts += [short[begin:place], (own.compress(own != 0) - np.uint32(1)).view(np.int32)]
        begin = place
    return np.concatenate([*parts, short[begin:]])


def _unpickled(model: bytes, packed: npt.NDArray[np.uint8], single: tuple[Words, Rows]) -> SegmentEncoder:
    return SegmentEncoder(model, np.unpackbits(packed).view(bool), single)


def _single_characters(pieces: Mapping[str, int]) -> tuple[Words, Rows]:
    """Returns the pieces that are one UTF-16 unit, and their ids plus one as rows of a table."""
    found = {piece.replace(SPACE, " "): token for piece, token in pieces.items() if len(piece) == 1}
    found = {piece: token for piece, token in found.items() if "\0" < piece <= "\uffff"}
    ids = np.zeros((len(found), MOST_IDS), np.uint32)
    ids[:, 0] = [token + 1 for token in found.values()]
    return np.array([*map(ord, found)], np.uint64), ids


def _pair_table(pieces: Iterable[str]) -> npt.NDArray[np.bool_]:
    """Returns a table by hash of which pairs of units follow one another in a piece.

    A pair that shares its hash with one of these counts as one, which costs a gap and no truth.
    """
    text = "\0".join(piece.replace(SPACE, " ") for piece in pieces if len(piece) > 1)
    units = np.frombuffer(text.encode("utf-16-le"), "<u2")
    table = np.zeros(1 << _PAIR_BITS, bool)
    if len(units) > 1:
        pairs = units[:-1].astype(np.uint32) | units[1:].astype(np.uint32) << np.uint32(16)
        table[_pair_slots(pairs[(units[:-1] != 0) & (units[1:] != 0)])] = True
    return table


def _pair_slots(pairs: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    return (pairs * np.uint32(0x9E3779B1)) >> np.uint32(32 - _PAIR_BITS)
