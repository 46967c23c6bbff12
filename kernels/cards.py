"""Test whether a GPU works by running a tiny kernel on it. If it does not work, name the cause and one command as cure.

CuPy's own `cupy.cuda.is_available()` is not enough: it does not notice that CUDA's compiler (NVRTC) is missing.
"""
import ctypes
import importlib
import importlib.util
import os
import stat
import tempfile
from pathlib import Path

OLDEST_CUPY = 14  # the oldest major version of CuPy that works, and the only one that was tried
# Words in an error message that mean: CUDA's compiler, libraries or headers are missing.
MISSING = "nvrtc", "cublas", "libcu", "cannot open source file", "could not open source", "headers", "cuda_path"
INSUFFICIENT_DRIVER, NO_DEVICE, INVALID_DEVICE, OUT_OF_MEMORY = 35, 100, 101, 2  # numbers of cudaError_t


def driver_version() -> int | None:
    """Return the CUDA version that the NVIDIA driver supports, 12040 for 12.4; None if there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int(0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    return version.value


def why_no_cuda(index: int = 0) -> str | None:
    """Return None if card `index` works, else one line with the cause and the command that mends it.

    Card `index`, counted from 0, becomes the current card of the calling thread.
    """
    version = driver_version()
    if version is None:
        return ("this machine has no NVIDIA driver (libcuda.so.1): install it (Debian, Ubuntu: `apt install "
                "nvidia-driver`), or use the processor with --device cpu")
    install = f"`pip install 'cupy-cuda{13 if version >= 13000 else 12}x[ctk]'`"
    if importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed: {install}"
    give_cupy_a_cache()
    try:
        cupy = importlib.import_module("cupy")
    except Exception as error:  # not only ImportError: CuPy makes its cache folder during the import
        return f"CuPy cannot be imported ({_line(error)}): {install}"
    if int(cupy.__version__.partition(".")[0]) < OLDEST_CUPY:
        return f"CuPy {OLDEST_CUPY} or newer is needed, and {cupy.__version__} is installed: {install}"
    try:
        cupy.cuda.Device(index).use()
        # The elementwise kernel needs NVRTC and the product needs cuBLAS, so a missing library raises an error here.
        double = cupy.ElementwiseKernel("float32 x", "float32 y", "y = 2 * x", "rnncore_try_out")
        ones = cupy.ones((2, 2), "float32")
        if float(cupy.matmul(double(ones), ones).sum()) != 16:
            raise ArithmeticError("the card gives wrong results")
    except Exception as error:
        return _explain(error, index, version, install)
    return None


def _explain(error: Exception, index: int, version: int, install: str) -> str:
    """Return one line with the cause and the cure of an error that the tiny kernel or the choice of the card raised."""
    status, words = getattr(error, "status", None), _line(error)
    if status == INSUFFICIENT_DRIVER or "insufficient" in words.lower():
        return (f"the driver is too old: it supports CUDA {version // 1000}.{version % 1000 // 10}, the installed CuPy "
                f"wants more: {install}, or update the driver")
    if status == NO_DEVICE:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        return (f"no device is visible, CUDA_VISIBLE_DEVICES is {hidden!r}: `unset CUDA_VISIBLE_DEVICES`"
                if hidden is not None else "the driver sees no device: `nvidia-smi` shows why")
    if status == INVALID_DEVICE:
        return f"there is no card {index}: `nvidia-smi -L` lists those that there are, counted from 0"
    if status == OUT_OF_MEMORY or type(error).__name__ == "OutOfMemoryError":
        return f"card {index} is out of memory: `nvidia-smi` shows who holds it; take another with --device cuda:K"
    if any(word in words.lower() for word in MISSING):
        return f"CUDA's compiler, libraries or headers are missing ({words}): {install}"
    return f"a tiny kernel failed ({type(error).__name__}: {words}): {install}, or use the processor with --device cpu"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def give_cupy_a_cache() -> None:
    """Let CuPy keep its compiled kernels in a private temporary folder if the home folder cannot be written.

    Sets CUPY_CACHE_DIR in the environment, unless it is set already.
    """
    if "CUPY_CACHE_DIR" in os.environ:
        return
    home = Path(os.path.expanduser("~")) / ".cupy" / "kernel_cache"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            return
    except OSError:
        mine = Path(tempfile.gettempdir()) / f"rnncore-cupy-{os.getuid()}"
        mine.mkdir(mode=0o700, exist_ok=True)
        about = mine.lstat()
        # A folder in the shared temporary folder may belong to somebody else, who could put code into CuPy's cache.
        private = stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o022
        os.environ["CUPY_CACHE_DIR"] = str(mine) if private else tempfile.mkdtemp(prefix="rnncore-cupy-")


def describe(index: int = 0) -> dict[str, str]:
    """Return what `rnncore doctor` prints about card `index`: name, compute capability, memory in GiB, versions.

    Raises CuPy's own errors if the card does not work.
    """
    cupy = importlib.import_module("cupy")
    about = cupy.cuda.runtime.getDeviceProperties(index)
    free, total = cupy.cuda.Device(index).mem_info
    driver, runtime = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()
    return {"card": about["name"].decode(), "capability": f"{about['major']}.{about['minor']}",
            "card memory": f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free", "cupy": cupy.__version__,
            "driver supports": f"CUDA {driver // 1000}.{driver % 1000 // 10}",
            "cuda runtime": f"{runtime // 1000}.{runtime % 1000 // 10}"}
