"""The settings of the Gaussian system, and of its learners."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from jaxloop.config.imports import Named
from jaxloop.config.schema import (
    Config,
    CurationSettings,
    CycleSettings,
    LearnerSettings,
    Positive,
    SampleSettings,
    SystemSettings,
    knob,
)

# Of the source's mean: with less, rows of seven digits would be told apart by their last ones only.
_LEAST_DEVIATION = 1e-3


class GaussianSettings(SystemSettings):
    """A normal distribution on the line (Shumailov et al. 2023)."""

    name: Literal["gaussian"] = Field(
        default="gaussian", description="the system; it decides which other settings there are"
    )
    mean: Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)] = Field(
        default=0.0, description="mean of the source, in any unit"
    )
    standard_deviation: Positive = Field(default=1.0, description="standard deviation of the source, in that unit")

    @model_validator(mode="after")
    def _rows_have_the_digits(self):
        if self.standard_deviation < _LEAST_DEVIATION * abs(self.mean):
            raise ValueError(
                f"standard_deviation ({self.standard_deviation:g}) must be at least {_LEAST_DEVIATION:g} of the mean "
                f"({self.mean:g}): rows have seven digits; the loop is the same about a mean of 0"
            )
        return self


class GaussianCycleSettings(CycleSettings):
    """Which rows train each generation."""

    rows: int = Field(
        default=100, ge=10, le=10**7, description="n, real rows at the start and sampled rows a generation"
    )
    generations: int = Field(
        default=300, ge=1, le=10**5, description="how many models are fitted, the first to real rows"
    )


class GaussianLearnerSettings(LearnerSettings):
    """Who is fitted to the rows of each generation and writes the next ones."""

    name: Annotated[str, Named("moments", "resample", "oracle")] = Field(
        default="moments", description="the normal distribution of the rows' moments, or a reference learner"
    )
    estimator: Literal["ml", "unbiased"] = Field(
        default="ml", description="moments: the variance by maximum likelihood, or n/(n - 1) times that"
    )

    @model_validator(mode="after")
    def _estimator_has_its_learner(self):
        if self.name != "moments" and self.estimator != "ml":
            raise ValueError(f"estimator belongs to the learner 'moments', and name is {self.name!r}")
        return self


class GaussianCurationSettings(CurationSettings):
    """Which of the rows that a model wrote may train the next one."""

    reward: Literal["source", "balance"] = Field(
        default="source", description="choice: what it goes by: the true density, what is written too seldom"
    )


class GaussianSampleSettings(SampleSettings):
    """How a model writes the next rows."""

    temperature: float = knob(
        1.0, ge=0.01, le=100, allow_inf_nan=False, description="multiplies the variance of what is written"
    )


class GaussianConfig(Config):
    """One run on a normal distribution."""

    def without_effect(self) -> dict[str, str]:
        """A memoriser has no temperature."""
        return {"sample.temperature": "learner.name = 'resample'"} if self.learner.name == "resample" else {}

    system_class: ClassVar[str] = "jaxloop.systems.gaussian.system:Gaussian"

    system: GaussianSettings = GaussianSettings()
    cycle: GaussianCycleSettings = GaussianCycleSettings()
    learner: GaussianLearnerSettings = GaussianLearnerSettings()
    curation: GaussianCurationSettings = GaussianCurationSettings()
    sample: GaussianSampleSettings = GaussianSampleSettings()
