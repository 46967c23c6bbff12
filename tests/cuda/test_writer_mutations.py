"""Errors planted in the writer's text must be caught by what test_writer.py compares, or by the emulator itself."""
import itertools
import shutil

import emulate
import pytest
from test_writer import CUT, agree, in_place_of_a_card, loop, over, started, write

from rnncore.config import SampleConfig
from rnncore.kernels.cuda import writer

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")
PLANTED = {
    "a number is not waited for": ("here &= (unsigned)(word >> 32) == tag;", "here &= word != 1;"),
    "one place a word": ("(size_t)(tag & 1) * run.all", "(size_t)0 * run.all"),
    "no barrier after the product": ("            __syncthreads();\n            if (k < LAYERS) cells", "            if (k < LAYERS) cells"),
    "no barrier after h is there": ("width(run, first), x);\n    __syncthreads();", "width(run, first), x);"),
    "no barrier after the draw": ("        }\n    }\n    __syncthreads();\n}\n\n// Take an array", "        }\n    }\n}\n\n// Take an array"),
    "the uniform draw's index": ("uniform(run.start + step,", "uniform(run.start,"),
    "the uniform draw's sample": ("run.sample + run.first + first + c,", "run.sample + first + c,"),
    "the uniform draw's words": ("x[1] << 21 | x[0] >> 11", "x[0] << 21 | x[1] >> 11"),
    "the chunk of what is ahead": ("ahead(work, k - 1, first)", "ahead(work, k - 1, 0)"),
    "the layer of what is ahead": ("first / COLUMNS * LAYERS + k", "first / COLUMNS * LAYERS"),
    "the matrix": ("(2 * k - !recurrent)", "(2 * k - recurrent)"),
    "the mass of top_p": ("sum - here >= top_p", "sum >= top_p"),
    "top_k": ("v >= top_k", "v > top_k"),
    "the order of equals": ("first + v < i", "first + v > i"),
    "h at the end": ("if (last) run.h", "if (!last) run.h"),
    "the state of another column": ("work.cell[(k * run.count + column) * UNITS + u]", "work.cell[k * run.count * UNITS + u]"),
}


def right(text: str, monkeypatch) -> bool:
    """Does this text write what the host writes, with threads in order and with blocks held back?"""
    kernels, seeds = {}, itertools.cycle([0, *range(1, 9)])

    def compiled(options, shared):
        kernel = kernels.setdefault(options, emulate.kernel(text, "writer", options))
        return lambda grid, block, args: kernel(grid, block, args, shared, seed=next(seeds), cooperative=True)
    monkeypatch.setattr(writer, "compiled", compiled)
    in_place_of_a_card(monkeypatch)
    try:
        return all(same(config) for config in 3 * (CUT, SampleConfig(1.0), SampleConfig(1.0, top_k=3)))
    except emulate.Fault:
        return False


def same(config: SampleConfig) -> bool:
    """Does the device write what the host writes? Two groups of columns of two chunks each, two symbols equally likely."""
    wanted = started((11, 3, 13, 3), 11)
    wanted.logits[3] = wanted.logits[4]
    mine = wanted.repeat(1)
    return bool((write(over(mine), config, 6) == loop(wanted, config, 6)).all() and agree(mine, wanted))


def test_every_planted_error_is_caught_and_the_right_text_passes(monkeypatch):
    text = writer.text()
    assert right(text, monkeypatch)
    assert [label for label, (this, _) in PLANTED.items() if text.count(this) != 1] == []
    assert [label for label, (this, that) in PLANTED.items() if right(text.replace(this, that), monkeypatch)] == []
