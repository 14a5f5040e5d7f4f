"""Several processes that share one run, on one host or on many: who takes which loop, and what all have to know.

JAX's own runtime (`jax.distributed`) connects them. Loops are independent, so each process computes its own on its own
devices, and nothing is sent from one to another: results meet on shared storage, and who is ready is said by barriers.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax

from jaxloop.errors import InputError, RunError
from jaxloop.runs.environment import prepare

_PATIENCE_SECONDS, _CONNECT_SECONDS = 5, 300
# Processes may finish days apart; once all are there, those that succeeded say so at once.
_WAIT_SECONDS, _GRACE_SECONDS = 7 * 24 * 3600, 10

Item = TypeVar("Item")


@contextlib.contextmanager
def connected(coordinator: str | None, processes: int | None, process: int | None) -> Iterator[None]:
    """Connect the processes that were started with the same command, and disconnect them at the end.

    Args:
      coordinator: HOST:PORT of the first process; None where the cluster is to be detected (Slurm, Open MPI, Cloud TPU,
        Kubernetes).
      processes: how many there are; None where the cluster is to be detected.
      process: which one this is, from 0.

    Raises:
      InputError: no cluster is detected, or the settings fit no run.
    """
    settings = {}
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not (host and port.isdigit() and 0 < int(port) < 2**16):
            raise InputError(f"--coordinator {coordinator}: is no HOST:PORT, such as 10.0.0.1:7000")
        settings = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
        settings["cluster_detection_method"] = "deactivate"
    # No collectives are needed; and the run itself answers to SIGTERM.
    for name, value in (("jax_cpu_collectives_implementation", None), ("jax_enable_preemption_service", False)):
        if name in jax.config.values:  # Older versions have not all of them.
            jax.config.update(name, value)
    timers = [threading.Timer(_PATIENCE_SECONDS, _say_waiting), threading.Timer(_CONNECT_SECONDS, _give_up)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        # JAX itself would end the process with a stack trace, so its patience is the longer one.
        jax.distributed.initialize(initialization_timeout=_CONNECT_SECONDS + 60, **settings)
        prepare()
        jax.devices()  # Every process waits for all others here, once.
    except (ValueError, RuntimeError, IndexError) as error:
        words = "no cluster was detected; say --coordinator HOST:PORT, --processes N and --process I"
        if coordinator is not None:
            given = f"--coordinator {coordinator} --processes {processes} --process {process}"
            words = f"{given}: {(str(error).splitlines() or ['cannot be used'])[0]}"
        raise InputError(words) from None
    finally:
        for timer in timers:
            timer.cancel()
    try:
        yield
    except (InputError, RunError):
        # All end for this: where they meet is in the first process, which must not be gone before the others know.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.distributed.shutdown()
        raise
    jax.distributed.shutdown()


def _say_waiting() -> None:
    print("jaxloop: waiting for the other processes of this run", file=sys.stderr, flush=True)


def _give_up() -> None:
    print(f"jaxloop: not all processes were there within {_CONNECT_SECONDS} s", file=sys.stderr, flush=True)
    os._exit(1)


def is_first() -> bool:
    """Whether this process writes what belongs to no loop; the only process of a run is the first."""
    return jax.process_index() == 0


def process_number() -> int:
    """Which of the processes this is, from 0."""
    return jax.process_index()


def own_share(items: list[Item]) -> list[Item]:
    """What this process takes of things in the order in which they are begun."""
    return items[jax.process_index() :: jax.process_count()]


def all_agree(question: str, answer: bool, watch: Callable[[], None] = lambda: None) -> bool:
    """Whether every process answers yes; each waits for all others.

    Args:
      question: another one each time, and the same in all processes.
      answer: that of this process.
      watch: called again and again while waiting; what it raises ends that.
    """
    if jax.process_count() == 1:
        return answer
    try:
        _wait_for_all(f"{question}: answered", _WAIT_SECONDS, watch)
    except jax.errors.JaxRuntimeError:
        return False  # A process has died.
    agreed = answer
    if answer:
        try:
            _wait_for_all(f"{question}: yes", _GRACE_SECONDS, watch)
        except jax.errors.JaxRuntimeError:
            agreed = False
    _wait_for_all(f"{question}: known", 2 * _GRACE_SECONDS, watch)
    return agreed


def _wait_for_all(name: str, seconds: int, watch: Callable[[], None]) -> None:
    """A barrier of JAX's coordination service."""
    import orbax.checkpoint as ocp

    barrier = ocp.multihost.get_barrier_sync_fn(processes=set(range(jax.process_count())))
    faults = []

    def wait() -> None:
        try:
            barrier(key=name, timeout_ms=seconds * 1000)
        except jax.errors.JaxRuntimeError as error:
            faults.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
        watch()
    if faults:
        raise faults[0]
