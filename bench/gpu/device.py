# SPDX-License-Identifier: Apache-2.0
"""The C ABI as Python calls: a library, a device of it, and an op's three verbs."""
from __future__ import annotations

import ctypes
from pathlib import Path

from strata_abi import Abi


class StrataError(Exception):
    """A call that failed; its text is the library's own sentence."""


class Library:
    """libstrata.so in a folder, with the back ends that lie beside it."""

    def __init__(self, folder: Path, abi: Abi) -> None:
        self.abi = abi
        path = folder.resolve() / "libstrata.so"
        if not path.is_file():
            raise StrataError(f"library: {path} does not exist, must be the built library; run ./build.sh build, or bench/gpu/run.sh --prepare")
        self._dll = ctypes.CDLL(str(path))
        abi.bind(self._dll)

    @property
    def build(self) -> str:
        return self._dll.strata_build_info().decode()

    def call(self, name: str, *arguments: object) -> None:
        """A call that must succeed."""
        sentence = self.ask(name, *arguments)
        if sentence:
            raise StrataError(sentence)

    def ask(self, name: str, *arguments: object) -> str:
        """A call that may refuse: "" or its sentence."""
        status = getattr(self._dll, name)(*arguments)
        if status == 0:
            return ""
        return f"{self._dll.strata_last_error().decode()} ({self._dll.strata_status_name(status).decode()})"

    def value(self, name: str, *arguments: object) -> object:
        """A call that returns something other than a status."""
        return getattr(self._dll, name)(*arguments)


class Buffer:
    """Memory of a device from strata_buffer_create; freed with the object."""

    def __init__(self, device: "Device", size: int) -> None:
        self._device, self.bytes = device, size
        self._handle = ctypes.c_void_p()
        device.library.call("strata_buffer_create", device.context, max(1, size), ctypes.addressof(self._handle))
        self.address = int(device.library.value("strata_buffer_data", self._handle) or 0)

    def write(self, data: ctypes.Array[ctypes.c_char] | bytes | int, size: int) -> None:
        """Copies host bytes, or those at a host address, to the front of the buffer."""
        source = data if isinstance(data, int) else ctypes.cast(data, ctypes.c_void_p)
        self._device.library.call("strata_copy", self._device.context, self.address, source, size, self._device.constant("STRATA_COPY_TO_DEVICE"), None)

    def read(self, destination: int) -> None:
        """Copies the whole buffer to a host address."""
        kind = self._device.constant("STRATA_COPY_TO_HOST")
        self._device.library.call("strata_copy", self._device.context, destination, self.address, self.bytes, kind, None)

    def fill(self, value: int) -> None:
        self._device.library.call("strata_fill", self._device.context, self.address, value, max(1, self.bytes), None)

    def __del__(self) -> None:
        if getattr(self, "_handle", None) and self._device.is_open:
            self._device.library.value("strata_buffer_destroy", self._handle)


class Device:
    """An open device. Close it after everything that was made from it."""

    def __init__(self, library: Library, name: str) -> None:
        self.library, self.name = library, name
        self.context = ctypes.c_void_p()
        self.is_open = False
        description = library.abi.make("strata_context_desc", device=name.encode())
        library.call("strata_context_create", ctypes.addressof(description), ctypes.addressof(self.context))
        self.is_open = True
        self.isa = library.value("strata_context_isa", self.context).decode()
        self.info = self._describe()

    @property
    def is_gpu(self) -> bool:
        return self.name.startswith("cuda")

    def constant(self, name: str) -> int:
        return self.library.abi.constants[name]

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.library.value("strata_context_destroy", self.context)

    def refusal(self, op: str, arguments: ctypes.Structure) -> str:
        """"" if the op takes such a call, else why not."""
        return self.library.ask(f"strata_{op}_supported", self.context, ctypes.addressof(arguments))

    def workspace_bytes(self, op: str, arguments: ctypes.Structure) -> int:
        size = ctypes.c_size_t()
        self.library.call(f"strata_{op}_workspace", self.context, ctypes.addressof(arguments), ctypes.addressof(size))
        return size.value

    def run(self, op: str, arguments: ctypes.Structure, workspace: int, workspace_bytes: int, stream: int = 0) -> None:
        """Runs the op; on a GPU it is queued on the stream."""
        self.library.call(f"strata_{op}_run", self.context, ctypes.addressof(arguments), workspace or None, workspace_bytes, stream or None)

    def synchronize(self, stream: int = 0) -> None:
        """Waits, and raises what a kernel reported."""
        self.library.call("strata_stream_sync", self.context, stream or None)

    @property
    def implementation(self) -> str:
        """What the last run used."""
        return self.library.value("strata_last_impl").decode()

    def _describe(self) -> ctypes.Structure:
        count = ctypes.c_int32()
        self.library.call("strata_device_count", ctypes.addressof(count))
        for index in range(count.value):
            info = self.library.abi.make("strata_device_info")
            self.library.call("strata_device_describe", index, ctypes.addressof(info))
            if info.id.decode() == self.name:
                return info
        raise StrataError(f"device: {self.name} is open but not listed, must be in strata_device_describe; report this as a defect")
