// SPDX-License-Identifier: Apache-2.0
// Scratch memory of ops.
namespace Strata.Engine;

internal static class Workspace
{
    /// <summary>A buffer of that size, or null where nothing is needed.</summary>
    public static DeviceBuffer? Allocate(Device device, long bytes) => bytes > 0 ? device.Allocate(bytes) : null;
}
