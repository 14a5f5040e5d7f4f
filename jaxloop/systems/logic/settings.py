"""The settings of the logic language as a system, and of its learners."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from jaxloop.config.imports import Named, NamedInOrder, is_own
from jaxloop.config.schema import (
    CurationSettings,
    CycleSettings,
    LearnerSettings,
    MeasureSettings,
    Section,
    SystemSettings,
)
from jaxloop.learners.transformer.settings import ModelSettings, TransformerConfig


def longest_expression_tokens(max_depth: int) -> int:
    """Length of the longest expression: a full tree of and/or, `<eos>` not counted."""
    return 4 * 2**max_depth - 3


class LogicSettings(SystemSettings):
    """Expressions of logic, from a grammar that is known."""

    name: Literal["logic"] = Field(default="logic", description="the system; it decides which other settings there are")


class LanguageSettings(Section):
    """The source of real expressions."""

    min_depth: int = Field(default=1, ge=0, le=8, description="no leaf stands above this depth of the tree")
    max_depth: int = Field(default=5, ge=1, le=8, description="no operator stands at this depth or below")
    only_true: bool = Field(default=True, description="keep only expressions that evaluate to True")

    @model_validator(mode="after")
    def _depths_in_order(self):
        if self.min_depth > self.max_depth:
            raise ValueError(f"min_depth ({self.min_depth}) must not exceed max_depth ({self.max_depth})")
        return self


class LogicCycleSettings(CycleSettings):
    """Which rows train each generation."""

    first_mass_share: float = Field(
        default=1.0,
        ge=0.01,
        le=1,
        allow_inf_nan=False,
        description="the first real rows are drawn from the most probable expressions that hold this part of the "
        "source's mass",
    )


class LogicCurationSettings(CurationSettings):
    """Which of the rows that a model wrote may train the next one."""

    name: Annotated[
        str | tuple[str, ...], NamedInOrder("verifier", "likelihood", "most_copies", "choice", "detector")
    ] = Field(
        default="all", description="what rows must pass, one check or several in their order; all: every row passes"
    )


class LogicLearnerSettings(LearnerSettings):
    """Who is fitted to the rows of each generation and writes the next ones."""

    name: Annotated[str, Named("transformer", "resample", "grammar", "ngram", "oracle")] = Field(
        default="transformer", description="the transformer, or a reference learner whose losses are known"
    )
    order: int = Field(default=5, ge=1, le=20, description="ngram: tokens of the longest gram")


class LogicMeasureSettings(MeasureSettings):
    """What is measured beside the samples themselves."""

    held_out_rows: int = Field(default=1000, ge=10, le=10**7, description="real rows that no model trains on")
    alive_share: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="an expression is alive while its probability is at least this part of the true one",
    )
    structure_every_generations: int = Field(
        default=1,
        ge=0,
        le=10**5,
        description="canonical forms, shapes, distinct n-grams: every so many generations; 0: never",
    )
    distances_every_generations: int = Field(
        default=1,
        ge=0,
        le=10**5,
        description="distances to the source, survival of its tails: every so many generations; 0: never",
    )
    enumerate_every_generations: int = Field(
        default=0,
        ge=0,
        le=10**5,
        description="the same by sums over the whole language: every so many generations; 0: never",
    )


class LogicConfig(TransformerConfig):
    """One run on the logic language."""

    system_class: ClassVar[str] = "jaxloop.systems.logic.system:Logic"

    system: LogicSettings = LogicSettings()
    cycle: LogicCycleSettings = LogicCycleSettings()
    curation: LogicCurationSettings = LogicCurationSettings()
    learner: LogicLearnerSettings = LogicLearnerSettings()
    measure: LogicMeasureSettings = LogicMeasureSettings()
    language: LanguageSettings = LanguageSettings()

    def without_effect(self) -> dict[str, str]:
        """What a learner that is not trained, or has no such choices, does not read."""
        name = self.learner.name
        if is_own(name):
            return {}
        why = f"learner.name = {name!r}"
        names = [] if name == "ngram" else ["learner.order"]
        if name != "transformer":
            names += ["train", "sample.batch_rows"]
            names += [f"model.{key}" for key in ModelSettings.model_fields if key != "context_tokens"]
        if name == "resample":
            names.append("sample.temperature")
        return dict.fromkeys(names, why)

    @model_validator(mode="after")
    def _rows_hold_expressions(self):
        longest = longest_expression_tokens(self.language.max_depth)
        context = self.model.context_tokens
        if context <= longest:
            raise ValueError(
                f"model.context_tokens ({context}) cannot hold the longest expression of language.max_depth "
                f"{self.language.max_depth}: {longest} tokens and <eos>; set it to at least {longest + 1}"
            )
        if 0 < self.train.row_tokens < context:
            raise ValueError(
                f"train.row_tokens ({self.train.row_tokens}) must be at least model.context_tokens ({context}), or 0"
            )
        return self
