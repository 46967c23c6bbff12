"""The figures of the contest on a card in words: a table a row, and one line each at the end."""
from .terminal.table import aligned, digits


def headline(machine: dict) -> str:
    """Card and versions in one line."""
    named = {"compute capability": "capability", "driver": "driver", "CUDA runtime": "cuda runtime", "CuPy": "cupy",
             "rnncore": "rnncore"}
    words = [machine["card"], *(f"{label} {machine.get(key, 'unknown')}" for label, key in named.items())]
    if "torch" in machine:
        words.append(f"torch {machine['torch']} (CUDA {machine['torch cuda']}, cuDNN {machine['cudnn']})")
    return ", ".join(words)


def lines(found: dict) -> list[str]:
    """One row in one class: every contestant with its times, or the words why it has none."""
    scale, unit = (1e3, "us a character") if found["work"] == "writing" else (1.0, "ms")
    allowed = found["allowed"] or {}
    rows, silent = [("", unit, "p10 to p90", "characters/s", "from float64", "allowed", "ready s")], []
    for who, label in (("ours", "rnncore"), ("torch", "torch")):
        for name, entry in found[who].items():
            if "ms" not in entry:
                silent.append(f"{label} {name}: not timed ({entry['why_not']})")
                continue
            mark = " *" if found["chosen"] and (who, name) == ("ours", found["chosen"]["path"]) else ""
            rows.append((f"{label} {name}{mark}", digits(scale * entry["ms"]),
                         f"{digits(scale * entry['p10_ms'])} to {digits(scale * entry['p90_ms'])}",
                         f"{entry['characters_per_s']:,.0f}",
                         digits(entry["difference"]) if "difference" in entry else "",
                         digits(allowed[who]) if allowed else "", f"{entry['ready_s']:.1f}"))
    expected = "; ".join(f"{kind}: {name}" for kind, name in found.get("cudnn_expected", {}).items())
    wide = [f"rnncore may be as far from float64 as torch {allowed['by']} is"] if allowed.get("by") else []
    return [heading(found), *(aligned(rows) if len(rows) > 1 else []), *silent, *wide,
            *([f"cuDNN's algorithm, expected: {expected}"] if expected else []), verdict(found)]


def heading(found: dict) -> str:
    """The row, its class and its sizes in one line."""
    name, hidden, embed = f"{found['row']}, {found['class']}", found["hidden"], found["embed"]
    if found["work"] == "writing":
        size = f"{found['vocab_size']} symbols, {found['streams']} texts at once"
    else:
        size = f"N = {found['batch']}, T = {found['seq']}"
    if found["work"].startswith("forward"):
        return f"{name}: one layer alone, {hidden} units, input {embed}, {size}, {found['work']}"
    if found["work"] == "training":
        size = f"{found['vocab_size']} symbols, {size}, {found['optimizer']}"
    return f"{name}: {found['layers']} x {hidden} LSTM, embedding {embed}, {size}"


def verdict(found: dict) -> str:
    """The ratio, or why there is none, in one line."""
    ratio, words = found["ratio"], found["verdict"]
    if ratio is None:
        return f"no ratio: {words}"
    return (f"{found['chosen']['path']} is {ratio['median']:.2f} times as fast as torch {found['against']} "
            f"({ratio['low']:.2f} to {ratio['high']:.2f})" + (f"; {words}" if words else ""))


def summary(rows: list[dict]) -> list[str]:
    """All rows in one table: ours and torch's fastest."""
    table = [("", "ours", "ms", "torch", "ms", "ratio")]
    for found in rows:
        mine, other = found["chosen"] and found["chosen"]["path"], found["against"]
        table.append((f"{found['row']}, {found['class']}",
                      mine or "-", digits(found["ours"][mine]["ms"]) if mine else "-",
                      other or "-", digits(found["torch"][other]["ms"]) if other else "-",
                      f"{found['ratio']['median']:.2f}" if found["ratio"] else "-"))
    return aligned(table)
