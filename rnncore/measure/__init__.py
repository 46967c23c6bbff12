"""measure is what is found out about a model and a text.

    evaluate.py    loss over a text: `rnncore.score`, and the validation loss of a run
    dynamic.py     loss while the model goes on learning from what it reads (dynamic evaluation)
    ngram.py       the n-gram baseline: loss of counting alone
    gradcheck.py   gradients against finite differences: `rnncore.check_gradients`
"""
