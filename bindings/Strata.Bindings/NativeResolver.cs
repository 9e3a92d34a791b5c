// SPDX-License-Identifier: Apache-2.0
// Finds the native library, remembers where it looked, and refuses one of another ABI.

using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Strata.Bindings;

/// <summary>One place where the native library was looked for.</summary>
/// <param name="Path">The full path that was tried.</param>
/// <param name="Outcome">"loaded", "no such file", or what the system's loader or the ABI check said.</param>
public readonly record struct NativeProbe(string Path, string Outcome);

/// <summary>The native library cannot be used. The message says where it was looked for and what to do.</summary>
public sealed class NativeLibraryException : DllNotFoundException
{
    /// <summary>An exception without details.</summary>
    public NativeLibraryException() : this("strata: the native library cannot be loaded; set STRATA_NATIVE_PATH to the folder that holds it") { }

    /// <summary>An exception with its sentence.</summary>
    /// <param name="message">Where, what, got and wanted, cure.</param>
    public NativeLibraryException(string message) : base(message) { }

    /// <summary>An exception with its sentence and its cause.</summary>
    /// <param name="message">Where, what, got and wanted, cure.</param>
    /// <param name="inner">The cause.</param>
    public NativeLibraryException(string message, Exception inner) : base(message, inner) { }
}

/// <summary>
/// Loads libstrata for the P/Invokes of <see cref="Native"/>. Looks, in this order, at the environment variable STRATA_NATIVE_PATH and the
/// AppContext value "Strata.NativePath" (a file or a folder), the application's folder, and runtimes/&lt;rid&gt;/native below it. The AppContext
/// switch "Strata.DisableNativeResolver" leaves loading to the host.
/// </summary>
public static unsafe class NativeResolver
{
    /// <summary>The name that the P/Invokes use.</summary>
    public const string LibraryName = "strata";

    private static readonly Lock s_gate = new();
    private static nint s_handle;
    private static NativeProbe[] s_probes = [];

    /// <summary>The file that was loaded, or null before the first successful load.</summary>
    public static string? LoadedPath { get; private set; }

    /// <summary>Where the last attempt looked, in order, with what came of each place.</summary>
    public static IReadOnlyList<NativeProbe> Probes => s_probes;

    /// <summary>Loads the library and checks its ABI. Does nothing when that has been done. Call it before the first P/Invoke to get the real
    /// sentence instead of a loader error.</summary>
    /// <exception cref="NativeLibraryException">No usable library was found; the message lists every place and the cure.</exception>
    public static void EnsureLoaded() => Load();

    [ModuleInitializer]
    [System.Diagnostics.CodeAnalysis.SuppressMessage("Usage", "CA2255", Justification = "The resolver must be known before the first P/Invoke; it only registers a callback and cannot fail.")]
    internal static void Register()
    {
        if (AppContext.TryGetSwitch("Strata.DisableNativeResolver", out bool disabled) && disabled) return;
        NativeLibrary.SetDllImportResolver(typeof(Native).Assembly, static (name, _, _) => name == LibraryName ? Load() : 0);
    }

    private static nint Load()
    {
        lock (s_gate)
        {
            if (s_handle != 0) return s_handle;
            var probes = new List<NativeProbe>();
            foreach (string path in Candidates())
            {
                nint handle = Try(path, out string outcome);
                probes.Add(new NativeProbe(path, outcome));
                s_probes = [.. probes];
                if (handle == 0) continue;
                LoadedPath = path;
                return s_handle = handle;
            }
            throw new NativeLibraryException(
                $"strata: {FileName} could not be loaded; tried {string.Join("; ", probes.Select(p => $"{p.Path} ({p.Outcome})"))}; "
                + $"put it beside the application or set STRATA_NATIVE_PATH to its folder");
        }
    }

    private static nint Try(string path, out string outcome)
    {
        if (!File.Exists(path))
        {
            outcome = "no such file";
            return 0;
        }
        nint handle;
        try
        {
            handle = NativeLibrary.Load(path);
        }
        catch (Exception e) when (e is DllNotFoundException or BadImageFormatException)
        {
            outcome = e.Message.ReplaceLineEndings(" ").Trim();
            return 0;
        }
        outcome = Handshake(handle) ?? "loaded";
        if (outcome == "loaded") return handle;
        NativeLibrary.Free(handle);
        return 0;
    }

    /// <summary>Null if the library speaks the ABI of these bindings, else the clause that says both versions.</summary>
    private static string? Handshake(nint handle)
    {
        if (!NativeLibrary.TryGetExport(handle, nameof(Native.strata_abi_version), out nint export)) return "is not a Strata library: it has no strata_abi_version";
        return Disagreement(((delegate* unmanaged<uint>)export)(), Native.STRATA_ABI_VERSION);
    }

    /// <summary>Null if a library of ABI <paramref name="library"/> serves bindings of ABI <paramref name="bindings"/>: same major, minor not older.</summary>
    internal static string? Disagreement(uint library, uint bindings)
    {
        if (library >> 16 == bindings >> 16 && (library & 0xffff) >= (bindings & 0xffff)) return null;
        return $"has ABI {library >> 16}.{library & 0xffff}, these bindings need {bindings >> 16}.{bindings & 0xffff} or a later {bindings >> 16}.x; take both from one release";
    }

    private static string FileName =>
        OperatingSystem.IsWindows() ? "strata.dll" : OperatingSystem.IsMacOS() ? "libstrata.dylib" : "libstrata.so";

    private static IEnumerable<string> Candidates()
    {
        foreach (string? setting in new[] { Environment.GetEnvironmentVariable("STRATA_NATIVE_PATH"), AppContext.GetData("Strata.NativePath") as string })
        {
            if (string.IsNullOrEmpty(setting)) continue;
            yield return Path.GetFullPath(Directory.Exists(setting) ? Path.Combine(setting, FileName) : setting);
        }
        yield return Path.Combine(AppContext.BaseDirectory, FileName);
        yield return Path.Combine(AppContext.BaseDirectory, "runtimes", RuntimeInformation.RuntimeIdentifier, "native", FileName);
        // The runtime's own identifier may be a distribution's ("debian.12-x64"); packages carry the portable one.
        string system = OperatingSystem.IsWindows() ? "win" : OperatingSystem.IsMacOS() ? "osx" : "linux";
        string portable = $"{system}-{RuntimeInformation.ProcessArchitecture.ToString().ToLowerInvariant()}";
        if (portable != RuntimeInformation.RuntimeIdentifier) yield return Path.Combine(AppContext.BaseDirectory, "runtimes", portable, "native", FileName);
    }
}
