"""Where everything lies in a run folder.

    config.toml            the resolved settings
    own_parts.json         what readers have to know of parts of one's own, where there are such
    metrics.csv            a row per loop and generation; the same bits for the same settings on the same hardware
    tails.csv              survival of the source's tails: a row per class of rows
    summary.csv            what each cell came to, with its uncertainty over seeds
    collapse.csv, half_lives.csv, split.csv     what collapsed, in which meaning of the word, when, and why
    timings.csv            seconds of the same rows
    provenance.csv         rows of each training set by where they came from
    top_samples.csv        the most frequent samples
    tables/loop_000/       the part of those tables that is one loop's
    samples/loop_000/generation_000.npz     every sample, and what the judge said of it
    checkpoints/loop_000/0/state.npz        the carry of the loop and its samples (the last two generations)
    seals/loop_000/generation_000.json      digests of all that is there of the loop, but models (the last two)
    seals/loop_000/announced.json           there while several generations are written together
    models/loop_000/generation_000/         the loop's newest model, and others that are to stay, as Orbax writes them
    models/loop_000/generation_000.json     digests of all files of that model
    figures/
    manifest.json          versions, device, cores, commands and their seconds

Every file appears whole or not at all. A generation counts as finished when its seal is there, and that is written
last; so it is with a model. What is of one loop is written by the process that computes it; the tables at the top are
joined from the loops' own, so that they may be stale while a run goes on, or after it was killed.
"""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path

CONFIG, MANIFEST, OWN = "config.toml", "manifest.json", "own_parts.json"
STATE = "state.npz"
TABLES = ("metrics", "timings", "provenance", "top_samples", "tails")
# Without these nothing is lost that the others tell.
SPARE_TABLES = ("timings", "top_samples")
DERIVED = ("summary", "collapse", "half_lives", "split")
FIGURES = ("overview", "diversity", "final", "correctness", "heat_map", "quality_map", "closed_form")
KINDS = ("checkpoints", "samples", "tables", "seals", "models")  # of folders that each loop has


def loop_folder(run: Path, kind: str, loop: int) -> Path:
    """The folder of one loop, of one of KINDS."""
    return run / kind / f"loop_{loop:03d}"


def make_loop_folder(run: Path, kind: str, loop: int) -> None:
    """Make the folder of one loop in that of the run, which itself must be there."""
    folder = loop_folder(run, kind, loop)
    for one in (folder.parent, folder):
        with contextlib.suppress(FileExistsError):
            one.mkdir()


def table_path(run: Path, loop: int, table: str) -> Path:
    """One loop's part of a table."""
    return loop_folder(run, "tables", loop) / f"{table}.csv"


def samples_path(run: Path, loop: int, generation: int) -> Path:
    """The samples of a generation of one loop."""
    return loop_folder(run, "samples", loop) / f"generation_{generation:03d}.npz"


def checkpoint_folder(run: Path, loop: int, generation: int) -> Path:
    """What one loop goes on from after a generation."""
    return loop_folder(run, "checkpoints", loop) / str(generation)


def seal_path(run: Path, loop: int, generation: int) -> Path:
    """What says that a generation of one loop is finished."""
    return loop_folder(run, "seals", loop) / f"generation_{generation:03d}.json"


def announcement_path(run: Path, loop: int) -> Path:
    """What says that rows of several generations of one loop may stand in its tables before one of them is sealed."""
    return loop_folder(run, "seals", loop) / "announced.json"


def model_folder(run: Path, loop: int, generation: int) -> Path:
    """The model of a generation of one loop."""
    return loop_folder(run, "models", loop) / f"generation_{generation:03d}"


def model_seal_path(run: Path, loop: int, generation: int) -> Path:
    """What says that a model is there whole."""
    return loop_folder(run, "models", loop) / f"generation_{generation:03d}.json"


def loops_with(run: Path, kind: str) -> list[int]:
    """The numbers of all loops that have a folder of this kind; copies that lie beside them are none of ours."""
    names = [path.name for path in run.glob(f"{kind}/loop_*") if path.is_dir()]
    numbers = [int(name[5:]) for name in names if name[5:].isascii() and name[5:].isdecimal() and len(name) < 20]
    return sorted(number for number in numbers if loop_folder(run, kind, number).name in names)


def sealed_generations(run: Path, loop: int) -> list[int]:
    """The generations of a loop that have a seal, the newest first."""
    return _generations_with(functools.partial(seal_path, run, loop))


def model_generations(run: Path, loop: int) -> list[int]:
    """The generations of a loop that have a model with its seal, the newest first."""
    return _generations_with(functools.partial(model_seal_path, run, loop))


def _generations_with(seal_of: Callable[[int], Path]) -> list[int]:
    stems = [path.stem.removeprefix("generation_") for path in seal_of(0).parent.glob("generation_*.json")]
    numbers = {int(stem) for stem in stems if stem.isascii() and stem.isdecimal() and len(stem) < 10}
    return sorted((number for number in numbers if seal_of(number).exists()), reverse=True)
