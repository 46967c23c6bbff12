"""The figures of `rnncore bench` as text. Functions cpu_... print settings on a CPU, card_... rows on a GPU."""
import math


def cpu_headline(found: dict) -> str:
    """Return one line on the machine and the library versions."""
    return (f"{found['processor']}, {found['cores']} cores, {found['memory']}; rnncore {found['rnncore']}, Python "
            f"{found['python']}, NumPy {found['numpy']} ({found['blas']})"
            + (f", torch {found['torch']}" if "torch" in found else "") + f"; recurrence {found['recurrence']}")


def cpu_lines(found: dict, width: float = math.inf) -> list[str]:
    """Return the figures of one setting: a table of at most `width` columns, the matrix products and the memory.

    Columns: ms per step (median), its quartiles, characters/s, GF/s (10^9 floating-point operations per second),
    threads, and the time of the entry divided by ours.
    """
    products, ours = found["products"], found["engines"]["rnncore"]
    head = (f"{found['setting']}: {found['layers']} x {found['hidden']} LSTM, embedding {found['embed']}, "
            f"{found['vocab_size']} symbols, N = {found['batch']}, T = {found['seq']}, {found['optimizer']}, "
            f"{found['dtype']} on {found['device']}")
    rows: list[tuple[str, ...]] = [("", "ms a step", "quartiles", "characters/s", "GF/s", "threads", "time / ours")]
    for what in ours["work"]:
        for name, engine in found["engines"].items():
            rows.append((f"{what}, {name}", *cells(engine["work"][what])))
    speeds = [f"{name} product, {' x '.join(map(str, product['shape']))}, threads {product['threads']}: "
              f"{digits(product['gflops'])} GF/s; a training step's products reach {100 * product['share']:.0f}% of it"
              for name, product in products.items()]
    peaks = ", ".join(f"{name} {engine['memory_mb']:.0f} MB" for name, engine in found["engines"].items())
    return [head, *aligned(rows, width), *speeds, f"peak memory of training above Python with NumPy: {peaks}",
            *([f"without torch bfloat16: {found['left_out']}"] if found["left_out"] else [])]


def cells(work: dict) -> tuple[str, ...]:
    """Return the table cells of one measurement: time, quartiles, speed, GF/s, threads and ratio."""
    ratio = work.get("times_ours")
    return (digits(work["ms"]), " to ".join(map(digits, work["quartiles_ms"])), f"{work['characters_per_s']:,.0f}",
            digits(work["gflops"]) if "gflops" in work else "", str(work["threads"] or ""),
            f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "")


def card_headline(machine: dict) -> str:
    """Return one line on the GPU and the library versions."""
    named = {"compute capability": "capability", "driver": "driver", "CUDA runtime": "cuda runtime", "CuPy": "cupy",
             "rnncore": "rnncore"}
    words = [machine["card"], *(f"{label} {machine.get(key, 'unknown')}" for label, key in named.items())]
    if "torch" in machine:
        words.append(f"torch {machine['torch']} (CUDA {machine['torch cuda']}, cuDNN {machine['cudnn']})")
    return ", ".join(words)


def card_lines(found: dict, width: float = math.inf) -> list[str]:
    """Return the figures of one row in one precision class: every entry with its times, or why it has none.

    The table has at most `width` columns. "from float64" is the difference from the float64 reference, "allowed" its
    bound for the class.
    """
    scale, unit = (1e3, "us a character") if found["work"] == "writing" else (1.0, "ms")
    allowed = found["allowed"] or {}
    rows: list[tuple[str, ...]] = [("", unit, "p10 to p90", "characters/s", "from float64", "allowed", "ready s")]
    silent = []
    for side, label in (("ours", "rnncore"), ("torch", "torch")):
        for name, entry in found[side].items():
            if "ms" not in entry:
                silent.append(f"{label} {name}: not timed ({entry['why_not']})")
                continue
            mark = " *" if found["chosen"] and (side, name) == ("ours", found["chosen"]["path"]) else ""
            rows.append((f"{label} {name}{mark}", digits(scale * entry["ms"]),
                         f"{digits(scale * entry['p10_ms'])} to {digits(scale * entry['p90_ms'])}",
                         f"{entry['characters_per_s']:,.0f}",
                         digits(entry["difference"]) if "difference" in entry else "",
                         digits(allowed[side]) if allowed else "", f"{entry['ready_s']:.1f}"))
    expected = "; ".join(f"{kind}: {name}" for kind, name in found.get("cudnn_expected", {}).items())
    wide = [f"rnncore may be as far from float64 as torch {allowed['by']} is"] if allowed.get("by") else []
    return [heading(found), *(aligned(rows, width) if len(rows) > 1 else []), *silent, *wide,
            *([f"cuDNN's algorithm, expected: {expected}"] if expected else []), verdict(found)]


def heading(found: dict) -> str:
    """Return one line: the row, its precision class and its sizes."""
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
    """Return one line: how many times as fast as torch the chosen path is, or why there is no ratio."""
    ratio, words = found["ratio"], found["verdict"]
    if ratio is None:
        return f"no ratio: {words}"
    return (f"{found['chosen']['path']} is {ratio['median']:.2f} times as fast as torch {found['against']} "
            f"({ratio['low']:.2f} to {ratio['high']:.2f})" + (f"; {words}" if words else ""))


def card_summary(rows: list[dict], width: float = math.inf) -> list[str]:
    """Return one table of all rows: our chosen path beside torch's fastest entry, in ms."""
    table: list[tuple[str, ...]] = [("", "ours", "ms", "torch", "ms", "ratio")]
    for found in rows:
        mine, other = found["chosen"] and found["chosen"]["path"], found["against"]
        table.append((f"{found['row']}, {found['class']}",
                      mine or "-", digits(found["ours"][mine]["ms"]) if mine else "-",
                      other or "-", digits(found["torch"][other]["ms"]) if other else "-",
                      f"{found['ratio']['median']:.2f}" if found["ratio"] else "-"))
    return aligned(table, width)


def aligned(rows: list[tuple[str, ...]], width: float = math.inf) -> list[str]:
    """Return a table as lines: the first column flush left, the others flush right.

    A column that is empty but for its head is left out. Columns beyond `width` go into a further table below, which
    repeats the first column.
    """
    columns = [column for place, column in enumerate(zip(*rows, strict=True)) if place == 0 or any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    tables = [[0]]  # the columns of each table
    for place in range(1, len(widths)):
        taken = sum(widths[column] + 2 for column in tables[-1])
        if taken + widths[place] > width and len(tables[-1]) > 1:
            tables.append([0])
        tables[-1].append(place)
    return ["  ".join([row[0].ljust(widths[0]), *(row[place].rjust(widths[place]) for place in table[1:])]).rstrip()
            for table in tables for row in zip(*columns, strict=True)]


def digits(number: float) -> str:
    """Return a number with three significant digits, or, from 1,000 on, as a whole number."""
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"
