"""Whether a folder may be used for a run: it is new, or one of the same config, or one of fewer generations."""

import shutil
from pathlib import Path

from jaxloop import layout
from jaxloop.config.presets import parse
from jaxloop.config.schema import Config, differences, dump, loops
from jaxloop.errors import DamageError, InputError
from jaxloop.files import read_file, seal_text, write_whole
from jaxloop.runs.stored import MOST_CONFIG_BYTES, read_config, settings_digest

_SECTIONS = {"cycle", "learner", "sample", "measure"}  # of every system and version


def holds_a_run(run: Path) -> bool:
    """Whether there is a run in a folder; False for one that is empty or not there.

    Raises:
      InputError: it is somebody else's.
    """
    if run.exists() and not run.is_dir():
        raise InputError(f"{run}: is a file; name a folder with --out")
    if not run.exists() or all(path.name.startswith(".") for path in run.iterdir()):
        return False
    # A run's config.toml has every section written out; any other file of that name is somebody else's.
    if not _is_of_a_run(run / layout.CONFIG):
        raise InputError(f"{run}: is no run folder and not empty; name another with --out")
    return True


def _is_of_a_run(config_path: Path) -> bool:
    """Whether a config.toml has every section of a run's written out, sealed or not."""
    if not config_path.exists():
        return False
    text = read_file(config_path, MOST_CONFIG_BYTES).decode("utf-8-sig", "replace")
    try:
        return parse(text, str(config_path)).model_fields_set >= _SECTIONS
    except InputError as error:
        raise InputError(f"{error}; put it right, or name another folder with --out") from None


def empty(run: Path) -> None:
    """Remove everything that a run has made, and nothing else."""
    for kind in layout.KINDS:
        for folder in run.glob(f"{kind}/loop_*"):
            shutil.rmtree(folder)
    files = [run / f"{name}.csv" for name in (*layout.TABLES, *layout.DERIVED)]
    files += [run / "figures" / f"{name}.png" for name in layout.FIGURES]
    # config.toml goes last, so that a folder half deleted is still known as a run folder.
    for path in (*files, run / layout.MANIFEST, run / layout.CONFIG):
        path.unlink(missing_ok=True)


def write_config(run: Path, config: Config) -> None:
    """Write config.toml, sealed."""
    write_whole(run / layout.CONFIG, seal_text(dump(config)))


def require_same(run: Path, config: Config) -> bool:
    """Refuse a folder of other settings.

    Returns:
      Whether it is of fewer generations, so that its config.toml is to be written anew.

    Raises:
      InputError: it is of other settings, or of more generations.
    """
    try:
        stored = read_config(run)
    except DamageError as error:
        raise InputError(f"{error}; name another folder with --out, or start anew with --overwrite") from None
    changed = differences(dump(stored), dump(config))
    if not changed:
        return False
    if len(changed) == 1 and changed[0].startswith("cycle.generations: "):
        if stored.cycle.generations > config.cycle.generations:
            raise InputError(
                f"{run}: was made with {stored.cycle.generations} generations, and a run can only be made longer; "
                "name another folder with --out, or start anew with --overwrite"
            )
        if _all_but_generations(stored) == _all_but_generations(config):
            return True
    raise InputError(
        f"{run}: was made with other settings ({'; '.join(changed)}); "
        "name another folder with --out, or start anew with --overwrite"
    )


def _all_but_generations(config: Config) -> list[tuple]:
    """All that decides the loops of a run, but how long they are."""
    return [(loop.index, loop.axes, loop.config.cycle.fresh_only, settings_digest(loop)) for loop in loops(config)]
