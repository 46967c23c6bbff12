"""`rnncore doctor` shows what this machine can do, and why not."""
import json
import platform

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
    from threadpoolctl import threadpool_info

    from rnncore import __version__, kernels, plan
    blas = [f"{lib['internal_api']} {lib['version']}" + (f" ({lib['architecture']})" if lib.get("architecture") else "")
            for lib in threadpool_info() if lib["user_api"] == "blas"]
    no_gpu = kernels.why_no_cuda()
    return {"rnncore": __version__, "python": platform.python_version(), "system": platform.platform(),
            "numpy": np.__version__, "blas": ", ".join(blas) or "none that can be told how many threads to use",
            "cores": kernels.host.cores(), "memory": f"{plan.machine_memory() / 2**30:.1f} GiB",
            "recurrence": kernels.host.native.about(), "cuda": no_gpu or "ok", "device auto": "cpu" if no_gpu else "cuda",
            **({} if no_gpu else kernels.describe())}
