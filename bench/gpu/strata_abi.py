# SPDX-License-Identifier: Apache-2.0
"""ctypes types made from the ABI record (native/abi/v1.json) when the program starts, so that no layout is written down twice.

Every field lies at the offset that the record names; a struct that grows is followed without an edit here."""
from __future__ import annotations

import ctypes
import json
import re
from pathlib import Path
from typing import Any

_SCALARS: dict[str, Any] = {
    "void": None, "char": ctypes.c_char, "float": ctypes.c_float, "double": ctypes.c_double, "size_t": ctypes.c_size_t,
    "int8_t": ctypes.c_int8, "uint8_t": ctypes.c_uint8, "int16_t": ctypes.c_int16, "uint16_t": ctypes.c_uint16,
    "int32_t": ctypes.c_int32, "uint32_t": ctypes.c_uint32, "int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64,
    "strata_status": ctypes.c_int32, "strata_stream": ctypes.c_void_p,
}


class Abi:
    """The constants, structs and functions of one ABI record."""

    def __init__(self, record: Path) -> None:
        document = json.loads(record.read_text())
        self.constants: dict[str, int] = {name: int(value, 0) for name, value in document["constants"].items()}
        self.functions: dict[str, str] = document["functions"]
        self._records: dict[str, Any] = document["structs"]
        self._structs: dict[str, type[ctypes.Structure]] = {}

    def struct(self, name: str) -> type[ctypes.Structure]:
        """The type of a struct; the size and every offset are those of the record."""
        if name not in self._structs:
            self._structs[name] = self._build(name)
        return self._structs[name]

    def has(self, struct: str, field: str) -> bool:
        """Whether a struct of this record has a field."""
        return field in self._records[struct]["fields"]

    def make(self, name: str, **values: Any) -> ctypes.Structure:
        """A struct with its struct_size set, the named fields set, and zeros in all others."""
        made = self.struct(name)()
        if self.has(name, "struct_size"):
            made.struct_size = ctypes.sizeof(made)
        for field, value in values.items():
            if not self.has(name, field):
                raise ValueError(f"abi: {name} has no field {field}, must be one of {', '.join(self._records[name]['fields'])}; "
                                 "bring the caller up to the record")
            setattr(made, field, value)
        return made

    def bind(self, library: ctypes.CDLL) -> None:
        """Gives every function of the record its types."""
        for name, signature in self.functions.items():
            match = re.fullmatch(r"(.+?) ?\((.*)\)", signature)
            if match is None:
                raise ValueError(f"abi: {name} has the signature '{signature}', must be 'result (parameters)'; write the record again (./build.sh gen)")
            function = getattr(library, name)
            function.restype = self._type(match[1])
            function.argtypes = [self._type(parameter.strip()) for parameter in match[2].split(",") if parameter.strip()]

    def _build(self, name: str) -> type[ctypes.Structure]:
        record = self._records[name]
        fields: list[tuple[str, Any]] = []
        end = 0
        for field, text in record["fields"].items():
            offset, kind = text.split(" ", 1)
            if int(offset) > end:
                fields.append((f"_room_{end}", ctypes.c_uint8 * (int(offset) - end)))
            fields.append((field, self._type(kind)))
            end = int(offset) + ctypes.sizeof(fields[-1][1])
        if record["size"] > end:
            fields.append((f"_room_{end}", ctypes.c_uint8 * (record["size"] - end)))
        made = type(name, (ctypes.Structure,), {"_pack_": 1, "_layout_": "ms", "_fields_": fields})
        for field, text in record["fields"].items():
            if getattr(made, field).offset != int(text.split(" ")[0]):
                raise ValueError(f"abi: {name}.{field} lies at {getattr(made, field).offset}, must at {text}; correct this module's types")
        return made

    def _type(self, text: str) -> Any:
        text = text.replace("const ", "").strip()
        if text == "char*":
            return ctypes.c_char_p
        if text.endswith("*"):
            return ctypes.c_void_p
        array = re.fullmatch(r"(\w+)\[(\d+)\]", text)
        if array is not None:
            return self._type(array[1]) * int(array[2])
        return _SCALARS[text] if text in _SCALARS else self.struct(text)
