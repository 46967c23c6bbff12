"""What a missing C++ compiler costs, the command that installs one, and what a failing compiler says, in words.

native.py compiles the time loops. If it cannot, `without` makes one line of the cause, the price and the cure.
"""
import os
import shutil
import subprocess
import sys

# Time of a training step in NumPy, as a multiple of that of the compiled loops: 48 to 52 ms and 31.0 ms for 2 x 128,
# N = 50, T = 50 in float32. Measured on 2026-11-23 on 2 cores of an AMD EPYC with AVX-512 (kernels/README.md, figures).
SLOWER = 1.6
# Package manager of Linux -> the command that installs a C++ compiler. The first one on PATH counts.
INSTALL = {"apt-get": "sudo apt-get install g++", "dnf": "sudo dnf install gcc-c++", "apk": "apk add g++",
           "pacman": "sudo pacman -S gcc", "zypper": "sudo zypper install gcc-c++"}


def switched_off() -> bool:
    """Return True if the user switched the compiled time loops off, by RNNCORE_NATIVE=0 in the environment."""
    return os.environ.get("RNNCORE_NATIVE") == "0"


def without(cause: str, missing: bool) -> str:
    """Return one line for the user: why there are no compiled loops, and what that costs.

    missing: True if there is no compiler; the line then ends with the cure.
    """
    return f"{cause}, so training on the CPU takes about {SLOWER:g} times as long{f': {cure()}' * missing}"


def cure() -> str:
    """Return in words how a C++ compiler is installed on this system: the command, in backticks, if it is known."""
    commands = {"linux": next((line for name, line in INSTALL.items() if shutil.which(name)), None),
                "darwin": "xcode-select --install"}
    command = commands.get(sys.platform)
    return f"`{command}` installs one" if command else "install g++ or clang++"


def fault(error: Exception) -> str:
    """Return the cause of an error in one line, without the whole command line of the compiler."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{error.cmd[0]} was stopped after {error.timeout:g} seconds"
    if not isinstance(error, subprocess.CalledProcessError):
        return " ".join(str(error).split())
    lines = [line.strip() for line in (error.stderr or b"").decode(errors="replace").splitlines() if line.strip()]
    said = next((line for line in lines if "error" in line), lines[-1] if lines else "")
    return f"{error.cmd[0]} ended with exit code {error.returncode}{said and f': {said}'}"
