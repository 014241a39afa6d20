"""Compiles the kernels that `attend` would launch, with no GPU, and tells what the machine code is made of.

A script: a case per line comes on standard input, what was found goes to standard output, as JSON.  It is a process of
its own, since Triton decides when it is imported whether kernels are compiled or interpreted.  Up to the launch all is
as on a GPU: arguments, tuner, compiler.  Only the driver, which would launch and time, stands aside.
"""

import json
import re
import subprocess
import sys
import tempfile
import traceback

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from toy_models.attention.kernels import launch, serve
from toy_models.attention.options import Options

TUNERS = (launch.FORWARD, launch.RECEIVED, launch.BY_QUERIES, launch.BY_KEYS)
COUNTED = ("HGMMA", "HMMA", "FFMA", "LDL", "STL")
MANY = 200  # a loop with more fused multiplications and additions forms products out of them


class Aside:
    """A driver for a GPU that is not there; it finds one of the blocks listed for a family the fastest."""

    def __init__(self, capability: int, fastest: str):
        self.capability, self.timed = capability, 0
        self.seconds = {"first": float, "second": lambda n: abs(n - 2.0), "last": lambda n: -float(n)}[fastest]

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_benchmarker(self):
        def time(call, quantiles):
            self.timed += 1
            return [self.seconds(self.timed)] * len(quantiles)

        return time


def compiled(case: dict) -> dict:
    """The kernels named in the case that its calls of `attend` would launch, and how many blocks the tuner would time.

    Args: case: `kernels`; `capability`, 90 for 9.0; `fastest`, "first", "second" or "last"; `calls`, for `_attend`.
    """
    driver = Aside(case["capability"], case["fastest"])
    triton.runtime.driver.set_active(driver)
    for tuner in TUNERS:
        tuner.cache.clear()
        tuner.__dict__.pop("do_bench", None)  # of the driver before
    found, run = [], JITFunction.run

    def compile_only(kernel, *arguments, grid, warmup, **named):
        if kernel.__name__ in case["kernels"]:
            one = run(kernel, *arguments, grid=grid, warmup=True, **named)
            found.append({"kernel": kernel.__name__, "queries": named["BM"], "keys": named["BN"], **_told(one)})

    JITFunction.run = compile_only
    try:
        for call in case["calls"]:
            _attend(**call)
    finally:
        JITFunction.run = run
    return {"kernels": found, "timed": driver.timed}


def _attend(shape, dtype, precision="ieee", grads=(), **options) -> None:
    """On tensors of (batch, n_query, n_key, heads, kv_heads, d_head); True for an option stands for some tensor."""
    batch, n_query, n_key, heads, kv_heads, d_head = shape
    like = {"dtype": getattr(torch, dtype), "requires_grad": bool(grads)}
    q = torch.zeros(batch, n_query, heads, d_head, **like)
    k, v = (torch.zeros(batch, n_key, kv_heads, d_head, **like) for _ in "kv")
    tensors = {
        "key_padding": torch.ones(batch, n_key, dtype=torch.bool),
        "alibi_slopes": torch.ones(heads),
        "sink_logit": torch.zeros(heads),
        "targets": torch.zeros(batch, heads, n_query, dtype=torch.int64),
    }
    options |= {name: tensor for name, tensor in tensors.items() if options.get(name)}
    z, rows = serve.attend(q, k, v, Options(scale=d_head**-0.5, **options), precision)
    if grads:
        sum((z if name == "z" else rows.entropy).float().sum() for name in grads).backward()


def _told(one) -> dict:
    """Of a compiled kernel: what it takes of a multiprocessor, and the instructions of its loops with products."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(one.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-sass", file.name]
        code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {
        "hash": one.hash,
        "warps": one.metadata.num_warps,
        "shared": one.metadata.shared,
        "tf32": "tf32" in one.asm["ptx"],
        "descriptors": "cp.async.bulk.tensor" in one.asm["ptx"],
        "loops": loops(code),
    }


def loops(code: str) -> list[dict[str, int]]:
    """The innermost loops of machine code that form products: a loop is what a jump back spans."""
    matches = re.finditer(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", code, re.MULTILINE)
    lines = [(int(address, 16), words) for address, words in (one.groups() for one in matches)]
    jumps = ((re.search(r"\bBRA\b.*?0x([0-9a-f]+)", words), address) for address, words in lines)
    spans = {(int(to[1], 16), address) for to, address in jumps if to and int(to[1], 16) < address}
    counts = {}
    for first, last in spans:
        body = [words for address, words in lines if first <= address <= last]
        count = {name: sum(bool(re.search(rf"(^|\s){name}\b", words)) for words in body) for name in COUNTED}
        if count["HGMMA"] + count["HMMA"] or count["FFMA"] > MANY:
            counts[first, last] = {"instructions": len(body), **count}
    inner = [a for a in counts if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in counts)]
    return [counts[span] for span in sorted(inner)]


if __name__ == "__main__":
    for line in sys.stdin:
        try:
            answer = compiled(json.loads(line))
        except Exception:  # one kernel that does not compile is one test's failure
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)
