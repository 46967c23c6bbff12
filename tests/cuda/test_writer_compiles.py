"""kernels/cuda/writer.cu compiled for real cards, without one: nvcc shows that nothing spills; NVRTC, as CuPy would, from its pip wheel."""
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_cuda_compiles import CARDS, EVERY_CARD, SPILLS, by_nvrtc, needs_nvcc, needs_nvrtc

from rnncore.kernels.cuda import writer
from rnncore.kernels.cuda.writer import Card, Sizes, options, shape

H200, T4 = Card(132, 232_448), Card(40, 65_536)
SHAPES = {  # the model, the columns, the card whose shape it is
    "3x512": (Sizes(3, 512, 96, 4), 1, H200), "2x128, 64 columns": (Sizes(2, 128, 65, 4), 64, H200),
    "3x512 not kept": (Sizes(3, 512, 96, 4), 64, T4), "double": (Sizes(3, 512, 96, 8), 64, T4)}


def given(name: str) -> tuple[str, ...]:
    sizes, columns, card = SHAPES[name]
    return options(sizes, shape(sizes, columns, card))


def compiled(name: str, folder) -> str:
    """What ptxas says of a shape on every card."""
    path = folder / f"{list(SHAPES).index(name)}.cu"
    path.write_text(writer.text())
    flags = [f"-gencode=arch=compute_{card},code=sm_{card}" for card in CARDS]
    done = subprocess.run(["nvcc", *given(name), *flags, "-Xptxas", "-v", "-c", "-o", path.with_suffix(".o"), path],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@needs_nvcc
def test_nvcc_compiles_every_shape_for_every_card_without_spills(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        for name, said in zip(SHAPES, pool.map(lambda name: compiled(name, tmp_path), SHAPES), strict=True):
            spills = SPILLS.findall(said)
            assert len(spills) >= len(CARDS) and set(spills) == {("0", "0")}, name


@needs_nvrtc
@pytest.mark.parametrize("card, name", [(card, name) for card in CARDS for name in SHAPES] if EVERY_CARD else [
    (75, "double"), (90, "3x512")])
def test_nvrtc_compiles_it_without_spills(card, name):
    spills = SPILLS.findall(by_nvrtc(writer.text(), [f"-arch=sm_{card}", *given(name)]))
    assert spills and set(spills) == {("0", "0")}
