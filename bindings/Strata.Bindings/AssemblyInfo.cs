// SPDX-License-Identifier: Apache-2.0
// Everything that crosses the boundary is blittable; the runtime must never try to be clever about it.

using System.Runtime.CompilerServices;

[assembly: DisableRuntimeMarshalling]
