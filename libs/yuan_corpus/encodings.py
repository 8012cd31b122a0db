"""Bytes to text: the encoding that is declared, or the one that the bytes look like.

Nothing is repaired in silence: a byte that has no meaning is reported with its place.
"""

import codecs

from yuan_corpus.errors import TextError


class UndecodableError(TextError):
    """Some bytes have no meaning in their encoding."""


AUTO = "auto"
UTF8 = "utf-8"
SAMPLE_BYTES = 1 << 16
"""What an encoding is detected from; larger samples take seconds and are no surer."""

_MOST_BROKEN = 0.1
"""Of a sample's characters beyond ASCII: a file with a few broken ones is no file of another encoding."""
_OR_SKIP = "inputs.exclude, or what is broken in it with inputs.on_error: skip"
_MARKS = (
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_GUESSES = (("utf-16", "UTF-16"), ("gb18030", "GB18030"), ("big5", "BIG5"), ("shift_jis", "SHIFT_JIS"))
_COMMON_CHARACTERS = frozenset(
    "的一是不了在人有我他这中大来上国和说们为子时道你要就出也得里后自以会家可下而过天去能对小多然于心学么之都好看起发当没成只"
)


def is_wide(encoding: str) -> bool:
    """Tells whether a line end is more than the byte 0x0A, so that bytes cannot be cut into lines."""
    return codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))


def encoding_of(sample: bytes, declared: str, where: object) -> str:
    """Returns the encoding of a file from its first bytes: the declared one, or for `auto` what they look like.

    A byte order mark decides, then zeros as UTF-16 and UTF-32 have them, then whether they are UTF-8, then whether they
    are Chinese in GB18030 (most of its common characters are), but for a few that are broken, then charset-normalizer.

    Raises:
        TextError: if nothing fits.
    """
    if declared != AUTO:
        return declared
    for mark, encoding in _MARKS:
        if sample.startswith(mark):
            return encoding
    if b"\0" in sample and (wide := _wide_of(sample)) is not None:
        return wide
    if _decodes(sample, UTF8) or _broken_share(sample, UTF8) < _MOST_BROKEN:
        return UTF8
    chinese = codecs.getincrementaldecoder("gb18030")("ignore").decode(sample)
    han = [character for character in chinese if "\u4e00" <= character <= "\u9fff"]
    common = bool(han) and sum(map(_COMMON_CHARACTERS.__contains__, han)) >= len(han) * 0.1
    if common and _broken_share(sample, "gb18030") < _MOST_BROKEN:
        return "gb18030"
    from charset_normalizer import from_bytes  # noqa: PLC0415 - services that read no text do without

    best = from_bytes(sample).best()
    if best is None:
        raise TextError(
            f"{where}: its encoding cannot be told from its first {len(sample)} bytes; "
            "name it in inputs.encoding or leave the file out with inputs.exclude"
        )
    return best.encoding


def _wide_of(sample: bytes) -> str | None:
    """Returns UTF-16 or UTF-32 without a mark, where most characters are ASCII's: all their other bytes are zeros."""
    units = max(1, len(sample) // 2)
    zeros = (sample[0::2].count(0) / units, sample[1::2].count(0) / units)
    fours = max(1, len(sample) // 4)
    for encoding, first, second in (("utf-32-le", 2, 3), ("utf-32-be", 0, 1)):
        both = min(sample[first::4].count(0), sample[second::4].count(0)) / fours
        if both > 0.99 and _decodes(sample, encoding):
            return encoding
    for encoding, filled, empty in (("utf-16-le", zeros[0], zeros[1]), ("utf-16-be", zeros[1], zeros[0])):
        if empty > 0.4 and filled < 0.02 and _decodes(sample, encoding):
            return encoding
    return None


def _broken_share(sample: bytes, encoding: str) -> float:
    """Returns which share of what is no ASCII has no meaning in an encoding; a character that the end cuts has one."""
    decoder = codecs.getincrementaldecoder(encoding)
    broken = decoder("replace").decode(sample).count("\ufffd")
    sound = sum(character > "\x7f" for character in decoder("ignore").decode(sample))
    return broken / max(1, broken + sound)


def _decodes(sample: bytes, encoding: str) -> bool:
    """Tells whether bytes are valid; a character that the sample's end cuts is."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(sample, final=False)
    except UnicodeDecodeError:
        return False
    return True


def decode(where: object, start: int, data: bytes, encoding: str = UTF8) -> str:
    """Returns the text of some bytes, without a byte order mark at the file's start.

    Args:
        where: the file, for messages.
        start: the bytes' place in it.
        data: the bytes.
        encoding: as Python names it.

    Raises:
        TextError: if they are not text in that encoding, with the first wrong byte's place.
    """
    if not is_wide(encoding):
        nul = data.find(b"\x00")
        if nul >= 0 and not (encoding == UTF8 and _guess_encoding(data) == "UTF-16"):
            raise UndecodableError(
                f"{where}: byte {start + nul} is NUL, so this is a binary file and no text; "
                f"leave it out with {_OR_SKIP}"
            )
        if start == 0 and encoding == UTF8 and data.startswith(codecs.BOM_UTF8):
            data = data[len(codecs.BOM_UTF8) :]
            start = len(codecs.BOM_UTF8)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        position = error.start
    byte = f"at byte {start + position} (0x{data[position]:02X})"
    if codecs.lookup(encoding).name != UTF8:
        mend = f"name another in inputs.encoding, or leave the file out with {_OR_SKIP}"
        raise UndecodableError(f"{where}: not {encoding} {byte}; {mend}")
    line_end = data.find(b"\n", position)
    line = data[data.rfind(b"\n", 0, position) + 1 : line_end if line_end >= 0 else len(data)]
    guess = _guess_encoding(data if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else line)
    mend = f"convert it (`iconv -f {guess} -t UTF-8`)" if guess else "name its encoding in inputs.encoding"
    raise UndecodableError(f"{where}: not UTF-8 {byte}; {mend}, or leave it out with {_OR_SKIP}")


def _guess_encoding(data: bytes) -> str | None:
    """Returns iconv's name of an encoding that the bytes could be in."""
    for codec, name in _GUESSES:
        if codec == "utf-16" and not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            continue
        if _decodes_whole(data, codec):
            return name
    return None


def _decodes_whole(data: bytes, codec: str) -> bool:
    try:
        data.decode(codec)
    except UnicodeDecodeError:
        return False
    return True
