"""`rnncore doctor` shows what this machine can do, and why not."""
import json
import platform
from pathlib import Path

import click

from . import options


@click.command(cls=options.Command)
@options.JSON
def command(as_json):
    """What this machine can do, and why not: processor, libraries, GPU."""
    found = findings()
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        click.echo(f"{name:15} {value}")


def findings() -> dict:
    """Name -> what was found, in words or numbers."""
    import numpy as np

    from rnncore import __version__, kernels
    no_gpu = kernels.why_no_cuda()
    return {"rnncore": __version__, "python": platform.python_version(), "system": platform.platform(),
            "processor": processor(), "numpy": np.__version__, "blas": kernels.host.native.blas(),
            "cores": kernels.host.cores(), "memory": f"{kernels.host.memory() / 2**30:.1f} GiB",
            "recurrence": kernels.host.native.about(), "cuda": no_gpu or "ok",
            "device auto": "cpu" if no_gpu else "cuda",
            **({} if no_gpu else kernels.describe())}


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
