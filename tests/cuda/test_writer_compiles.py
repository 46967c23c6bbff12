"""kernels/cuda/writer.cu compiled for real cards, without one: nvcc shows that nothing spills; NVRTC, as CuPy would, from its pip wheel."""
import ctypes
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_cuda_compiles import CARDS, EVERY_CARD, nvrtc

from rnncore.kernels.cuda import writer
from rnncore.kernels.cuda.writer import Card, Sizes, options, shape

H200, T4 = Card(132, 232_448), Card(40, 65_536)
SHAPES = {  # the model, the columns, the card whose shape it is
    "double": (Sizes(3, 512, 96, 8), 64, T4)} | ({
    "3x512": (Sizes(3, 512, 96, 4), 1, H200), "2x128, 64 columns": (Sizes(2, 128, 65, 4), 64, H200),
    "3x512 not kept": (Sizes(3, 512, 96, 4), 64, T4)} if EVERY_CARD else {})


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


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on this machine")
def test_nvcc_compiles_every_shape_for_every_card_without_spills(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        for name, said in zip(SHAPES, pool.map(lambda name: compiled(name, tmp_path), SHAPES), strict=True):
            spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
            assert len(spills) >= len(CARDS) and set(spills) == {("0", "0")}, name


@pytest.mark.skipif(nvrtc() is None, reason="NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12")
@pytest.mark.parametrize("card", CARDS if EVERY_CARD else [max(CARDS)])
def test_nvrtc_compiles_it(card):
    library, program = ctypes.CDLL(str(nvrtc())), ctypes.c_void_p()
    assert library.nvrtcCreateProgram(ctypes.byref(program), writer.text().encode(), b"writer.cu", 0, None, None) == 0
    asked = [f"-arch=sm_{card}".encode(), *(option.encode() for option in given("double"))]
    code, size = library.nvrtcCompileProgram(program, len(asked), (ctypes.c_char_p * len(asked))(*asked)), ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert code == 0, log.value.decode()
