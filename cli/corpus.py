"""`rnncore corpus` lists the named corpora, downloads them, and prints the paths of their files."""
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
from .terminal.progress import echo, tell

NAME = click.Choice(list(corpora.NAMES))
PATIENCE = Patience()
HELP = """List the named corpora, download them, and print the paths of their files.

Downloads are kept in the user's cache folder: ~/.cache/rnncore/corpora, or rnncore/corpora in XDG_CACHE_HOME. If
RNNCORE_CORPORA_URL has the address of a mirror (several: separated by spaces), files come from there only. A mirror is
a copy of this folder behind any web server.
"""
command = options.Group("corpus", help=HELP)


@command.command("list")
@options.JSON
def list_corpora(as_json):
    """List the named corpora: size, state (here or absent), content and licence."""
    found = [{"name": name, "bytes": corpora.size(name), "licence": named.licence, "here": state == "here",
              "state": state, "about": named.about, "addresses": corpora.addresses(name)}
             for name, named in corpora.NAMES.items() for state in [corpora.state(name)]]
    if as_json:
        click.echo(json.dumps(found))
        return
    for row in found:
        echo(f"{row['name']:16} {size_of(row['bytes']):>15}  {row['state']:12} {row['about']}: {row['licence']}", 47)


@command.command()
@click.argument("names", nargs=-1, required=True, type=NAME, metavar="NAME...")
@click.option("--tries", type=options.Whole(1), default=PATIENCE.tries,
              help="Number of attempts for each file; an attempt tries all addresses.")
@click.option("--timeout", type=options.Number(0, 3600, min_open=True), default=PATIENCE.silence,
              metavar="SECONDS", help="Give a server up after so many seconds without data.")
def fetch(names, tries, timeout):
    """Download the files of the corpora NAME that are missing.

    Complete files stay, so a download that was stopped goes on. A file that has changed since is replaced.
    """
    for name in dict.fromkeys(names):
        if not corpora.NAMES[name].files:
            corpora.files(name)  # raises CorpusError if this installation lacks it
            tell(f"{name} came with the installation")
        elif corpora.missing(name):
            download(name, replace(PATIENCE, tries=tries, silence=timeout))
        else:
            tell(f"{name} is here already")


@command.command(short_help="Print the paths of a corpus's files.")
@click.argument("name", type=NAME, metavar="NAME")
def path(name):
    """Print the paths of the files of the corpus NAME, one on each line. Nothing is downloaded."""
    for found in corpora.files(name):
        click.echo(found)


def bring(sources: Sequence[str]) -> None:
    """Download the named corpora among `sources` that are missing or incomplete.

    sources: the words that name a text on the command line; all others are ignored. A corpus with a changed file is not
    downloaded again here: reading it raises CorpusError. Raises CorpusError if a download fails.
    """
    for name in dict.fromkeys(sources):
        if name in corpora.NAMES and corpora.NAMES[name].files and corpora.state(name) not in ("here", "changed"):
            download(name, PATIENCE)


def download(name: str, patience: Patience) -> None:
    """Download the missing files of a corpus, and print on stderr what comes from where, its size and its progress.

    patience: number of tries and seconds of silence allowed. Raises CorpusError if pooch is not installed or a download
    fails.
    """
    if words := requirements.missing("pooch"):
        raise CorpusError(f"a download needs {words}")
    missing = corpora.missing(name)
    new = [file for file in missing if file.sha256 is None and not corpora.record(file).exists()]
    tell(announced(name, missing))
    with moving(missing) as moved:
        found = corpora.fetch(name, patience, tell, moved)
    tell(f"{name}: {size_of(corpora.size(name))} in {found[0].parent}, "
         f"{'sha256 as expected' if not new else 'sha256 not known before'}")
    for file in new:
        tell(f"the sha256 of {file.name} is stored in {corpora.record(file)}: later downloads are compared with it")


def announced(name: str, missing: Sequence[corpora.File]) -> str:
    """Return the line that announces a download: corpus, number of files, size in bytes, hosts."""
    sizes = [file.size for file in missing]
    amount = size_of(None if None in sizes else sum(filter(None, sizes)))
    count = f"{len(missing)} file{'s' * (len(missing) > 1)}, "
    own = f"; write ./{name} for the file or folder of that name" if os.path.exists(name) else ""
    where = ", else ".join(map(host, corpora.addresses(name)))
    return f"downloading {name} ({corpora.NAMES[name].about}): {count}{amount}, from {where}{own}"


def size_of(number: int | None) -> str:
    """Return a number of bytes as text; None stands for a size that is not known."""
    return "size not known" if number is None else f"{number:,} bytes"


@contextlib.contextmanager
def moving(missing: Sequence[corpora.File]) -> Iterator:
    """Yield a function (file, bytes so far) that shows a bar for each file on a terminal, and nothing elsewhere."""
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
