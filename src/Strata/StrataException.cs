// SPDX-License-Identifier: Apache-2.0
// A failed native call as an exception with the native sentence.

using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Strata.Bindings;

namespace Strata;

/// <summary>What a call came to: 1xx the caller's fault, 2xx this build or machine, 3xx while running.</summary>
public enum StrataStatus
{
    /// <summary>Success.</summary>
    Ok = 0,
    /// <summary>A pointer, flag or option is not acceptable.</summary>
    Argument = 100,
    /// <summary>A shape or stride does not fit the others.</summary>
    Shape = 101,
    /// <summary>An element type is not taken there.</summary>
    DType = 102,
    /// <summary>A pointer is not aligned as promised.</summary>
    Alignment = 103,
    /// <summary>The workspace is missing, too small or misaligned.</summary>
    Workspace = 104,
    /// <summary>A page, token or row index is out of range.</summary>
    Index = 105,
    /// <summary>A packed weight is damaged or of another version.</summary>
    Format = 106,
    /// <summary>An argument block or ABI version that the library does not know.</summary>
    Version = 107,
    /// <summary>This device or build has no kernel for the request.</summary>
    Unsupported = 200,
    /// <summary>No such device, or it cannot be opened.</summary>
    Device = 201,
    /// <summary>Out of host or device memory.</summary>
    Memory = 300,
    /// <summary>A kernel failed or met a bad index in device memory.</summary>
    DeviceFault = 301,
    /// <summary>A defect in Strata.</summary>
    Internal = 302,
}

/// <summary>A native call failed. The message is one sentence: where, what, got and wanted, cure. A failed call changes nothing.</summary>
public class StrataException : Exception
{
    /// <summary>An exception without details.</summary>
    public StrataException() : this(StrataStatus.Internal, "strata: a call failed") { }

    /// <summary>An exception with its sentence.</summary>
    /// <param name="message">Where, what, got and wanted, cure.</param>
    public StrataException(string message) : this(StrataStatus.Internal, message) { }

    /// <summary>An exception with its sentence and its cause.</summary>
    /// <param name="message">Where, what, got and wanted, cure.</param>
    /// <param name="innerException">The cause.</param>
    public StrataException(string message, Exception innerException) : base(message, innerException) => Status = StrataStatus.Internal;

    /// <summary>An exception with the status of the call.</summary>
    /// <param name="status">The status.</param>
    /// <param name="message">Where, what, got and wanted, cure.</param>
    public StrataException(StrataStatus status, string message) : base(message) => Status = status;

    /// <summary>The status of the call.</summary>
    public StrataStatus Status { get; }

    /// <summary>The sentence of this thread's last failed native call.</summary>
    internal static unsafe string LastError() => Marshal.PtrToStringUTF8((nint)Native.strata_last_error()) ?? "";

    /// <summary>Throws unless the status is success.</summary>
    internal static void ThrowIfFailed(int status)
    {
        if (status != 0) Throw(status);
    }

    private static void Throw(int status)
    {
        string message = LastError();
        throw (StrataStatus)status switch
        {
            StrataStatus.Device => new BackendUnavailableException(message),
            StrataStatus.Memory => new DeviceOutOfMemoryException(message),
            StrataStatus.DeviceFault => new DeviceFaultException(message),
            StrataStatus known => new StrataException(known, message),
        };
    }
}

/// <summary>The device is not there or cannot be opened; the message says why and what to do.</summary>
public sealed class BackendUnavailableException : StrataException
{
    /// <summary>An exception without details.</summary>
    public BackendUnavailableException() : this("device: not available") { }

    /// <summary>An exception with its sentence.</summary>
    /// <param name="message">Where, what, got and wanted, cure.</param>
    public BackendUnavailableException(string message) : base(StrataStatus.Device, message) { }

    /// <summary>An exception with its sentence and its cause.</summary>
    /// <param name="message">Where, what, got and wanted, cure.</param>
    /// <param name="innerException">The cause.</param>
    public BackendUnavailableException(string message, Exception innerException) : base(message, innerException) { }
}

/// <summary>Host or device memory is exhausted.</summary>
public sealed class DeviceOutOfMemoryException : StrataException
{
    /// <summary>An exception without details.</summary>
    public DeviceOutOfMemoryException() : this("device: out of memory") { }

    /// <summary>An exception with its sentence.</summary>
    /// <param name="message">Where, what, got and wanted, cure.</param>
    public DeviceOutOfMemoryException(string message) : base(StrataStatus.Memory, message) { }

    /// <summary>An exception with its sentence and its cause.</summary>
    /// <param name="message">Where, what, got and wanted, cure.</param>
    /// <param name="innerException">The cause.</param>
    public DeviceOutOfMemoryException(string message, Exception innerException) : base(message, innerException) { }
}

/// <summary>A kernel failed, or met an index out of range and read zeros in its place.</summary>
public sealed class DeviceFaultException : StrataException
{
    /// <summary>An exception without details.</summary>
    public DeviceFaultException() : this("device: a kernel failed") { }

    /// <summary>An exception with its sentence.</summary>
    /// <param name="message">Where, what, got and wanted, cure.</param>
    public DeviceFaultException(string message) : base(StrataStatus.DeviceFault, message) { }

    /// <summary>An exception with its sentence and its cause.</summary>
    /// <param name="message">Where, what, got and wanted, cure.</param>
    /// <param name="innerException">The cause.</param>
    public DeviceFaultException(string message, Exception innerException) : base(message, innerException) { }
}
