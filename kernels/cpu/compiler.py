"""The C++ compiler of this machine: where it is, the command that installs one, and its failures in words."""
import os
import shutil
import subprocess

# Program on PATH -> the command that installs a C++ compiler. The first program that is found counts.
INSTALL = {"apt-get": "apt-get install g++", "dnf": "dnf install gcc-c++", "apk": "apk add g++",
           "pacman": "pacman -S gcc", "zypper": "zypper install gcc-c++", "xcode-select": "xcode-select --install"}
CONDA = "conda install -c conda-forge cxx-compiler"  # in an environment of conda: this command needs no root


def compiler() -> str | None:
    """Return the path of the C++ compiler: $CXX, else c++, g++ or clang++; None if none of them is found."""
    return next(filter(None, map(shutil.which, filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")))), None)


def cure() -> str:
    """Return in words how a C++ compiler is installed here: the command, in backticks, if it is known."""
    program = next(filter(shutil.which, INSTALL), None)
    if os.environ.get("CONDA_PREFIX"):
        command = CONDA
    elif program:
        command = "sudo " * bool(program != "xcode-select" and shutil.which("sudo")) + INSTALL[program]
    else:
        return "install g++ or clang++"
    return f"`{command}` installs one"


def fault(error: Exception) -> str:
    """Return the cause of an error in one line, without the whole command line of the compiler.

    A program that cannot even tell its version is no compiler, so the line then ends with the cure. On macOS, `c++` is
    such a program until the command line tools are installed.
    """
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{error.cmd[0]} was stopped after {error.timeout:g} seconds"
    if not isinstance(error, subprocess.CalledProcessError):
        return " ".join(str(error).split())
    if "--version" in error.cmd:
        return f"{error.cmd[0]} --version ended with exit code {error.returncode}: {cure()}"
    lines = [line.strip() for line in (error.stderr or b"").decode(errors="replace").splitlines() if line.strip()]
    said = next((line for line in lines if "error" in line), lines[-1] if lines else "")
    return f"{error.cmd[0]} ended with exit code {error.returncode}{said and f': {said}'}"
