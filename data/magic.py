"""Table of the kinds of files that are not text, known by their first bytes, with a name and a remedy for each.

The readers of texts and of models both use it, so that their errors can say what kind of file was given instead.
"""
import re
from typing import NamedTuple

GZIP = b"\x1f\x8b\x08"  # first bytes of a gzipped file; its content is read, so only gzip inside gzip is a kind below
# One slash is enough: pathlib turns the two slashes of an address into one.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/|www\.)\S")
_CURL = "http", "ftp", "www."  # beginnings of addresses that curl can download
_PLAIN = re.compile(rb"[\t-\r\x1b -~]*")  # printable ASCII, white space and ESC

# Remedies.
SAVE = "save it as plain text and name that"
UNPACK = "unpack it and name the files inside"
BYTES = "take it out, or learn its bytes with `rnncore train --level byte`"
INSIDE = "unpack it ({}) and name what is inside"
PICKLE = "take it out; nothing is unpickled here"
MODEL = ("a model goes before the text, as in `rnncore score RUN TEXT`, and `rnncore train TEXT --init-from RUN` goes "
         "on from one")


class Kind(NamedTuple):
    """A kind of file that is not text."""

    name: str  # its name in messages, with the article: "a PDF"
    cure: str  # the remedy in a message to a user who gave such a file as a text


_PDF = Kind("a PDF", "save its text (pdftotext does) and name that")
_ENTRY = rb"PK\x03\x04(?s:.{26})"  # header of an entry in a zip archive, up to the entry's name
# (pattern of the first bytes, kind). The first pattern that matches counts, so the order matters: kinds of zip archives
# come before the plain archive, and models before pickles, since the length at the start of a model may look like one.
_KINDS = (
    (rb"(?s:...)\0\0\0\0\0\{\s*\"", MODEL_FILE := Kind("a model (safetensors)", MODEL)),
    (rb"(?=PK)(?s:.*)" + _ENTRY + rb"word/", Kind("a Word document (docx)", SAVE)),
    (rb"(?=PK)(?s:.*)" + _ENTRY + rb"xl/", Kind("an Excel workbook (xlsx)", SAVE)),
    (rb"(?=PK)(?s:.*)" + _ENTRY + rb"ppt/", Kind("a PowerPoint file (pptx)", SAVE)),
    (_ENTRY + rb"\[Content_Types\]", Kind("an Office document (docx, xlsx or pptx)", SAVE)),
    (_ENTRY + rb"mimetypeapplication/epub", Kind("an e-book (epub)", SAVE)),
    (_ENTRY + rb"mimetypeapplication/vnd\.oasis", Kind("an OpenDocument file (odt, ods or odp)", SAVE)),
    (_ENTRY + rb"[^/\0]*/data\.pkl", Kind("a PyTorch file (a zip archive with a pickle)", PICKLE)),
    (_ENTRY + rb"[^/\0]*\.npy", Kind("a NumPy file (npz)", BYTES)),
    (rb"PK(\x03\x04|\x05\x06|\x07\x08)", Kind("a zip archive", UNPACK)),
    (rb"%PDF-", _PDF),
    (rb"\xfd7zXZ\0", Kind("an xz file", INSIDE.format("xz -dk"))),
    (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", Kind("a bzip2 file", INSIDE.format("bzip2 -dk"))),
    (rb"\x28\xb5\x2f\xfd", Kind("a zstd file", INSIDE.format("zstd -dk"))),
    (rb"\x04\x22\x4d\x18", Kind("an lz4 file", INSIDE.format("lz4 -dk"))),
    (rb"\s*<!doctype html>(?s:.{,2000}?)<title>[^<]* \xe2\x80\x93 rnncore report</title>",
     Kind("a report of rnncore", "name the text that the model learnt")),
    (rb"\x1f[\x9d\xa0]", Kind("a compressed file (.Z)", INSIDE.format("uncompress -k"))),
    (re.escape(GZIP), Kind("gzipped twice", INSIDE.format("gunzip -k"))),
    (rb"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", UNPACK)),
    (rb"Rar!\x1a\x07", Kind("a RAR archive", UNPACK)),
    (rb"(?s:.{257})ustar[\0 ]", Kind("a tar archive", UNPACK)),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Kind("an old Office document (doc, xls or ppt)", SAVE)),
    (rb"\x89PNG\r\n\x1a\n", Kind("a PNG image", BYTES)),
    (rb"\xff\xd8\xff", Kind("a JPEG image", BYTES)),
    (rb"GIF8[79]a", Kind("a GIF image", BYTES)),
    (rb"BM(?s:....)\0\0\0\0", Kind("a BMP image", BYTES)),
    (rb"II\*\0|MM\0\*", Kind("a TIFF image", BYTES)),
    (rb"RIFF(?s:....)WEBP", Kind("a WebP image", BYTES)),
    (rb"RIFF(?s:....)WAVE", Kind("a WAV recording", BYTES)),
    (rb"RIFF(?s:....)AVI ", Kind("an AVI film", BYTES)),
    (rb"MThd\0\0\0\x06", Kind("a MIDI file", BYTES)),
    (rb"ID3[\x02-\x04]|\xff[\xf2\xf3\xfa\xfb][\x10-\xef]", Kind("an MP3 recording", BYTES)),
    (rb"OggS\0", Kind("an Ogg recording", BYTES)),
    (rb"fLaC\0", Kind("a FLAC recording", BYTES)),
    (rb"\0\0\0(?s:.)ftyp", Kind("an MP4 or HEIC file", BYTES)),
    (rb"\x1a\x45\xdf\xa3", Kind("a Matroska or WebM film", BYTES)),
    (rb"\x7fELF|\xcf\xfa\xed\xfe|\xca\xfe\xba\xbe|MZ(?s:.{60})\0\0", Kind("a program", BYTES)),
    (rb"SQLite format 3\0", Kind("an SQLite database", "save its texts as plain text and name that")),
    (rb"PAR1", Kind("a Parquet file", "save its texts as JSON lines, for --documents jsonl")),
    (rb"\x89HDF\r\n\x1a\n", Kind("an HDF5 file", BYTES)),
    (rb"\x93NUMPY", Kind("a NumPy file (npy)", BYTES)),
    (rb"\x80[\x02-\x05](\x95(?s:.{8})|[}\](cX])", Kind("a pickle", PICKLE)),
)
_TABLE = tuple((re.compile(pattern), kind) for pattern, kind in _KINDS)


def kind_of(head: bytes) -> Kind | None:
    """Return the kind of a file with these first bytes (8,192, or the whole file); None for text and unknown kinds.

    A text may begin with the letters of a kind, such as BM. So a file of printable ASCII is text, except for a PDF.
    """
    plain = _PLAIN.fullmatch(head)
    return next((kind for pattern, kind in _TABLE if (kind is _PDF or not plain) and pattern.match(head)), None)


def address(source: str) -> str | None:
    """Return the message for a source that is an address (URL) instead of a path, or None if it is not an address."""
    if source.startswith("file:/"):
        return f"{source} is an address: name the path alone, without file://"
    if not _ADDRESS.match(source):
        return None
    how = f" (curl -LO {source})" if source.lower().startswith(_CURL) else ""
    return f"{source} is an address: download it first{how}, then name the file"
