"""The reader piece by piece: wherever a text is cut, it is what the whole would be; and 2,000 spoilt files."""
import gzip
import io
import random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from rnncore.data import content, sources, spool, text
from rnncore.data.decode import CorpusError, decoded
from rnncore.data.guess import HEAD
from rnncore.data.spool import Spool
from rnncore.data.endings import joined
from rnncore.data.text import Reading, Tally, lowered, read, steps
from rnncore.data.vocab import Vocab

quick = settings(derandomize=True, deadline=None, max_examples=40)
TEXT = "Où ça ?\r\nИдти ΟΔΟΣ ΣΑΣ.\rİ日本語😀\ufeff\r\n\ufeffend\r"


def cut(raw: bytes, size: int):
    return (raw[start:start + size] for start in range(0, len(raw), size))


def whole(text: str, newline: str, lower: bool) -> str:
    """What becomes of a file's text, in one go."""
    text = text.replace("\ufeff", "")
    text = text.replace("\r\n", "\n").replace("\r", "\n") if newline == "lf" else text
    return text.lower() if lower else text


@quick
@given(st.text(st.sampled_from("aΣ \r\n\ufeffé日😀")), st.integers(1, 9), st.sampled_from(["lf", "keep"]), st.booleans())
def test_the_steps_do_not_see_where_a_text_is_cut(text, size, newline, lower):
    for encoding in "utf-8", "utf-16-le", "utf-32-be":
        file = sources.File("a", 0, encoding, cut(text.encode(encoding), size))
        tally = Tally([0])
        try:
            found = "".join(steps(file, Reading(newline=newline, lower=lower), tally))
        except CorpusError:  # of a few symbols, another encoding may look the likelier
            assert encoding != "utf-8"
            continue
        assert found == whole(text, newline, lower) and tally.marks == text.count("\ufeff")
        plain = text.replace("\ufeff", "")
        assert newline == "keep" or (tally.crlf, tally.cr) == (plain.count("\r\n"), plain.count("\r") - plain.count("\r\n"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gb18030", "utf-7", "hz"])
def test_every_codec_decodes_piece_by_piece_what_it_does_as_a_whole(encoding):
    raw = ("plain words " * 5 + "日本語, où 漢字\n").encode(encoding, "ignore")
    for size in (1, 2, 3, 5, 7, 100):
        assert "".join(decoded([raw[:4], *cut(raw[4:], size)], encoding, "a")) == raw.decode(encoding)


@quick
@given(st.binary(max_size=40), st.sampled_from(["utf-8", "utf-8-sig", "utf-16-le", "gb18030", "shift_jis", "cp1252", "euc_kr"]),
       st.integers(1, 9))
def test_an_offset_is_that_of_the_whole_file(raw, encoding, size):
    """Wherever a file is cut, the byte and the offset of its refusal are those that Python names for it as a whole."""
    try:
        raw.decode(encoding)
        return
    except UnicodeDecodeError as error:
        at = error.start + len(raw) - len(error.object)
    with pytest.raises(CorpusError) as caught:
        list(decoded(cut(raw, size), encoding, "a"))
    assert f"a: byte 0x{raw[at]:02x} at offset {at} is not" in str(caught.value)


def test_a_fault_far_from_the_start_is_judged_by_what_lies_around_it(monkeypatch, tmp_path):
    monkeypatch.setattr(content, "CHUNK", 8192)
    path = tmp_path / "a.txt"
    plain = b"plain words\n" * 10_000
    for tail, likely in (("été", "Latin-1: add --encoding latin-1"), ("“so”", "CP1252: add --encoding cp1252")):
        path.write_bytes(plain + tail.encode("cp1252"))
        with pytest.raises(CorpusError, match=rf"at offset {len(plain) + (tail[0] != 'é') * 0} is not UTF-8; .* {likely}"):
            read([str(path)])
    path.write_bytes(plain + "où ça été\n".encode() * 100 + plain + b"\xe9" + plain)
    with pytest.raises(CorpusError, match="the rest of the file looks like UTF-8: mend it there"):
        read([str(path)])


def test_a_nul_in_mid_file_and_utf16_after_a_plain_head(monkeypatch, tmp_path):
    monkeypatch.setattr(content, "CHUNK", 8192)
    path = tmp_path / "a.txt"
    path.write_bytes(b"plain words\n" * 1000 + b"\0" + b"more\n" * 3000)
    assert read([str(path)]).text.count("\0") == 1
    path.write_bytes(("日本" * 10_000 + "ab cd\n").encode("utf-16-le"))
    assert read([str(path)], encoding="utf-16-le").text.endswith("ab cd\n")


def test_lower_case_of_a_word_without_end(monkeypatch):
    assert "".join(lowered(["ΑΒ", "Σ ΣΑ", "Σ", "Χ ΟΔΟ", "Σ"])) == "ΑΒΣ ΣΑΣΧ ΟΔΟΣ".lower()
    monkeypatch.setattr(text, "WORD", 150)
    assert list(filter(None, lowered(["X" * 100] * 5))) == ["x" * 200, "x" * 200, "x" * 100]


def test_files_are_joined_without_being_held():
    assert "".join(joined([["a", "b"], [], ["", "c\n"], ["d\r"], [""], ["e"]])) == "ab\nc\nd\re"


# The ids

@pytest.mark.parametrize("limit", [0, 100, 1 << 20])
def test_ids_are_the_same_in_memory_and_in_a_file(monkeypatch, tmp_path, limit):
    """With symbols that make the type of the ids grow twice, as 257 and 65,537 of them do."""
    monkeypatch.setattr(spool, "IN_MEMORY", limit)
    monkeypatch.setattr(spool, "CHUNK", 7)
    monkeypatch.setattr(content, "CHUNK", 8192)
    text = "zebra\n" * 3000 + "".join(map(chr, range(0x4e00, 0x4e00 + 300))) + "".join(map(chr, range(0x10000, 0x20001)))
    (tmp_path / "a").write_text(text)
    corpus = read([str(tmp_path / "a")])
    monkeypatch.setattr(spool, "CHUNK", 1 << 20)
    vocab = Vocab.from_text(text)
    assert corpus.vocab == vocab and corpus.ids.dtype == np.uint32 and np.array_equal(corpus.ids, vocab.encode(text))
    assert not corpus.ids.flags.writeable and corpus.text == text and corpus.characters == len(text)
    assert "".join(corpus.symbols()) == text and np.array_equal(corpus.counts, np.bincount(corpus.ids))
    ids, unknown = corpus.encode(Vocab.from_text("zebra\nx"), "skip")
    assert ids.dtype == np.uint8 and len(ids) == 18000 and unknown == len(text) - 18000


def test_a_spool_can_be_added_to_after_it_was_read():
    kept = Spool(np.uint16)
    for part in ([1, 2, 3], [], [60_000]):
        kept.append(np.array(part, np.int64))
        assert sum(map(len, kept.chunks(2))) == kept.length
    assert kept.array().tolist() == [1, 2, 3, 60_000] and kept.counts(60_001)[60_000] == 1
    assert kept.map(np.where(np.arange(60_001) == 2, -1, 5), np.uint8).array().tolist() == [5, 5, 5]
    assert Spool(np.uint8).array().shape == (0,)


# Spoilt files

ENCODINGS = "utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1251", "shift_jis", "gb18030"


def spoil(raw: bytes, rng: random.Random) -> bytes:
    """The file with something done to it."""
    at, to = sorted(rng.choices(range(len(raw) + 1), k=2))
    piece = rng.choice([b"\0", b"\0\0\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\r", b"\r\n", b"\n\r\r\n", b"\xc3", b"\xf0\x9f",
                        b"\xed\xa0\x80", b"\x1f\x8b\x08", "é日😀".encode(), rng.randbytes(rng.randint(1, 20))])
    flipped = bytearray(raw)
    for place in rng.choices(range(len(raw)), k=rng.randint(1, 5)) if raw else ():
        flipped[place] ^= 1 << rng.randrange(8)
    return rng.choice([bytes(flipped), raw[:at], raw[at:], raw[:to] + raw[at:], raw[:at] + piece + raw[at:],
                       raw[:at] + piece * rng.randint(2, 50) + raw[to:], raw[::-1], piece + raw])


def test_a_spoilt_file_is_read_or_refused_in_one_line(monkeypatch):
    """800 of them, of every encoding, read as every encoding, in pieces small and large, packed or not."""
    rng, outcomes = random.Random(0), {"read": 0, "refused": 0}
    for k in range(800):
        monkeypatch.setattr(content, "CHUNK", rng.choice([HEAD, 1 << 20]))
        raw = (TEXT * rng.choice([1, 2, 300])).encode(rng.choice(ENCODINGS), "ignore")
        for _ in range(rng.randint(0, 3)):
            raw = spoil(raw, rng)
        packed = rng.random() < .2
        stream = io.BytesIO(raw)
        if packed:
            raw = gzip.compress(raw, 1)
            stream = gzip.GzipFile(fileobj=io.BytesIO(raw if rng.random() < .5 else spoil(raw, rng)))
        how = {"encoding": rng.choice(ENCODINGS), "newline": rng.choice(["lf", "keep"]), "lower": rng.random() < .3}
        how = {"level": "byte"} if rng.random() < .1 else how
        try:
            corpus = read(["-"], stdin=stream, **how)
        except CorpusError as error:
            outcomes["refused"] += 1
            line = str(error)
            assert "\n" not in line and line.isprintable() and line.startswith("stdin") and (": " in line or "; " in line), (k, line)
        else:
            outcomes["read"] += 1
            assert corpus.characters == len(corpus.ids) >= 2 and len(corpus.vocab) >= 2
            if how.get("newline") == "lf":
                assert "\r" not in corpus.vocab
            assert "\ufeff" not in corpus.vocab and int(corpus.ids.max()) == len(corpus.vocab) - 1
    assert min(outcomes.values()) > 128, outcomes
