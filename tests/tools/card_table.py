"""The table of card.sh, in Markdown: card and software, a line a part, bench's rows and paths, profiles, the 2018 model."""
OUTCOMES = {"passed": "passed", "failed": "**failed**", "limit": "**ended by its limit**", "missing": "**not run**",
            "stopped": "**stopped**", "no card": "**not run**"}
BROKEN = 160  # characters of a row's reason
SHOWN = 10    # kernels of a profile; the others are added up
NAME = 60     # characters of a kernel's name: those of cuBLAS have more


def markdown(machine: dict, parts: dict[str, dict]) -> str:
    """Return the whole table; parts: the name of each that was chosen -> what came of it, {} where it has not begun."""
    blocks = [headline(machine), parts_table(parts)]
    bench = parts.get("bench", {})
    if bench.get("rows") or bench.get("silent"):
        blocks += [bench_table(bench["rows"], bench["silent"]), *paths_table(bench["rows"])]
    blocks += map(profile_table, parts.get("profile", {}).get("profiles", []))
    model = parts.get("model2018", {}).get("model")
    if model:
        blocks.append(model_line(model))
    return "\n\n".join(blocks) + "\n"


def headline(machine: dict) -> str:
    """Return card, versions and date in one line; below it why no card works, where none does."""
    named = {"driver": "driver {}", "cuda runtime": "CUDA {}", "cupy": "CuPy {}", "torch": "torch {}",
             "cudnn": "cuDNN {}", "rnncore": "rnncore {}", "date": "{}"}
    words = [f"**{machine.get('card', 'no card')}**", *(text.format(machine[key]) for key, text in named.items()
                                                        if machine.get(key))]
    why_not = machine.get("why not")
    return ", ".join(words) + (f"\n\nNo card works here: {cell(why_not)}" if why_not else "")


def parts_table(parts: dict[str, dict]) -> str:
    """Return a line a part: outcome, words, and its seconds of those that it might have taken."""
    rows = [("part", "outcome", "", "seconds", "at most")]
    for name, found in parts.items():
        if found:
            seconds, limit = (f"{found[key]:.0f}" if key in found else "" for key in ("seconds", "limit"))
            rows.append((name, OUTCOMES[found["outcome"]], found["words"], seconds, limit))
        else:
            rows.append((name, "not begun", "", "", ""))
    return table(rows, "lll" + "rr")


def bench_table(rows: list[dict], silent: dict[str, str]) -> str:
    """Return a line a row and class: the fastest of ours and of torch, in ms; where torch is ahead the line is bold."""
    lines = [("row", "class", "ours", "ms", "torch", "ms", "ratio")]
    for found in rows:
        mine, other = (found.get("chosen") or {}).get("path"), found.get("against")
        ratio = (found.get("ratio") or {}).get("median")
        line = [found["row"], found["class"], mine or "-", ms(found["ours"], mine), other or "-",
                ms(found["torch"], other), "none" if ratio is None else f"{ratio:.2f}"]
        if ratio is not None and ratio < 1:
            line = [f"**{words}**" for words in line]
            line[-1] += " torch is ahead"
        if found.get("verdict"):
            line[-1] += f" ({cut(found['verdict'])})"
        lines.append(tuple(line))
    lines += [(name, "all", "-", "-", "-", "-", f"none ({cut(why)})") for name, why in silent.items()]
    return table(lines, "lllrlrl") + ("\n\nms: of a training step, of a pass, or, in the rows that write, of a "
                                      "character of each text. Ratio: torch's fastest to ours.")


def paths_table(rows: list[dict]) -> list[str]:
    """Return a table of the ms of each of our paths: a line a row and class where more than one was measured."""
    several = [found for found in rows if sum("ms" in figures for figures in found["ours"].values()) > 1]
    paths = list(dict.fromkeys(path for found in several for path in found["ours"]))
    lines = [(found["row"], found["class"], *(ms(found["ours"], path) for path in paths)) for found in several]
    return ["Our paths, in ms:\n\n" + table([("row", "class", *paths), *lines], "ll" + "r" * len(paths))] if lines else []


def profile_table(found: dict) -> str:
    """Return the microseconds of a unit that the card spent in each kernel, and its launches."""
    title = f"Where a unit of {found['row']} in {found['class']} by {found['path']} goes"
    kernels = found.get("kernels")
    if not kernels:
        return f"{title}: not measured ({cell(cut(found.get('why_not', 'no kernel was seen')))})"
    shown = kernels[:SHOWN]
    if kernels[SHOWN:]:
        shown = [*shown, {"name": f"{len(kernels) - SHOWN} others"} | {
            key: sum(kernel[key] for kernel in kernels[SHOWN:]) for key in ("us", "launches")}]
    us, launches = (sum(kernel[key] for kernel in kernels) for key in ("us", "launches"))
    lines = [(kernel["name"][:NAME], digits(kernel["us"]), digits(kernel["launches"])) for kernel in shown]
    return (f"{title}: {digits(us)} us in {digits(launches)} kernels\n\n"
            + table([("kernel", "us", "launches"), *lines], "lrr"))


def ms(side: dict, name: str | None) -> str:
    """Return the milliseconds of one way to do a row's work."""
    return digits(side[name]["ms"]) if name and "ms" in side.get(name, {}) else "-"


def model_line(model: dict) -> str:
    """Return speed and losses of the 2018 project's model in one line."""
    training = model["chars"] / model["chars_per_s"]
    words = (f"`{model['command']}`: {model['chars'] / 1e6:.1f} million characters in {model['seconds']:.0f} s, "
             f"{training:.0f} s of them training at {model['chars_per_s'] / 1e6:.2f} million characters/s")
    if model.get("path"):
        words += f" by {model['path']}"
    if model.get("best"):
        words += (f"; validation loss {model['best']:.3f} at step {model['best_step']:,}, {model['val_loss']:.3f} at "
                  "the end")
    return f"{words}; training loss {model['loss']:.3f} at step {model['step']:,}."


def table(rows: list[tuple], sides: str) -> str:
    """Return rows of words as Markdown, the first as its head; sides: l or r, a letter a column."""
    lines = [f"| {' | '.join(map(cell, row))} |" for row in rows]
    lines.insert(1, "|" + "|".join("---" if side == "l" else "---:" for side in sides) + "|")
    return "\n".join(lines)


def cell(words: str) -> str:
    """Return words as they can stand in a table: one line, no bars."""
    return " ".join(words.split()).replace("|", "\\|")


def cut(words: str) -> str:
    """Return words, shortened where they are too many for a line."""
    return words if len(words) <= BROKEN else words[:BROKEN - 3] + "..."


def digits(number: float) -> str:
    """Return a number with three digits that count."""
    return f"{number:,.0f}" if number >= 100 else f"{number:#.3g}" if number >= 0.001 else f"{number:.2g}"
