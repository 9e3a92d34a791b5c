// SPDX-License-Identifier: Apache-2.0
// Calls exports by name with raw words, as a careless caller of the C ABI would.

using System.Diagnostics;
using System.IO.MemoryMappedFiles;
using System.Reflection;
using System.Runtime.InteropServices;
using Strata.Bindings;

namespace Strata.Tests.Interop;

/// <summary>The exports of the library. Their list comes from the generated bindings, so that a new one cannot be forgotten.</summary>
internal static unsafe class Exports
{
    private static readonly Lazy<nint> s_library = new(() =>
    {
        NativeResolver.EnsureLoaded();
        return NativeLibrary.Load(NativeResolver.LoadedPath!);
    });

    /// <summary>Every export.</summary>
    public static IReadOnlyList<MethodInfo> All { get; } =
        [.. typeof(Native).GetMethods(BindingFlags.Public | BindingFlags.Static | BindingFlags.DeclaredOnly).Where(m => m.Name.StartsWith("strata_", StringComparison.Ordinal))];

    /// <summary>Those that return a status.</summary>
    public static IEnumerable<MethodInfo> WithStatus => All.Where(m => m.ReturnType == typeof(int));

    /// <summary>The three exports of ops.</summary>
    public static bool IsOp(MethodInfo export) =>
        export.GetParameters() is [_, { ParameterType: { IsPointer: true } args }, ..] && args.GetElementType()!.Name.EndsWith("_args", StringComparison.Ordinal);

    /// <summary>The ops by the names of their argument blocks.</summary>
    public static IReadOnlyDictionary<string, Type> Ops { get; } = All.Where(IsOp).Select(m => m.GetParameters()[1].ParameterType.GetElementType()!).Distinct()
        .ToDictionary(t => t.Name["strata_".Length..^"_args".Length], StringComparer.Ordinal);

    /// <summary>Calls since <see cref="ResetTimes"/>, and how long they took.</summary>
    public static (long Count, double Milliseconds) Calls { get; private set; }

    public static void ResetTimes() => Calls = (0, 0);

    /// <summary>What is being tried. It is in the file hostile-call.txt of the work directory, and still there when a call has killed the process.</summary>
    public static string Trying
    {
        set
        {
            byte[] line = new byte[TrailBytes];
            System.Text.Encoding.UTF8.GetBytes(value.Length < TrailBytes / 4 ? value : value[..(TrailBytes / 4)], line);
            s_trail.Value.WriteArray(0, line, 0, line.Length);
        }
    }

    private const int TrailBytes = 1024;

    private static readonly Lazy<MemoryMappedViewAccessor> s_trail = new(() =>
        MemoryMappedFile.CreateFromFile(Path.Combine(TestContext.CurrentContext.WorkDirectory, "hostile-call.txt"), FileMode.Create, null, TrailBytes).CreateViewAccessor());

    /// <summary>Calls an export that takes only words and returns a status. Words that it does not take are passed in vain.</summary>
    public static int Call(string name, params ReadOnlySpan<nint> words)
    {
        var function = (delegate* unmanaged<nint, nint, nint, nint, nint, nint, int>)NativeLibrary.GetExport(s_library.Value, name);
        Span<nint> all = stackalloc nint[6];
        words.CopyTo(all);
        long start = Stopwatch.GetTimestamp();
        int status = function(all[0], all[1], all[2], all[3], all[4], all[5]);
        Calls = (Calls.Count + 1, Calls.Milliseconds + Stopwatch.GetElapsedTime(start).TotalMilliseconds);
        return status;
    }

    /// <summary>The sentence of this thread's last failed call.</summary>
    public static string LastError => Marshal.PtrToStringUTF8((nint)Native.strata_last_error()) ?? "";

    /// <summary>Fails the test unless the status is one of the header's and the sentence has its four parts.</summary>
    public static void AssertRefused(int status, string what)
    {
        if (status == 0) Assert.Fail($"{what}: succeeded, must be refused");
        string sentence = LastError;
        if (!Enum.IsDefined((StrataStatus)status) || !HasFourParts(sentence))
        {
            Assert.Fail($"{what}: status {status} with \"{sentence}\", must be a known status with where: what, got and wanted; cure");
        }
    }

    // "op: what is got, must be wanted; cure"
    private static bool HasFourParts(string sentence)
    {
        int colon = sentence.IndexOf(": ", StringComparison.Ordinal), must = sentence.IndexOf(" must ", StringComparison.Ordinal);
        int cure = must < 0 ? -1 : sentence.IndexOf("; ", must, StringComparison.Ordinal);
        return colon > 0 && sentence[..colon].All(c => char.IsAsciiLetterLower(c) || char.IsAsciiDigit(c) || c == '_') && must > colon + 2 && cure > must + " must ".Length && sentence.Length > cure + 2;
    }
}
