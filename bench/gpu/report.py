# SPDX-License-Identifier: Apache-2.0
"""The run's document, in the schema of `strata bench --out` with more fields, and its table.

The document is written after every step, so that whatever ends the run leaves what was measured."""
from __future__ import annotations

import datetime
import json
import math
import os
from pathlib import Path
from typing import Any

# The table has to fit what a caller keeps of a long output.
MOST_CHARACTERS = 11_500


def rounded(value: float | None) -> float | None:
    """Five significant digits: more would be noise."""
    return value if value is None or value == 0 or not math.isfinite(value) else float(f"{value:.5g}")


class Report:
    """A JSON document that is always whole on disk."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "report.json"
        limits = dict.fromkeys(("read_gb_s", "fp32_gflops", "bf16_gflops", "int8_gops", "amx_bf16_gflops", "amx_int8_gops"))
        today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
        self.data: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {
            "machine": {"name": "", "isa": "", "threads": 0, "date": today, "limits": limits}, "rows": [], "refused": [],
            "environment": {}, "ceilings": {}, "correctness": {}, "phases": {}, "notes": [],
        }

    def save(self) -> None:
        folder, partial = self.path.parent, self.path.with_suffix(".partial")
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(self.data, indent=2, default=str) + "\n")
        os.replace(partial, self.path)

    def ceiling(self, name: str) -> float | None:
        value = self.data["ceilings"].get(name)
        return float(value) if value is not None else None

    @property
    def failures(self) -> list[str]:
        """What is wrong, a sentence each."""
        wrong = list(self.data["refused"])
        for where, ops in self.data["correctness"].items():
            wrong += [f"{where}: {sentence}" for op in ops.values() for sentence in op["failures"]]
        return wrong


# ---------------------------------------------------------------- printing


def _number(value: float | None, width: int) -> str:
    if value is None or not math.isfinite(value):
        return " " * width
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 2
    return f"{value:{width}.{digits}f}"


def _percent(value: float | None) -> str:
    return "     " if value is None else f"{100 * value:4.0f}%"


def _row(row: dict[str, Any]) -> str:
    return (f"  {row['case'][:27]:27}" + _number(row["median_us"], 8) + _number(row.get("hot_us"), 8)
            + _number(row["gb_s"] / 1000, 6) + _number(row["gflop_s"] / 1000, 6)
            + _percent(row["limit_share"]) + _percent(row.get("target_share")) + f" {(row['peer'] or '').replace('stand-in for ', '*')[:11]:11}"
            + _number(row.get("peer_us"), 8) + _number(row["ratio"], 6))


_HEAD = f"{'op, case':29}{'us':>8}{'hot us':>8}{'TB/s':>6}{'TF/s':>6}{'ceil':>5}{'goal':>5} {'peer':11}{'its us':>8}{'ratio':>6}"


def table(report: Report) -> str:
    """Ceilings, correctness, the rows, then whatever went wrong: the last lines are the ones that are kept."""
    data = report.data
    machine = data["machine"]
    warning = " (dry run: no figure here says anything about a GPU)" if data.get("dry_run") else ""
    lines = [f"{machine['name']}, {machine['isa']}, {machine['date']}{warning}"]
    ceilings = [f"{name} {float(value):.4g}" for name, value in data["ceilings"].items()]
    lines += ["ceilings: " + ", ".join(ceilings)] if ceilings else []
    for where, ops in data["correctness"].items():
        cases, bad = sum(op["cases"] for op in ops.values()), [name for name, op in ops.items() if op["failures"]]
        worst = max(ops.items(), key=lambda item: item[1]["share"] or 0, default=None)
        lines.append(f"fp64 on {where}: {cases} cases of {len(ops)} ops, " + (f"FAILED in {', '.join(bad)}" if bad else "all agree, reruns to the bit")
                     + (f"; worst {worst[1]['share']:.2f} of its gate ({worst[0]})" if worst and worst[1]["share"] is not None else ""))
        left_out = [f"{len(op['unknown'])} cases of {name}" for name, op in ops.items() if op["unknown"]]
        lines += [f"  left out {', '.join(left_out)}: their keys are not known here"] if left_out else []
    lines.append(_HEAD)
    shown = [row for row in data["rows"] if row["state"] == row["shown"]]
    for at, row in enumerate(shown):
        if at == 0 or row["op"] != shown[at - 1]["op"]:
            lines.append(row["op"])
        lines.append(_row(row))
    lines += [f"note: {note}" for note in data["notes"]]
    phases = [f"{name} {phase['status']} {phase['seconds']} s" for name, phase in data["phases"].items()]
    lines += ["phases: " + ", ".join(phases)] if phases else []
    lines += [f"FAILED {sentence}" for sentence in report.failures]
    text = "\n".join(line.rstrip() for line in lines)
    return text if len(text) <= MOST_CHARACTERS else "(the top is in report.json)\n" + text[-MOST_CHARACTERS:]
