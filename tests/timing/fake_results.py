"""Fabricated benchmark results for tests; nothing is timed."""

from graphnn.planner.core.device_constants import CPU
from graphnn.timing.results import empty

ABOUT = {
    "device": "a machine",
    "torch": "2.0",
    "triton": "3.0",
    "python": "3.11",
    "graphnn": "0.1.0",
    "commit": "0123456789abcdef",
    "date": "2026-01-01",
    "dtype": "float32",
}


def standing(median, spread=0.04, rounds=15, ratio=1.0, **more):
    """Returns a contender's standing whose quartiles are `spread` times the median apart."""
    half = median * spread / 2
    found = {"low": median - half, "median": median, "high": median + half, "rounds": rounds}
    best = median * (1 - spread)
    return {**found, "best": best, "sweeps": [best], "ratio": ratio, **more}


def row(network="LSTM", what="forward", contenders=None, sizes=None, **more):
    """Returns a row of results; `contenders` maps names to medians or standings."""
    standings = {
        k: v if isinstance(v, dict) else standing(v) for k, v in (contenders or {}).items()
    }
    case = {"network": network, "sizes": sizes or {"T": 8, "B": 4, "H": 16}, "dtype": "float32"}
    return {"case": case, "pass": what, "contenders": standings, "absent": {}, "failed": {}, **more}


def results(rows, limits=True, **about):
    """Returns results with these rows, with device limits unless `limits` is false."""
    found = empty({**ABOUT, **about}, CPU.record() if limits else None)
    found["rows"] = list(rows)
    return found


def run(scale=1.0, ours=1.0, spread=0.04):
    """Returns a run of eight rows; `scale` multiplies all times, `ours` only those of graphnn."""
    rows = []
    for k, size in enumerate((16, 32, 64, 128)):
        for what, base in (("forward", 1.0), ("forward and backward", 3.0)):
            mine = base * (k + 1) * scale * ours
            contenders = {
                "graphnn": standing(mine, spread, flops_a_second=1e9 / mine, of_limit=0.1),
                "eager": standing(2 * base * (k + 1) * scale, spread, ratio=2.0),
                "torch.nn": standing(1.5 * base * (k + 1) * scale, spread, ratio=1.5),
            }
            for name in ("eager", "torch.nn"):
                contenders[name]["flops_a_second"] = 1e9 / contenders[name]["median"]
            work = {"flops": 1e6, "bytes": 1e5 * (k + 1), "bound": "memory"}
            rows.append(row("LSTM", what, contenders, {"T": 8, "B": 4, "H": size}, **work))
    return results(rows)
