# SPDX-License-Identifier: Apache-2.0
"""The ops' case lists, native/ops/<op>/cases.inc: the same lines that every other test of an op reads."""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One line: CASE(name, tags, key=value ...). It remembers which keys were asked for."""

    op: str
    name: str
    tags: frozenset[str]
    values: dict[str, str]
    asked: set[str] = field(default_factory=set, compare=False)

    def text(self, key: str, missing: str) -> str:
        self.asked.add(key)
        return self.values.get(key, missing)

    def has(self, key: str) -> bool:
        self.asked.add(key)
        return key in self.values

    def int(self, key: str, missing: int) -> int:
        return int(self.text(key, str(missing)))

    def float(self, key: str, missing: float) -> float:
        return float(self.text(key, str(missing)))

    def ints(self, key: str, missing: list[int]) -> list[int]:
        """Whole numbers separated by '/'."""
        return [int(v) for v in self.values[key].split("/")] if self.has(key) else missing

    @property
    def unknown(self) -> list[str]:
        """Keys that nobody asked for: what they say was not done."""
        return sorted(set(self.values) - self.asked)


def timed(op: str, name: str, **values: object) -> Case:
    """A case that only the sweep has."""
    return Case(op, name, frozenset({"bench"}), {key: str(value) for key, value in values.items()})


def read(operators: Path, op: str) -> list[Case]:
    """The cases of an op in the order of its file."""
    found = []
    for line in (operators / op / "cases.inc").read_text().splitlines():
        line = line.strip()
        if not line.startswith("CASE("):
            continue
        parts = [part.strip() for part in line[len("CASE("):line.rindex(")")].split(",", 2)]
        if len(parts) < 2:
            raise ValueError(f"cases: {op}: '{line}' has {len(parts)} parts, must be CASE(name, tags, key=value ...); correct the line")
        pairs = (pair.split("=", 1) for pair in (parts[2].split() if len(parts) == 3 else []))
        found.append(Case(op, parts[0], frozenset(parts[1].split()), dict(pairs)))
    return found


def operators(folder: Path) -> list[str]:
    """Every op of the project: the folders that have a case list."""
    return sorted(path.parent.name for path in folder.glob("*/cases.inc"))
