"""--dtype and --cuda-path: refused on a CPU, kept with the run, gone on with; the card is played here."""
import importlib
import io
import json
import types

import numpy as np
import pytest
from cli_helpers import SMALL, TEXT, call, corpus, refused
from damage import changed, sealed

import rnncore
from rnncore import config, kernels, machine, sample, selfcheck
from rnncore.against_eager import Task
from rnncore.kernels import paths
from rnncore.kernels.cpu import ops as cpu
from rnncore.kernels.cpu.recurrence import Recurrence
from rnncore.nn.stepper import Stepper
from rnncore.runs import checkpoint, prepare

NO_BF16 = "this processor has no instruction for it (avx512_bf16)"
FORCED = [path for path in config.PATHS if path != "eager"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A working folder with corpus.txt, and a cache of its own."""
    corpus(tmp_path, TEXT[:1500])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def no_bf16(monkeypatch):
    """A processor without the instruction for bf16, whatever this one has."""
    monkeypatch.delenv("RNNCORE_BF16", raising=False)
    monkeypatch.setattr(cpu.native, "_processor", lambda: b"flags : avx2")


@pytest.fixture
def bf16(monkeypatch):
    """A processor that trains in bf16, with several instructions in the place of one where it has to be."""
    if not cpu.native.compiler():
        pytest.skip("no C++ compiler on this machine")
    monkeypatch.setenv("RNNCORE_BF16", "emulate")


@pytest.fixture
def card(home, monkeypatch):
    """A card: models on it are the CPU's. `asked`: what selfcheck.run got; `paths`: what models were set to."""
    played = types.SimpleNamespace(asked=[], paths=[], outcome=(None, 1.0, 2.0), fake=types.SimpleNamespace(
        **{name: value for name, value in vars(cpu).items() if not name.startswith("__")}))
    played.fake.name, played.fake.why_not = "cuda", lambda path, precision, config=None, n=1: None
    played.fake.rule = lambda precision, config, n=1, writing=False: paths.rule(
        precision, config, lambda path: played.fake.why_not(path, precision, config, n), writing)

    class OnCard(rnncore.CharLM):
        precision = None

        def __init__(self, config, vocab, device, dtype="float32", seed=0):
            with monkeypatch.context() as patch:
                patch.setattr(kernels, "load", lambda device: cpu)
                super().__init__(config, vocab, device, paths.storage(dtype), seed)
            self.precision, self.kernel = dtype, kernels.load(device)

        path = property(lambda self: "eager", lambda self, path: played.paths.append(path))

    def run(task, timed=False):
        played.asked.append(task)
        cause, *times = played.outcome
        return {"cause": cause} | dict(zip(("ms", "eager_ms"), times if timed else (None, None), strict=True))

    def load(device="auto"):
        return cpu if device == "cpu" else played.fake

    monkeypatch.setattr(kernels, "load", load)
    monkeypatch.setattr(kernels, "describe", lambda index=0: {
        "card": "Some Card", "capability": "9.0", "driver supports": "CUDA 13.1", "cuda runtime": "12.9", "cupy": "14"})
    monkeypatch.setattr(selfcheck, "run", run)
    monkeypatch.setattr(sample, "Stepper", lambda params, clamp, precision: Stepper(params, clamp))
    monkeypatch.setattr(prepare, "CharLM", OnCard)
    monkeypatch.setattr(checkpoint, "CharLM", OnCard)
    return played


def stored(run) -> dict:
    return checkpoint.read(run / "last.safetensors")[0]


def rewritten(run, precision) -> None:
    """The run as one of another precision; None: as before there was any."""
    for name in ("last", "best"):
        document, tensors = checkpoint.read(run / f"{name}.safetensors")
        places = [("card", "precision"), ("training", "settings", "precision")][:2 if name == "last" else 1]
        for place in places:
            document = changed(document, place, precision) if precision else changed(document, place)
        (run / f"{name}.safetensors").write_bytes(sealed(document, tensors))


def test_the_words_are_those_of_the_kernels():
    assert (config.PATHS, config.PRECISIONS) == (paths.NAMES, paths.PRECISIONS)
    assert {name for name in paths.PRECISIONS if cpu.why_not("eager", name)} - {"bf16"} == set(config.ON_GPUS)


# On a CPU

@pytest.mark.parametrize("device", ["cpu", "auto"])
@pytest.mark.parametrize("path", FORCED)
def test_a_forced_path_on_a_cpu_is_a_usage_error_with_its_cure(home, capsys, path, device):
    if device == "auto" and not kernels.why_no_cuda():
        pytest.skip("a GPU works here")
    line = refused(call(capsys, "train", "corpus.txt", "--cuda-path", path, "--device", device), 2)
    assert line == (f"Error: --cuda-path {path} is a path of GPUs, and this runs on the CPU: leave it out, or take "
                    "--device cuda")
    assert sorted(p.name for p in home.iterdir()) == ["corpus.txt"]


@pytest.mark.parametrize("dtype", config.ON_GPUS)
def test_a_precision_of_gpus_on_a_cpu_is_a_usage_error_with_its_cure(home, capsys, dtype):
    line = refused(call(capsys, "train", "corpus.txt", "--dtype", dtype, "--device", "cpu"), 2)
    assert f"--dtype {dtype}" in line and "take --dtype float32, or --device cuda" in line
    assert sorted(p.name for p in home.iterdir()) == ["corpus.txt"]


def test_generate_and_resume_refuse_a_forced_path_on_a_cpu_too(home, capsys):
    train = ("train", "corpus.txt", "--steps", 2, *SMALL, "-o", "run", "--device", "cpu")
    assert call(capsys, *train, "--cuda-path", "eager").code == 0
    for args in (("generate", "run"), ("train", "--resume", "-o", "run", "--steps", 3)):
        assert "--cuda-path graph" in refused(call(capsys, *args, "--device", "cpu", "--cuda-path", "graph"), 2)
        assert call(capsys, *args, "--device", "cpu", "--cuda-path", "auto").code == 0
    assert not (home / "cache" / "rnncore" / selfcheck.NAME).exists()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_run_keeps_its_precision_and_goes_on_with_it(home, capsys, dtype):
    assert f"{dtype} on cpu" in call(capsys, "train", "corpus.txt", "--steps", 2, *SMALL, "--dtype", dtype, "-o", "run",
                                     "--device", "cpu").err
    for steps in (2, 4):
        document = stored(home / "run")
        assert document["card"]["step"] == steps and document["card"]["precision"] == dtype
        assert document["training"]["settings"]["precision"] == dtype
        result = call(capsys, "train", "--resume", "-o", "run", "--steps", steps + 2, "--device", "cpu")
        assert result.code == 0 and f"{dtype} on cpu" in result.err
    assert f"precision   {dtype}\n" in call(capsys, "info", "run").out
    assert json.loads(call(capsys, "info", "run", "--json").out)["precision"] == dtype
    other = {"float32": "float64", "float64": "float32"}[dtype]
    assert f"has {dtype}" in refused(call(capsys, "train", "--resume", "-o", "run", "--dtype", other), 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_run_from_before_precisions_has_that_of_its_tensors(home, capsys, dtype):
    train = ("train", "corpus.txt", "--steps", 2, *SMALL, "-o", "run", "--device", "cpu", "--dtype", dtype)
    assert call(capsys, *train).code == 0
    rewritten(home / "run", None)
    assert "precision" not in call(capsys, "info", "run").out
    assert json.loads(call(capsys, "info", "run", "--json").out)["precision"] is None
    result = call(capsys, "train", "--resume", "-o", "run", "--steps", 3, "--device", "cpu", "--dtype", dtype)
    assert result.code == 0 and stored(home / "run")["training"]["settings"]["precision"] == dtype


@pytest.mark.parametrize(("precision", "why"), [
    ("tf32", "tf32 is a precision of GPUs"), ("bf16", f"bf16: {NO_BF16}")])
def test_a_run_of_a_gpu_goes_on_in_float32_on_a_cpu_and_says_so(home, capsys, no_bf16, precision, why):
    assert call(capsys, "train", "corpus.txt", "--steps", 2, *SMALL, "-o", "run", "--device", "cpu").code == 0
    rewritten(home / "run", precision)
    result = call(capsys, "train", "--resume", "-o", "run", "--steps", 3, "--device", "cpu")
    assert result.code == 0 and "float32 on cpu" in result.err
    assert f"the run's precision: {why}: take float32; going on in float32\n" in result.err
    assert stored(home / "run")["training"]["settings"]["precision"] == precision  # a GPU takes it up again
    assert call(capsys, "generate", "run", "-n", 9, "--device", "cpu").code == 0
    again = ("train", "--resume", "-o", "run", "--steps", 4, "--device", "cpu", "--dtype")
    assert call(capsys, *again, precision).code == 0 and refused(call(capsys, *again, "float32"), 2)


@pytest.mark.parametrize(("precision", "words"), [
    ("int8", "not one of float64"), (7, "not one of"), (None, "not one of"), ("float64", "but the tensors are float32")])
def test_a_precision_that_cannot_be_is_refused_by_name(home, capsys, precision, words):
    assert call(capsys, "train", "corpus.txt", "--steps", 2, *SMALL, "-o", "run", "--device", "cpu").code == 0
    path = home / "run" / "last.safetensors"
    document, tensors = checkpoint.read(path)
    path.write_bytes(sealed(changed(document, ("training", "settings", "precision"), precision), tensors))
    line = refused(call(capsys, "train", "--resume", "-o", "run", "--steps", 3))
    assert "training.settings.precision" in line and words in line


def test_bf16_without_the_instruction_goes_on_in_float32_and_the_run_keeps_it(home, capsys, no_bf16):
    args = ("train", "corpus.txt", "--steps", 2, *SMALL, "--device", "cpu", "--dtype")
    result = call(capsys, *args, "bf16", "-o", "run")
    assert result.code == 0 and "float32 on cpu" in result.err
    assert result.err.count(f"--dtype bf16: {NO_BF16}: going on in float32") == 1
    assert stored(home / "run")["training"]["settings"]["precision"] == "bf16"
    assert call(capsys, *args, "float32", "-o", "plain").code == 0
    assert all((a == b).all() for a, b in zip(*(checkpoint.read(home / run / "last.safetensors")[1].values()
                                               for run in ("run", "plain")), strict=True))
    for command in (("generate", "run"), ("score", "run", "corpus.txt"), ("bench",)):
        line = refused(call(capsys, *command, "--dtype", "bf16", "--device", "cpu"), 2)
        assert f"--dtype bf16: {NO_BF16}: take float32" in line


def test_a_run_in_bf16_resumes_to_the_same_bits_and_is_read_in_float32_unless_asked(home, capsys, bf16):
    args = ("--device", "cpu", "-o")
    for steps, run in ((4, "run"), (2, "cut")):
        result = call(capsys, "train", "corpus.txt", "--steps", steps, "--lr", 0.01, *SMALL, "--dtype", "bf16", *args, run)
        assert result.code == 0 and "bf16 on cpu" in result.err and "going on in" not in result.err
    assert call(capsys, "train", "corpus.txt", "--steps", 4, "--lr", 0.01, *SMALL, *args, "plain").code == 0
    tensors = {run: checkpoint.read(home / run / "last.safetensors")[1] for run in ("run", "plain")}
    assert 1e-6 < max(np.abs(a - b).max() for a, b in zip(*(t.values() for t in tensors.values()), strict=True)) < 0.1

    def nats(*more):
        return json.loads(call(capsys, "score", "run", "corpus.txt", "--json", "--device", "cpu", *more).out)["nats_per_char"]
    for protocol in ((), ("--dynamic",), ("--window", 20)):
        losses = nats(*protocol), nats(*protocol, "--dtype", "float32"), nats(*protocol, "--dtype", "bf16")
        assert losses[0] == losses[1] and 0 < abs(losses[2] - losses[0]) < 1e-3
    texts = [call(capsys, "generate", "run", "-n", 50, "--device", "cpu", *more).out
             for more in ((), ("--dtype", "bf16"), ("--dtype", "bf16"))]
    assert texts[1] == texts[2] and all(len(text) > 50 for text in texts)


def test_products_outside_the_loops_are_in_bf16_too(home, capsys, bf16, monkeypatch):
    """Those of Muon, which come in batches of blocks, and the head's and the weights' gradients in dynamic evaluation."""
    product, ranks = Recurrence.product, []
    monkeypatch.setattr(Recurrence, "product", lambda self, a, *args: ranks.append(a.ndim) or product(self, a, *args))
    assert call(capsys, "train", "corpus.txt", "--steps", 1, *SMALL, "--dtype", "bf16", "--device", "cpu", "-o", "run").code == 0
    assert {2, 3} == set(ranks)
    for dtype, found in (("bf16", {2}), ("float32", set())):
        ranks.clear()
        assert call(capsys, "score", "run", "corpus.txt", "--dynamic", "--dtype", dtype, "--device", "cpu").code == 0
        assert set(ranks) == found


def test_bench_measures_bf16_on_a_processor(home, capsys, bf16):
    result = call(capsys, "bench", "--layers", 1, "--hidden", 8, "--batch", 4, "--seq", 3, "--vocab", 5, "--rounds", 1,
                  "--dtype", "bf16", "--device", "cpu", "--threads", 1, "--json")
    (setting,) = json.loads(result.out)["settings"]
    assert setting["dtype"] == "bf16" and setting["engines"]["rnncore"]["work"]["training"]["ms"] > 0


def test_a_new_run_says_once_how_much_faster_bf16_would_be(home, capsys, bf16, monkeypatch):
    measured = []
    monkeypatch.setattr(machine, "measured", lambda: measured.append(1) or 1.84)
    args, line = ("train", "corpus.txt", "--steps", 2, *SMALL, "--device", "cpu"), "--dtype bf16 would train about 1.8 times"
    assert [call(capsys, *args, "-o", run).err.count(line) for run in "ab"] == [1, 1] and measured == [1]
    assert line not in call(capsys, *args, "-o", "c", "--dtype", "float32").err  # the user has chosen
    assert line not in call(capsys, "train", "--resume", "-o", "a", "--steps", 3).err
    (record,) = (home / "cache" / "rnncore").glob("gain-*")
    for text, found in (("1.05", 0), ("nan", 1), ("-3", 1), ("1e999", 1), ("", 1), ("1.5 x", 1)):
        record.write_text(text)
        assert call(capsys, *args, "-o", f"after {text}").err.count(line) == found


def test_the_gain_is_measured_in_turns(bf16):
    assert 0.02 < machine.measured() < 50


def test_a_run_of_another_version_says_that_equal_bits_end(home, capsys):
    train, resume = ("train", "corpus.txt", "--steps", 2, *SMALL, "-o", "run"), ("train", "--resume", "-o", "run", "--steps")
    line = "after step 2 the numbers are no longer equal to that version's bit for bit"
    assert call(capsys, *train).code == 0 and "another version" not in call(capsys, *resume, 2).err
    document, tensors = checkpoint.read(home / "run" / "last.safetensors")
    (home / "run" / "last.safetensors").write_bytes(sealed(changed(document, ("training", "settings", "arithmetic")), tensors))
    assert call(capsys, *resume, 3).err.count(line) == 1
    assert "another version" not in call(capsys, *resume, 4).err


# On a card

def warnings_in(result) -> list[str]:
    """All but that so short a training has learnt little."""
    return [line for line in result.err.splitlines() if line.startswith("warning") and "than the n-gram baseline" not in line]


def test_train_tries_the_path_of_the_rule_and_takes_it(card, home, capsys, monkeypatch):
    monkeypatch.setattr(prepare, "SELFCHECK", 3)
    args = ("train", "corpus.txt", "--steps", 4, *SMALL, "--dtype", "tf32", "-o")
    result = call(capsys, *args, "run")
    assert result.code == 0 and "checking persistent on this card, once: this may take a minute\n" in result.err
    assert "\nself-check on this card: persistent agrees with eager; using persistent\n" in result.err
    assert "tf32 on cuda, path" in result.err
    sizes = stored(home / "run")["config"]
    task = Task("tf32", "cuda", sizes["vocab_size"], sizes["embed"], sizes["hidden"], sizes["layers"], 8, 20, "muon")
    assert [asked.path for asked in card.asked] == ["persistent"] and card.asked[0].columns == 8
    assert {key for key in vars(task) if getattr(task, key) != getattr(card.asked[0], key)} == {"path", "device"}
    assert card.paths == ["persistent"] and stored(home / "run")["card"]["precision"] == "tf32"
    result = call(capsys, *args, "again")
    assert result.code == 0 and "tr" not in [line[:2] for line in result.err.splitlines()] and len(card.asked) == 1
    assert call(capsys, "train", "--resume", "-o", "run", "--steps", 6).code == 0 and card.paths == 3 * ["persistent"]
    assert warnings_in(result) == []


def test_a_check_that_failed_is_a_warning_in_every_run(card, home, capsys, monkeypatch):
    monkeypatch.setattr(prepare, "SELFCHECK", 3)
    card.outcome = "training: killed by SIGSEGV", None, None
    results = [call(capsys, "train", "corpus.txt", "--steps", steps, *SMALL, "-o", f"run{steps}") for steps in (4, 5, 2)]
    results.append(call(capsys, "train", "--resume", "-o", "run2", "--steps", 6))
    for result in results:  # the last but one is too short to try anything, and yet it knows
        assert result.code == 0 and warnings_in(result) == [
            "warning: the graph path failed its self-check on this card (training: killed by SIGSEGV): using eager, about "
            "3.3 to 13 times slower on an H100; `rnncore doctor --try` checks it again"]
    assert [asked.path for asked in card.asked] == ["graph"] and card.paths == 4 * ["eager"]


def test_a_short_run_goes_by_what_is_known_and_says_so(card, home, capsys):
    args = ("train", "corpus.txt", "--steps", 4, *SMALL, "-o")
    result = call(capsys, *args, "a run")
    assert result.code == 0 and card.asked == [] and card.paths == ["eager"] and "checking" not in result.err
    assert ("path eager: this run is too short to check the graph path first; eager is about 3.3 to 13 times slower on an "
            "H100; `rnncore doctor --try 'a run'` checks it\n") in result.err and warnings_in(result) == []
    assert call(capsys, "doctor", "--try", "a run").code == 0
    result = call(capsys, *args, "again")
    assert result.code == 0 and card.paths[-1] == "graph" and "too short" not in result.err


def test_a_forced_path_is_tried_whatever_the_run_and_falls_back_with_a_warning(card, home, capsys):
    card.outcome = "training: the loss of step 1 is 3 off", None, None
    result = call(capsys, "train", "corpus.txt", "--steps", 4, *SMALL, "-o", "run", "--cuda-path", "wavefront")
    (line,) = warnings_in(result)
    assert result.code == 0 and line.startswith(
        "warning: --cuda-path wavefront: the wavefront path failed its self-check on this card (training: the loss of step 1 is "
        "3 off), the graph path failed its self-check") and "using eager, about 3.2 to 17 times slower on an H100" in line
    assert [asked.path for asked in card.asked] == ["wavefront", "graph"] and card.paths == ["eager"]


def test_a_run_of_a_gpu_goes_on_there_in_its_precision(card, home, capsys):
    args = ("train", "corpus.txt", "--steps", 4, *SMALL, "-o", "run", "--dtype", "bf16")
    assert call(capsys, *args).code == 0
    result = call(capsys, "train", "--resume", "-o", "run", "--steps", 6, "--cuda-path", "eager")
    assert result.code == 0 and "bf16 on cuda, path eager" in result.err and "going on in" not in result.err


def test_a_card_without_the_precision(card, home, capsys):
    args = ("train", "corpus.txt", "--steps", 4, *SMALL, "-o", "run", "--dtype", "bf16")
    assert call(capsys, *args).code == 0
    card.fake.why_not = lambda path, precision, config=None, n=1: \
        "wants another card: take tf32" if precision == "bf16" else None
    assert "--dtype bf16: wants another card" in refused(call(capsys, *args[:-4], "-o", "other", *args[-2:]), 2)
    result = call(capsys, "train", "--resume", "-o", "run", "--steps", 6)
    assert result.code == 0 and "float32 on cuda" in result.err
    assert "the run's precision: wants another card: take tf32; going on in float32\n" in result.err


def test_generate_tries_the_writer_where_it_pays(card, home, capsys, monkeypatch):
    assert call(capsys, "train", "corpus.txt", "--steps", 2, *SMALL, "-o", "run", "--cuda-path", "eager").code == 0
    card.paths.clear()
    result = call(capsys, "generate", "run", "-n", 5)
    assert result.code == 0 and card.asked == [] and card.paths == ["eager"]
    assert result.err == ("path eager: this text is too short to check the writing kernel first; eager is about 140 to 190 "
                          "times slower on an H100; --cuda-path graph checks it\n")
    result = call(capsys, "generate", "run", "-n", 5, "--count", 3, "--cuda-path", "persistent")
    assert result.code == 0 and "checking" in result.err and "checking" not in result.out
    assert [(t.path, t.optimizer, t.columns, t.precision) for t in card.asked] == [("graph", None, 3, "float32")]
    assert call(capsys, "generate", "run", "-n", 5, "--count", 3).code == 0
    assert card.paths == ["eager", "graph", "graph"]


def test_what_the_host_must_draw_is_not_tried_and_is_said_where_it_costs(card, home, capsys, monkeypatch):
    assert call(capsys, "train", "corpus.txt", "--steps", 2, *SMALL, "-o", "run", "--cuda-path", "eager").code == 0
    held = ("generate", "run", "--clamp", "0.3=1", "-n")
    line = "the host draws each symbol: using eager, about 140 to 190 times slower on an H100\n"
    card.paths.clear()
    assert call(capsys, *held, 5).err == "" and call(capsys, *held, 5, "--cuda-path", "eager").err == ""
    assert call(capsys, *held, 5, "--cuda-path", "graph").err == f"warning: --clamp: {line}"
    monkeypatch.setattr(importlib.import_module("rnncore.cli.generate"), "SELFCHECK", 5)
    assert call(capsys, *held, 5).err == f"warning: --clamp: {line}"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the\n")))
    result = call(capsys, "generate", "run", "-i", "-n", 3, "--cuda-path", "graph")
    assert result.code == 0 and result.err.startswith(f"warning: --interactive: {line}")
    assert card.asked == [] and card.paths == []


# rnncore doctor

def test_doctor_says_that_a_cpu_has_one_path(home, capsys, monkeypatch):
    monkeypatch.setattr(kernels, "why_no_cuda", lambda index=0: "none")
    assert json.loads(call(capsys, "doctor", "--json").out)["paths"] == "eager"
    assert "paths           eager\n" in call(capsys, "doctor").out


def test_doctor_tries_and_shows(card, home, capsys, monkeypatch):
    monkeypatch.setattr(kernels, "why_no_cuda", lambda index=0: None)
    assert "no other path has been checked" in call(capsys, "doctor").out
    assert "name a setting" in refused(call(capsys, "doctor", "--try"), 2)
    card.fake.why_not = lambda path, precision, config=None, n=1: "too wide" if path == "persistent" else None
    result = call(capsys, "doctor", "--try", "char-rnn")
    lines = result.out.splitlines()
    assert result.code == 0 and len(lines) == 9 and lines[0].startswith(
        "graph      2 x 128, N 50, T 50, muon, float32: 1 ms a step, eager 2, 2")
    assert lines[2] == "persistent 2 x 128, N 50, T 50, muon, float32: does not fit: too wide; the rule names wavefront"
    assert "writing, 65 symbols, float32: 1 ms a character, eager 2" in lines[8]
    assert [line.rpartition(" ")[2] for line in lines] == 8 * ["wavefront"] + ["graph"]
    card.outcome = "training: the loss of step 1 is 3 off", None, None
    rows = json.loads(call(capsys, "doctor", "--try", "--json").out)
    assert len(rows) == 9 and rows[0]["cause"] == card.outcome[0]
    assert [row["rule"] for row in rows] == ["graph", *8 * ["wavefront"]]
    shown = call(capsys, "doctor").out
    assert shown.count("; the rule names wavefront\n") == 6 and shown.count("; the rule names graph\n") == 1
    assert shown.count("failed (training: the loss of step 1 is 3 off)") == 7 == len(
        json.loads(call(capsys, "doctor", "--json").out)["paths"])


def test_doctor_tries_for_a_run(card, home, capsys):
    args = ("train", "corpus.txt", "--steps", 4, *SMALL, "-o", "run", "--dtype", "bf16", "--cuda-path", "eager")
    assert call(capsys, *args).code == 0
    assert call(capsys, "doctor", "--try", "run").code == 0
    assert [(t.path, t.precision, t.columns, t.seq, t.optimizer) for t in card.asked] == [
        *((path, "bf16", 8, 20, "muon") for path in FORCED), ("graph", "float32", 1, 1, None)]
    assert "no such" in refused(call(capsys, "doctor", "--try", "nothing"))
    rows = json.loads(call(capsys, "doctor", "--try", "run/best.safetensors", "--json").out)
    assert [row["path"] for row in rows] == ["graph"]
