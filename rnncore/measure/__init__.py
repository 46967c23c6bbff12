"""Measurements of a model on a text: losses, the n-gram baseline, and the gradient check.

    evaluate.py    the loss over a text: `rnncore.score`, and the validation loss of a run
    dynamic.py     the loss while the model goes on learning from the text that it reads (dynamic evaluation)
    ngram.py       the n-gram baseline: the loss that counting n-grams reaches
    gradcheck.py   gradients against finite differences: `rnncore.check_gradients`
"""
