"""`rnncore corpus` lists the named corpora, downloads them, and says where they are."""
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import click

from rnncore import requirements
from rnncore.data import corpora
from rnncore.data.decode import CorpusError
from rnncore.data.download import Patience, host

from . import options
from .terminal.progress import tell

NAME = click.Choice(list(corpora.NAMES))
PATIENCE = Patience()
HELP = """The named corpora: what there is, what is here, and the download of what is not.

Downloads are kept in the cache folder of the user, ~/.cache/rnncore/corpora or below XDG_CACHE_HOME. With the address
of a mirror in RNNCORE_CORPORA_URL (several: separated by spaces) nothing is asked but that: a mirror is a copy of such
a folder, behind any web server.
"""
command = options.Group("corpus", help=HELP)


@command.command("list")
@options.JSON
def list_corpora(as_json):
    """Name, size, licence, and whether it is here."""
    found = [{"name": name, "bytes": corpora.size(name), "licence": named.licence, "here": state == "here",
              "state": state, "about": named.about, "addresses": corpora.addresses(name)}
             for name, named in corpora.NAMES.items() for state in [corpora.state(name)]]
    if as_json:
        click.echo(json.dumps(found))
        return
    for row in found:
        click.echo(f"{row['name']:16} {size_of(row['bytes']):>15}  {row['state']:12} {row['about']}: {row['licence']}")


@command.command()
@click.argument("names", nargs=-1, required=True, type=NAME, metavar="NAME...")
@click.option("--tries", type=options.Whole(1), default=PATIENCE.tries, help="Rounds over the addresses of a file.")
@click.option("--timeout", type=options.Number(0, 3600, min_open=True), default=PATIENCE.silence,
              metavar="SECONDS", help="Silence after which a server is given up.")
def fetch(names, tries, timeout):
    """Download what is not here yet of the corpora NAME.

    What is here stays, so that a fetch that was stopped goes on; a file that has changed since is replaced.
    """
    for name in dict.fromkeys(names):
        if not corpora.NAMES[name].files:
            corpora.files(name)  # refused where this installation lacks it
            tell(f"{name} came with the installation")
        elif corpora.missing(name):
            download(name, replace(PATIENCE, tries=tries, silence=timeout))
        else:
            tell(f"{name} is here already")


@command.command(short_help="Print the paths of its files.")
@click.argument("name", type=NAME, metavar="NAME")
def path(name):
    """Print the paths of the files that the corpus NAME is read from, a line each; none is downloaded for that."""
    for found in corpora.files(name):
        click.echo(found)


def bring(sources: Sequence[str]) -> None:
    """Download the named corpora among the sources of a text that are not here, or not whole."""
    for name in dict.fromkeys(sources):
        if name in corpora.NAMES and corpora.NAMES[name].files and corpora.state(name) not in ("here", "changed"):
            download(name, PATIENCE)


def download(name: str, patience: Patience) -> None:
    """Download a corpus; says on stderr what, from where and how large, and how far it is."""
    if words := requirements.missing("pooch"):  # before anything is announced
        raise CorpusError(f"to download a corpus needs {words}")
    missing = corpora.missing(name)
    new = [file for file in missing if file.sha256 is None and not corpora.record(file).exists()]
    tell(announced(name, missing))
    with moving(missing) as moved:
        found = corpora.fetch(name, patience, tell, moved)
    tell(f"{name}: {size_of(corpora.size(name))} in {found[0].parent}, "
         f"{'sha256 as expected' if not new else 'sha256 not known before'}")
    for file in new:
        tell(f"{corpora.record(file)} keeps it: from now on {file.name} is compared with that")


def announced(name: str, missing: Sequence[corpora.File]) -> str:
    """What will be downloaded, in one line."""
    sizes = [file.size for file in missing]
    amount = size_of(None if None in sizes else sum(filter(None, sizes)))
    count = f"{len(missing)} file{'s' * (len(missing) > 1)}, "
    own = f"; write ./{name} for the file or folder of that name" if os.path.exists(name) else ""
    where = ", else ".join(map(host, corpora.addresses(name)))
    return f"downloading {name} ({corpora.NAMES[name].about}): {count}{amount}, from {where}{own}"


def size_of(number: int | None) -> str:
    return "size not known" if number is None else f"{number:,} bytes"


@contextlib.contextmanager
def moving(missing: Sequence[corpora.File]) -> Iterator:
    """A function to be told how many bytes of a file have come; on a terminal it moves a bar."""
    if not sys.stderr.isatty():
        yield lambda file, done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(24), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {file: bars.add_task(file.name, total=file.size, start=False) for file in missing}

        def moved(file, done):
            bars.start_task(tasks[file])
            bars.update(tasks[file], completed=done)

        yield moved
