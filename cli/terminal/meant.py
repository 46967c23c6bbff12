""""Did you mean": suggestions for mistyped commands, options and numbers, and for words that other programs use."""
import ast
import re

import click

# Our option -> its names in other programs (char-rnn, torch-rnn, textgenrnn, nanoGPT, the examples of torch and
# TensorFlow), without dashes at the front and with - for _. If a name is in several rows, the first of them whose
# option the command has is used.
THEIRS = {
    "--device cuda": "gpu cuda gpuid gpu-id gpu-index gpus use-gpu use-cuda",
    "--device cpu": "cpu no-gpu no-cuda use-cpu",
    "--hidden": "size rnn-size hidden-size hidden-dim hidden-units units n-hidden nhid lstm-size cell-size state-size "
                "num-units",
    "--layers": "num-layers n-layers n-layer nlayers rnn-layers depth",
    "--embed": "embedding embeddings embedding-size embedding-dim embed-size embed-dim emb-size emsize n-embd "
               "wordvec-size dim-embeddings",
    "--lr": "learning-rate learningrate rate base-lr",
    "--batch": "batch-size batchsize bs minibatch-size",
    "--window": "window-size",
    "--seq": "seq-length seq-len seqlen sequence-length block-size bptt context-length window-size unroll",
    "--epochs": "num-epochs n-epochs nepochs max-epochs nb-epoch nb-epochs",
    "--steps": "iters max-iters iterations num-iterations num-steps max-steps n-steps train-steps",
    "--minutes": "time max-time",
    "--eval-every": "eval-val-every eval-interval validate-every eval-steps",
    "--save-every": "checkpoint-every save-interval save-steps save-freq",
    "--sample-every": "print-every sample-interval gen-epochs",
    "--clip": "grad-clip gradient-clip clip-norm clip-grad max-grad-norm clipping",
    "--dropout": "drop drop-prob dropout-p dropout-rate",
    "--val": "val-frac val-split val-fraction validation validation-split valid dev train-frac",
    "--test": "test-frac test-split test-fraction",
    "--optimizer": "optim optimiser",
    "--dtype bf16": "fp16 half amp bf16 bfloat16 mixed-precision",
    "--dtype": "precision",
    "--seed": "random-seed rng-seed manual-seed",
    "--threads": "workers num-workers jobs num-threads n-threads nthreads",
    "--init-from": "pretrained finetune fine-tune start-from from-model",
    "--resume": "continue restore resume-from resume-training",
    "--lower": "lowercase to-lower",
    "--min-count": "min-freq min-frequency",
    "--level byte": "bytes byte-level",
    "--documents lines": "lines line-delimited",
    "--documents jsonl": "jsonl",
    "--out": "output outfile out-file output-file output-dir out-dir checkpoint-dir checkpoint-name save-dir save-to "
             "savefile destination-path",
    "--prime": "prompt primetext prime-text start start-text start-string starting-text seed-text prefix init-text",
    "--prime-file": "prompt-file start-file",
    "--temperature": "temp sampling-temperature",
    "-n": "len num-chars n-chars num-characters characters chars tokens num-tokens max-tokens max-new-tokens "
          "max-gen-length max-length gen-length",
    "--top-p": "nucleus nucleus-p",
    "--greedy": "argmax",
    "--count": "num-samples n-samples nsamples samples num number num-return-sequences",
    "--stop": "end eos stop-at stop-text stop-string until",
    "--interactive": "chat dialog dialogue",
    "--rounds": "repeat repeats reps",
    "--json": "as-json json-output output-json",
    "CORPUS": "input input-txt input-file data data-dir data-path corpus file text-file train-file dataset text",
    "TEXT": "input input-file data file text-file",
    "RUN": "model checkpoint model-file model-path ckpt weights load run run-dir",
}
COMMANDS = {
    "generate": "sample write text", "score": "eval evaluate test perplexity", "train": "fit learn",
    "train --resume": "resume continue", "train --init-from RUN": "finetune fine-tune",
    "generate --interactive": "chat interactive talk", "corpus fetch": "download fetch",
    "corpus list": "corpora list ls",
    "info": "show inspect", "bench": "benchmark speed", "report": "visualize visualise plot",
    "doctor": "check diagnose",
    "--version": "version", "--help": "help",
}
SUBCOMMANDS = {"fetch": "download get", "list": "ls show", "path": "where paths"}
FACTORS = {"": 1, "k": 10 ** 3, "m": 10 ** 6, "g": 10 ** 9, "b": 10 ** 9}
MINUTES = {"s": 1 / 60, "sec": 1 / 60, "m": 1, "min": 1, "h": 60}
LONG_DASH = re.compile("[\u2010-\u2015\u2212]{1,2}(?=[A-Za-z])")  # web pages turn -- into such a dash


class Helpful(click.Command):
    """A command whose usage errors suggest what was meant, and that refuses an empty word as a value."""
    empty = frozenset({"prime", "separator", "field"})  # parameters for which "" is a value

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        """Parse the words of the command line as click does. Raises UsageError or BadParameter with a suggestion."""
        typed = list(args)
        if pasted := next((word for word in typed if LONG_DASH.match(word) and self._option(ctx, word)), None):
            raise click.UsageError(f"{pasted} begins with a long dash: write {self._option(ctx, pasted)}", ctx)
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise click.UsageError(self._unknown(ctx, error.option_name, typed), ctx) from None
        except click.BadParameter as error:
            if words := value(error.message or "", error.param):
                raise click.BadParameter(words, error.ctx, error.param, error.param_hint) from None
            raise
        for param in self.get_params(ctx):
            given = ctx.params.get(param.name)
            if param.name not in self.empty and (given == "" or isinstance(given, tuple) and "" in given):
                name = max(param.opts, key=len) if isinstance(param, click.Option) else param.human_readable_name
                raise click.UsageError(f"{name} '' is empty: give it a value, or leave it out", ctx)
        return rest

    def _options(self, ctx) -> dict[str, str]:
        """Return bare name -> option for all options. A bare name is in lower case and has no dashes."""
        names = [name for param in self.get_params(ctx) if isinstance(param, click.Option)
                 for name in (*param.opts, *param.secondary_opts)]
        return {bare(name): name for name in names}

    def _option(self, ctx, word: str) -> str | None:
        """Return the option that equals this word except for dashes and case, or None."""
        return self._options(ctx).get(bare(LONG_DASH.sub("", word).partition("=")[0]))

    def _unknown(self, ctx, name: str, typed: list[str]) -> str:
        """Return the message for an option that does not exist.

        name: the option as click reports it; typed: the words of the command line. click reads -hidden as the letters
        -h, -i ... and reports one letter; the message then names the whole word.
        """
        if not name.startswith("--"):
            words = (word.partition("=")[0] for word in typed if word.startswith(name) or name[1:] in word[1:2])
            name = next((word for word in words if word[:1] == "-" and word[:2] != "--" and len(word) > 2), name)
        arguments = {param.human_readable_name.strip("[].") for param in self.params
                     if isinstance(param, click.Argument)}
        found = option(name, self._options(ctx), arguments)
        if found[:1] and found[0] in arguments:
            return f"no such option: {name}; write {found[0]} without an option"
        return f"no such option: {name}" + question(found)


class HelpfulGroup(Helpful, click.Group):
    """A group of Helpful commands. theirs: our command -> names that other programs use for it."""
    theirs = COMMANDS

    def resolve_command(self, ctx, args: list[str]):
        """Find the command in the words, as click does. Raises UsageError with a suggestion for an unknown command."""
        name = args[0]
        if name[:1] != "-" and self.get_command(ctx, name) is None:
            raise click.UsageError(f"no such command: {name}" + question(command(
                name, self.list_commands(ctx), self.theirs)), ctx)
        return super().resolve_command(ctx, args)


def question(found: list[str]) -> str:
    """Return the end of a message that asks for what was meant; "" if nothing was found."""
    return f": did you mean {' or '.join(found)}?" if found else ""


def bare(name: str) -> str:
    """Return a name without dashes, in lower case."""
    return re.sub("[-_]", "", name).lower()


def option(name: str, ours: dict[str, str], arguments: set[str]) -> list[str]:
    """Return what an unknown option may mean: options or an argument, at most two, often none.

    ours: bare name -> option of this command; arguments: names of its arguments.
    """
    word = bare(name)
    there = [mine for mine in THEIRS if mine in arguments or bare(mine.partition(" ")[0]) in ours]
    theirs = {bare(their): mine for mine in reversed(there) for their in THEIRS[mine].split()}
    if word in ours:
        return [ours[word]]
    if word in theirs:
        return [theirs[word]]
    return nearest(word, ours) or nearest(word, theirs)


def command(name: str, ours: list[str], theirs: dict[str, str]) -> list[str]:
    """Return what an unknown command may mean.

    ours: the commands; theirs: our command -> names that other programs use.
    """
    word, others = bare(name), {bare(their): mine for mine, names in theirs.items() for their in names.split()}
    if word in others:
        return [others[word]]
    return nearest(word, {bare(mine): mine for mine in ours}) or nearest(word, others)


def nearest(word: str, names: dict[str, str]) -> list[str]:
    """Return the values of the names that begin with `word`, else of the names with the fewest typing mistakes.

    names: bare name -> value. One mistake is allowed for words of fewer than 6 letters, else two. More than two values
    do not help the user: then the result is [].
    """
    if len(word) < 3:
        return []
    slips = 1 if len(word) < 6 else 2
    begun = [names[name] for name in names if name.startswith(word)]
    distances = {name: distance(word, name) for name in names if abs(len(name) - len(word)) <= slips and len(name) > 2}
    least = min(distances.values(), default=slips + 1)
    close = [names[name] for name, far in distances.items() if far == least] if least <= slips else []
    found = list(dict.fromkeys(begun or close))
    return found if len(found) <= 2 else []


def distance(a: str, b: str) -> int:
    """Return the number of letters to insert, delete, replace or swap to make `b` of `a` (Damerau 1964).

    No letter is edited twice (optimal string alignment).
    """
    before = row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        earlier, before, row = before, row, [i]
        for j, other in enumerate(b, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other)))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                row[j] = min(row[j], earlier[j - 2] + 1)
    return row[-1]


def value(message: str, param) -> str | None:
    """Return a better message for a BadParameter, with a suggestion; None if click's message is good.

    message: click's message; param: the parameter that has the wrong value.
    """
    found = re.match(r"('.*'|\".*\") is not (?:a valid (integer|float)|one of )", message, re.DOTALL)
    if not found:
        return None
    typed, kind = ast.literal_eval(found[1]), found[2]
    if not kind:
        choices = {bare(choice): f"{choice}" for choice in getattr(param.type, "choices", ())}
        close = [choices[bare(typed)]] if bare(typed) in choices else nearest(bare(typed), choices)
        return message.rstrip(".") + question(close)
    whole = kind == "integer"
    meant = number(typed, whole, MINUTES if getattr(param, "name", "") == "minutes" else {})
    return f"{typed!r} is not a {'whole ' * whole}number" + question([meant] if meant else [])


def number(text: str, whole: bool, units: dict[str, float] | None = None) -> str | None:
    """Return the number that a text such as 1k, 1e3, 10,000 or 10% stands for, in our spelling, or None if unclear.

    whole: True for a whole number; units: further suffixes and their factors.
    """
    plain = re.sub(r"[\s_'=]", "", text).lower()
    groups = r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?" + r"|[+-]?[1-9]\d{0,2}(\.\d{3})+" * whole
    if re.fullmatch(groups, plain):
        plain = re.sub(r"[,.](?=\d{3})" if whole else ",", "", plain)
    found = re.fullmatch(r"([+-]?(?:\d+[.,]?\d*|[.,]\d+)(?:e[+-]?\d+)?)([a-z%]*)", plain)
    factors = FACTORS | {"%": 0.01} | (units or {})
    if not found or found[2] not in factors:
        return None
    exact = float(found[1].replace(",", ".")) * factors[found[2]]
    if not abs(exact) < 1e15 or whole and exact != int(exact):
        return None
    return str(int(exact)) if exact == int(exact) else f"{exact:.12g}"
