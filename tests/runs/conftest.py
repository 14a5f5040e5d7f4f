"""Runs that many tests read, or copy before they harm them."""

import shutil
from pathlib import Path

import pytest
from tiny import QUICKLY, Silent, run_silently, run_tiny, tiny_config

from jaxloop.runs.runner import run


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "undisturbed"
    run(tiny_config(), path, "test", Silent())
    return path


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    run_silently(tiny_config(*QUICKLY), path)
    return path


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """A run of which every model is kept."""
    path = tmp_path_factory.mktemp("runs") / "kept"
    run_tiny(path, "store.models_every_generations=1")
    return path
