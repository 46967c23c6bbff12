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
    corpus: tuple[str, ...] = ()  # files, folders, patterns, "-" for stdin, named corpora; a resumed run has its own
    preset: str | None = _of("A name for sizes and settings. [default: by corpus and budget]",
                             heading="Model", choices=(*PRESETS,))
    layers: int | None = _of("Number of LSTM layers. [default: the preset's]")
    hidden: int | None = _of("Units in each layer. [default: the preset's]")
    embed: int | None = _of("Size of the embedding.")
    init_from: str | None = _of("Begin with the weights of a trained model: a run, a model file or a pretrained model.",
                                metavar="RUN")
    extend_vocab: bool | None = _of("With --init-from: add the symbols of CORPUS that the model does not know.")
    dtype: str | None = None      # one of config.PRECISIONS
    epochs: float | None = _of("Number of passes over the training text.",
                               heading="Budget (give one at most; default: epochs that suit the corpus)")
    steps: int | None = _of("Number of optimiser steps.")
    minutes: float | None = _of("Wall-clock time in minutes, evaluations included.")
    seq: int | None = _of("Characters in a window, T: the reach of back-propagation through time.",
                          heading="Optimisation")
    batch: int | None = _of("Number of streams to train side by side, N.")
    optimizer: str | None = _of("Update rule.", choices=OPTIMIZERS)
    lr: float | None = _of("Peak learning rate. [default: by model size and optimizer]")
    clip: float | None = _of("Largest global norm of the gradient; 0: no limit.")
    warmup: float | None = _of("Share of the budget in which the learning rate rises to its peak.")
    seed: int | None = _of("Seed of the parameters, the dropout masks and the rotation of the text.")
    dropout: float | None = _of("Share of each layer's outputs to drop. [default: by corpus and budget]",
                                heading="Regularisation")
    weight_drop: float | None = _of("Share of the recurrent weights W_hh to drop. [default: by corpus and budget]")
    variational: bool | None = _of("One dropout mask for each window, or one for each character. [default: "
                                   "variational, or the preset's]", names="--variational/--standard")
    patience: int | None = _of("End after this many evaluations in a row without a better loss. [default: never]")
    val: float | None = _of("Share of the text for validation, taken after the training part.", heading="Text")
    test: float | None = _of("Share of the text to leave out, at its end.")
    level: str | None = _of("What a symbol is: a character of a text, or a byte of any file. [default: char]",
                            choices=("char", "byte"))
    lower: bool | None = _of("Convert the text to lower case, and later primes and scored texts too.")
    min_count: int | None = _of("Learn all symbols that occur fewer than K times as one symbol, U+FFFD. [default: 1]",
                                metavar="K")
    documents: str | None = _of("Learn many short texts: each line (lines), each block between empty lines (blank), "
                                "or a --field of each line's JSON (jsonl). [default: none]",
                                choices=("none", "lines", "blank", "jsonl"))
    field: str | None = _of("With --documents jsonl: the field that holds the text. [default: text]", metavar="NAME")
    no_shuffle: bool | None = _of("Split the documents in their own order, without shuffling.")
    encoding: str | None = None   # encoding of the text files, or auto
    encoding_errors: str | None = None  # treatment of bytes that are invalid in it: strict, replace or skip
    newline: str | None = None    # lf: every line end becomes LF; keep: line ends stay
    threads: int | Literal["auto"] | None = _of(
        "Number of threads that share the streams; the same number gives the same bits.", heading="Machine",
        metavar="auto|K")
    device: str = AUTO            # auto, cpu, cuda or cuda:K
    cuda_path: str = AUTO         # auto, or one of config.PATHS: the path by which a GPU computes
    out: str | None = _of("Run folder. [default: runs/NAME]", heading="Run", names="--out -o", metavar="FOLDER")
    name: str | None = _of("Name of the run folder in runs/. [default: the name of the corpus]")
    allow_new_corpus: bool | None = _of("With --resume: go on with CORPUS even if it is another text.")
    eval_every: int | None = _of("Steps between evaluations. [default: 10 evaluations in all]", metavar="STEPS")
    sample_every: int | None = _of("Steps between samples; 0: no samples. [default: with each evaluation]",
                                   metavar="STEPS")
    save_every: int | None = _of("Steps between saves. [default: with each evaluation, and each minute]",
                                 metavar="STEPS")
    keep: int | None = _of("Keep the last N saved models, too, as step-*.safetensors.", metavar="N")
    tensorboard: bool | None = _of("Write metrics and samples for TensorBoard, too.",
                                   names="--tensorboard/--no-tensorboard")
    report: bool | None = _of("Make report.html at the end, if matplotlib and jinja2 are installed. "
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
