"""What Triton's compiler makes of the kernels for capabilities 8.0 and 9.0, read from the machine code.

No GPU is needed for that, and none is used: `compiling.py` compiles what `attend` would launch.  The local memory of a
thread is where the compiler puts what does not fit in registers; in a loop that is a trip to memory on every turn.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

SCRIPT = Path(__file__).with_name("compiling.py")
SHORT = (1, 32, 32, 2, 1)  # batch, n_query, n_key, heads, kv_heads
EVERYTHING = {
    "window": 5, "key_padding": True, "alibi_slopes": True, "score_cap": 3.0, "sink_logit": True, "targets": True,
    "statistics": True,
}  # fmt: skip
KILO = 1024
MOST_SHARED = {90: 227 * KILO, 80: 163 * KILO}  # bytes that a block may have, by capability
LEAST_SHARED = 99 * KILO  # at capabilities 8.6 and 8.9, whose machine code is that of 8.0


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The kernels of some calls of `attend`, compiled in a process where nothing is interpreted; the same case once."""
    told = tmp_path_factory.mktemp("compiling") / "stderr"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    environment["TRITON_CACHE_DIR"] = str(told.parent / "cache")  # empty, so that it really compiles
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-W", "error", str(SCRIPT)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": told.open("w"), "text": True}

    with pipes["stderr"], subprocess.Popen(command, env=environment, **pipes) as process:

        @functools.cache
        def ask(case: str) -> dict:
            print(case, file=process.stdin, flush=True)
            answer = process.stdout.readline()
            assert answer, told.read_text()  # the process has ended
            found = json.loads(answer)
            assert "error" not in found, found["error"]
            return found

        def compile_(kernels, *calls, capability=90, fastest="first"):
            case = {"kernels": kernels, "calls": calls, "capability": capability, "fastest": fastest}
            return ask(json.dumps(case))

        yield compile_


def call(d_head: int, dtype="bfloat16", shape=SHORT, **options) -> dict:
    return {"shape": [*shape, d_head], "dtype": dtype, **options}


def local(loop: dict) -> int:
    """Loads and stores that go to the local memory of a thread."""
    return loop["LDL"] + loop["STL"]


def assert_fits(kernel: dict, capability: int, product: str) -> None:
    """All is in registers and shared memory; `product` is the instruction that the products are made of."""
    assert kernel["loops"]
    for loop in kernel["loops"]:
        assert loop[product] > 0
        assert local(loop) == 0
    assert kernel["shared"] <= MOST_SHARED[capability]


# 16 bits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d_head", [64, 128, 256])
def test_the_unmasked_loop_with_statistics_keeps_to_registers(compiled, d_head):
    """Nearly: what little the largest block of narrow heads may lack is one instruction in a hundred."""
    (kernel,) = compiled(["forward"], call(d_head, statistics=True))["kernels"]
    unmasked = min(kernel["loops"], key=lambda loop: loop["instructions"])
    assert unmasked["HGMMA"] > 0  # products of whole warp groups, which Hopper has
    assert local(unmasked) <= unmasked["instructions"] / 100
    assert kernel["shared"] <= MOST_SHARED[90]


@pytest.mark.parametrize(("capability", "product"), [(80, "HMMA"), (90, "HGMMA")])
def test_with_every_option_on_the_last_listed_block_keeps_to_registers(compiled, capability, product):
    everything = call(80, "float16", **EVERYTHING)  # of 128 columns, 48 are padding
    (kernel,) = compiled(["forward"], everything, capability=capability, fastest="last")["kernels"]
    assert_fits(kernel, capability, product)
    assert kernel["shared"] <= LEAST_SHARED


def test_statistics_add_at_most_five_instructions_or_so_per_score(compiled):
    """Three sums of products over the scores: a fused multiplication and addition each, and half an instruction more
    where the compiler adds in pairs.  Per row that a thread holds: each sum is gathered from four threads in two steps
    of a shuffle and an addition, what was kept is rescaled and added to in twelve instructions, and half as much again
    is left for moves and addresses."""
    loops = {}
    for statistics in (False, True):
        (kernel,) = compiled(["forward"], call(128, statistics=statistics))["kernels"]
        loops[statistics] = min(loop["instructions"] for loop in kernel["loops"])
    scores = kernel["queries"] * kernel["keys"] // (32 * kernel["warps"])
    rows = kernel["queries"] // (8 * kernel["warps"])  # a warp has its rows in eights, four threads to a row
    assert 3 * scores <= loops[True] - loops[False] <= 4.5 * scores + 1.5 * rows * (3 * 4 + 12)


def test_descriptors_are_tried_on_hopper_where_rows_are_aligned(compiled):
    """The first listed block once more, with tiles copied by descriptor: it keeps to registers, too."""
    aligned, unaligned = call(128, statistics=True), call(20, statistics=True)
    (first,) = compiled(["forward"], aligned)["kernels"]
    (kernel,) = compiled(["forward"], aligned, fastest="second")["kernels"]
    assert_fits(kernel, 90, "HGMMA")
    assert kernel["descriptors"]
    assert (kernel["queries"], kernel["keys"]) == (first["queries"], first["keys"])
    assert not first["descriptors"]
    for capability, other in ((80, aligned), (90, unaligned)):
        (kernel,) = compiled(["forward"], other, capability=capability, fastest="second")["kernels"]
        assert not kernel["descriptors"]


@pytest.mark.parametrize("grads", [["z"], ["z", "entropy"]])
def test_the_backward_kernels_keep_to_registers(compiled, grads):
    kernels = compiled(["by_queries", "by_keys"], call(64, statistics=True, grads=grads))["kernels"]
    assert [one["kernel"] for one in kernels] == ["by_queries", "by_keys"]
    for kernel in kernels:
        assert_fits(kernel, 90, "HGMMA")


def test_the_pass_for_what_keys_receive_keeps_to_registers(compiled):
    (kernel,) = compiled(["received"], call(128, statistics=True, received=True))["kernels"]
    assert_fits(kernel, 90, "HGMMA")


# 32 bits --------------------------------------------------------------------------------------------


def test_ieee_products_are_made_of_fused_multiplications_and_additions(compiled):
    (kernel,) = compiled(["forward"], call(64, "float32", statistics=True), fastest="last")["kernels"]
    assert_fits(kernel, 90, "FFMA")
    assert not kernel["tf32"]
    assert not any(loop["HMMA"] + loop["HGMMA"] for loop in kernel["loops"])


def test_tf32_products_run_on_the_tensor_cores(compiled):
    asked = call(64, "float32", precision="tf32", statistics=True)
    (kernel,) = compiled(["forward"], asked, fastest="last")["kernels"]
    assert_fits(kernel, 90, "HGMMA")
    assert kernel["tf32"]


# Families -------------------------------------------------------------------------------------------


def test_lengths_batch_heads_and_values_of_options_are_no_reason_to_compile_or_tune_again(compiled):
    """1 and multiples of 16 among them, which Triton would make kernels of their own for."""
    small = call(64, shape=(1, 1, 1, 1, 1), statistics=True, window=1, sink_logit=True)
    large = call(64, shape=(3, 17, 48, 32, 2), statistics=True, window=16, sink_logit=True)
    once = compiled(["forward"], small, fastest="last")
    both = compiled(["forward"], small, large, large, fastest="last")
    assert len(both["kernels"]) == 3
    assert len({one["hash"] for one in both["kernels"]}) == 1
    assert both["timed"] == once["timed"] > 1


def test_another_set_of_options_is_another_family(compiled):
    """The control: what tells families apart here can tell them apart."""
    found = compiled(["received"], *(call(64, statistics=True, received=True, window=w) for w in (None, 4)))
    assert len({one["hash"] for one in found["kernels"]}) == 2
