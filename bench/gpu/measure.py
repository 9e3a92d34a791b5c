#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The phases of bench/gpu/run.sh, one process each, all adding to one report.

environment   what machine and software this is                ceilings   what the chip can do, measured
correctness   every op against fp64, and reruns bit for bit    sweep      the table: times, targets, peers
worst         the rows furthest from their goals               once       one call of one row, for a profiler
note          a phase's time and status                        table      prints the report"""
from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Iterator

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))
try:
    import numpy as np
except ImportError:
    sys.exit("measure: NumPy is not there, must be; install python3-numpy (./build.sh deps does)")

import cases  # noqa: E402
from device import Device, Library, StrataError  # noqa: E402
from memory import BufferMemory, Memory, TorchMemory  # noqa: E402
from problem import Comparison, Peer, Problem, Row  # noqa: E402
from report import Report, rounded, table  # noqa: E402
from strata_abi import Abi  # noqa: E402
from timing import GraphTimer, Times, Timer, WallTimer  # noqa: E402

RERUNS = 3
KEPT_FAILURES = 5


def hooks() -> list[ModuleType]:
    """The modules in ops/: each brings PROBLEMS and timed()."""
    found = []
    for path in sorted((HERE / "ops").glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"ops_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"measure: {path} cannot be loaded, must be a Python module; correct or remove it")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        found.append(module)
    return found


def open_device(options: argparse.Namespace) -> Device:
    return Device(Library(Path(options.library), Abi(ROOT / "native/abi/v1.json")), options.device)


# ---------------------------------------------------------------- environment, ceilings


def environment(options: argparse.Namespace, report: Report) -> int:
    data, found = report.data, report.data["environment"]
    data["dry_run"] = options.dry_run
    if options.dry_run and not options.torch:
        data["notes"].append("a peer with a * is a stand-in for PyTorch's, a NumPy sum over the output")
    device = open_device(options)
    found["build"] = device.library.build
    data["machine"].update(name=device.info.name.decode(), isa=device.isa, threads=device.info.threads)
    device.close()
    commit = Path(options.library) / "commit"
    found["commit"] = commit.read_text().strip() if commit.exists() else "not known: the library is not one that run.sh --prepare put aside"
    found["python"], found["numpy"] = platform.python_version(), np.__version__
    report.save()
    asked = "name,driver_version,memory.total,clocks.sm,clocks.mem,temperature.gpu,mig.mode.current"
    for name, command in (("nvidia_smi", ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]), ("nvcc", ["nvcc", "--version"])):
        try:
            lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip().splitlines()
            found[name] = lines[-1] if lines else ""
        except (OSError, subprocess.SubprocessError) as error:
            found[name] = f"not there: {error}"
    try:
        import torch
        found["torch"] = f"{torch.__version__}, cuDNN {torch.backends.cudnn.version()}"
        found["torch_attention"] = ", ".join(name for name in dir(torch.nn.attention) if not name.startswith("_")) if hasattr(torch.nn, "attention") else ""
    except ImportError:
        found["torch"] = "not there"
    print(json.dumps(found, indent=2))
    return 0


def ceilings(options: argparse.Namespace, report: Report) -> int:
    """Probes and PyTorch on a GPU; the processor's own limits, which the library measures, in a dry run."""
    measured: dict[str, float] = report.data["ceilings"]
    device = open_device(options)
    if device.is_gpu:
        lines = subprocess.run([options.probes], capture_output=True, text=True, check=True).stdout.splitlines()
        measured.update({entry["name"]: entry["value"] for entry in map(json.loads, lines)})
        report.save()
        measured.update(_torch_ceilings())
        peaks = {"fp32": measured["fma_f32"], "bf16": max(measured["mma_bf16"], measured["cublas_bf16"]), "int8": measured["mma_s8"]}
    else:
        import ctypes
        cpu = Device(device.library, "cpu")
        peaks = {}
        for name in ("read", "fp32", "bf16", "int8"):
            value = ctypes.c_double()
            if not device.library.ask("strata_limit_measure", cpu.context, device.constant(f"STRATA_LIMIT_{name.upper()}"), ctypes.addressof(value)):
                measured["read" if name == "read" else {"fp32": "fma_f32", "bf16": "mma_bf16", "int8": "mma_s8"}[name]] = peaks[name] = value.value
        cpu.close()
    for name, unit in (("fp32", "fp32_gflops"), ("bf16", "bf16_gflops"), ("int8", "int8_gops")):
        report.data["machine"]["limits"][unit] = rounded(peaks[name] / 1e9) if name in peaks else None
    report.data["machine"]["limits"]["read_gb_s"] = rounded(measured["read"] / 1e9)
    device.close()
    print(json.dumps(measured, indent=2))
    return 0


def _torch_ceilings() -> dict[str, float]:
    """What cuBLAS reaches, for the share of the tensor cores that mma.sync does not."""
    import torch
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = GraphTimer(torch).measure([lambda: torch.mm(a, b)])
    return {"cublas_bf16": 2 * n**3 / times.median * 1e6}


# ---------------------------------------------------------------- correctness


def correctness(options: argparse.Namespace, report: Report) -> int:
    """Every op's cases against fp64, then again and again: outputs that change between runs are a race."""
    device = open_device(options)
    problems = {op: make for module in hooks() for op, make in module.PROBLEMS.items()}
    where = f"{options.label} {device.name}" if options.label else device.name
    result: dict[str, Any] = {}
    for op in cases.operators(ROOT / "native/ops"):
        if options.op and op not in options.op:
            continue
        tally: dict[str, Any] = {"cases": 0, "share": 0.0, "where": "", "implementations": [], "failures": [], "unknown": {}}
        result[op] = tally
        if op not in problems:
            tally["failures"].append(f"{op} has no module in bench/gpu/ops, must have one; add it to one's PROBLEMS")
            continue
        for case in cases.read(ROOT / "native/ops", op):
            if ("tiny" if options.tiny else "test") not in case.tags:
                continue
            for seed in range(options.seeds):
                for sentence in _verify(device, problems[op], case, seed, tally, options.sensitivity):
                    tally["failures"].append(f"{op}/{case.name}: {sentence}")
        failures = tally["failures"]
        print(f"{where} {op}: {tally['cases']} cases, worst {tally['share']:.3f} of its gate at {tally['where'] or 'none'}, "
              + ", ".join(tally["implementations"])
              + (f", {len(failures)} FAILED" if failures else ""))
        for sentence in failures[:KEPT_FAILURES]:
            print(f"  FAILED {sentence}")
        if tally["unknown"]:
            keys = sorted(set().union(*tally["unknown"].values()))
            print(f"  left out {len(tally['unknown'])} cases with {', '.join(keys)}, which bench/gpu/ops does not know")
        del failures[KEPT_FAILURES:]
        report.data["correctness"][where] = result
        report.save()
    device.close()
    return 1 if any(op["failures"] for op in result.values()) else 0


def _verify(device: Device, make: Callable[[Memory, cases.Case], Problem], case: cases.Case, seed: int, tally: dict[str, Any],
            sensitivity: bool) -> Iterator[str]:
    """What is wrong with one case, a sentence each."""
    try:
        problem = make(BufferMemory(device, 1 + seed), case)
        if case.unknown:  # a case list may be ahead of this script; half a case proves nothing
            tally["unknown"][case.name] = case.unknown
            return
        tally["cases"] += 1
        problem.run()
        device.synchronize()
        if device.implementation not in tally["implementations"]:
            tally["implementations"].append(device.implementation)
        comparison = problem.check()
        if comparison.share >= tally["share"]:
            tally["share"], tally["where"] = min(comparison.share, 1e9), f"{case.name}: {comparison.where}"
        if not comparison.passes:
            yield _sentence(comparison, device)
            return
        first = problem.fingerprint()
        for rerun in range(1, RERUNS):
            problem.reset()
            problem.run()
            device.synchronize()
            if problem.fingerprint() != first:
                yield f"run {rerun + 1} gives other bits than run 1, must give the same; look for a race ({device.implementation})"
                return
        if sensitivity and not _notices(problem):
            yield "one wrong element passes the comparison, must fail it; sharpen the check of this op"
    except KeyError as error:  # a value of a key that nobody here knows
        tally["unknown"][case.name] = [str(error)]
    except (StrataError, ValueError) as error:
        if case.unknown:
            tally["unknown"][case.name] = case.unknown
        else:
            yield str(error)


def _notices(problem: Problem) -> bool:
    """Whether the comparison fails once the first element of the first output is wrong."""
    output = next(iter(problem.outputs.values()))
    stored = output.stored()
    if stored.size == 0:
        return True
    bits = stored.reshape(-1).view({1: np.uint8, 2: np.uint16, 4: np.uint32}[stored.itemsize])
    # The highest exponent bit of a float: a factor far from 1; zero becomes two.
    bits[0] ^= {1: 1, 2: 0x4000, 4: 0x40000000}[stored.itemsize] if output.kind in ("f32", "f16", "bf16") else 1
    output.write(stored)
    return not problem.check().passes


def _sentence(comparison: Comparison, device: Device) -> str:
    unwritten = f" and {comparison.unwritten} elements that nobody wrote" if comparison.unwritten else ""
    return f"error {comparison.error:.3g} at {comparison.where}{unwritten}, must be at most {comparison.gate:.3g} ({device.implementation})"


# ---------------------------------------------------------------- sweep


class Sweep:
    """Times rows, each after a comparison with fp64 at sampled places."""

    SAMPLES = 3
    MOST_COPIES = 256
    PATIENCE = 1.5  # seconds for making copies of one row's problem
    MOST_BYTES = 12 << 30
    PEER_GATE = 2e-2

    def __init__(self, options: argparse.Namespace, report: Report) -> None:
        self.report, self.device = report, open_device(options)
        self.real = self.device.is_gpu
        self.torch: Any = None
        if self.real or options.torch:
            import torch
            self.torch = torch
        self.timer: Timer = GraphTimer(self.torch) if self.real else WallTimer()
        self.kind = TorchMemory if self.torch is not None else BufferMemory
        l2 = report.ceiling("l2") or 1 << 14  # a few copies are enough to try rotation out
        self.cold_bytes = 4 * l2
        self.memory: Memory = self.kind(self.device, 7)
        self.refused: dict[str, list[str]] = {}

    def time(self, row: Row) -> str:
        """Adds the row's entries to the report; returns what to print."""
        name = f"{row.case.op}/{row.case.name}"
        refusal = row.refusal(self.memory)
        if refusal:
            self._note_refusal(name, refusal)
            return f"{name}: not supported: {refusal}"
        first = row.make(self.memory, row.case)
        first.run(self.timer.stream())
        self.device.synchronize(self.timer.stream())
        implementation = self.device.implementation
        comparison = first.check(self.SAMPLES)
        if not comparison.passes:
            raise StrataError(_sentence(comparison, self.device))
        copies = self._copies(row, first)
        cold = first.bytes * len(copies) >= self.cold_bytes
        calls = [self._call(copy) for copy in copies]
        hot = self.timer.measure(calls[:1])
        times = {"warm": hot, **({"cold": self.timer.measure(calls)} if cold else {})}
        shown = "cold" if cold else "warm"
        peers = [peer for peer in (self._peer(peer, copies, times[shown]) for peer in row.peers) if peer]
        for state, measured in times.items():
            self.report.data["rows"].append(self._entry(row, first, state, shown, measured, hot, peers if state == shown else [], implementation, len(copies)))
        told = ", ".join(peer["name"] + (f" {peer['us']:.1f}" if peer.get("us") else f": {peer['error']}") for peer in peers)
        return f"{name}: {times[shown].median:.2f} us {shown}, {hot.median:.2f} us hot, error {comparison.share:.2f} of its gate, {implementation}; {told}"

    def _note_refusal(self, name: str, refusal: str) -> None:
        """Rows that are refused for one reason share a note."""
        names = self.refused.setdefault(refusal, [])
        names.append(name)
        notes: list[str] = self.report.data["notes"]
        if len(names) == 1:
            notes.append("")
        at = next(i for i, note in enumerate(notes) if note == "" or note.endswith(refusal))
        notes[at] = names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "") + f" not supported: {refusal}"

    def _copies(self, row: Row, first: Problem) -> list[Problem]:
        """As many problems as keep any call from finding its data in the cache, within memory and patience."""
        wanted = min(self.MOST_COPIES, -(-self.cold_bytes // max(1, int(first.bytes))), max(1, int(self.MOST_BYTES // max(1, first.bytes))))
        copies, start = [first], time.monotonic()
        while len(copies) < wanted and time.monotonic() - start < self.PATIENCE:
            copies.append(row.make(self.memory, row.case))
        return copies

    def _call(self, problem: Problem) -> Callable[[], None]:
        return lambda: problem.run(self.timer.stream())

    def _peer(self, peer: Peer, copies: list[Problem], ours: Times) -> dict[str, Any]:
        if self.torch is None:
            output = next(iter(copies[0].outputs.values()))
            times = self.timer.measure([lambda: output.stored().sum()])
            return {"name": f"stand-in for {peer.name}", "us": rounded(times.median), "ratio": rounded(times.median / ours.median)}
        try:
            calls, start = [], time.monotonic()
            for copy in copies:
                calls.append(peer.make(self.torch, copy))
                if time.monotonic() - start > self.PATIENCE:
                    break
            result = calls[0]()
            if peer.compares:
                want = copies[0].result().float()
                difference = float((result.float() - want).norm() / want.norm())
                if not difference <= self.PEER_GATE:
                    return {"name": peer.name, "error": f"its result differs by {difference:.3g}, must by at most {self.PEER_GATE}; correct the peer"}
            del result
            times = self.timer.measure(calls)
        except Exception as error:  # a peer may lack a kernel for the shape, in its own ways of saying so
            return {"name": peer.name, "error": f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"}
        return {"name": peer.name, "us": rounded(times.median), "ratio": rounded(times.median / ours.median)}

    def _entry(self, row: Row, problem: Problem, state: str, shown: str, times: Times, hot: Times, peers: list[dict[str, Any]], implementation: str,
               copies: int) -> dict[str, Any]:
        read, peak = self.report.ceiling("read"), self._peak(problem.roof)
        seconds = times.median * 1e-6
        floor = max(problem.bytes / read, problem.operations / peak) if read and peak else None
        target = row.target.time(problem, read)
        best = min((peer for peer in peers if peer.get("us")), key=lambda peer: peer["us"], default=None)
        return {
            "op": row.case.op, "case": row.case.name, "device": self.device.name, "isa": self.device.isa, "threads": self.device.info.threads, "state": state,
            "median_us": rounded(times.median), "p20_us": rounded(times.p20), "p80_us": rounded(times.p80),
            "gb_s": rounded(problem.bytes / seconds / 1e9), "gflop_s": rounded(problem.operations / seconds / 1e9),
            "limit_share": rounded(floor / seconds) if floor is not None else None,
            "peer": best["name"] if best else None, "ratio": best["ratio"] if best else None,
            "peer_us": best["us"] if best else None, "peers": peers,
            "target_us": rounded(target), "target_share": rounded(target / times.median) if target else None,
            "hot_us": rounded(hot.median), "shown": shown, "copies": copies, "implementation": implementation,
        }

    def _peak(self, roof: str) -> float | None:
        # The chip's own, whatever instruction gets there: cuBLAS uses some that mma.sync kernels do not. fp32 does what no special unit does.
        special = {"fp32": (), "bf16": ("mma_bf16", "cublas_bf16"), "fp16": ("mma_f16", "cublas_bf16"), "int8": ("mma_s8",)}[roof]
        known = [value for value in map(self.report.ceiling, (*special, "fma_f32")) if value is not None]
        return max(known, default=None)


def _rows(full: bool) -> list[Row]:
    """Every module's rows in turn, so that a sweep cut short has seen something of all."""
    turns = itertools.zip_longest(*[module.timed(full) for module in hooks()])
    return [row for turn in turns for row in turn if row is not None]


def sweep(options: argparse.Namespace, report: Report) -> int:
    run = Sweep(options, report)
    end = time.monotonic() + options.seconds
    rows = [row for row in _rows(run.real) if (not options.op or row.case.op in options.op) and re.search(options.row, row.case.name)]
    status = 0
    for at, row in enumerate(rows):
        if time.monotonic() > end:
            report.data["notes"].append(f"{len(rows) - at} of {len(rows)} rows were not reached in {options.seconds} s")
            break
        try:
            print(run.time(row), flush=True)
        except (StrataError, ValueError, RuntimeError) as error:
            status = 1
            report.data["refused"].append(f"{row.case.op}/{row.case.name} on {run.device.name}: {str(error).splitlines()[0]}")
            print(f"{row.case.op}/{row.case.name}: FAILED {error}", flush=True)
        report.save()
        if run.real and at % 8 == 7:
            run.torch.cuda.empty_cache()
    order = {name: i for i, name in enumerate(f"{row.case.op}/{row.case.name}" for module in hooks() for row in module.timed(run.real))}
    report.data["rows"].sort(key=lambda row: order[f"{row['op']}/{row['case']}"])
    return status


def worst(options: argparse.Namespace, report: Report) -> int:
    """Names of the rows furthest from their goal, or from the ceiling where there is none; not those that are all launch."""
    shown = [row for row in report.data["rows"] if row["state"] == row["shown"] and (row["median_us"] >= 8 or report.data.get("dry_run"))]
    shown.sort(key=lambda row: row["target_share"] or row["limit_share"] or 1)
    for row in shown[: options.count]:
        print(f"{row['op']}/{row['case']}")
    return 0


def once(options: argparse.Namespace, report: Report) -> int:
    """One call of a row between the profiler's marks."""
    run = Sweep(options, report)
    for row in _rows(run.real):
        if f"{row.case.op}/{row.case.name}" != options.row:
            continue
        problem = row.make(run.memory, row.case)
        problem.run(run.timer.stream())
        run.device.synchronize(run.timer.stream())
        if run.real:
            run.torch.cuda.cudart().cudaProfilerStart()
        problem.run(run.timer.stream())
        run.device.synchronize(run.timer.stream())
        if run.real:
            run.torch.cuda.cudart().cudaProfilerStop()
        print(f"{options.row}: ran on {run.device.name}, {run.device.implementation}")
        return 0
    print(f"measure: there is no row {options.row}, must be one that the sweep times; see `measure.py worst`", file=sys.stderr)
    return 2


# ---------------------------------------------------------------- the rest


def note(options: argparse.Namespace, report: Report) -> int:
    report.data["phases"][options.phase] = {"status": options.status, "seconds": options.spent}
    return 0


def show(options: argparse.Namespace, report: Report) -> int:
    print(table(report))
    return 1 if report.failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--library", default=str(ROOT / "build/native"), help="folder of libstrata.so")
    parser.add_argument("--device", default="cuda:0", help="cuda:0; simt or cpu in a dry run")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--torch", action="store_true", help="dry run: PyTorch's memory and peers on the processor")
    phases = parser.add_subparsers(dest="phase_name", required=True)
    for phase in (environment, ceilings, correctness, sweep, worst, once, note, show):
        child = phases.add_parser(phase.__name__ if phase is not show else "table", help=(phase.__doc__ or "").split("\n")[0])
        child.set_defaults(run=phase)
        if phase is ceilings:
            child.add_argument("--probes", default=str(ROOT / "build/gpu/probes"))
        if phase in (correctness, sweep):
            child.add_argument("--op", action="append", help="only this op; may be repeated")
        if phase is correctness:
            child.add_argument("--label", default="", help="name of the build in the report")
            child.add_argument("--tiny", action="store_true", help="only the smallest cases, for the sanitizers")
            child.add_argument("--seeds", type=int, default=1)
            child.add_argument("--sensitivity", action="store_true", help="also make each result wrong and see that the comparison fails")
        if phase is sweep:
            child.add_argument("--seconds", type=float, default=165)
            child.add_argument("--row", default="", help="only rows whose case matches this regular expression")
        if phase is worst:
            child.add_argument("--count", type=int, default=3)
        if phase is once:
            child.add_argument("row", help="op/case")
        if phase is note:
            child.add_argument("phase")
            child.add_argument("status")
            child.add_argument("spent", type=int)
    options = parser.parse_args()
    report = Report(options.out)
    try:
        return int(options.run(options, report))
    except StrataError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        if options.run not in (worst, once, show):
            report.save()


if __name__ == "__main__":
    sys.exit(main())
