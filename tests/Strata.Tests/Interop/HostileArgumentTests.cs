// SPDX-License-Identifier: Apache-2.0
// Every export answers nonsense with a status and a sentence, and never with a fault.

using System.Reflection;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using Strata.Bindings;
using Strata.Reference;

namespace Strata.Tests.Interop;

[TestFixture]
public sealed unsafe partial class HostileArgumentTests
{
    // The largest struct_size that the library believes: the memory behind an argument block must be there.
    private const int BlockBytes = 1 << 16;
    private const int Variations = 4000;

    private static readonly string[] s_verbs = ["supported", "workspace", "run"];
    private static readonly string[] s_callsOfOps = [.. s_verbs, "plan", "plan_words"];
    private static readonly long[] s_longs = [0, 1, 2, 3, 7, 16, 31, 33, 64, 127, 256, 4095, -1, -2, int.MaxValue, int.MinValue, 1L << 32, 1L << 46, (1L << 46) + 1, 1L << 62, long.MaxValue, long.MinValue];
    private static readonly int[] s_ints = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 128, 255, 257, 4096, -1, -2, 1 << 16, 1 << 24, 1 << 30, int.MaxValue, int.MinValue, unchecked((int)0x7fc00000), 0x7f800000];

    private static MethodInfo[] Exports => [.. typeof(Native).GetMethods(BindingFlags.Public | BindingFlags.Static | BindingFlags.DeclaredOnly)
        .Where(m => m.Name.StartsWith("strata_", StringComparison.Ordinal)).OrderBy(m => m.Name, StringComparer.Ordinal)];

    public static IEnumerable<string> StatusExports => Exports
        .Where(m => m.ReturnType == typeof(int) && m.GetParameters().Any(p => p.ParameterType.IsPointer)).Select(m => m.Name);

    public static IEnumerable<string> OtherExports => Exports.Select(m => m.Name).Except(StatusExports, StringComparer.Ordinal);

    public static IEnumerable<string> Ops => OpHarness.All.Select(h => h.Op);

    [OneTimeSetUp]
    public void Load() => NativeResolver.EnsureLoaded();

    [TestCaseSource(nameof(StatusExports))]
    public void Export_AllArgumentsNull_SaysWhat(string name)
    {
        int status = Call(name, 0, 0, 0, 0, 0, 0);
        Assert.That(status, Is.EqualTo(Native.STRATA_E_ARGUMENT), name);
        string? verb = s_callsOfOps.FirstOrDefault(v => name.EndsWith("_" + v, StringComparison.Ordinal));
        AssertSentence(verb is null ? name["strata_".Length..] : name["strata_".Length..^(verb.Length + 1)]);
    }

    [TestCaseSource(nameof(OtherExports))]
    public void Export_GettersAndDestroy_TakeNull(string name) => Call(name, 0, 0, 0, 0, 0, 0);

    [TestCaseSource(nameof(Ops))]
    public void Op_ContextWithoutArguments_SaysWhat(string op)
    {
        using Device device = Device.Open("cpu", threads: 1);
        foreach (string verb in s_verbs)
        {
            Assert.That(Call($"strata_{op}_{verb}", (nint)device.Handle.Pointer, 0, 0, 0, 0, 0), Is.EqualTo(Native.STRATA_E_ARGUMENT), verb);
            AssertSentence(op);
        }
    }

    [TestCaseSource(nameof(Ops))]
    public void Op_WrongStructSize_IsAVersionMatter(string op)
    {
        using Device device = Device.Open("cpu", threads: 1);
        nint block = (nint)NativeMemory.AllocZeroed(BlockBytes);
        try
        {
            RecordedCall call = RecordedCall.Of(Harness(op))[0];
            foreach (uint size in new[] { 0u, 1u, 7u, BlockBytes + 1u, uint.MaxValue })
            {
                Marshal.Copy(call.Arguments, 0, block, call.Arguments.Length);
                *(uint*)block = size;
                Assert.That(Call($"strata_{op}_supported", (nint)device.Handle.Pointer, block, 0, 0, 0, 0), Is.EqualTo(Native.STRATA_E_VERSION), $"struct_size {size}");
                AssertSentence(op);
            }

            // A newer caller: its fields are unknown here, so they must be zero.
            *(uint*)block = (uint)call.Arguments.Length + 16;
            ((byte*)block)[call.Arguments.Length + 8] = 1;
            Assert.That(Call($"strata_{op}_supported", (nint)device.Handle.Pointer, block, 0, 0, 0, 0), Is.EqualTo(Native.STRATA_E_VERSION));
            AssertSentence(op);
        }
        finally
        {
            NativeMemory.Free((void*)block);
        }
    }

    [TestCaseSource(nameof(Ops))]
    public void Op_AbsurdArguments_StatusAndSentence(string op)
    {
        using Device device = Device.Open("cpu", threads: 1);
        var random = new Random(20260101);
        byte* block = (byte*)NativeMemory.AlignedAlloc(BlockBytes, 64);
        byte* auxiliary = (byte*)NativeMemory.AlignedAlloc(BlockBytes, 64);
        nuint* bytes = stackalloc nuint[1];
        int refused = 0, accepted = 0;
        try
        {
            IReadOnlyList<RecordedCall> calls = RecordedCall.Of(Harness(op));
            Assert.That(calls, Is.Not.Empty);
            for (int variation = 0; variation < Variations; variation++)
            {
                RecordedCall call = calls[variation % calls.Count];
                Prepare(call, block, auxiliary);
                for (int change = random.Next(1, 4); change > 0; change--) Mutate(call, block, auxiliary, random);

                foreach (string verb in s_verbs)
                {
                    string name = $"strata_{op}_{verb}";
                    int status = verb == "workspace"
                        ? Call(name, (nint)device.Handle.Pointer, (nint)block, (nint)bytes, 0, 0, 0)
                        : Call(name, (nint)device.Handle.Pointer, (nint)block, 0, 0, 0, 0);
                    if (status == 0)
                    {
                        accepted++;
                        continue;
                    }
                    refused++;
                    Assert.That(status is (>= 100 and < 200) or Native.STRATA_E_UNSUPPORTED or Native.STRATA_E_DEVICE, Is.True, $"{name}, variation {variation}: status {status}: {StrataException.LastError()}");
                    AssertSentence(op);
                }
            }
        }
        finally
        {
            NativeMemory.AlignedFree(block);
            NativeMemory.AlignedFree(auxiliary);
        }
        Assert.That(refused, Is.GreaterThan(Variations / 2), $"{accepted} calls were accepted");
    }

    [Test]
    public void Plan_AbsurdArguments_StatusAndSentence()
    {
        using Device device = Device.Open("cpu", threads: 1);
        var random = new Random(20260102);
        byte* block = (byte*)NativeMemory.AlignedAlloc(BlockBytes, 64);
        int* plan = (int*)NativeMemory.AlignedAlloc(BlockBytes, 64);
        long* words = stackalloc long[1];
        int refused = 0;
        try
        {
            IReadOnlyList<RecordedCall> calls = RecordedCall.Of(Harness("kv_attention"));
            for (int variation = 0; variation < Variations; variation++)
            {
                RecordedCall call = calls[variation % calls.Count];
                Prepare(call, block, null);
                for (int change = random.Next(1, 4); change > 0; change--) Mutate(call, block, null, random);
                int place = random.Next(8) == 0 ? s_ints[random.Next(s_ints.Length)] : random.Next(2);
                long room = random.Next(4) == 0 ? random.Next() % (BlockBytes / sizeof(int)) : BlockBytes / sizeof(int);
                foreach (int status in new[]
                {
                    Call("strata_kv_attention_plan_words", (nint)device.Handle.Pointer, (nint)block, (nint)words, 0, 0, 0),
                    Call("strata_kv_attention_plan", (nint)device.Handle.Pointer, (nint)block, (nint)plan, (nint)room, place, 0),
                })
                {
                    if (status == 0) continue;
                    refused++;
                    Assert.That(status, Is.InRange(100, 199), $"variation {variation}: {StrataException.LastError()}");
                    AssertSentence("kv_attention");
                }
            }
        }
        finally
        {
            NativeMemory.AlignedFree(block);
            NativeMemory.AlignedFree(plan);
        }
        Assert.That(refused, Is.GreaterThan(Variations / 2));
    }

    [TestCase("")]
    [TestCase("cuda")]
    [TestCase("cuda:")]
    [TestCase("cuda:-1")]
    [TestCase("cuda:99999999999999999999")]
    [TestCase("cuda:0x")]
    [TestCase("cpu:1")]
    [TestCase("CPU")]
    public void Context_UnknownDevice_SaysWhat(string device)
    {
        var e = Assert.Catch<StrataException>(() => Device.Open(device).Dispose())!;
        Assert.That(e.Message, Does.Match(Sentence()));
    }

    private static OpHarness Harness(string op) => OpHarness.All.Single(h => h.Op == op);

    /// <summary>The recorded block with all data addresses gone: what a size query passes, and what a run must refuse.</summary>
    private static void Prepare(RecordedCall call, byte* block, byte* auxiliary)
    {
        NativeMemory.Clear(block, BlockBytes);
        if (auxiliary is not null) NativeMemory.Clear(auxiliary, BlockBytes);
        call.Arguments.CopyTo(new Span<byte>(block, BlockBytes));
        foreach (int pointer in call.Pointers) *(nint*)(block + pointer) = 0;
        foreach ((int where, byte[] content, IReadOnlyList<int> pointers) in call.Auxiliary)
        {
            content.CopyTo(new Span<byte>(auxiliary, BlockBytes));
            foreach (int pointer in pointers) *(nint*)(auxiliary + pointer) = 0;
            *(nint*)(block + where) = (nint)auxiliary;
        }
    }

    private static void Mutate(RecordedCall call, byte* block, byte* auxiliary, Random random)
    {
        bool inside = call.Auxiliary.Count > 0 && random.Next(3) == 0;
        byte* target = inside ? auxiliary : block;
        int length = inside ? call.Auxiliary[0].Bytes.Length : call.Arguments.Length;
        IReadOnlyList<int> pointers = inside ? call.Auxiliary[0].Pointers : call.Pointers;
        // An address made up here would be followed: addresses stay as they are.
        bool wide = random.Next(2) == 0;
        int slot;
        do slot = wide ? random.Next(length / 8) * 8 : random.Next(length / 4) * 4;
        while (pointers.Contains(slot & ~7));
        if (wide) *(long*)(target + slot) = random.Next(8) == 0 ? random.NextInt64() : s_longs[random.Next(s_longs.Length)];
        else *(int*)(target + slot) = random.Next(8) == 0 ? random.Next() : s_ints[random.Next(s_ints.Length)];
    }

    /// <summary>Calls an export with up to six words. No export has more arguments or one that is a floating-point number, and surplus words stay unread.</summary>
    private static int Call(string name, nint a, nint b, nint c, nint d, nint e, nint f)
    {
        nint library = NativeLibrary.Load(NativeResolver.LoadedPath!);
        var function = (delegate* unmanaged<nint, nint, nint, nint, nint, nint, int>)NativeLibrary.GetExport(library, name);
        return function(a, b, c, d, e, f);
    }

    private static void AssertSentence(string where)
    {
        string text = StrataException.LastError();
        Assert.That(text, Does.StartWith(where + ": ").And.Match(Sentence()), "must say where, what, got and wanted, cure");
    }

    [GeneratedRegex(@"^[a-z0-9_]+: .+, must .+; .+$", RegexOptions.None, 1000)]
    private static partial Regex Sentence();
}
