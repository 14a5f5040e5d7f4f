"""How cost grows: time and memory of a generation along n, context, generations, population and model size.

Each point is a run in a process of its own, which is how its peak memory can be read. The generation in which programs
are compiled does not count.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxloop.bench.speed import describe_machine
from jaxloop.config.presets import load
from jaxloop.config.schema import Config, dump
from jaxloop.errors import RunError
from jaxloop.learners.placement import peak_memory_bytes
from jaxloop.runs.runner import run

# A small loop, so that a whole table takes minutes; each axis spans a factor of 16.
_BASE = ("train.steps=60", "train.evaluate_every_steps=30", "cycle.rows=500", "cycle.generations=3", "grid={}")
AXES: dict[str, dict[int, tuple[str, ...]]] = {
    "n, rows a generation": {rows: (f"cycle.rows={rows}",) for rows in (500, 2000, 8000)},
    "context, tokens": {
        context: ("language.max_depth=3", f"model.context_tokens={context}") for context in (32, 128, 512)
    },
    "generations": {count: (f"cycle.generations={count + 1}",) for count in (1, 4, 16)},
    "population, loops": {count: (f"seeds={list(range(count))}",) for count in (2, 8, 32)},
    "model, width": {width: (f"model.width={width}", "model.heads=4") for width in (32, 128, 512)},
}
_PER_RUN = ("generations",)


class _Clock:
    """A display that only looks at the clock."""

    def begin(self, loops, states, metrics, columns) -> None:
        self.first_ended = math.nan

    def watch(self, loops, generation, trained_share) -> None:
        if generation == 1 and math.isnan(self.first_ended):
            self.first_ended = time.perf_counter()

    def finished(self, loop, generation, columns) -> None:
        self.last_ended = time.perf_counter()

    def answer(self, lines) -> None:
        pass

    def warn(self, message) -> None:
        print(message, file=sys.stderr)


def scaling(source: str, overrides: list[str], say: Callable[[str], None]) -> dict:
    """Run every point and fit an exponent to each axis.

    Returns:
      For each axis its points (value, seconds, peak bytes) and the slopes of log seconds and log bytes: 1 is linear.
    """
    configs = {
        (axis, value): load(source, [*overrides, *_BASE, *changes])
        for axis, points in AXES.items()
        for value, changes in points.items()
    }
    table = {}
    for axis, points in AXES.items():
        rows = []
        for value in points:
            say(f"{axis}: {value}")
            cost = _cost(configs[axis, value])
            per = cost["generations"] if axis not in _PER_RUN else 1
            rows.append({"value": value, "seconds": cost["seconds"] / per, "peak_bytes": cost["peak_bytes"]})
        logs = {key: np.log([row[key] for row in rows]) for key in ("value", "seconds", "peak_bytes")}
        table[axis] = {
            "points": rows,
            "seconds_exponent": float(np.polyfit(logs["value"], logs["seconds"], 1)[0]),
            "memory_exponent": float(np.polyfit(logs["value"], logs["peak_bytes"], 1)[0]),
        }
    return {"machine": describe_machine(), "axes": table}


def _cost(config: Config) -> dict:
    """Seconds of all generations but the first, how many those are, and peak memory, of a run in its own process."""
    answer = subprocess.run(
        [sys.executable, "-m", "jaxloop.bench.scaling"], input=dump(config), capture_output=True, text=True, check=False
    )
    if answer.returncode:
        words = (answer.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RunError(f"a run of the scaling table failed: {words}")
    return json.loads(answer.stdout)


def main() -> None:
    """Run the config on standard input in a folder that is thrown away, and print what it cost."""
    with tempfile.TemporaryDirectory() as folder:
        file, clock = Path(folder) / "config.toml", _Clock()
        file.write_text(sys.stdin.read(), encoding="utf-8")
        config = load(str(file))
        run(config, Path(folder) / "run", "scaling", clock)
    generations = config.cycle.generations - 1
    cost = {"seconds": clock.last_ended - clock.first_ended, "generations": generations}
    print(json.dumps(cost | {"peak_bytes": peak_memory_bytes()}))


if __name__ == "__main__":
    main()
