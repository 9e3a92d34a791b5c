// SPDX-License-Identifier: Apache-2.0
// Memory that must not be touched, and memory that ends exactly at such.

using System.Runtime.InteropServices;

namespace Strata.Tests.Interop;

/// <summary>Address space without access: reading or writing it ends the process.</summary>
internal sealed unsafe partial class NativePages : IDisposable
{
    private const int ProtNone = 0, ProtReadWrite = 3, MapPrivate = 2, MapAnonymous = 0x20, MapNoReserve = 0x4000;
    private const int Page = 4096;

    private readonly nint _start;
    private readonly nuint _bytes;

    private NativePages(nuint bytes)
    {
        _bytes = bytes;
        _start = Map(0, bytes, ProtNone, MapPrivate | MapAnonymous | MapNoReserve, -1, 0);
        if (_start == -1) throw new InvalidOperationException($"mmap of {bytes} bytes failed with {Marshal.GetLastPInvokeError()}");
    }

    public static bool IsSupported => OperatingSystem.IsLinux();

    /// <summary>Address space without any access.</summary>
    public static NativePages Forbidden(long bytes) => new((nuint)bytes);

    /// <summary>Bytes whose end is the end of what may be touched, aligned to 8.</summary>
    public static NativePages EndingAtForbidden(ReadOnlySpan<byte> content, out nint address)
    {
        int writable = (content.Length + 7 + Page) / Page * Page;
        var pages = new NativePages((nuint)(writable + Page));
        if (Protect(pages._start, (nuint)writable, ProtReadWrite) != 0) throw new InvalidOperationException("mprotect failed");
        address = pages._start + writable - ((content.Length + 7) / 8 * 8);
        content.CopyTo(new Span<byte>((void*)address, content.Length));
        return pages;
    }

    public nint Start => _start;

    public void Dispose() => _ = Unmap(_start, _bytes);

    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [LibraryImport("libc", EntryPoint = "mmap", SetLastError = true)]
    private static partial nint Map(nint address, nuint bytes, int protection, int flags, int file, long offset);

    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [LibraryImport("libc", EntryPoint = "mprotect")]
    private static partial int Protect(nint address, nuint bytes, int protection);

    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [LibraryImport("libc", EntryPoint = "munmap")]
    private static partial int Unmap(nint address, nuint bytes);
}
