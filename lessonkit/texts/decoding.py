"""Bytes to text: which encoding a file is written in, said and never guessed in silence."""

from __future__ import annotations

import codecs

from lessonkit.errors import DataError

__all__ = ["decode"]

MARKS = (  # the longer first: UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SAMPLE_BYTES = 200_000
WRONG_SHARE = 0.02  # of the non-ASCII bytes: with fewer wrong ones, the file is UTF-8 with damage
USUAL = ("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "shift_jis", "gb18030", "big5", "euc_kr", "koi8_r")
WESTERN = set("àáâãäåæçèéêëìíîïñòóôõöøùúûüýÿßœÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝŒ‘’“”–—…€£«»°§´¡¿•\u00a0")
CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\x1a\x1b"))


def decode(data: bytes, encoding: str | None = None) -> tuple[str, list[str]]:
    """The text of a file, and what was noticed on the way.

    encoding: as you know it; left out, a byte order mark decides, then UTF-8, then charset-normalizer.
    Raises DataError for an unknown encoding, for one that the bytes contradict, and for bytes that are no text.
    """
    if encoding:
        return _as_told(data, encoding), []
    for mark, name in MARKS:
        if data.startswith(mark):
            text, notes = _lenient(data, name)
            return text, (
                [f"Its first bytes say that it is {name.upper()}."] if "8" not in name else []
            ) + notes
    if _looks_like_utf16(data):
        name = "utf-16-be" if data[:2000:2].count(0) > data[1:2000:2].count(0) else "utf-16-le"
        text, notes = _lenient(data, name)
        return text, [f"It is {name.upper()}, without the mark that usually says so.", *notes]
    controls = sum(data[:SAMPLE_BYTES].count(each) for each in CONTROLS)
    if b"\0" in data[:SAMPLE_BYTES] or controls > 0.02 * len(data[:SAMPLE_BYTES]):
        raise DataError(
            "This file is not text.",
            why="it holds bytes that no text has",
            fix="save your texts as CSV, TSV, JSONL, Parquet or Excel, or put .txt files into a folder",
        )
    try:
        return data.decode("utf-8"), []
    except UnicodeDecodeError:
        return _not_utf8(data)


def _as_told(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except LookupError:
        raise DataError(
            f"There is no encoding called {encoding!r}.", fix='try encoding="utf-8" or encoding="cp1252"'
        ) from None
    except UnicodeError as error:
        raise DataError(
            f"The file is not {encoding}.",
            why=str(error).split(":")[0],
            fix="leave encoding out, and it is found out",
        ) from None


def _not_utf8(data: bytes) -> tuple[str, list[str]]:
    outside = sum(each > 127 for each in data[:SAMPLE_BYTES])
    text, notes = _lenient(data, "utf-8")
    if text.count("\ufffd") <= max(1, WRONG_SHARE * outside) and outside > 20:
        return text, notes
    name = _guess(data)
    # cp1252 leaves five bytes undefined; as Latin-1 they are controls, which the checks find
    text, notes = _lenient(data, name)
    how = f'It is not UTF-8; read as {name}. If letters look wrong, say which it is: encoding="cp1250", say.'
    return text, [how, *notes]


def _guess(data: bytes) -> str:
    """Western Windows text if that gives Western letters only: for short texts, a surer sign than statistics."""
    from charset_normalizer import from_bytes

    western = data[:SAMPLE_BYTES].decode("cp1252", errors="replace")
    if all(letter in WESTERN for letter in western if ord(letter) > 127):
        return "cp1252"
    best = from_bytes(data[:SAMPLE_BYTES], cp_isolation=list(USUAL)).best()
    return best.encoding if best is not None else "cp1252"


def _lenient(data: bytes, encoding: str) -> tuple[str, list[str]]:
    """Decoded, with a sign in place of what can't be, and a note that says in which lines."""
    text = data.decode(encoding, errors="replace")
    wrong = [number for number, line in enumerate(text.split("\n"), 1) if "\ufffd" in line]
    if not wrong:
        return text, []
    lines = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
    return text, [
        f"{len(wrong)} lines hold bytes that are not {encoding.upper()}; a \ufffd stands for each: {lines}."
    ]


def _looks_like_utf16(data: bytes) -> bool:
    """Nearly every second byte is 0, as in European text without a byte order mark."""
    head = data[:2000]
    if len(head) < 8 or b"\0" not in head:
        return False
    even, odd = head[::2].count(0), head[1::2].count(0)
    return max(even, odd) > 0.6 * len(head) / 2 and min(even, odd) < 0.1 * len(head) / 2
