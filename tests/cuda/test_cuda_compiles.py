"""Every kernel of kernels/cuda/ops.py compiled for real cards, without one: nvcc where it is, else NVRTC from its pip wheel."""
import ctypes
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import cupy_stand_in
import pytest

EVERY_CARD = os.environ.get("RNNCORE_EVERY_CARD") == "1"  # takes minutes
CARDS = (75, 80, 86, 90, 100) if EVERY_CARD else (75, 90)
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
HEADER = """
struct Half {  // CuPy has a type for it, which is in none of our files
    unsigned short bits;
    __device__ Half(float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x)); }
};
template <typename T> struct Array {
    T* data; ptrdiff_t count;
    __device__ ptrdiff_t size() const { return count; }
    __device__ T& operator[](ptrdiff_t at) const { return data[at]; }
};
struct Count { ptrdiff_t n; __device__ ptrdiff_t size() const { return n; } };
"""


def nvrtc() -> Path | None:
    """NVRTC's library in the wheel nvidia-cuda-nvrtc, which needs no driver."""
    for package in ("nvidia.cuda_nvrtc", "nvidia.cu13"):
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        for folder in spec.submodule_search_locations if spec else ():
            for found in sorted(Path(folder).glob("lib/libnvrtc.so.*")):
                return found
    return None


needs_nvrtc = pytest.mark.skipif(nvrtc() is None, reason="NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None or nvrtc() is not None and not EVERY_CARD,
                                reason="no nvcc, or NVRTC does the same: RNNCORE_EVERY_CARD=1 runs both")


def by_nvrtc(text: str, options) -> str:
    """The log of a compilation by NVRTC, which CuPy uses, with ptxas's words."""
    library, program, size = ctypes.CDLL(str(nvrtc())), ctypes.c_void_p(), ctypes.c_size_t()
    assert library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None) == 0
    words = [option.encode() for option in dict.fromkeys((*options, "-std=c++17", "--ptxas-options=-v"))]
    code = library.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*words))
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    assert code == 0, log.value.decode()
    return log.value.decode()


@pytest.fixture(scope="module")
def source():
    """All kernels in float and double as one CUDA text."""
    with cupy_stand_in.installed():
        pass
    made = cupy_stand_in.ElementwiseKernel.made
    preambles = dict.fromkeys(part for kernel in made for part in [kernel.preamble] if part)
    parts = [HEADER, *preambles]
    for kernel in made:
        params = kernel.inputs + kernel.outputs
        generic = any(dtype == "T" for _, dtype, _ in params)
        for real in ("float32", "float64") if generic else ("",):
            types_ = [real if dtype == "T" else dtype for _, dtype, _ in params]
            parts.append(as_cuda(kernel, types_, f"{kernel.name}_{real}"))
    return "\n".join(parts), len([p for p in parts if "__global__" in p])


def as_cuda(kernel, types_, name: str) -> str:
    """One kernel as CuPy would launch it: a grid-stride loop over the elements."""
    c = [cupy_stand_in.CTYPES[t] for t in types_]
    inputs = len(kernel.inputs)
    arguments = ", ".join(f"Array<{'const ' if k < inputs else ''}{t}> a{k}" for k, t in enumerate(c))
    typedefs = " ".join(f"typedef {t} T{k};" for k, t in enumerate(c))
    generic = next((t for t, (_, dtype, _) in zip(c, kernel.inputs + kernel.outputs, strict=True) if dtype == "T"), None)
    return f"""extern "C" __global__ void {name}({arguments}, ptrdiff_t count) {{
        {typedefs} {f'typedef {generic} T;' if generic else ''}
        const Count _ind = {{count}};
        (void)_ind;
        for (ptrdiff_t i = (ptrdiff_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (ptrdiff_t)blockDim.x * gridDim.x) {{
            {kernel.declarations(types_)}
            {kernel.operation}
        }}
    }}"""


@needs_nvcc
def test_nvcc_compiles_every_kernel_for_every_card_without_spills(source, tmp_path):
    text, count = source
    (tmp_path / "kernels.cu").write_text(text)
    flags = [f"-gencode=arch=compute_{card},code=sm_{card}" for card in CARDS]
    done = subprocess.run(["nvcc", "-std=c++17", *flags, "-Xptxas", "-v", "--threads", "2", "-c", "-o", tmp_path / "kernels.o",
                           tmp_path / "kernels.cu"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spills = SPILLS.findall(done.stderr)
    assert len(spills) >= count * len(CARDS) and set(spills) == {("0", "0")}


@needs_nvrtc
@pytest.mark.parametrize("card", CARDS)
def test_nvrtc_compiles_every_kernel_without_spills(source, card):
    text, count = source
    spills = SPILLS.findall(by_nvrtc(text, [f"-arch=sm_{card}"]))
    assert len(spills) >= count and set(spills) == {("0", "0")}
