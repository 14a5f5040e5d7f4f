"""The manifest tells in what environment a run was computed."""

import json

from tiny import MEMORISER, run_tiny

from jaxloop.files import seal_json, write_whole


def test_going_on_in_another_environment_is_told(tmp_path):
    """Half of a run from one JAX and half from another looks like a run of either."""
    run_tiny(tmp_path / "run", *MEMORISER, "cycle.generations=2")
    manifest = tmp_path / "run" / "manifest.json"
    sessions = json.loads(manifest.read_text())["sessions"]
    assert sessions[0]["results_depend_on"]["activations"] == "float32"
    sessions[0]["results_depend_on"] |= {"jax": "0.7.2", "activations": "bfloat16"}
    write_whole(manifest, seal_json({"sessions": sessions}))
    # Nothing more is computed: nothing is mixed.
    assert run_tiny(tmp_path / "run", *MEMORISER, "cycle.generations=2").warnings == []
    write_whole(manifest, seal_json({"sessions": sessions}))
    (warning,) = run_tiny(tmp_path / "run", *MEMORISER, "cycle.generations=3").warnings
    assert "jax was 0.7.2, is " in warning and "activations was bfloat16, is float32" in warning
