"""The options of a training run. Each is written once, here; `rnncore train` makes its command line from them."""
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ..config import OPTIMIZERS, PRESETS, ConfigError, ModelConfig, SaveConfig, SplitConfig, TrainConfig

AUTO: Literal["auto"] = "auto"  # a value that means: choose what suits this machine


class OptionError(ConfigError):
    """Options contradict each other or the run that they are for. The command line reports this as a usage error."""


def _of(text: str, heading: str | None = None, names: str | None = None, **about: str | tuple[str, ...]) -> Any:
    """Return a dataclass field whose default is None. text: its help text on the command line.

    heading: the heading in the help above this option and the following ones; None for the heading before. names: the
    names of the option, None for the usual one. about: `choices`, or `metavar`, the placeholder of its value in the
    help.
    """
    return field(default=None, metadata={"heading": heading, "names": names, "help": text, **about})


@dataclass(frozen=True)
class RunOptions:
    """The requested options of a run; None in a field: not requested.

    In a new run, a field that is not requested gets the value of the preset. If the preset has none, it gets the
    default of ModelConfig, TrainConfig, SplitConfig, SaveConfig or data.text.Reading. If this default is None, the
    value is chosen for the corpus and the machine. A resumed run keeps its values.

    Raises ConfigError if a value is out of its range, OptionError if both out and name are given. Other contradictions
    between options are found when the run starts or is resumed.
    """
    corpus: tuple[str, ...] = ()  # files, folders, patterns, "-" for stdin, named corpora; resuming: the run's
    preset: str | None = _of("Sizes and more. [default: by corpus and budget]", heading="Model", choices=(*PRESETS,))
    layers: int | None = _of("LSTM layers. [default: the preset's]")
    hidden: int | None = _of("Units a layer. [default: the preset's]")
    embed: int | None = _of("Embedding size.")
    init_from: str | None = _of("Go on from this model: a run, a file, a pretrained one.", metavar="RUN")
    extend_vocab: bool | None = _of("Teach it the symbols of CORPUS that it does not know.")
    dtype: str | None = None      # one of config.PRECISIONS
    epochs: float | None = _of("Passes over the text.",
                               heading="Budget (one of three; by default epochs that suit the corpus)")
    steps: int | None = _of("Optimiser steps.")
    minutes: float | None = _of("Wall-clock time, evaluation included.")
    seq: int | None = _of("Characters back through time, T.", heading="Optimisation")
    batch: int | None = _of("Streams side by side, N.")
    optimizer: str | None = _of("How to update.", choices=OPTIMIZERS)
    lr: float | None = _of("Peak learning rate [default: by model size].")
    clip: float | None = _of("Bound on the gradient's global norm; 0: none.")
    warmup: float | None = _of("Share of the budget in which the rate rises.")
    seed: int | None = _of("Of parameters, masks and the text's rotation.")
    dropout: float | None = _of("Share of the units that a layer hands on to drop. [default: by corpus and budget]",
                                heading="Regularisation")
    weight_drop: float | None = _of("Share of the entries of W_hh to drop. [default: by corpus and budget]")
    variational: bool | None = _of("One dropout mask a window, or one a character [default: variational, or the "
                                   "preset's]", names="--variational/--standard")
    patience: int | None = _of("End after so many evaluations in a row that are no better. [default: never]")
    val: float | None = _of("Share of the text for validation, after the training part.", heading="Text")
    test: float | None = _of("Share left out at the end.")
    level: str | None = _of("What a symbol is; byte takes any file as it is. [default: char]",
                            choices=("char", "byte"))
    lower: bool | None = _of("Make the text lower case, and primes and scored texts after it.")
    min_count: int | None = _of("Learn the symbols that occur less than K times as one, U+FFFD. [default: 1]",
                                metavar="K")
    documents: str | None = _of("Learn many short texts: each line, what lies between blank lines, or a --field of "
                                "each line's JSON. [default: none]", choices=("none", "lines", "blank", "jsonl"))
    field: str | None = _of("The text in each line's JSON. [default: text]", metavar="NAME")
    no_shuffle: bool | None = _of("Split documents in the order in which they come.")
    encoding: str | None = None   # of the text files, or auto
    encoding_errors: str | None = None  # treatment of bytes that are invalid in it: strict, replace or skip
    newline: str | None = None    # lf: every line end becomes LF; keep: line ends stay
    threads: int | Literal["auto"] | None = _of("Threads that share the streams; the same number gives the same bits.",
                                                heading="Machine", metavar="auto|K")
    device: str = AUTO            # auto, cpu, cuda or cuda:K
    cuda_path: str = AUTO         # auto, or one of config.PATHS: the path by which a GPU computes
    out: str | None = _of("Run folder [default: runs/NAME].", heading="Run", names="--out -o", metavar="FOLDER")
    name: str | None = _of("Name of the folder under runs/ [default: the corpus's].")
    allow_new_corpus: bool | None = _of("With --resume: go on with CORPUS although it is another text.")
    eval_every: int | None = _of("Validate so often [default: 10 times].", metavar="STEPS")
    sample_every: int | None = _of("Show a sample; 0: none [default: with validation].", metavar="STEPS")
    save_every: int | None = _of("Save [default: with validation, and each minute].", metavar="STEPS")
    keep: int | None = _of("Keep the last N saved models as step-*.safetensors.", metavar="N")
    tensorboard: bool | None = _of("Write metrics and samples for TensorBoard, too.",
                                   names="--tensorboard/--no-tensorboard")
    report: bool | None = _of("Make report.html at the end, where matplotlib and jinja2 are installed. "
                              "[default: report]", names="--report/--no-report")

    def __post_init__(self) -> None:
        ModelConfig(2, **self.of(ModelConfig))
        for config in TrainConfig, SplitConfig, SaveConfig:
            config(**self.of(config))
        for each in fields(self):
            choices = each.metadata.get("choices")
            if choices and getattr(self, each.name) not in (None, *choices):
                raise ConfigError(f"{each.name} must be one of {', '.join(choices)}")
        if isinstance(self.corpus, str):
            raise ConfigError(f"corpus must be a tuple of texts, not {self.corpus!r:.40}")
        if self.out and self.name:
            raise OptionError("give -o or --name, not both")

    def asked(self) -> dict[str, Any]:
        """Return the requested fields as name -> value, without `threads` if it is auto."""
        return {name: value for name, value in vars(self).items()
                if value is not None and (name, value) != ("threads", AUTO)}

    def of(self, config: type[Any]) -> dict[str, Any]:
        """Return the requested fields that a config dataclass has too, as name -> value."""
        names = {each.name for each in fields(config)}
        return {name: value for name, value in self.asked().items() if name in names}
