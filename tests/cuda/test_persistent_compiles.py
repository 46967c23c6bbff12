"""persistent.cu and tagged.cu compiled for real cards, without one: no register is spilled, shared memory has room for the state."""
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_cuda_compiles import CARDS, EVERY_CARD, by_nvrtc, needs_nvcc, needs_nvrtc
from test_persistent import KERNELS, imported

REGISTERS = {64: 120, 192: 240, 320: 216, 576: 208, 640: 224, 704: 240}  # at most; else 255
SHARED = 40 << 10
HIDDEN = range(64, 1025, 64)
# NVRTC, which CuPy uses, compiles some sizes in fp16 for the oldest card or in bf16 for another one; nvcc one size.
# With RNNCORE_EVERY_CARD=1 both compile every size for every card, which takes minutes.


@pytest.fixture(scope="module")
def persistent():
    with imported() as module:
        yield module


def variants(persistent, hidden: int, kernels: str = "persistent"):
    """The options of every kernel that a layer of this size may get, but for the precision."""
    shapes = {persistent.geometry(hidden, n, 132, kernels)[:3] for n in (8, 4096)}
    return [(f"-DHIDDEN={hidden}", f"-DUNITS={units}", f"-DCOLUMNS={columns}") for units, _, columns in sorted(shapes)]


def check(log: str, hidden: int, kernels: int):
    """What ptxas says of registers and memory."""
    spills, registers = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log), re.findall(r"Used (\d+) reg", log)
    assert len(spills) == len(registers) == kernels and set(spills) == {("0", "0")}, log
    assert max(map(int, registers)) <= REGISTERS.get(hidden, 255), log
    assert max(map(int, re.findall(r"(\d+) bytes smem", log))) <= SHARED, log


def check_that_nvcc_compiles(path, hidden: int, options, bf16: bool) -> None:
    cards = [card for card in CARDS if card >= 80 or not bf16]
    flags = [f"-gencode=arch=compute_{card},code=sm_{card}" for card in cards]
    done = subprocess.run(["nvcc", "-std=c++17", "--threads", "2", *flags, *options, f"-DBF16={int(bf16)}", "-Xptxas", "-v", "-c", "-o", "/dev/null", path],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check(done.stderr, hidden, 2 * len(cards))


@needs_nvcc
@pytest.mark.parametrize("bf16", [False, True] if EVERY_CARD else [True])
@pytest.mark.parametrize("hidden", HIDDEN if EVERY_CARD else [320])
@pytest.mark.parametrize("kernels", KERNELS)
def test_nvcc_compiles_it_for_every_card_without_spills(persistent, tmp_path, kernels, hidden, bf16):
    (tmp_path / "kernels.cu").write_text(persistent.CODE[kernels])
    for options in variants(persistent, hidden, kernels):
        check_that_nvcc_compiles(tmp_path / "kernels.cu", hidden, options, bf16)


def test_some_sizes_have_more_than_one_shape(persistent):
    assert [len(variants(persistent, hidden)) for hidden in (128, 512)] == [1, 2]
    assert len(variants(persistent, 128, "tagged")) == 2


SOME = [(kernels, hidden, card) for kernels in KERNELS for hidden in HIDDEN for card in CARDS] if EVERY_CARD else [
    ("persistent", 64, 90), ("persistent", 320, 75), ("persistent", 512, 90), ("persistent", 704, 90), ("persistent", 1024, 75),
    ("tagged", 512, 90), ("tagged", 704, 75)]


@pytest.fixture(scope="module")
def logs(persistent):
    """The log of each compilation for (kernels, hidden, card), two at a time: a compilation by NVRTC takes one core."""
    def compiled(kernels: str, hidden: int, card: int) -> list[str]:
        return [by_nvrtc(persistent.CODE[kernels], (f"-arch=sm_{card}", *options, f"-DBF16={int(card >= 80)}"))
                for options in variants(persistent, hidden, kernels)]

    with ThreadPoolExecutor(2) as pool:
        yield {each: pool.submit(compiled, *each) for each in SOME}
        pool.shutdown(cancel_futures=True)


@needs_nvrtc
@pytest.mark.parametrize(("kernels", "hidden", "card"), SOME)
def test_nvrtc_compiles_it_without_spills(logs, kernels, hidden, card):
    for log in logs[kernels, hidden, card].result():
        check(log, hidden, 2)
