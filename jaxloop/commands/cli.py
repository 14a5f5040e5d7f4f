"""The command `jaxloop`."""

import contextlib
import gc
import io
import logging
import os
import re
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from jaxloop.errors import InputError, RunError, printable

app = typer.Typer(
    name="jaxloop",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Run the self-consuming training loop: a small transformer is trained on logic expressions, writes the next "
    "training set, and a fresh one is trained on that, generation after generation.\n\n"
    "Begin with `jaxloop run quick`.",
)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[section.key=value ...]", help="Settings that differ; `jaxloop settings` lists them all."),
]
_STOPPED = "stopped; what was finished is kept, and the same command goes on from there"


def _local(path: str) -> str:
    """A path of this machine as a shell would give it, with the home folder in the place of `~`."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path):
        raise InputError(
            f"{path}: is a URL, and only files and folders of this machine are read and written; mount the bucket or "
            "the share (gcsfuse, s3fs, rclone mount), or copy what is there, and name the folder"
        )
    if not path:
        raise InputError("a path is empty; name a file or a folder")
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        raise InputError(f"{path}: nobody of this name has a home folder; a folder of this name is ./{path}") from None


def _warn(message: str) -> None:
    """Say on standard error that something is not as it should be, and the command goes on."""
    print(f"jaxloop: {printable(message)}", file=sys.stderr, flush=True)


def _local_path(path: str) -> Path:
    return Path(_local(path))


Source = Annotated[
    str, typer.Argument(metavar="PRESET|FILE", parser=_local, help="A preset (`jaxloop presets`) or a TOML file.")
]
RunFolder = Annotated[Path, typer.Argument(parser=_local_path, metavar="DIR", help="A run folder, finished or not.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
TextFile = Annotated[
    str,
    typer.Argument(
        parser=_local, metavar="FILE|-", help="A text file with an expression a line, or - for standard input."
    ),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from jaxloop import __version__

        print(f"jaxloop {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Options of every command."""


@app.command()
def run(
    context: typer.Context,
    source: Source,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=_local_path,
            metavar="DIR",
            help="The run folder; by default runs/ with the preset's or the file's name.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where the folder holds a run.")] = False,
    no_figures: Annotated[bool, typer.Option("--no-figures", help="Write the tables and the answer only.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show cells, programs, expected time, memory and disk; run nothing.")
    ] = False,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Share the run with the other processes of a detected cluster.")
    ] = False,
    coordinator: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Share the run with processes that meet at process 0 there.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="How many they are.")] = None,
    process: Annotated[int | None, typer.Option(min=0, help="Which of them this is, from 0.")] = None,
    debug: Debug = False,
) -> None:
    """Run the loops of a preset; say with intervals which cells differ and which collapsed, and draw it.

    The same command again goes on where it stopped, and gives the same bits as a run that was never interrupted.

    ```
    jaxloop run quick
    jaxloop run quick 'seeds=[0,1,2]' sample.temperature=0.7 --out runs/warmer
    jaxloop run quick 'grid.cycle.fresh_share=[0.0,0.1,0.5]' --out runs/shares
    jaxloop run fresh_share scale=paper --plan
    ```

    Several hosts share a run that is started on each of them with the same command and the same folder on shared
    storage: with --distributed where JAX detects the cluster (Slurm, Open MPI, Cloud TPU, Kubernetes), or with
    --coordinator, --processes and --process.
    """
    from jaxloop.config.presets import load

    meeting = (coordinator, processes, process)
    if any(value is not None for value in meeting) and (None in meeting or distributed):
        raise InputError("--coordinator, --processes and --process belong together, and exclude --distributed")
    if process is not None and processes is not None and process >= processes:
        raise InputError(f"--process {process}: the last of {processes} processes is {processes - 1}")
    if plan:
        context.obj.unfinished = "stopped; nothing is kept of a plan"
    config = load(source, overrides or [])
    from jaxloop.runs.terminal import make_console

    if plan:
        from jaxloop.commands.printing import show_plan
        from jaxloop.runs.plan import plan as plan_run
        from jaxloop.runs.resources import disk

        progress = make_console(stderr=True)
        _say_what_is_computed_on()
        planned = plan_run(config, lambda line: progress.print(f"{line} ...", style="dim"))
        show_plan(config, planned, disk(out or Path("runs")), make_console())
        return
    from jaxloop.runs import hosts
    from jaxloop.runs.progress import RunDisplay
    from jaxloop.runs.runner import run as run_config

    # A run makes rows of tables by the million, which form no circles; looking for some took a sixth of `run gaussian`.
    gc.freeze()
    gc.set_threshold(10_000)
    folder = out or Path("runs") / Path(source).stem
    stop = context.obj
    stop.graceful, stop.unfinished = True, _STOPPED
    if not debug:
        # Orbax logs whole tracebacks of what is reported here in one line.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
    command = shlex.join(["jaxloop", *sys.argv[1:]])
    try:
        with (
            hosts.connected(*meeting) if distributed or coordinator else contextlib.nullcontext(),
            RunDisplay(folder.resolve().name, make_console()) as display,
        ):
            drawn = run_config(config, folder, command, display, overwrite, lambda: stop.requested, not no_figures)
    except KeyboardInterrupt:
        _leave(_STOPPED, 130)
    if drawn is not None:
        print(printable(f"results: {folder}"))
    if drawn:
        print(printable(f"figures: {', '.join(map(str, drawn))}"))


@app.command()
def summary(
    folders: Annotated[
        list[Path], typer.Argument(parser=_local_path, metavar="DIR...", help="Run folders, finished or not.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            parser=_local_path, metavar="FILE.csv", help="Write the whole table there too, as in summary.csv."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Join runs into one table: a row per cell, and a column for every setting in which their loops differ.

    Loops of equal settings are one cell, whichever folders their seeds are in; a seed that is in two of them counts
    once. Means over seeds with 95% intervals; only reads, so that a run may be under way.

    ```
    jaxloop summary runs/quick
    jaxloop summary runs/seeds_0_to_4 runs/seeds_5_to_9 --output joined.csv
    ```
    """
    from jaxloop.commands.printing import show_summary
    from jaxloop.runs.joining import join_runs, write_csv
    from jaxloop.runs.terminal import make_console

    joined = join_runs(folders, _warn)
    show_summary(joined.rows, joined.axes, joined.columns, make_console())
    if output is not None:
        write_csv(joined, output)


@app.command()
def verify(
    folder: RunFolder,
    debug: Debug = False,
) -> None:
    """Check that a run folder is what the run wrote: settings, tables, samples, checkpoints, figures.

    Writes a line for each file that is missing or damaged, and ends with exit code 1 if there is one. Only reads; a run
    may be under way.
    """
    from jaxloop.runs.integrity import verify_run

    found = verify_run(folder)
    for line in [*found.damages, *(f"note: {note}" for note in found.notes)]:
        print(printable(line))
    if found.damages:
        files = f"{len(found.damages)} file{'' if len(found.damages) == 1 else 's'}"
        advice = "the run's command makes again what it can; copies of others can be put back, else start anew"
        _leave(f"{folder}: {files} damaged; {advice} with --overwrite", 1)
    print(printable(f"{folder}: whole; {found.generations} finished generations of {found.loops} loops"))


@app.command()
def samples(
    folder: RunFolder,
    loop: Annotated[int, typer.Option(min=0, help="Which loop of the run.")] = 0,
    generations: Annotated[
        str | None,
        typer.Option(metavar="0,4,8", help="Which generations; by default the first, the middle one and the last."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many different samples of each, the most frequent ones.")] = 10,
    debug: Debug = False,
) -> None:
    """Show what a loop wrote most often, with counts and verdicts, generations side by side.

    ```
    jaxloop samples runs/quick
    jaxloop samples runs/quick --loop 3 --generations 0,4,8,12 --top 5
    ```
    """
    from jaxloop.commands.frequent_samples import most_frequent, parse_generations
    from jaxloop.commands.printing import show_frequent
    from jaxloop.runs.terminal import make_console

    show_frequent(*most_frequent(folder, loop, parse_generations(generations), top, _warn), make_console())


@app.command()
def bench(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(parser=_local, metavar="[PRESET|FILE]", help="What to measure; `bench` is every default.")
    ] = "bench",
    overrides: Overrides = None,
    repeats: Annotated[
        int, typer.Option(min=1, max=1000, help="Of every measurement, but --scaling; the median counts.")
    ] = 5,
    against: Annotated[
        str | None, typer.Option(metavar="nanogpt", help="Measure another program by turns, on the same data.")
    ] = None,
    nanogpt: Annotated[
        Path | None, typer.Option(parser=_local_path, metavar="PATH", help="A checkout of nanoGPT.")
    ] = None,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Measure how cost grows with n, context, generations, loops and width.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(parser=_local_path, metavar="FILE", help="Write the JSON there, and not to standard output."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Measure how fast this machine is: a table on standard error, and the same as JSON on standard output.

    ```
    jaxloop bench
    jaxloop bench quick --repeats 10 --output quick.json
    jaxloop bench --scaling
    jaxloop bench --against nanogpt --nanogpt ~/nanoGPT
    ```
    """
    from jaxloop.config.presets import load

    if against not in (None, "nanogpt"):
        raise InputError(f"--against {against}: the only program that is known is nanogpt")
    if against and scaling:
        raise InputError("--against and --scaling are two measurements; ask for one of them")
    if bool(against) != bool(nanogpt):
        raise InputError("--against nanogpt needs --nanogpt with the path of its checkout, and the other way round")
    config = load(source, overrides or [])
    from jaxloop.systems.logic.settings import LogicConfig

    if not isinstance(config, LogicConfig):
        raise InputError(f"system.name: bench measures training of the system 'logic', not {config.system.name!r}")
    if output is not None:
        # Minutes of measuring must not be lost to a folder that is not there.
        try:
            output.open("a", encoding="utf-8").close()
        except OSError as error:
            raise InputError(f"--output {output}: {error.strerror}") from None
    context.obj.unfinished = "stopped; nothing of what was measured is kept"
    import json

    from jaxloop.commands.printing import show_measurements
    from jaxloop.runs.terminal import make_console

    progress = make_console(stderr=True)

    def say(line: str) -> None:
        progress.print(f"{line} ...", style="dim", highlight=False)

    _say_what_is_computed_on()
    if nanogpt:
        from jaxloop.bench.against_nanogpt import against_nanogpt

        results = against_nanogpt(config, nanogpt, repeats, say)
    elif scaling:
        from jaxloop.bench.scaling import scaling as measure_scaling

        results = measure_scaling(source, overrides or [], say)
    else:
        from jaxloop.bench.speed import bench as measure

        results = measure(config, repeats, say)
    show_measurements(results, progress)
    text = json.dumps(results, indent=2)
    if output is None:
        print(text)
    else:
        output.write_text(text + "\n", encoding="utf-8")


@app.command()
def doctor(
    out: Annotated[
        Path | None,
        typer.Option(parser=_local_path, metavar="DIR", help="The folder where runs would go; by default runs."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write the table to standard error, and the same as JSON to standard output.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show all that libraries said, and tracebacks.")] = False,
) -> None:
    """Examine this machine in at most a minute: packages, devices and their results, folders, cores and memory.

    Each line of the table ends in `ok` or in what to do; the exit code is 1 if there is anything to do.

    ```
    jaxloop doctor
    jaxloop doctor --out /scratch/runs --json
    ```
    """
    import json

    from jaxloop.commands.table_of_findings import as_json as findings_as_json
    from jaxloop.commands.table_of_findings import show_findings
    from jaxloop.doctor.examination import examine
    from jaxloop.runs.terminal import make_console

    examined = examine(out or Path("runs"))
    if debug:
        print(examined.log, file=sys.stderr)
    show_findings(examined.findings, make_console(stderr=as_json))
    found = findings_as_json(examined.findings)
    if as_json:
        print(json.dumps(found, indent=2))
    if not found["ok"]:
        raise typer.Exit(1)


@app.command()
def check(
    file: TextFile,
    overrides: Overrides = None,
    preset: Annotated[
        str | None,
        typer.Option(
            parser=_local,
            metavar="PRESET|FILE",
            help="The preset or file whose language gives log_prob; by default paper.",
        ),
    ] = None,
    run_folder: Annotated[
        Path | None,
        typer.Option(
            "--run", parser=_local_path, metavar="DIR", help="A run, whose language and whose model are asked."
        ),
    ] = None,
    loop: Annotated[int | None, typer.Option(min=0, help="Which loop of that run, by default 0.")] = None,
    generation: Annotated[
        int | None, typer.Option(min=0, help="The model of which generation is asked, by default its newest.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Judge expressions, one a line: is each valid, is it true, how probable is it under the source, and a model?

    Writes one JSON object a line with text, verdict (true, false or invalid), reason, depth, tokens and log_prob (nats
    under the conditioned source; null where it is zero or the expression invalid). With --run also model_log_prob and
    model_log_prob_tempered: nats under a trained model, without the run's sampling temperature and with it; null where
    a word is none of the language's or the line is too long for the model.
    """
    from jaxloop.commands.corpus import RunModel, check_lines, open_lines
    from jaxloop.config.presets import load
    from jaxloop.runs.environment import prepare

    if run_folder and (overrides or preset):
        raise InputError("--run takes all settings from the run; leave out --preset and settings")
    if (loop is not None or generation is not None) and not run_folder:
        raise InputError(f"--{'generation' if loop is None else 'loop'} needs --run with the folder of the run")
    prepare()
    with open_lines(file) as lines:
        model = RunModel(run_folder, loop or 0, _warn, generation) if run_folder else None
        check_lines(lines, model.config if model else load(preset or "paper", overrides or []), sys.stdout, model)


@app.command()
def diversity(
    file: TextFile,
    debug: Debug = False,
) -> None:
    """Levenshtein diversity and unique share of any corpus: a sequence a line, its tokens separated by white space."""
    from jaxloop.commands.corpus import describe_diversity, open_lines

    with open_lines(file) as lines:
        describe_diversity(lines, sys.stdout)


@app.command()
def language(
    source: Annotated[str, typer.Argument(parser=_local, metavar="PRESET|FILE", help="Whose language.")],
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    debug: Debug = False,
) -> None:
    """Describe the language of a preset: entropy, lengths, depths, and ten draws."""
    from jaxloop.commands.corpus import describe_language
    from jaxloop.config.presets import load

    describe_language(load(source, overrides or []), seed, sys.stdout)


@app.command()
def presets(debug: Debug = False) -> None:
    """List the presets, and what each is for."""
    from jaxloop.config.presets import preset_names, purpose

    for name in preset_names():
        print(f"{name:17s} {purpose(name)}")


@app.command()
def settings(
    system: Annotated[str, typer.Argument(metavar="SYSTEM", help="Whose settings.")] = "logic",
    debug: Debug = False,
) -> None:
    """List the settings of a system with their defaults, meanings and ranges; a grid over knobs is one program."""
    from jaxloop.config.schema import describe

    for name, default, allowed, kind, meaning in describe(system):
        print(f"{name:36s} {default:17s} {kind:6s} {meaning} ({allowed})")


def _say_what_is_computed_on() -> None:
    """Say on standard error what the devices are, and what is not as it should be with them."""
    from jaxloop.runs.environment import complaints, devices_in_words, prepare

    prepare()
    found = complaints()
    for line in (f"on {devices_in_words()}", *found):
        _warn(line)


class _Stop:
    """What Ctrl-C and SIGTERM do: end at once, or, while a run asks for grace, only tell it that they came.

    Most commands keep nothing, and promise nothing; those that keep something, or lose much, set `unfinished`.
    """

    def __init__(self):
        self.graceful = self.requested = False
        self.unfinished = "stopped"
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._receive)

    def _receive(self, number, frame) -> None:
        if not self.graceful or self.requested:
            _leave(self.unfinished, 130)
        self.requested = True


def _leave(message: str, code: int) -> NoReturn:
    """End at once with one line on standard error: devices may still be computing what nobody waits for any more."""
    with contextlib.suppress(OSError, AttributeError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, AttributeError):
        print(f"jaxloop: {printable(message)}", file=sys.stderr, flush=True)
    os._exit(code)


def main() -> None:
    """Run the command; every error is one line on standard error, and a traceback only with --debug."""
    stop = _Stop()
    # Figures are files; what a notebook or a desktop chose for its own pictures may not even be there.
    os.environ["MPLBACKEND"] = "agg"
    if "--debug" not in sys.argv:
        # Threads of libraries print tracebacks of what is reported here in one line.
        sys.excepthook = sys.unraisablehook = threading.excepthook = lambda *_: None
    if sys.stdout is None or sys.stderr is None:
        _leave("standard output or standard error is closed", 1)
    for stream in (sys.stdout, sys.stderr):
        # A name that the encoding has no characters for must not cost an answer.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(app(standalone_mode=False, obj=stop))
    except BrokenPipeError:
        os._exit(1)
    except typer.TyperException as error:
        if not sys.argv[1:]:
            return  # Without arguments the help has been shown.
        _leave(f"{error.format_message().rstrip('.')}; see 'jaxloop --help', or --help after a command", 2)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        if isinstance(error, InputError):
            _leave(str(error), 2)
        if isinstance(error, RunError):
            _leave(str(error), 1)
        first_line = (str(error).splitlines() or [""])[0]
        _leave(f"{type(error).__name__}: {first_line} (--debug shows where)", 1)
