"""The settings of the transformer: its shape, how it is trained, and how it is sampled."""

from typing import Literal

from pydantic import Field, model_validator

from jaxloop.config.schema import Config, Count, Positive, SampleSettings, Section, Share, knob


class ModelSettings(Section):
    """The transformer."""

    layers: int = Field(default=2, ge=1, le=100, description="blocks of attention and perceptron")
    heads: int = Field(default=4, ge=1, le=1000, description="attention heads a block; divides the width")
    width: int = Field(default=64, ge=1, le=100_000, description="size of the stream between blocks")
    context_tokens: int = Field(default=128, ge=2, le=100_000, description="longest row, `<eos>` included")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of activations dropped in training")
    activations: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="dtype of activations; auto: float32 on the CPU, bfloat16 on accelerators"
    )

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        return self


class TrainSettings(Section):
    """How each generation's model is trained, from scratch."""

    steps: Count = Field(default=1000, description="optimiser steps")
    batch_expressions: Count = Field(default=100, description="expressions a step; some 20 tokens each at max_depth 5")
    partial_sums: int = Field(
        default=1,
        ge=1,
        le=64,
        description="partial sums of a step's gradient: as many accelerators can share the steps of one loop; where "
        "nothing is shared, as on a CPU, more than one only cost time",
    )
    row_tokens: int = Field(
        default=0,
        ge=0,
        le=10**6,
        description="positions a packed row, at least model.context_tokens; 0: what costs least for the language",
    )
    learning_rate: Positive = knob(3e-3, description="AdamW's peak step size")
    final_learning_rate_share: Share = Field(default=0.1, description="part of it left at the end of the cosine")
    warmup_steps: int = Field(default=50, ge=0, le=10**9, description="steps of linear warm-up")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's decay of the first moment")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="AdamW's decay of the second moment")
    weight_decay: float = knob(0.1, ge=0, le=1e6, allow_inf_nan=False, description="on matrices, not on norms")
    clip_norm: Positive = Field(default=1.0, description="largest global norm of a gradient")
    validation_share: float = Field(
        default=0.1, gt=0, le=0.5, description="part of the generation's rows that chooses the best parameters"
    )
    evaluate_every_steps: Count = Field(default=100, description="steps between looks at the validation rows")
    patience_evaluations: int = Field(
        default=0, ge=0, le=10**9, description="stop after this many looks without improvement; 0: never"
    )


class TransformerSampleSettings(SampleSettings):
    """How a model writes the next rows."""

    batch_rows: Count = Field(default=500, description="sequences that are written side by side, as one prefix tree")


class TransformerConfig(Config):
    """One run on a system whose rows a transformer can write."""

    sample: TransformerSampleSettings = TransformerSampleSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
