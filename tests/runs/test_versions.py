"""Whether packages fit: what is installed is faked, as it is read and never imported."""

import platform
from importlib import metadata

import pytest

from jaxloop.runs import versions


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package that is nothing but what is told of it, before all others."""
    monkeypatch.syspath_prepend(tmp_path)

    def add(name: str, version: str, *needs: str, python: str = "") -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Python: {python}"] if python else []
        (folder / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {need}" for need in needs), ""]))

    return add


def to_do(found: list) -> list[str]:
    return [one.sentence for one in found if one.to_do]


def test_what_the_tests_run_with_fits():
    """Catches a warning of every run on a machine where nothing is wrong."""
    assert to_do([*versions.check_python(), *versions.check_packages(), *versions.check_plugins()]) == []
    (said,) = versions.check_packages()
    assert f"jax {metadata.version('jax')}, jaxlib" in said.found and f"scipy {metadata.version('scipy')}" in said.found


def test_a_package_below_jaxloops_bound_is_named_with_what_to_do(install):
    """Catches bounds that only pip reads, and only when jaxloop is installed: another package may change it later."""
    install("optax", "0.1.0")
    (line,) = to_do(versions.check_packages())
    assert (
        line.startswith("jaxloop needs optax>=") and "optax 0.1.0 is there" in line and "pip install 'optax>=" in line
    )


def test_a_version_that_is_left_out_does_not_fit(install):
    """Catches bounds that are read as lowest versions only: Flax 0.12.0 cannot be imported with JAX 0.9."""
    install("flax", "0.12.0")
    (line,) = to_do(versions.check_packages())
    assert "!=0.12.0" in line and "flax 0.12.0 is there" in line


def test_packages_that_do_not_fit_each_other_are_named(install):
    """Catches a JAX whose jaxlib, or a Flax whose JAX, is another one than it needs, each within jaxloop's bounds."""
    install("jax", "99.0", "jaxlib<=99.0,>=99.0", "numpy; extra == 'none'")
    install("flax", "98.0", "jax<1")
    lines = to_do(versions.check_packages())
    assert [line for line in lines if line.startswith("jax 99.0 needs jaxlib") and "pip install 'jaxlib" in line]
    assert [line for line in lines if line.startswith("flax 98.0 needs jax<1, and jax 99.0 is there")]


def test_a_package_that_is_missing_is_named(install):
    """Catches a traceback in place of the name of what is missing."""
    install("jaxloop-collapse", "1", "nothing-of-the-kind>=2", "not-here; extra == 'test'")
    (line,) = to_do(versions.check_packages())
    assert "nothing-of-the-kind>=2, and nothing-of-the-kind is not there" in line


def test_a_python_that_is_too_old_is_named(install):
    """Catches jaxloop run in place by a Python that pip would have refused."""
    install("jaxloop-collapse", "1", python=">=99.1")
    (line,) = to_do(versions.check_python())
    assert platform.python_version() in line and "needs Python >=99.1" in line


@pytest.mark.parametrize("suffix", ["", ".post1", "+local"])
def test_a_plugin_of_this_jaxlib_fits_whatever_follows_its_numbers(install, suffix):
    """Catches a warning of a plugin that JAX takes: it compares numbers only."""
    numbers = versions._numbers(metadata.version("jaxlib"))
    install("jax-cuda12-plugin", f"{numbers}{suffix}")
    assert versions.refused_cuda() == {} and versions.cuda_extra() == "cuda12"
    assert to_do(versions.check_plugins()) == []


def test_a_plugin_of_another_jaxlib_is_named_once(install):
    """Catches two lines for the two parts of one plugin."""
    install("jax-cuda13-plugin", "0.1.2")
    install("jax-cuda13-pjrt", "0.1.2")
    (line,) = to_do(versions.check_plugins())
    assert "refuses its CUDA plugin, which is of JAX 0.1.2" in line and "jax[cuda13]==" in line


def test_another_libtpu_than_jax_is_made_for_is_named(install):
    """Catches a TPU that fails with an error of XLA, for libtpu came with the machine and JAX from elsewhere."""
    install("libtpu", "0.0.1")
    (line,) = to_do(versions.check_plugins())
    assert "libtpu" in line and "0.0.1 is there" in line and "jax[tpu]==" in line
