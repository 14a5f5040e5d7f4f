"""The schema: every setting with its unit, range and default, and the grid of loops that a config spans.

*Knobs* are plain numbers inside the compiled programs: a grid over them compiles nothing more. Other settings may be
varied as well; those that decide shapes or the program itself cost a compilation for each value (see `programs`).
"""

import difflib
import itertools
import json
import math
import tomllib
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo
from typing_extensions import TypeVar

from jaxloop.config.imports import (
    DEFAULT_SYSTEM,
    SYSTEMS,
    Named,
    NamedInOrder,
    import_own,
    is_own,
    system_settings,
)
from jaxloop.errors import InputError

# Memories that hold more rows than one generation has: their controls hold as many.
GROWING = ("expanding", "window", "fixed_real")

# Settings that stand in no section.
_TOP_LEVEL = ("seeds", "controls")
# Sections that decide no result: there is nothing to compare, and they are no axes.
DECIDING_NOTHING = ("population", "store")
# Settings that say what the columns of a run are.
_NO_AXES = ("system.name", "measure.own")
# Far more than anybody would wait for.
_MOST_CELLS = 10_000
_MOST_FAULTS = 5  # that are told of one config
_MOST_NESTED = 8
_MOST_CHARACTERS = 60  # of a value that is quoted

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Schedule = Annotated[
    list[tuple[Annotated[int, Field(ge=0, le=10**5)], Share]],
    # TOML has no pairs.
    BeforeValidator(lambda pairs: [tuple(pair) if isinstance(pair, list) else pair for pair in pairs]
                    if isinstance(pairs, list) else pairs),
    Field(min_length=1),
]  # fmt: skip


def _as_paths(paths: Any) -> Any:
    if isinstance(paths, str) or (isinstance(paths, list | tuple) and not all(map(_is_path, paths))):
        raise ValueError("should be import paths in a list, as ['module:Name']")
    return tuple(paths) if isinstance(paths, list) else paths


def _is_path(path: Any) -> bool:
    return isinstance(path, str) and is_own(path)


OwnParts = Annotated[tuple[str, ...], BeforeValidator(_as_paths)]
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**7)]


def knob(default: Any, **constraints: Any) -> Any:
    """A field that is only a number in the compiled programs: a grid over knobs compiles nothing more."""
    return Field(default, json_schema_extra={"knob": True}, **constraints)


class Section(BaseModel):
    """A section of a config."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SystemSettings(Section):
    """What the loop is about."""

    name: str = Field(description="the system; it decides which other settings there are")


class CycleSettings(Section):
    """Which rows train each generation."""

    name: Annotated[
        str, Named("full_synthetic", "balanced", "incremental", "expanding", "window", "subsampled", "fixed_real")
    ] = Field(default="full_synthetic", description="the memory: which earlier rows train again")
    rows: int = Field(
        default=2000, ge=10, le=10**7, description="n, real rows at the start and sampled rows a generation"
    )
    generations: int = Field(
        default=12, ge=1, le=10**5, description="how many models are trained, the first on real rows"
    )
    fresh_share: Share | None = knob(None, description="part of the new rows that is drawn anew from the source (0)")
    fresh_schedule: Schedule | None = Field(
        default=None,
        description="the same by generation: [[0, 0.0], [12, 0.5]] is 0 at first, and 0.5 from generation 12 on",
    )
    fresh_target: Literal["random", "least_covered"] = Field(
        default="random",
        description="which rows come fresh: any, or those of the classes that the new rows cover least",
    )
    generated_share: Share | None = knob(
        None,
        description="incremental: part of all rows that is new (0.5); other memories: 1 - fresh_share",
    )
    window_generations: Annotated[int, Field(ge=1, le=10**5)] | None = Field(
        default=None, description="window: how many sets of n rows train, the newest among them (3)"
    )

    @model_validator(mode="after")
    def _schedule_fits(self):
        if self.fresh_schedule is None:
            return self
        begins = [generation for generation, _ in self.fresh_schedule]
        if begins[0] != 0 or any(later <= earlier for earlier, later in itertools.pairwise(begins)):
            raise ValueError(
                f"fresh_schedule: its generations must rise from 0, and are {shortened(begins)}; "
                "write [[0, share], [generation, share], ...]"
            )
        if self.fresh_share is not None:
            raise ValueError("fresh_share and fresh_schedule say the same thing twice; set one of them only")
        if self.generated_share is not None and self.name != "incremental":
            raise ValueError(f"generated_share is 1 less the fresh share in {self.name}; leave it to fresh_schedule")
        return self

    @model_validator(mode="after")
    def _window_has_its_memory(self):
        if self.window_generations is not None and self.name != "window":
            raise ValueError(f"window_generations belongs to the memory 'window', and name is {self.name!r}")
        return self

    @model_validator(mode="after")
    def _shares_fit(self):
        if self.name == "incremental" or self.fresh_share is None or self.generated_share is None:
            return self
        total = self.fresh_share + self.generated_share
        if abs(total - 1) > 1e-9:
            raise ValueError(
                f"fresh_share ({self.fresh_share}) and generated_share ({self.generated_share}) "
                f"{'exceed' if total > 1 else 'fall short of'} 1 together: they make up the new rows in {self.name}; "
                "set one of them only"
            )
        return self

    def fresh_part(self, generation: int) -> float:
        """Part of a generation's new rows that comes fresh from the source."""
        if self.fresh_schedule is not None:
            return [share for begin, share in self.fresh_schedule if begin <= generation][-1]
        if self.fresh_share is not None:
            return self.fresh_share
        if self.generated_share is not None and self.name != "incremental":
            return 1 - self.generated_share
        return 0.0

    @property
    def new_part(self) -> float:
        """`incremental`: part of all rows that is new, g."""
        return 0.5 if self.generated_share is None else self.generated_share

    @property
    def window_sets(self) -> int:
        """`window`: how many sets of rows train, the newest among them."""
        return 3 if self.window_generations is None else self.window_generations

    @property
    def meaning(self) -> dict[str, Any]:
        """The settings, with those that decide the same rows in all generations written alike."""
        # Without new rows it does not matter where they would come from.
        has_new_rows = self.name != "incremental" or self.new_part * self.rows >= 0.5
        # The rows of generation 0 are real.
        begins = {1, *(begin for begin, _ in self.fresh_schedule or () if 1 < begin < self.generations)}
        shares = [(begin, round(self.fresh_part(begin), 12) if has_new_rows else 0.0) for begin in sorted(begins)]
        changes = [shares[0], *(later for earlier, later in itertools.pairwise(shares) if later[1] != earlier[1])]
        return {
            **self.model_dump(),
            "fresh_share": changes[0][1] if len(changes) == 1 else None,
            "fresh_schedule": changes if len(changes) > 1 else None,
            "fresh_target": self.fresh_target if any(share for _, share in changes) else "random",
            "generated_share": round(self.new_part, 12) if self.name == "incremental" else None,
            "window_generations": self.window_sets if self.name == "window" else None,
        }

    @property
    def fresh_only(self) -> bool:
        """Whether every model trains on rows of the source alone, and on new ones each time."""
        return self.meaning["fresh_share"] == 1 and self.name in ("full_synthetic", *GROWING)


class LearnerSettings(Section):
    """Who is fitted to the rows of each generation and writes the next ones."""

    name: str = Field(description="the learner, one of those of the system")


class SampleSettings(Section):
    """How a model writes the next rows."""

    temperature: float = knob(0.8, ge=0.01, le=100, allow_inf_nan=False, description="divides the logits")


class CurationSettings(Section):
    """Which of the rows that a model wrote may train the next one."""

    name: Annotated[str | tuple[str, ...], NamedInOrder("likelihood", "most_copies", "choice", "detector")] = Field(
        default="all", description="what rows must pass, one check or several in their order; all: every row passes"
    )
    oversample: float = Field(
        default=1.0, ge=1, le=1000, allow_inf_nan=False, description="rows that are written for each one that is wanted"
    )
    shortfall: Literal["repeat", "fresh"] = Field(
        default="repeat",
        description="where fewer pass than are wanted: they stand in more than once, or fresh rows come in",
    )
    false_accept: Share = knob(0.0, description="verifier: part of the wrong rows that passes")
    false_reject: Share = knob(0.0, description="verifier: part of the right rows that does not pass")
    known_depth: Annotated[int, Field(ge=0, le=100)] | None = Field(
        default=None, description="verifier: what is deeper does not pass; unset: it knows all depths"
    )
    keep_share: float = knob(0.5, gt=0, le=1, description="likelihood: part of the rows that passes")
    keep: Literal["likeliest", "middle", "least_likely"] = Field(
        default="likeliest", description="likelihood: which part, by probability"
    )
    judge: Literal["writer", "source"] = Field(
        default="writer", description="likelihood: whose probability: that of the model that wrote, or the true one"
    )
    most_copies: int = Field(default=1, ge=1, le=10**7, description="most_copies: so many of one row pass at most")
    choose_from: int = Field(default=2, ge=2, le=1000, description="choice: rows of which an annotator picks one, K")
    reward: Literal["source", "balance", "truth", "length"] = Field(
        default="source",
        description="choice: what it goes by: the true probability, what is written too seldom, truth, length",
    )
    choice_temperature: float = knob(
        0.0, ge=0, le=1e6, allow_inf_nan=False, description="choice: in units of the reward; 0: one of the best"
    )
    choice_error: Share = knob(0.0, description="choice: part of the picks that take the worst for the best")
    detector_error: Share = knob(0.1, description="detector: how far from sure it is of every row")
    detector_exponent: float = knob(
        10.0, ge=0, le=1000, description="detector: power of its doubt by which rows are drawn"
    )

    @property
    def names(self) -> tuple[str, ...]:
        """The checks, in order; none where every row passes."""
        return self.name if isinstance(self.name, tuple) else () if self.name == "all" else (self.name,)

    @property
    def is_own(self) -> bool:
        """Whether it is a curator of one's own, which stands alone."""
        return any(map(is_own, self.names))

    @model_validator(mode="after")
    def _settings_have_their_check(self):
        for name, check in _CHECK_OF.items():
            if getattr(self, name) != type(self).model_fields[name].default and check not in self.names:
                raise ValueError(f"{name} belongs to the check {check!r}, and name is {shortened(self.name)}")
        if self.oversample > 1 and not set(self.names) - {"detector"}:
            raise ValueError(
                f"oversample ({self.oversample:g}) needs a check to choose by, and name is {shortened(self.name)}"
            )
        return self


# Which check reads a setting of curation.
_CHECK_OF = {
    **dict.fromkeys(("false_accept", "false_reject", "known_depth"), "verifier"),
    **dict.fromkeys(("keep_share", "keep", "judge"), "likelihood"),
    **dict.fromkeys(("choose_from", "reward", "choice_temperature", "choice_error"), "choice"),
    **dict.fromkeys(("detector_error", "detector_exponent"), "detector"),
    "most_copies": "most_copies",
}


class MeasureSettings(Section):
    """What is measured beside the samples themselves."""

    own: OwnParts = Field(default=(), description="measures of your own, each as 'module:Name'")


class PopulationSettings(Section):
    """How loops are spread over devices; decides speed and memory, and of results the rounding only."""

    loops_per_device: int = Field(
        default=0,
        ge=0,
        le=10**6,
        description="loops mapped together on a device, at most; 0: one on a CPU core, all on accelerators",
    )


class StoreSettings(Section):
    """What is kept on disk beside the results; decides no result."""

    samples_every_generations: int = Field(
        default=1,
        ge=0,
        le=10**5,
        description="samples that are kept: every so many generations, and the last; 0: the last alone",
    )
    models_every_generations: int = Field(
        default=0,
        ge=0,
        le=10**5,
        description="models that are kept beside the newest of each loop: every so many generations; 0: none",
    )


class Config(Section):
    """One run: the settings of every loop, the seeds, and the grid of settings that are varied.

    Each system has a class of its own, with the sections that it adds, and its own classes in place of some of these.
    """

    system_class: ClassVar[Any]  # the system: its class, where that lies as "module:Class", or the system itself

    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(
        default=[0], min_length=1, description="one loop each, per cell"
    )
    controls: bool = Field(default=False, description="beside each cell the loop that is trained on fresh data only")
    system: SystemSettings
    cycle: CycleSettings = CycleSettings()
    learner: LearnerSettings
    sample: SampleSettings = SampleSettings()
    curation: CurationSettings = CurationSettings()
    measure: MeasureSettings = MeasureSettings()
    population: PopulationSettings = PopulationSettings()
    store: StoreSettings = StoreSettings()
    grid: dict[str, list[Any]] = Field(
        default={},
        description="settings that are varied (or sections: several settings at once); every combination is a cell",
    )

    @classmethod
    def sections(cls) -> dict[str, type[Section]]:
        """The sections, and the class of each."""
        fields = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name: of for name, of in fields.items() if isinstance(of, type) and issubclass(of, Section)}

    @classmethod
    def settings_of_sections(cls) -> dict[str, FieldInfo]:
        """The field of every `section.key`."""
        return {f"{name}.{key}": field for name, of in cls.sections().items() for key, field in of.model_fields.items()}

    @classmethod
    def setting_names(cls) -> list[str]:
        """Every setting, those of a section as `section.key`."""
        return [*_TOP_LEVEL, *cls.settings_of_sections()]

    @classmethod
    def knobs(cls) -> list[str]:
        """The settings that are only numbers in the compiled programs."""
        extras = {name: field.json_schema_extra for name, field in cls.settings_of_sections().items()}
        return [name for name, extra in extras.items() if isinstance(extra, dict) and extra.get("knob")]

    @classmethod
    def axis_names(cls) -> list[str]:
        """Every setting that a grid may vary."""
        names = cls.settings_of_sections()
        return [name for name in names if name.split(".")[0] not in DECIDING_NOTHING and name not in _NO_AXES]

    def _may_vary(self, setting: str) -> bool:
        return setting in self.axis_names()

    def without_effect(self) -> dict[str, str]:
        """Settings, and whole sections, that decide nothing here, and because of what: "learner.name = 'oracle'"."""
        return {}

    def why_without_effect(self, setting: str) -> str | None:
        """Because of what a setting decides nothing; None where it does."""
        found = self.without_effect()
        return found.get(setting) or found.get(setting.partition(".")[0])

    @model_validator(mode="after")
    def _seeds_differ(self):
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: each seed once, not {shortened(self.seeds)}")
        return self

    @model_validator(mode="after")
    def _axes_fit(self):
        axis_of = {}
        for axis, values in self.grid.items():
            if axis in ("seed", "seeds"):
                raise ValueError("grid: seeds are no axis; set seeds = [...], each repeats every cell")
            if axis == "controls":
                raise ValueError("grid: controls is no axis; controls = true adds cells to the grid")
            if not values:
                raise ValueError(f'grid: "{axis}" needs at least one value')
            if any(value in values[:place] for place, value in enumerate(values)):
                raise ValueError(f'grid: "{axis}" has a value twice: {shortened(values)}')
            for setting in self._settings_of_axis(axis, values):
                if not self._may_vary(setting):
                    if setting in _NO_AXES:
                        raise ValueError(f"grid: {setting} is no axis; it is the same in a whole run")
                    if setting.partition(".")[0] in DECIDING_NOTHING:
                        raise ValueError(f"grid: {setting} decides no result and cannot be varied; set it for the run")
                    raise ValueError(f"grid: unknown setting {setting!r}{nearest(setting, self.axis_names())}")
                if setting in axis_of:
                    raise ValueError(f'grid: "{axis}" and "{axis_of[setting]}" both set {setting}')
                axis_of[setting] = axis
        return self

    @property
    def axes(self) -> list[str]:
        """Every setting that the grid sets, in order: the columns that tell its cells apart."""
        return [setting for axis, values in self.grid.items() for setting in self._settings_of_axis(axis, values)]

    @classmethod
    def _is_section(cls, axis: str) -> bool:
        return axis in cls.sections()

    @classmethod
    def _settings_of_axis(cls, axis: str, values: list) -> list[str]:
        """The settings that an axis of the grid sets: one, or those of a section that any of its values has."""
        if not cls._is_section(axis):
            return [axis]
        if not all(isinstance(value, dict) and value for value in values):
            raise ValueError(
                f'grid: the values of "{axis}" are of its settings, such as [{{key = value}}], not {shortened(values)}'
            )
        return [f"{axis}.{key}" for key in dict.fromkeys(key for value in values for key in value)]


class _AsStored(Section):
    """A section of which nothing is known but what stands there."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class StoredConfig(Config):
    """A config of a system of one's own, as whoever reads a run takes it: nothing is imported, and nothing checked."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    class _System(_AsStored):
        name: str

    class _Cycle(CycleSettings):
        model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    class _Measure(MeasureSettings):
        model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    system: _System
    cycle: _Cycle = Field(default=...)
    learner: _AsStored
    sample: _AsStored = Field(default=...)
    measure: _Measure = Field(default=...)

    @classmethod
    def _is_section(cls, axis: str) -> bool:
        return "." not in axis

    def _may_vary(self, setting: str) -> bool:
        return True


SomeConfig = TypeVar("SomeConfig", bound=Config, default=Config, covariant=True)


class Loop(NamedTuple, Generic[SomeConfig]):
    """One loop of a run."""

    index: int
    seed: int
    axes: dict[str, Any]  # this cell's value of every setting that the grid sets, None where it is unset
    config: SomeConfig  # with those values in place, and no grid


def loops(config: Config) -> list[Loop]:
    """Every loop of a run: each cell of the grid in order and then the controls, each seed within it."""
    plain = config.model_dump(exclude_none=True, exclude={"grid", "controls"})
    count = math.prod(len(values) for values in config.grid.values())
    if count > _MOST_CELLS:
        raise InputError(f"grid: spans {count:,} cells, and {_MOST_CELLS:,} are the most; give it fewer values")
    cells = [dict(zip(config.grid, values, strict=True)) for values in itertools.product(*config.grid.values())]
    by_behaviour: dict[str, Config] = {}
    for cell in cells:
        cell_config = _cell_config(type(config), plain, cell)
        if by_behaviour.setdefault(_behaviour(cell_config), cell_config) is not cell_config:
            raise InputError(f"grid: the cell {_cell_text(cell)} is the same as one before it")
    if config.controls:
        for control in [_control(one) for one in by_behaviour.values() if not one.cycle.fresh_only]:
            by_behaviour.setdefault(_behaviour(control), control)
    configs = by_behaviour.values()
    return [
        Loop(place * len(config.seeds) + offset, seed, _axes_of(config, cell_config), cell_config)
        for place, cell_config in enumerate(configs)
        for offset, seed in enumerate(config.seeds)
    ]


def _behaviour(config: Config) -> str:
    """What tells loops apart: their settings, with those that mean the same written alike."""
    return json.dumps({**config.model_dump(mode="json"), "cycle": config.cycle.meaning}, sort_keys=True)


def _cell_config(of: type[Config], plain: dict, values: dict[str, Any]) -> Config:
    """The settings of one cell of the grid."""
    cell = {name: dict(section) if isinstance(section, dict) else section for name, section in plain.items()}
    for axis, value in values.items():
        section, _, key = axis.partition(".")
        cell[section] |= {key: value} if key else value
    return validated(cell, f"grid cell {_cell_text(values)}", of)


def _cell_text(values: dict[str, Any]) -> str:
    return ", ".join(f"{axis} = {value!r}" for axis, value in values.items())


def _axes_of(config: Config, cell_config: Config) -> dict[str, Any]:
    """What a cell has of the settings that the grid sets."""
    return {axis: as_in_a_table(_value(cell_config, *axis.split("."))) for axis in config.axes}


def _value(config: Config, section: str, key: str) -> Any:
    found = getattr(config, section)
    return found.get(key) if isinstance(found, dict) else getattr(found, key)


def as_in_a_table(value: Any) -> Any:
    """A setting as a column of a table has it: a list is its text."""
    return json.dumps(value) if isinstance(value, list | tuple) else value


def _control(cell_config: Config) -> Config:
    """The cell whose models train on fresh data only, and are in all else like those of this one."""
    cycle = cell_config.cycle
    fresh_only = {
        "name": cycle.name if cycle.name in GROWING else "full_synthetic",
        "fresh_share": 1.0,
        "fresh_schedule": None,
        "generated_share": None if cycle.generated_share is None else 0.0,
    }
    # No row that a model wrote trains here.
    return cell_config.model_copy(
        update={"cycle": cycle.model_copy(update=fresh_only), "curation": type(cell_config.curation)()}
    )


def dump(config: Config) -> str:
    """The config as TOML, every default written out; the axes of the grid stand in their order, which numbers loops."""
    table = config.model_dump(exclude_none=True)
    axes = [_axis_text(axis, values) for axis, values in table.pop("grid").items()]
    return "\n".join([tomli_w.dumps(table), "[grid]", *axes])


def _axis_text(axis: str, values: list) -> str:
    """An axis as TOML; tables in it stay where they are, and are not put behind all else as TOML's writers do."""
    if not any(isinstance(value, dict) for value in values):
        return tomli_w.dumps({axis: values})
    tables = [", ".join(tomli_w.dumps({key: part}).strip() for key, part in value.items()) for value in values]
    name = tomli_w.dumps({axis: []}).removesuffix("[]\n")
    return "\n".join([f"{name}[", *(f"    {{ {table} }}," for table in tables), "]\n"])


def differences(old: str, new: str) -> list[str]:
    """How two configs in TOML differ in what decides results, one `section.key: old -> new` each."""
    tables = [flat(tomllib.loads(text)) for text in (old, new)]
    return [
        f"{key}: {tables[0].get(key, 'unset')} -> {tables[1].get(key, 'unset')}"
        for key in sorted(tables[0].keys() | tables[1].keys())
        if tables[0].get(key) != tables[1].get(key) and key.partition(".")[0] not in DECIDING_NOTHING
    ]


def describe(system: str = DEFAULT_SYSTEM) -> list[tuple[str, str, str, str, str]]:
    """(setting, default, range, `knob` or `static`, meaning) for every setting of a system.

    Raises:
      InputError: there is no such system.
    """
    of = settings_class({"system": {"name": system}}, "settings")
    rows = [
        ("seeds", "[0]", "each >= 0", "static", of.model_fields["seeds"].description or ""),
        ("controls", "false", "true or false", "static", of.model_fields["controls"].description or ""),
    ]
    knobs = of.knobs()
    for name, setting in of.settings_of_sections().items():
        default = "unset" if setting.default is None else tomli_w.dumps({"x": setting.default})[4:].strip()
        kind = "knob" if name in knobs else "static"
        rows.append((name, default, _range_of(setting.rebuild_annotation()), kind, setting.description or ""))
    return rows


def _range_of(annotation) -> str:
    """The values that a setting may have, in words."""
    schema = TypeAdapter(annotation).json_schema()
    schema = schema.get("anyOf", [schema])[0]
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "array" and schema["items"].get("type") == "string":
        return "['module:Name', ...]"
    if schema["type"] == "array":
        return "[[0, share], [generation, share], ...]"
    if "const" in schema:
        return schema["const"]
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    return ", ".join(f"{sign} {schema[bound]:g}" for bound, sign in signs.items() if bound in schema)


def nearest(word: str, known) -> str:
    """What somebody may have meant, as the end of a sentence."""
    matches = difflib.get_close_matches(word[:_MOST_CHARACTERS], list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def flat(table: dict, prefix: str = "") -> dict:
    """Tables in tables as one table of `section.key`.

    Raises:
      InputError: they are nested as no settings are.
    """
    if prefix.count(".") > _MOST_NESTED:
        raise InputError(f"{shortened(prefix)}: nested too deeply; settings are section.key")
    found = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def shortened(value: Any) -> str:
    """A value as it is quoted in a message."""
    text = repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def settings_class(table: dict, where: str) -> type[Config]:
    """The class of the configs of the system that a table names.

    Raises:
      InputError: there is no such system.
    """
    system = table.get("system")
    name = system.get("name", DEFAULT_SYSTEM) if isinstance(system, dict) else DEFAULT_SYSTEM
    if isinstance(name, str) and name in SYSTEMS:
        return system_settings(name)
    if isinstance(name, str) and is_own(name):
        of = import_own(name, "system.name", ("model_validate", "system_class"))
        if not issubclass(of, Config):
            raise InputError(f"{where}: system.name = {name!r}: must be a subclass of jaxloop.Config")
        return of
    hint = nearest(name, SYSTEMS) if isinstance(name, str) else ""
    known = ", ".join(SYSTEMS)
    raise InputError(f"{where}: system.name: {shortened(name)} is no system{hint}; systems are {known}")


def unknown_setting(name: str, of: type[Config]) -> str:
    """What is said of a setting that configs of this class have not."""
    said = f"unknown setting {shortened(name)}"
    for system in SYSTEMS:
        other = system_settings(system)
        if other is not of and name in (*other.setting_names(), *other.sections()):
            this = of.model_fields["system"].default.name
            return f"{said}; it belongs to system.name = {system!r}, and this is {this!r}"
    return f"{said}{nearest(name, of.setting_names())}"


def validated(table: dict, where: str, of: type[Config] | None = None) -> Config:
    """The config of a table.

    Args:
      table: what stands in it.
      where: what is named in an error.
      of: its class; by default that of the system that it names.

    Raises:
      InputError: it breaks the schema.
    """
    of = of or settings_class(table, where)
    try:
        return of.model_validate(table)
    except RecursionError:
        raise InputError(f"{where}: nested too deeply") from None
    except ValidationError as error:
        faults, lines = error.errors(include_url=False), []
        for fault in faults[:_MOST_FAULTS]:
            name = ".".join(str(part) for part in fault["loc"])
            if fault["type"] == "extra_forbidden":
                lines.append(unknown_setting(name, of))
            else:
                message = fault["msg"].removeprefix("Value error, ").replace("Input should", "should")
                given = f" (got {shortened(fault['input'])})" if name and not isinstance(fault["input"], dict) else ""
                lines.append(f"{name}: {message}{given}" if name else message)
        if len(faults) > _MOST_FAULTS:
            lines.append(f"and {len(faults) - _MOST_FAULTS:,} more faults")
        raise InputError(f"{where}: {'; '.join(lines)}") from None
