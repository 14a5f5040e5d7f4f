"""A model is read only where it is what the run wrote, by jaxloop as by plain Flax and Orbax."""

import io
import json
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from tiny import assert_same, edit, results, run_tiny, tiny_config

from jaxloop.commands.corpus import RunModel, check_lines
from jaxloop.config.schema import loops
from jaxloop.errors import InputError
from jaxloop.files import seal_json, unseal_json
from jaxloop.learners.transformer.score import log_prob
from jaxloop.runs import stored_models
from jaxloop.runs.integrity import verify_run
from jaxloop.runs.models import save_model
from jaxloop.runs.stored_models import load_parameters
from jaxloop.systems.logic.vocabulary import EOS, VOCABULARY, decode

README = Path(__file__).resolve().parent.parent.parent / "README.md"


@pytest.fixture
def copy(kept, tmp_path):
    return Path(shutil.copytree(kept, tmp_path / "copy"))


def test_the_model_on_disk_is_the_one_that_wrote_the_samples(kept):
    """Parameters of another generation, loop or layer, or a temperature of another cell, give other probabilities;
    and `jaxloop check --run` must say the same of the samples' texts.
    """
    config = tiny_config()
    for loop in range(2):
        with np.load(kept / f"samples/loop_{loop:03d}/generation_002.npz") as saved:
            rows_NxT, log_prob_N = saved["tokens"], saved["log_prob"]
        parameters = load_parameters(kept, loop)
        plain_N, tempered_N = log_prob(config.model, VOCABULARY, parameters, rows_NxT, config.sample.temperature)
        np.testing.assert_allclose(tempered_N, log_prob_N, rtol=1e-4, atol=1e-4)
        earlier = log_prob(
            config.model, VOCABULARY, load_parameters(kept, loop, 1), rows_NxT, config.sample.temperature
        )
        assert np.abs(earlier[1] - log_prob_N).max() > 0.1 < np.abs(plain_N - tempered_N).max()

        texts = [decode(row_T) for row_T in rows_NxT]
        found, out = RunModel(kept, loop, pytest.fail), io.StringIO()
        check_lines([f"{text}\n".encode() for text in [*texts, "( not", "nonsense", "True " * 16]], config, out, found)
        *lines, unfinished, nonsense, long = map(json.loads, out.getvalue().splitlines())
        for line, row_T, expected in zip(lines, rows_NxT, log_prob_N, strict=True):
            if EOS in row_T:
                assert line["model_log_prob_tempered"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert unfinished["model_log_prob"] < 0 and unfinished["verdict"] == "invalid"
        assert nonsense["model_log_prob"] is None and long["model_log_prob_tempered"] is None


def test_a_model_that_is_not_there_is_named_in_one_line(kept, tmp_path):
    """Catches a traceback, or the model of another loop, where somebody mistypes."""
    for path, loop, message in ((tmp_path, 0, "is no run folder"), (kept, 2, "has loops 0 to 1, and no loop 2")):
        with pytest.raises(InputError, match=message):
            RunModel(path, loop, pytest.fail)
    shutil.copytree(kept, tmp_path / "copy")
    edit(tmp_path / "copy/config.toml", "layers = 1", "layers = 2")
    with pytest.raises(InputError, match=r"config\.toml: is not what the run wrote"):
        load_parameters(str(tmp_path / "copy"), 0)
    with pytest.raises(InputError, match="has models of generations 0, 1, 2, and not of 7"):
        load_parameters(kept, 0, 7)
    with pytest.raises(InputError, match="has loops 0 to 1, and no loop 7"):
        load_parameters(kept, 7)


def test_ten_lines_of_flax_and_orbax_restore_a_model(kept):
    """The README's lines, as they stand there; catches a model that only jaxloop's own code could read."""
    code = re.search(r"<!-- model -->\n```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    code = code.replace("runs/quick", str(kept)).replace("generation_012", "generation_002")
    found: dict = {}
    exec(code, found)
    row_1xT = np.array([[*found["tokens"][1:], *[EOS] * 11]], np.uint8)
    assert decode(row_1xT[0]) == "( not False )"
    plain, _ = log_prob(tiny_config().model, VOCABULARY, load_parameters(kept, 0, 2), row_1xT, 1.0)
    assert float(found["log_prob"]) == pytest.approx(plain[0], abs=1e-4)
    assert found["next_tokens"].shape == (5,)
    assert set(re.findall(r"from (jaxloop\S*)", code)) == {
        "jaxloop.learners.transformer.model",
        "jaxloop.learners.vocabulary",
    }


def test_orbax_reads_with_and_without_what_is_expected(kept):
    """What is written must be a checkpoint as any other program would write it."""
    folder = kept / "models/loop_001/generation_001"
    with ocp.StandardCheckpointer() as checkpointer:
        assert_same(checkpointer.restore(folder.absolute()), load_parameters(kept, 1, 1))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def replaced(path: Path, by) -> None:
    path.unlink()
    by(path)


def exchanged(one: Path, other: Path) -> None:
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def moved_behind_a_link(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda model: flip(largest(model)), "is damaged, or somebody has changed it"),
        (lambda model: largest(model).unlink(), "is missing"),
        (lambda model: largest(model).write_bytes(largest(model).read_bytes() + b"?"), "is larger than it can be"),
        (lambda model: (model / "more").touch(), "more: is none of the files of this model"),
        (lambda model: shutil.rmtree(model), "is missing"),
        (
            lambda model: model.with_suffix(".json").unlink(),
            "generation_002.json: is missing|models of generations 0, 1",
        ),
        (lambda model: flip(model.with_suffix(".json")), "generation_002.json: is damaged"),
        (
            lambda model: exchanged(model.with_suffix(".json"), model.with_name("generation_001.json")),
            "is no seal of a model of generation",
        ),
        (
            lambda model: exchanged(model.with_suffix(".json"), model.parents[1] / "loop_001/generation_002.json"),
            "is of other settings than those of loop",
        ),
        (
            lambda model: replaced(model / "_METADATA", lambda path: path.symlink_to("/etc/hosts")),
            "_METADATA: is a link",
        ),
        (lambda model: replaced(model / "_METADATA", os.mkfifo), "neither a file nor a folder"),
        (moved_behind_a_link, "generation_002: is a link"),
    ],
)
def test_a_model_is_read_only_where_it_is_what_was_sealed(copy, harm, said):
    """Another model's probabilities in silence; a link that is followed, or a pipe that is waited for."""
    signal.alarm(60)
    harm(copy / "models/loop_000/generation_002")
    damages = verify_run(copy).damages
    assert damages and (re.search(said, damages[0]) or "is missing" in damages[0])
    with pytest.raises(InputError, match=said):
        load_parameters(copy, 0, 2)
    # Rows are all that a run needs.
    before = results(copy)
    if "link" not in said and "neither" not in said:
        assert run_tiny(copy, "store.models_every_generations=1").kept == [] and results(copy) == before
    signal.alarm(0)


def test_a_checkpoint_of_other_sizes_is_not_read(copy):
    """A folder from somebody else, seals and all: a few bytes that are said to be terabytes."""
    run = load_parameters(copy, 0, 2)
    (loop, _) = loops(tiny_config())
    for wrong in (
        {**run, "tokens": {"embedding": np.zeros((9, 16), np.float32)}},
        {**run, "tokens": {"embedding": np.zeros((8, 16), np.float64)}},
        {**run, "more": np.zeros(3, np.float32)},
        {name: part for name, part in run.items() if name != "tokens"},
    ):
        save_model(copy, loop, 2, wrong, stays=False)
        with pytest.raises(InputError, match="is no model of the sizes in"):
            load_parameters(copy, 0, 2)
    expected = jax.ShapeDtypeStruct((4, 8), np.float32)
    for shape, pieces, fits in (((4, 8), (2, 8), True), ((4, 8), (4, 2**40), False), ((4, 9), (4, 8), False)):
        stored = SimpleNamespace(shape=shape, dtype=np.dtype(np.float32), storage=SimpleNamespace(chunk_shape=pieces))
        assert stored_models._is_like(expected, stored) == fits
    # A seal that names files elsewhere.
    path = copy / "models/loop_000/generation_001.json"
    values = unseal_json(path.read_bytes(), path)
    for name in ("../generation_002/_METADATA", "/etc/hosts"):
        path.write_bytes(seal_json(values | {"files": values["files"] | {name: [1, ""]}}))
        with pytest.raises(InputError, match="is missing"):
            load_parameters(copy, 0, 1)
    path.write_bytes(seal_json(values | {"files": {"_METADATA": [10**15, ""]}}))
    with pytest.raises(InputError, match="is no seal of a model"):
        load_parameters(copy, 0, 1)
