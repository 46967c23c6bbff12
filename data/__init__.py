"""Text on disk, made into integer ids and batches: text -> vocab -> batches, with corpora for text that has a name.

    text.read(["corpus.txt"])              -> Corpus: one str, its sha256, and what was changed on the way
    vocab.Vocab.from_text(text)            -> Vocab: sorted code points; encode and decode
    batches.Batches(ids, columns, steps)   -> contiguous streams, cut into windows (T, N)
"""
