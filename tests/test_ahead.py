"""What compilers for accelerators make of our programs, on a machine that has none: `pytest -m ahead -s`.

Needs what `pip install '.[aot]'` installs, some 3 GB of it, and JAX_PLATFORMS=cpu.
"""

import importlib.util

import pytest
from ahead import TARGETS, Programs, kernels_of

CASES = [("v5e", "quick", 1), ("v5e", "compact", 8), ("v5e", "paper", 1)]
CASES += [("v5e:2x2", "paper_large", 1)]  # which share the loop
CASES += [("h100", "quick", 1), ("h100", "compact", 12), ("h100", "paper", 1)]
# Kernels of a training step of one chunk, and how many operations the compiled step has for each useful one.
MOST_KERNELS = {("quick", 1): 100, ("compact", 12): 110, ("paper", 1): 249}
MOST_OPERATIONS = {("quick", 1): 1.65, ("compact", 8): 1.5, ("paper", 1): 1.2, ("paper_large", 1): 1.3}


@pytest.mark.ahead
@pytest.mark.parametrize(("target", "preset", "mapped"), CASES)
def test_programs_compile_and_fit_for_accelerators(target, preset, mapped):
    """Catches what only another compiler refuses, a plan that no longer fits a device, and steps that launch or compute
    more than they did.
    """
    needed, devices = TARGETS[target].needs, TARGETS[target].side ** 2
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    of_preset = Programs(target, preset, f"train.partial_sums={devices}", mapped=mapped)
    found = {name: of_preset.compiled(name) for name in ("begin", "train", "sample", "score")}
    line = f"{preset} on {target}, {mapped} mapped: " + ", ".join(
        f"{n} {c.bytes / 1e6:,.0f} MB" for n, c in found.items()
    )
    assert all(one.bytes < 0.8 * TARGETS[target].memory_bytes for one in found.values()), line
    if target == "h100":
        step = max(found["train"].kernels.loops, key=lambda loop: loop.once())
        line += f"; a step {step.own} kernels, a chunk {step.once() - step.own}"
        assert step.once() <= MOST_KERNELS[preset, mapped], line
    else:
        operations = found["train"].operations - of_preset.operations_of_a_look()
        operations *= of_preset.chunks_of_a_step()
        useful = of_preset.useful_operations_of_a_step() / devices
        line += f"; a step {operations / 1e9:.4g} GFLOP, {operations / useful:.2f} for each useful one"
        assert operations / useful <= MOST_OPERATIONS[preset, mapped], line
    print(line)


def test_kernels_are_counted_by_loop():
    """Catches a count that takes what is only named for what is launched, or loses a loop."""
    program = """
%chunk (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  %a = f32[2]{0} fusion(%p), kind=kLoop, calls=%f
  ROOT %b = f32[2]{0} custom-call(%a), custom_call_target="__cublas$gemm"
}

%step (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  %t = f32[2]{0} bitcast(%p)
  %c = f32[2]{0} while(%t), condition=%f, body=%chunk
  ROOT %d = f32[2]{0} add(%c, %t)
}

ENTRY %main (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  %copied = f32[2]{0} copy(%p)
  ROOT %w = f32[2]{0} while(%copied), condition=%f, body=%step
}
"""
    found = kernels_of(program)
    assert (found.own, found.loops[0].own, found.loops[0].loops[0].own) == (1, 1, 2)
    assert found.once() == 4
