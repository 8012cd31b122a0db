"""A BPE model's ids, faster: text is cut where no piece can reach across, and what lies between is looked up.

Why the ids are SentencePiece's own. BPE begins with single characters and joins neighbours whose union is a piece;
which pair is next depends on the pieces' scores and, among equals, on the place. A join across the gap between two
characters a and b makes a piece in which b follows a. Where no piece of the vocabulary has b behind a, none ever
happens, whatever stands around: what is left and right of the gap is encoded as if it were alone. That set of pairs is
read from the vocabulary of each model. Pieces with the score 0 join first and user-defined ones are never taken apart,
but both are pieces as others are, so the argument holds for them. Models for which it does not hold (unigram sums
scores over the whole text, normalization looks at neighbours, without byte pieces unknown characters melt into one)
are refused by `segment_encoder`.

All text of a call is one array of UTF-16 units. Gaps, and the ids of segments of up to 8 units and 4 ids, are found by
numpy for all at once, in a table; longer and new segments take the way of a dictionary. Both are bounded, and are
begun anew when full. Special tokens come in as `marker` characters, which belong to no piece.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from sentencepiece import SentencePieceProcessor
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model

from yuan_corpus.decoding import SPACE
from yuan_corpus.errors import TokenizerError

Ids = npt.NDArray[np.int32]
Words = npt.NDArray[np.uint64]

MOST_MARKERS = 1024
"""How many tokens can come in as markers."""

_MOST_SEGMENTS = 1 << 18
"""Segments that are remembered: about 60 MB."""
_LONGEST_REMEMBERED = 64
_WINDOW = 1 << 17
"""Characters that are cut at once: what bounds the memory of arrays."""
_LOOK = 1 << 9
_LONGEST_SEGMENT = 1 << 22
_PAIR_BITS = 22
_SLOT_BITS = 19
_KEY_UNITS = 8
_HALF = 4
_PADDING = bytes(4 * _KEY_UNITS)
# Field 3 of ModelProto (normalizer_spec), in it field 3 (add_dummy_prefix) = false; a later value replaces an earlier.
_WITHOUT_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
_FIRST_MARKER = 0xDC00  # a low surrogate, which no text has without a high one before it
_KIND = 0xFC00  # of a unit: 0xD800 is a high surrogate, 0xDC00 a low one
_MASKS = np.array([(1 << 16 * units) - 1 for units in range(_HALF + 1)], np.uint64)
_LOW_MASKS = _MASKS[[0, 1, 2, 3, 4, 4, 4, 4, 4]]
_HIGH_MASKS = _MASKS[[0, 0, 0, 0, 0, 1, 2, 3, 4]]
_PLAIN, _UNKNOWN, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 4, 5, 6  # SentencePiece's types of pieces
_BPE = 2  # its number of the algorithm


def marker(number: int) -> str:
    """Returns the character that stands for the token with a number in `encode`'s `tokens`."""
    return chr(_FIRST_MARKER + number)


def segment_encoder(model: bytes) -> "SegmentEncoder | None":
    """Returns an encoder with the ids of a SentencePiece model, or None where it cannot be proven to have them."""
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
    return SegmentEncoder(model, joinable)


class SegmentEncoder:
    """See the module."""

    def __init__(self, model: bytes, pieces: Mapping[str, int]) -> None:
        """Reads the pairs of characters that a piece can reach across.

        Args:
            model: of SentencePiece, for which the module's argument holds.
            pieces: all that joining can come to, with their ids.
        """
        self._processor = SentencePieceProcessor()
        self._processor.load_from_serialized_proto(model + _WITHOUT_DUMMY_PREFIX)
        self._joined = _pair_table(pieces)
        # Chinese falls into single characters, nearly all of which are pieces: these are known from the beginning.
        single = {piece.replace(SPACE, " "): token for piece, token in pieces.items() if len(piece) == 1}
        single = {piece: token for piece, token in single.items() if "\0" < piece <= "\uffff"}
        self._single = np.array([*map(ord, single)], np.uint64), np.array([*single.values()], np.uint64)
        self._forget()

    def _forget(self) -> None:
        self._known: dict[bytes, bytes] = {}
        # A row: 8 units of a segment in two words, its up to 4 ids in two more, each plus one, 0 where there is none.
        self._table = np.zeros((1 << _SLOT_BITS, 4), np.uint64)
        units, ids = self._single
        none = np.zeros_like(units)
        self._table[_slots(units, none)[0]] = np.column_stack([units, none, ids + np.uint64(1), none])

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
            self._forget()
        data = text.encode("utf-16-le", "surrogatepass") + _PADDING
        starts, lengths = self._segments(np.frombuffer(data, "<u2", len(data) // 2 - 2 * _KEY_UNITS))
        units = len(data) // 2 - 2 * _KEY_UNITS
        usable = lengths <= _KEY_UNITS
        if "\0" in text:  # which a key would take for nothing
            usable &= ~np.logical_or.reduceat(np.frombuffer(data, "<u2", units) == 0, starts)
        short = np.minimum(lengths, _KEY_UNITS)
        words = np.ndarray((len(data) // 2 - _HALF + 1,), "<u8", data, strides=(2,))
        low = words[starts] & _LOW_MASKS[short]
        high = words[starts + _HALF] & _HIGH_MASKS[short]
        first, second = _slots(low, high)
        rows = self._table[first]
        hit = (rows[:, 0] == low) & (rows[:, 1] == high)
        other = np.flatnonzero(~hit)
        rows_there = self._table[second[other]]
        hit_there = (rows_there[:, 0] == low[other]) & (rows_there[:, 1] == high[other])
        rows[other[hit_there]] = rows_there[hit_there]
        hit[other] = hit_there
        hit &= usable
        missing = np.flatnonzero(~hit)
        ids = np.ascontiguousarray(rows[:, 2:]).view(np.uint32)
        if not len(missing):
            return (ids[ids != 0] - np.uint32(1)).view(np.int32)
        ids[missing] = 0
        stops = (starts + lengths)[missing]
        segments = [data[2 * a : 2 * b] for a, b in zip(starts[missing].tolist(), stops.tolist(), strict=True)]
        found = self._look_up(segments, tokens, space_ids)
        self._remember(segments, missing, usable, (low, high), (first, second))
        there = ids != 0
        counts = there.sum(axis=1)
        counts[missing] = np.fromiter(map(len, found), np.int64, len(found)) // 4
        late = np.zeros(len(starts), bool)
        late[missing] = True
        late = np.repeat(late, counts)
        result = np.empty(len(late), np.int32)
        result[~late] = (ids[there] - np.uint32(1)).view(np.int32)
        result[late] = np.frombuffer(b"".join(found), "<i4")
        return result

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
        """Returns the ids of segments, int32, as bytes."""
        found = list(map(self._known.get, segments))
        fresh: dict[bytes, bytes] = {}
        if None in found:
            fresh = dict.fromkeys(segment for segment, known in zip(segments, found, strict=True) if known is None)  # pyright: ignore[reportAssignmentType]
            texts: list[str] = []
            plain: list[bytes] = []
            for segment in fresh:
                text = segment.decode("utf-16-le", "surrogatepass")
                if len(text) == 1 and _FIRST_MARKER <= ord(text) < _FIRST_MARKER + MOST_MARKERS:
                    fresh[segment] = np.array([tokens[ord(text) - _FIRST_MARKER]], "<i4").tobytes()
                elif text == SPACE:
                    fresh[segment] = np.array(space_ids, "<i4").tobytes()
                else:
                    texts.append(text)
                    plain.append(segment)
            for segment, ids in zip(plain, self._processor.encode(texts, num_threads=1), strict=True):
                fresh[segment] = np.array(ids, "<i4").tobytes()
            found = [fresh[segment] if known is None else known for segment, known in zip(segments, found, strict=True)]
            self._known.update(
                (segment, ids) for segment, ids in fresh.items() if len(segment) <= 2 * _LONGEST_REMEMBERED
            )
        return cast("list[bytes]", found)

    def _remember(
        self,
        segments: Sequence[bytes],
        missing: npt.NDArray[np.int64],
        usable: npt.NDArray[np.bool_],
        keys: tuple[Words, Words],
        slots: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    ) -> None:
        """Puts short segments that were looked up into the table, each in the first free one of its two slots."""
        rows: dict[bytes, int] = {}
        for segment, row in zip(segments, missing.tolist(), strict=True):
            if len(segment) <= 2 * _KEY_UNITS:
                rows[segment] = row
        known = self._known
        fitting = [(row, known[segment]) for segment, row in rows.items() if 0 < len(known.get(segment, b"")) <= 16]
        if not fitting:
            return
        places = np.array([row for row, _ in fitting])
        sound = usable[places]
        counts = np.array([len(ids) // 4 for _, ids in fitting], np.int64)
        columns = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        packed = np.zeros((len(fitting), 4), np.uint32)
        packed[np.repeat(np.arange(len(fitting)), counts), columns] = np.frombuffer(
            b"".join([ids for _, ids in fitting]), "<u4"
        ) + np.uint32(1)
        places, packed = places[sound], packed[sound].view(np.uint64)
        low, high = keys[0][places], keys[1][places]
        left = np.arange(len(places))
        for choice in slots:
            # Of two that want one slot the last gets it; the other tries its second.
            wanted = choice[places][left]
            free = self._table[wanted, 2] == 0
            rows_of = left[free]
            self._table[wanted[free]] = np.column_stack([low[rows_of], high[rows_of], packed[rows_of]])
            left = left[(self._table[wanted, 0] != low[left]) | (self._table[wanted, 1] != high[left])]


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


def _slots(
    low: npt.NDArray[np.uint64], high: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns two places in the table for each key."""
    mixed = (low * np.uint64(0x9E3779B97F4A7C15)) ^ (high * np.uint64(0xC2B2AE3D27D4EB4F))
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    first = (mixed >> np.uint64(64 - _SLOT_BITS)).view(np.int64)
    second = (mixed >> np.uint64(64 - 2 * _SLOT_BITS) & np.uint64((1 << _SLOT_BITS) - 1)).view(np.int64)
    return first, second
