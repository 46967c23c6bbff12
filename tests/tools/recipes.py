"""The recipes whose losses quality.py measures. SEARCH: to choose the recipe. FINAL: the figures of the READMEs."""
from typing import NamedTuple

SMALL = "--layers 2 --hidden 128 --embed 64"
MEDIUM = "--layers 2 --hidden 256 --embed 64"
TODAY = "--batch 64 --seq 50 --lr .03"


class Recipe(NamedTuple):
    """One row: what it is, the options of `rnncore train`, a trial of trials.py, the text, and the seeds."""
    what: str
    options: str
    trial: str = ""
    seeds: tuple[int, ...] = (1,)
    text: str = "shakespeare"


THREE = (1, 2, 3)
N32 = f"{SMALL} --batch 32 --seq 50 --lr .02 --steps 1876"
WIDE = f"{MEDIUM} --dtype bf16 --dropout 0 --weight-drop 0"
SHORT = "--layers 1 --embed 64 --epochs 20"
SEARCH = {
    "base": Recipe("2x128, 3M: the recipe of before", f"{SMALL} {TODAY} --steps 938", seeds=THREE),
    "baselr2": Recipe("rate .02", f"{SMALL} --lr .02 --steps 938 --batch 64"),
    "n32": Recipe("32 streams", f"{SMALL} --batch 32 --steps 1876 --lr .03"),
    "n32lr2": Recipe("32 streams, rate .02", N32, seeds=THREE),
    "n32lr15": Recipe("32 streams, rate .015", f"{SMALL} --batch 32 --steps 1876 --lr .015"),
    "n32lr1": Recipe("32 streams, rate .01", f"{SMALL} --batch 32 --steps 1876 --lr .01"),
    "n20": Recipe("20 streams", f"{SMALL} --batch 20 --steps 3002 --lr .03"),
    "n20lr2": Recipe("20 streams, rate .02", f"{SMALL} --batch 20 --steps 3002 --lr .02"),
    "n16lr15": Recipe("16 streams, rate .015", f"{SMALL} --batch 16 --steps 3752 --lr .015"),
    "t100n32": Recipe("32 streams, windows of 100", f"{SMALL} --batch 32 --seq 100 --steps 938 --lr .03"),
    "t100n32lr2": Recipe("the same, rate .02", f"{SMALL} --batch 32 --seq 100 --steps 938 --lr .02"),
    "t100n16lr15": Recipe("16 streams, windows of 100, rate .015", f"{SMALL} --batch 16 --seq 100 --steps 1876 --lr .015"),
    "t25n64": Recipe("windows of 25, rate .02", f"{SMALL} --seq 25 --steps 1876 --lr .02 --batch 64"),
    "embed32": Recipe("embedding 32", f"{SMALL} --embed 32 --steps 938 --batch 64 --lr .03"),
    "embed128": Recipe("embedding 128", f"{SMALL} --embed 128 --steps 938 --batch 64 --lr .03"),
    "drop05": Recipe("dropout .05", f"{SMALL} --steps 938 --dropout .05 --batch 64 --lr .03"),
    "decay0": Recipe("32 streams, rate .02: no weight decay", N32, "decay=0"),
    "decay03": Recipe("weight decay .03", N32, "decay=.03"),
    "decay3": Recipe("weight decay .3", N32, "decay=.3"),
    "decay10": Recipe("weight decay 1", N32, "decay=1"),
    "momentum9": Recipe("momentum .9", N32, "momentum=.9"),
    "momentum97": Recipe("momentum .97", N32, "momentum=.97"),
    "normalised": Recipe("NorMuon", N32, "normalised=.95"),
    "reset": Recipe("state reset at random, probability .01", N32, "reset=.01"),
    "growing": Recipe("window growing from 20 to 80", f"{N32} --seq 80", "growing=.25"),
    "n32embed32": Recipe("embedding 32", f"{N32} --embed 32"),
    "warmup10": Recipe("warm-up .1", f"{N32} --warmup .1"),
    "warmup0": Recipe("warm-up .01", f"{N32} --warmup .01"),
    "embeddrop": Recipe("embedding drop .05", f"{N32} --weight-drop .001", "embedding-drop=.05"),
    "wide": Recipe("2x256, 4M, no dropout", f"{WIDE} --steps 1250 --batch 64 --lr .03", seeds=THREE),
    "widen32": Recipe("32 streams, rate .02", f"{WIDE} --batch 32 --lr .02 --steps 2500", seeds=THREE),
    "widen32lr15": Recipe("32 streams, rate .015", f"{WIDE} --batch 32 --lr .015 --steps 2500"),
    "widelong": Recipe("2x256, 5M, no dropout: as long as 32 streams take", f"{WIDE} --steps 1563 --batch 64 --lr .03", seeds=THREE),
    "widedrop1": Recipe("2x256, 4M, dropout .1: the recipe of before", f"{MEDIUM} --dtype bf16 --dropout .1 --weight-drop 0 --steps 1250 --batch 64 --lr .03", seeds=THREE),
    "widen32drop1": Recipe("32 streams, rate .02, dropout .1", f"{MEDIUM} --dtype bf16 --dropout .1 --weight-drop 0 --batch 32 --lr .02 --steps 2500", seeds=THREE),
    "short": Recipe("100 KB, 20 epochs, 1x128: the recipe of before", f"{SHORT} --hidden 128 --dropout .3 --weight-drop .3 --batch 64 --lr .03", text="short"),
    "short256": Recipe("1x256", f"{SHORT} --hidden 256 --dropout .3 --weight-drop .3 --batch 64 --lr .03", seeds=THREE, text="short"),
    "short256d4": Recipe("1x256, dropout .4", f"{SHORT} --hidden 256 --dropout .4 --weight-drop .4 --batch 64 --lr .03", text="short"),
    "short256d5": Recipe("1x256, dropout .5", f"{SHORT} --hidden 256 --dropout .5 --weight-drop .5 --batch 64 --lr .03", text="short"),
    "shortn32": Recipe("1x128, 32 streams, rate .02", f"{SHORT} --hidden 128 --dropout .3 --weight-drop .3 --batch 32 --lr .02", text="short"),
    "short256n32d3": Recipe("1x256, 32 streams, rate .02", f"{SHORT} --hidden 256 --dropout .3 --weight-drop .3 --batch 32 --lr .02", seeds=THREE, text="short"),
    "short256n32": Recipe("1x256, 32 streams, rate .02, dropout .4", f"{SHORT} --hidden 256 --dropout .4 --weight-drop .4 --batch 32 --lr .02", text="short"),
    "short256n32d5": Recipe("1x256, 32 streams, rate .02, dropout .5", f"{SHORT} --hidden 256 --dropout .5 --weight-drop .5 --batch 32 --lr .02", text="short"),
    "short256n16": Recipe("1x256, 16 streams, rate .015, dropout .5", f"{SHORT} --hidden 256 --dropout .5 --weight-drop .5 --batch 16 --lr .015", text="short"),
}
FINAL = {
    "base": SEARCH["base"],
    "n32lr2": SEARCH["n32lr2"]._replace(what="2x128, 3M, 32 streams, rate .02: what `train` takes"),
    "medium": SEARCH["widedrop1"],
    "medium32": SEARCH["widen32"]._replace(what="2x256, 4M, 32 streams, rate .02: what `train --preset medium --dtype bf16` takes"),
    "short": SEARCH["short"]._replace(seeds=THREE),
    "short256": SEARCH["short256"]._replace(what="100 KB, 20 epochs, 1x256, 64 streams: the recipe of before"),
    "short256n32d3": SEARCH["short256n32d3"]._replace(what="100 KB, 20 epochs, 1x256, 32 streams, rate .02: what `train` takes"),
}
