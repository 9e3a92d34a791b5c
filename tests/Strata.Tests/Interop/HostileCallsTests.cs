// SPDX-License-Identifier: Apache-2.0
// Ops under careless callers. Every word of every op's argument block is written wrong, one after another, on valid calls of the op; operands
// lie in memory that nobody may touch. A call answers with a status and a sentence, at once, and changes nothing.

using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Strata.Reference;

namespace Strata.Tests.Interop;

[TestFixture]
[NonParallelizable]
public sealed unsafe class HostileCallsTests
{
    private const int CasesOfAnOp = 4;
    private const long GuardSpan = 1L << 30;
    private const int GuardSlots = 64;
    private const long MaxWorkspace = 1L << 26;

    private static readonly string[] s_devices = ["cpu", "simt"];

    private NativePages? _guard;

    public static IEnumerable<TestCaseData> Ops() =>
        from op in Exports.Ops.Keys.Order(StringComparer.Ordinal)
        from device in s_devices
        select new TestCaseData(op, device).SetArgDisplayNames(op, device);

    [OneTimeSetUp]
    public void Setup()
    {
        if (!NativePages.IsSupported) Assert.Ignore("hostile calls are not tried here: guard pages are made with mmap, must be Linux");
        _guard = NativePages.Forbidden(GuardSpan * GuardSlots);
    }

    [OneTimeTearDown]
    public void TearDown() => _guard?.Dispose();

    [SetUp]
    public void StartClock() => Exports.ResetTimes();

    [TearDown]
    public void CallsTakeNoTime()
    {
        (long count, double milliseconds) = Exports.Calls;
        if (count > 0) Assert.That(milliseconds / count, Is.LessThan(1), $"milliseconds a call, over {count} calls");
    }

    [TestCaseSource(nameof(Ops))]
    public void EveryWordWrong_IsRefusedAndNothingIsTouched(string op, string device) => ForEachCall(op, device, (context, call, type) =>
    {
        foreach (HostileBlock hostile in HostileArguments.Spoil(call.Block, type)) Try(context, call, type, hostile);
    });

    [TestCaseSource(nameof(Ops))]
    public void WrongStructSize_IsRefused(string op, string device) => ForEachCall(op, device, (context, call, type) =>
    {
        int size = call.Block.Length;
        // Nothing behind the block may be read for a size that no version of the struct can have.
        foreach (uint garbage in new uint[] { 0, 1, 4, 7, 1u << 15, 1u << 16, 1u << 31, uint.MaxValue })
        {
            byte[] block = [.. call.Block];
            BinaryPrimitives.WriteUInt32LittleEndian(block, garbage);
            using NativePages pages = NativePages.EndingAtForbidden(block, out nint args);
            AllRefuse(context, call, args, $"struct_size = {garbage}");
        }
        // A newer caller's fields must be zero, and then mean nothing.
        foreach (int tail in new[] { 4, 8, 64, 256 })
        {
            byte[] block = [.. call.Block, .. new byte[tail]];
            BinaryPrimitives.WriteUInt32LittleEndian(block, (uint)block.Length);
            using (NativePages pages = NativePages.EndingAtForbidden(block, out nint args)) Assert.That(Exports.Call($"strata_{op}_supported", context, args), Is.Zero, $"{tail} zero bytes more: {Exports.LastError}");
            block[^1] = 1;
            using (NativePages pages = NativePages.EndingAtForbidden(block, out nint args)) AllRefuse(context, call, args, $"{tail} bytes more, one not zero");
        }
        // An older caller's block is shorter; what it lacks counts as zero.
        for (int shorter = 8; shorter < size; shorter += 4)
        {
            byte[] block = call.Block[..shorter];
            BinaryPrimitives.WriteUInt32LittleEndian(block, (uint)shorter);
            using NativePages pages = NativePages.EndingAtForbidden(block, out nint args);
            int status = Exports.Call($"strata_{op}_supported", context, args);
            if (status != 0) Exports.AssertRefused(status, $"{op}: struct_size = {shorter} of {size}");
        }
    });

    [TestCaseSource(nameof(Ops))]
    public void NullAndWrongWorkspace_AreRefused(string op, string device) => ForEachCall(op, device, (context, call, type) =>
    {
        fixed (byte* block = call.Block)
        {
            nint args = (nint)block;
            nuint bytes = 0;
            Exports.AssertRefused(Exports.Call($"strata_{op}_supported", 0, args), $"{op}_supported: context = NULL");
            Exports.AssertRefused(Exports.Call($"strata_{op}_supported", context, 0), $"{op}_supported: args = NULL");
            Exports.AssertRefused(Exports.Call($"strata_{op}_workspace", 0, args, (nint)(&bytes)), $"{op}_workspace: context = NULL");
            Exports.AssertRefused(Exports.Call($"strata_{op}_workspace", context, 0, (nint)(&bytes)), $"{op}_workspace: args = NULL");
            Exports.AssertRefused(Exports.Call($"strata_{op}_workspace", context, args, 0), $"{op}_workspace: bytes = NULL");
            Assert.That(Exports.Call($"strata_{op}_workspace", context, args, (nint)(&bytes)), Is.Zero, Exports.LastError);
            byte[] guarded = [.. call.Block];
            Guard(guarded, type);
            fixed (byte* guardedBlock = guarded)
            {
                nint guardedArgs = (nint)guardedBlock;
                Exports.AssertRefused(Exports.Call($"strata_{op}_run", 0, guardedArgs), $"{op}_run: context = NULL");
                Exports.AssertRefused(Exports.Call($"strata_{op}_run", context, 0), $"{op}_run: args = NULL");
                if (bytes > 0)
                {
                    Exports.AssertRefused(Exports.Call($"strata_{op}_run", context, guardedArgs, 0, (nint)bytes), $"{op}_run: workspace = NULL");
                    Exports.AssertRefused(Exports.Call($"strata_{op}_run", context, guardedArgs, _guard!.Start, 0), $"{op}_run: workspace of 0 bytes");
                    Exports.AssertRefused(Exports.Call($"strata_{op}_run", context, guardedArgs, _guard!.Start, (nint)bytes - 1), $"{op}_run: workspace of {bytes - 1} bytes");
                    Exports.AssertRefused(Exports.Call($"strata_{op}_run", context, guardedArgs, _guard!.Start + 8, (nint)bytes), $"{op}_run: misaligned workspace");
                }
            }
        }
        Assert.That(call.IsUntouched(), Is.True, "a refused call changed memory");
    });

    [TestCaseSource(nameof(Ops))]
    public void ShapesThatAgreeAndAreAbsurd_AreAnswered(string op, string device) => ForEachCall(op, device, (context, call, type) =>
    {
        foreach (long to in new[] { 1L << 31, 1L << 40, (1L << 46) + 1, 1L << 62, long.MaxValue, -1 })
        {
            foreach ((long from, byte[] block) in HostileArguments.Rescale(call.Block, type, to))
            {
                fixed (byte* args = block) Query(context, op, (nint)args, $"every extent of {from} is {to}", mustRefuse: to is < 0 or > 1L << 46);
            }
        }
    });

    [Test]
    public void EmptyShapes_RunAndTouchNothing([ValueSource(nameof(s_devices))] string device)
    {
        foreach (string op in Exports.Ops.Keys)
        {
            int accepted = 0;
            ForEachCall(op, device, (context, call, type) =>
            {
                foreach ((long from, byte[] block) in HostileArguments.Rescale(call.Block, type, to: 0))
                {
                    // Real memory: extents only ever shrink, but what is not empty may be written. Empty tensors point nowhere.
                    foreach (TensorField tensor in ArgumentFields.Tensors(type).Where(t => t.Rank(block) > 0 && t.Elements(block) == 0)) tensor.SetData(block, 0);
                    fixed (byte* args = block)
                    {
                        if (!Query(context, op, (nint)args, $"every extent of {from} is 0", mustRefuse: false)) continue;
                        accepted++;
                        int status = RunWithItsWorkspace(context, op, (nint)args);
                        Assert.That(status, Is.Zero, $"{op} of {call.Name}: every extent of {from} is 0: {Exports.LastError}");
                    }
                    call.Restore();
                }
            });
            Assert.That(accepted, Is.Positive, $"{op}: no extent may be 0");
        }
    }

    [TestCaseSource(nameof(Ops))]
    public void IndicesOutOfRange_DoNotLeaveTheMemory(string op, string device) => ForEachCall(op, device, (context, call, type) =>
    {
        foreach (TensorField tensor in ArgumentFields.Tensors(type))
        {
            if (tensor.Rank(call.Block) == 0 || tensor.DType(call.Block) != DType.I32) continue;
            foreach (nint address in Addresses(tensor, call.Block))
            {
                foreach (int value in new[] { -1, int.MinValue, int.MaxValue, 1 << 30, 1 << 20 })
                {
                    Exports.Trying = $"{op} of {call.Name}: {tensor.Path} holds {value}";
                    *(int*)address = value;
                    fixed (byte* args = call.Block)
                    {
                        int status = RunWithItsWorkspace(context, op, (nint)args);
                        if (status != 0) Exports.AssertRefused(status, $"{op} of {call.Name}: {tensor.Path} holds {value}");
                        int sync = Exports.Call("strata_stream_sync", context, 0);
                        if (sync != 0) Exports.AssertRefused(sync, $"{op} of {call.Name}: {tensor.Path} holds {value}, at the next sync");
                    }
                    call.Restore();
                }
            }
        }
    });

    private void Try(nint context, RecordedCall call, Type type, HostileBlock hostile)
    {
        string op = call.Op, what = $"{op} of {call.Name}: {hostile.What}";
        Exports.Trying = what;
        bool accepted;
        fixed (byte* args = hostile.Block) accepted = Query(context, op, (nint)args, what, mustRefuse: hostile.Verdict == Verdict.Refused);
        if (accepted && hostile.Verdict == Verdict.RunRefused) Assert.That(accepted, Is.True, $"{what}: the queries do not look at data");
        if (accepted && hostile.Verdict == Verdict.Open)
        {
            if (!hostile.Runnable) return;
            fixed (byte* args = hostile.Block)
            {
                int status = RunWithItsWorkspace(context, op, (nint)args);
                if (status != 0) Exports.AssertRefused(status, what);
            }
            call.Restore();
            return;
        }
        byte[] guarded = [.. hostile.Block];
        Guard(guarded, type, call.Block);
        fixed (byte* args = guarded) Exports.AssertRefused(Exports.Call($"strata_{op}_run", context, (nint)args, _guard!.Start, nint.MaxValue), $"{what}, run");
        Assert.That(call.IsUntouched(), Is.True, $"{what}: a refused call changed memory");
    }

    // Both queries must agree; returns whether they accept.
    private static bool Query(nint context, string op, nint args, string what, bool mustRefuse)
    {
        Exports.Trying = what;
        nuint bytes = 0x5a5a;
        int supported = Exports.Call($"strata_{op}_supported", context, args);
        if (supported != 0) Exports.AssertRefused(supported, $"{what}, supported");
        int workspace = Exports.Call($"strata_{op}_workspace", context, args, (nint)(&bytes));
        if (workspace != 0) Exports.AssertRefused(workspace, $"{what}, workspace");
        if (supported != workspace) Assert.Fail($"{what}: supported says {supported}, workspace {workspace}");
        if (workspace != 0 && bytes != 0x5a5a) Assert.Fail($"{what}: a refused query wrote its result");
        if (mustRefuse && supported == 0) Assert.Fail($"{what}: supported accepts it, must refuse");
        return supported == 0;
    }

    private void AllRefuse(nint context, RecordedCall call, nint args, string what)
    {
        string op = call.Op;
        Query(context, op, args, $"{op}: {what}", mustRefuse: true);
        Exports.AssertRefused(Exports.Call($"strata_{op}_run", context, args, _guard!.Start, nint.MaxValue), $"{op}: {what}, run");
        Assert.That(call.IsUntouched(), Is.True, $"{op}: {what}: a refused call changed memory");
    }

    private static int RunWithItsWorkspace(nint context, string op, nint args)
    {
        nuint bytes = 0;
        int status = Exports.Call($"strata_{op}_workspace", context, args, (nint)(&bytes));
        if (status != 0) return status;
        if (bytes > MaxWorkspace) return Exports.Call($"strata_{op}_run", context, args, 0, 0);
        void* workspace = NativeMemory.AlignedAlloc(Math.Max(64, bytes), 64);
        status = Exports.Call($"strata_{op}_run", context, args, (nint)workspace, (nint)bytes);
        NativeMemory.AlignedFree(workspace);
        return status;
    }

    // Values move to forbidden memory, each address of the original to one of its own, so that what shares memory still does. Indices stay:
    // the CPU checks what they hold. Where an address is what was spoiled, it stays as well.
    private void Guard(byte[] block, Type type, byte[]? original = null)
    {
        var slots = new Dictionary<long, int>();
        foreach (TensorField tensor in ArgumentFields.Tensors(type))
        {
            byte[] intact = original ?? block;
            long address = tensor.Data(intact);
            if (tensor.Rank(intact) == 0 || tensor.Data(block) != address || tensor.DType(intact) == DType.I32 || address == 0) continue;
            slots.TryAdd(address, slots.Count);
            tensor.SetData(block, _guard!.Start + ((1 + slots[address]) * GuardSpan) + (address % 64));
        }
    }

    private static IEnumerable<nint> Addresses(TensorField tensor, byte[] block)
    {
        const int most = 24; // first and last elements of long tables
        long elements = tensor.Elements(block);
        bool dense = Enumerable.Range(0, 4).All(i => tensor.Stride(block, i) == 0);
        for (long index = 0; index < elements; index++)
        {
            if (index >= most / 2 && index < elements - (most / 2)) continue;
            long rest = index, offset = 0;
            for (int i = tensor.Rank(block) - 1; i >= 0; i--)
            {
                offset += rest % tensor.Shape(block, i) * tensor.Stride(block, i);
                rest /= tensor.Shape(block, i);
            }
            yield return (nint)(tensor.Data(block) + (4 * (dense ? index : offset)));
        }
    }

    private static void ForEachCall(string op, string deviceName, Action<nint, RecordedCall, Type> body)
    {
        OpHarness? harness = OpHarness.All.FirstOrDefault(h => h.Op == op);
        Assert.That(harness, Is.Not.Null, $"{op} has exports and no harness in Strata.Reference to make valid calls");
        if (!TestDevices.All.Any(d => d.Id == deviceName)) Assert.Ignore($"{deviceName} is not here, so {op} is not tried on it");
        Device device = TestDevices.Open(new TestDevice(deviceName, null), threads: 1);
        foreach (OpCase opCase in Varied(harness!.Cases.Where(c => c.Tags.Contains("test"))))
        {
            foreach (RecordedCall call in RecordedCall.Of(harness, opCase, device))
            {
                using (call) body((nint)device.Handle.Pointer, call, Exports.Ops[call.Op]);
            }
        }
    }

    // The tiny cases first; among the others those that set keys which none before them did.
    private static IEnumerable<OpCase> Varied(IEnumerable<OpCase> cases)
    {
        var seen = new HashSet<string>(StringComparer.Ordinal);
        return cases.OrderByDescending(c => c.Tags.Contains("tiny")).Where(c => c.Values.Keys.Where(seen.Add).ToList().Count > 0 || c.Tags.Contains("tiny")).Take(CasesOfAnOp);
    }
}
