"""Everything between text on disk and training batches: reading, decoding, vocabularies, ids, batches, named corpora.

    text.read(["corpus.txt"])              -> Corpus: vocabulary, ids, sha256, and notes on what reading changed
    vocab.Vocab.from_text(text)            -> Vocab: symbols sorted by code point; encode and decode
    batches.Batches(ids, columns, steps)   -> contiguous streams of ids, cut into windows (T, N)

The other modules serve text.py: sources.py and folders.py find files, content.py reads bytes, decode.py and guess.py
turn them into text, endings.py separates documents, spool.py stores the ids. corpora.py and download.py provide the
named corpora.
"""
