"""Processes that run `rnncore` without half a second of imports each: a server that has imported it forks them.

`Forked(*args, cwd=...)` is `subprocess.Popen` for `python -m rnncore ARGS`: streams, folder, signals and exit are those of a
process of its own. What an interpreter reads when it starts (PYTHON..., LANG) is the server's: where a test sets that,
or asks what is imported, it starts a real one. Where the system is not Linux, Forked starts real ones too.
"""
import atexit
import ctypes
import gc
import importlib
import io
import json
import os
import random
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import rnncore



def bytecode() -> str:
    """A folder for compiled modules until this process ends: else each process that it starts may compile them all."""
    folder, mine = tempfile.mkdtemp(prefix="rnncore-bytecode-"), os.getpid()
    atexit.register(lambda: os.getpid() == mine and shutil.rmtree(folder, ignore_errors=True))
    return folder


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(rnncore.__file__).resolve().parent.parent)}  # the rnncore under test
if __name__ != "__main__" and (sys.dont_write_bytecode or not sys.pycache_prefix):
    ENVIRONMENT |= {"PYTHONPYCACHEPREFIX": bytecode(), "PYTHONDONTWRITEBYTECODE": ""}
COMMAND = (sys.executable, "-m", "rnncore")
SUBREAPER = 36  # prctl's PR_SET_CHILD_SUBREAPER: who takes in the child of a process that has ended
IMPORTED = ("rich.progress", "safetensors.numpy", "rnncore.runs.setup", "rnncore.cli.drive", "rnncore.cli.train", "rnncore.cli.generate",
            "rnncore.cli.score", "rnncore.cli.info", "rnncore.train", "rnncore.sample", "rnncore.recovery",
            "rnncore.runs.folder", "rnncore.measure.evaluate", "rnncore.kernels.cpu.ops", "rnncore.kernels.cpu.native")


class Forked(subprocess.Popen):
    """A process that runs `rnncore ARGS` in the folder cwd; preexec_fn and the like are not known."""

    def __init__(self, *args, cwd, env=ENVIRONMENT, **streams):
        super().__init__([*COMMAND, *map(str, args)], cwd=cwd, env=env, **streams)

    if sys.platform == "linux":
        def _execute_child(self, args, _executable, _preexec, _close, _pass, cwd, env, _info, _flags, _shell,
                           p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *_others):
            files = [given if given >= 0 else own for own, given in enumerate((p2cread, c2pwrite, errwrite))]
            self.pid = fork(json.dumps([args, os.path.abspath(cwd), dict(env)]).encode(), files)
            self._child_created = True
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


def fork(request: bytes, files: list[int]) -> int:
    """The number of a new process, a child of this one, that does what is asked for with these three streams."""
    server, prctl = connection(), ctypes.CDLL(None).prctl
    prctl(SUBREAPER, 1, 0, 0, 0)
    try:
        socket.send_fds(server, [request], files)
        pid = int(server.recv(64))
        assert server.recv(64) == b"the process between has ended"
    finally:
        prctl(SUBREAPER, 0, 0, 0, 0)
    return pid


@cache
def connection() -> socket.socket:
    """The end of a socket at whose other end the server listens, until this process ends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 ** 20)
    subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=ENVIRONMENT)
    theirs.close()
    return ours


def serve(number: int) -> tuple[list[str], str, dict]:
    """Fork a process for each request; returns, in that process, what was asked for."""
    server = socket.socket(fileno=number)
    while True:
        request, files, *_ = socket.recv_fds(server, 2 ** 20, 3)
        if not request:
            sys.exit()
        if between := os.fork():
            os.waitpid(between, 0)  # its child is now that of the test
            for file in files:
                os.close(file)
            server.send(b"the process between has ended")
        elif pid := os.fork():
            server.send(str(pid).encode())
            os._exit(0)
        else:
            server.close()
            for place, file in enumerate(files):
                os.dup2(file, place)
            for file in files:
                os.close(file)
            return json.loads(request)


def stream(name: str, number: int, mode: str) -> io.TextIOWrapper:
    """A standard stream as the interpreter makes it when it starts."""
    like, at_once = getattr(sys, name), mode == "wb" and bool(os.environ.get("PYTHONUNBUFFERED"))
    return io.TextIOWrapper(open(number, mode, 0 if at_once else -1, closefd=False), like.encoding, like.errors, "\n",
                            line_buffering=name == "stderr" or os.isatty(number), write_through=at_once)


if __name__ == "__main__":
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()
    typed, folder, environment = serve(int(sys.argv[1]))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        setattr(sys, name, stream(name, number, "wb" if number else "rb"))
        setattr(sys, f"__{name}__", getattr(sys, name))
    sys.path[0], sys.orig_argv[:], sys.argv[:] = folder, typed, ["", *typed[3:]]
    runpy.run_module("rnncore", run_name="__main__", alter_sys=True)
