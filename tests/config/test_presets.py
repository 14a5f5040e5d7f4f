import numpy as np
import pytest
from tiny import run_silently

from jaxloop.config.presets import load
from jaxloop.errors import InputError

ONE_STEP = [
    "cycle.rows=20",
    "cycle.generations=1",
    "train.steps=1",
    "train.batch_expressions=1",
    "measure.held_out_rows=10",
    "sample.batch_rows=20",
    "controls=false",
]


@pytest.mark.parametrize("preset", ["paper", "paper_large"])
def test_the_paper_s_models_train_and_write_on_a_cpu(tmp_path, preset):
    """A preset that needs an accelerator to be tried fails only there, hours into somebody's lease."""
    config = load(preset, ONE_STEP)
    run_silently(config, tmp_path / "run")
    with np.load(tmp_path / "run/samples/loop_000/generation_000.npz") as saved:
        assert saved["tokens"].shape == (20, 128)
        assert len(np.unique(saved["tokens"])) == 8, "an untrained model writes every token"


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"key_{place} = 1\n" for place in range(20_000)),
        "[grid]\n" + ".".join("a" * 3_000) + " = [1]\n",
        ".".join("a" * 3_000) + " = 1\n",
        '[grid]\n"cycle.rows" = [' + ", ".join(["7"] * 50_000) + "]\n",
        f"seeds = '{'s' * 10**6}'\n",
    ],
)
def test_messages_are_bounded(tmp_path, text):
    """200,000 unknown keys were 5 MB of message, and a key of 20,000 dots a traceback."""
    path = tmp_path / "hostile.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load(str(path))
    assert 20 < len(str(caught.value)) < 2200
