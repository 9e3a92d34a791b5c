// SPDX-License-Identifier: Apache-2.0
// Everything that is no op under careless callers: library, devices, contexts, memory, streams, events, packing.

using System.Reflection;
using System.Runtime.InteropServices;
using System.Text;
using Strata.Bindings;

namespace Strata.Tests.Interop;

[TestFixture]
[NonParallelizable]
public sealed unsafe class HostileLibraryTests
{
    private const int Rows = 16, Columns = 64, Rank = 2;

    // Null is a value there: the default stream.
    private static readonly string[] s_streams = ["stream"];

    private readonly List<nint> _allocated = [];
    private Device _device = null!;
    private DeviceBuffer _buffer = null!;
    private nint _recorded, _later;
    private Dictionary<string, nint[]> _valid = [];

    public static IEnumerable<string> Others() => Exports.WithStatus.Where(m => !Exports.IsOp(m)).Select(m => m.Name);

    [OneTimeSetUp]
    public void Setup()
    {
        _device = Device.Open("cpu", threads: 1);
        _buffer = _device.Allocate(4096);
        (_recorded, _later) = (NewEvent(_device, record: true), NewEvent(_device, record: true));
        nint context = (nint)_device.Handle.Pointer, data = _buffer.Pointer, host = Memory(8192), word = Memory(64);
        _valid = new Dictionary<string, nint[]>(StringComparer.Ordinal)
        {
            ["strata_device_count"] = [word],
            ["strata_device_describe"] = [0, Block(new strata_device_info { struct_size = (uint)sizeof(strata_device_info) })],
            ["strata_context_create"] = [Block(new strata_context_desc { struct_size = (uint)sizeof(strata_context_desc), threads = 1 }), word],
            ["strata_buffer_create"] = [context, 64, word],
            ["strata_copy"] = [context, data, host, 64, 1, 0],
            ["strata_fill"] = [context, data, 1, 64, 0],
            ["strata_stream_create"] = [context, word],
            ["strata_stream_destroy"] = [context, 0],
            ["strata_stream_sync"] = [context, 0],
            ["strata_event_create"] = [context, word],
            ["strata_event_record"] = [_recorded, 0],
            ["strata_event_wait"] = [_recorded, 0],
            ["strata_event_sync"] = [_recorded],
            ["strata_event_elapsed"] = [_recorded, _later, word],
            ["strata_limit_measure"] = [context, 2, word],
            ["strata_weight_packed_bytes"] = [WeightSource(), word],
            ["strata_weight_pack"] = [WeightSource(), host, 8192, Memory(sizeof(strata_weight))],
            ["strata_weight_open"] = [PackedWeight(out int weightBytes), weightBytes, Memory(sizeof(strata_weight))],
            ["strata_bitstack_packed_bytes"] = [LevelSource(), word],
            ["strata_bitstack_pack"] = [LevelSource(), host, 8192, Memory(sizeof(strata_bitstack_level))],
            ["strata_bitstack_open"] = [PackedLevel(out int levelBytes), levelBytes, Memory(sizeof(strata_bitstack_level))],
        };
    }

    [OneTimeTearDown]
    public void TearDown()
    {
        Native.strata_event_destroy((strata_event*)_later);
        Native.strata_event_destroy((strata_event*)_recorded);
        _buffer?.Dispose();
        _device?.Dispose();
        foreach (nint block in _allocated) NativeMemory.AlignedFree((void*)block);
    }

    [TestCaseSource(nameof(Others))]
    public void NullPointer_IsRefused(string export)
    {
        Assert.That(_valid, Contains.Key(export), "a new export needs a valid call here to spoil");
        ParameterInfo[] parameters = Exports.All.Single(m => m.Name == export).GetParameters();
        nint[] valid = _valid[export];
        Assert.That(valid, Has.Length.EqualTo(parameters.Length), export);
        for (int i = 0; i < parameters.Length; i++)
        {
            if (!parameters[i].ParameterType.IsPointer || s_streams.Contains(parameters[i].Name) && parameters[i].ParameterType == typeof(void*)) continue;
            nint[] spoiled = [.. valid];
            spoiled[i] = 0;
            Exports.Trying = $"{export}: {parameters[i].Name} = NULL";
            Exports.AssertRefused(Exports.Call(export, spoiled), $"{export}: {parameters[i].Name} = NULL");
        }
    }

    [Test]
    public void Destroy_Null_IsFine()
    {
        Native.strata_context_destroy(null);
        Native.strata_buffer_destroy(null);
        Native.strata_event_destroy(null);
        Assert.That(((nint)Native.strata_buffer_data(null), Native.strata_buffer_bytes(null)), Is.EqualTo(((nint)0, (nuint)0)));
        Assert.That((Marshal.PtrToStringUTF8((nint)Native.strata_context_device(null)), Marshal.PtrToStringUTF8((nint)Native.strata_context_isa(null))), Is.EqualTo(("", "")));
    }

    [TestCase(-1)]
    [TestCase(int.MinValue)]
    [TestCase(int.MaxValue)]
    [TestCase(301)]
    public void StatusName_Unknown_SaysSo(int status) => Assert.That(Marshal.PtrToStringUTF8((nint)Native.strata_status_name(status)), Is.EqualTo("E_UNKNOWN").Or.StartsWith("E_"));

    [TestCase(-1)]
    [TestCase(int.MinValue)]
    [TestCase(int.MaxValue)]
    [TestCase(1000)]
    public void DeviceDescribe_IndexOutOfRange_IsRefused(int index)
    {
        var info = new strata_device_info { struct_size = (uint)sizeof(strata_device_info) };
        Exports.AssertRefused(Exports.Call("strata_device_describe", index, (nint)(&info)), $"index {index}");
    }

    [TestCase(0u)]
    [TestCase(7u)]
    [TestCase(uint.MaxValue)]
    public void StructSize_Garbage_IsRefused(uint size)
    {
        var info = new strata_device_info { struct_size = size };
        Exports.AssertRefused(Exports.Call("strata_device_describe", 0, (nint)(&info)), $"device_describe of {size}");
        var desc = new strata_context_desc { struct_size = size };
        nint context = 0;
        Exports.AssertRefused(Exports.Call("strata_context_create", (nint)(&desc), (nint)(&context)), $"context_create of {size}");
        Assert.That(context, Is.Zero);
        foreach (string export in new[] { "strata_weight_packed_bytes", "strata_weight_pack", "strata_bitstack_packed_bytes", "strata_bitstack_pack" })
        {
            nint[] words = [.. _valid[export]];
            bool level = export.Contains("bitstack", StringComparison.Ordinal);
            byte[] source = new ReadOnlySpan<byte>((void*)words[0], level ? sizeof(strata_bitstack_source) : sizeof(strata_weight_source)).ToArray();
            BitConverter.TryWriteBytes(source, size);
            using NativePages pages = NativePages.EndingAtForbidden(source, out words[0]);
            Exports.AssertRefused(Exports.Call(export, words), $"{export} of {size}");
        }
    }

    [TestCase("cpu", -1, null)]
    [TestCase("cpu", int.MinValue, null)]
    [TestCase("cpu", int.MaxValue, null)]
    [TestCase("cpu", 1025, null)]
    [TestCase("", 1, null)]
    [TestCase("gpu", 1, null)]
    [TestCase("cpu:0", 1, null)]
    [TestCase("cuda", 1, null)]
    [TestCase("cuda:", 1, null)]
    [TestCase("cuda:-1", 1, null)]
    [TestCase("cuda:99999999999999999999", 1, null)]
    [TestCase("cuda:999", 1, null)]
    [TestCase("simt:7", 1, null)]
    [TestCase("cpu", 1, "avx1024")]
    [TestCase("cpu", 1, "AVX2")]
    [TestCase("\u00ff\u1234", 1, null)]
    [TestCase("LONG", 1, null)]
    [TestCase("cpu", 1, "LONG")]
    public void ContextCreate_UnknownDevice_IsRefused(string device, int threads, string? isa)
    {
        string longText = new('x', 100_000);
        fixed (byte* id = Encoding.UTF8.GetBytes((device == "LONG" ? longText : device) + '\0'))
        fixed (byte* set = isa is null ? null : Encoding.UTF8.GetBytes((isa == "LONG" ? longText : isa) + '\0'))
        {
            var desc = new strata_context_desc { struct_size = (uint)sizeof(strata_context_desc), threads = threads, device = id, isa = set };
            nint context = 0;
            Exports.AssertRefused(Exports.Call("strata_context_create", (nint)(&desc), (nint)(&context)), $"{device}, {threads}, {isa}");
            Assert.That(context, Is.Zero, "a refused call wrote its result");
        }
    }

    [TestCase(0)]
    [TestCase(-1)]
    [TestCase(long.MinValue)]
    [TestCase(long.MaxValue)]
    [TestCase((1L << 47) + 1)]
    public void Memory_AbsurdBytes_IsRefused(long bytes)
    {
        nint context = (nint)_device.Handle.Pointer, buffer = 0;
        Exports.AssertRefused(Exports.Call("strata_buffer_create", context, (nint)bytes, (nint)(&buffer)), $"buffer of {bytes}");
        Assert.That(buffer, Is.Zero);
        if (bytes == 0) return;
        nint host = _valid["strata_copy"][2];
        Exports.AssertRefused(Exports.Call("strata_copy", context, _buffer.Pointer, host, (nint)bytes, 1, 0), $"copy of {bytes}");
        Exports.AssertRefused(Exports.Call("strata_fill", context, _buffer.Pointer, 1, (nint)bytes, 0), $"fill of {bytes}");
    }

    [Test]
    public void Memory_NoBytes_IsFineAnywhere()
    {
        nint context = (nint)_device.Handle.Pointer;
        foreach (int kind in new[] { 1, 2, 3 }) Assert.That(Exports.Call("strata_copy", context, 0, 0, 0, kind, 0), Is.Zero);
        Assert.That(Exports.Call("strata_fill", context, 0, 1, 0, 0), Is.Zero);
    }

    [TestCase(0)]
    [TestCase(4)]
    [TestCase(-1)]
    [TestCase(int.MaxValue)]
    public void Copy_UnknownKind_IsRefused(int kind)
    {
        nint[] words = [.. _valid["strata_copy"]];
        words[4] = kind;
        Exports.AssertRefused(Exports.Call("strata_copy", words), $"kind {kind}");
    }

    [TestCase(0)]
    [TestCase(7)]
    [TestCase(-1)]
    [TestCase(int.MinValue)]
    [TestCase(int.MaxValue)]
    public void LimitMeasure_UnknownLimit_IsRefused(int limit)
    {
        double value = 5;
        Exports.AssertRefused(Exports.Call("strata_limit_measure", (nint)_device.Handle.Pointer, limit, (nint)(&value)), $"limit {limit}");
        Assert.That(value, Is.EqualTo(5));
    }

    [Test]
    public void EventElapsed_NotRecordedOrOfAnotherContext_IsRefused()
    {
        using Device other = Device.Open("cpu", threads: 1);
        nint fresh = NewEvent(_device, record: false), foreign = NewEvent(other, record: true);
        double value = 5;
        Exports.AssertRefused(Exports.Call("strata_event_elapsed", fresh, _later, (nint)(&value)), "start not recorded");
        Exports.AssertRefused(Exports.Call("strata_event_elapsed", _recorded, fresh, (nint)(&value)), "end not recorded");
        Exports.AssertRefused(Exports.Call("strata_event_elapsed", _recorded, foreign, (nint)(&value)), "two contexts");
        Assert.That(value, Is.EqualTo(5));
        Native.strata_event_destroy((strata_event*)fresh);
        Native.strata_event_destroy((strata_event*)foreign);
    }

    [TestCase("strata_weight_packed_bytes", typeof(strata_weight_source))]
    [TestCase("strata_weight_pack", typeof(strata_weight_source))]
    [TestCase("strata_bitstack_packed_bytes", typeof(strata_bitstack_source))]
    [TestCase("strata_bitstack_pack", typeof(strata_bitstack_source))]
    public void PackingSource_EveryWordWrong_IsRefused(string export, Type type)
    {
        bool query = export.EndsWith("_bytes", StringComparison.Ordinal);
        nint[] words = [.. _valid[export]];
        Assert.That(Exports.Call(export, words), Is.Zero, $"the valid call: {Exports.LastError}");
        IReadOnlyList<ArgumentField> fields = ArgumentFields.Of(type);
        byte[] valid = new ReadOnlySpan<byte>((void*)words[0], fields[^1].Offset + fields[^1].Size).ToArray();
        // The destination is out of bounds for all that must be refused.
        using NativePages forbidden = NativePages.Forbidden(1 << 20);
        foreach (ArgumentField field in fields)
        {
            long value = field.Get(valid);
            // Queries take shapes alone; sizes of data that is not passed do not matter to them.
            bool data = field.Type.IsPointer || field.Name.EndsWith("_bytes", StringComparison.Ordinal);
            if (field.Name is "struct_size" or "reserved" || (query && data)) continue;
            long[] wrong = field.Type.IsPointer ? [value == 0 ? 64 : 0]
                : field.Name is "n" or "k" ? [-1, 1L << 40, 1L << 62, long.MaxValue, long.MinValue, value + 1]
                : field.Size == 4 ? [-1, 99, int.MinValue, int.MaxValue]
                : [-1, value + 1, value == 0 ? 2 : value - 1, long.MaxValue, long.MinValue];
            foreach (long one in wrong)
            {
                byte[] spoiled = [.. valid];
                field.Set(spoiled, one);
                fixed (byte* source = spoiled)
                {
                    nint[] hostile = [(nint)source, .. words[1..]];
                    if (!query) hostile[1] = forbidden.Start;
                    string what = $"{export}: {field.Path} = {one}";
                    Exports.Trying = what;
                    // Only shapes of whole blocks have to be refused by their looks; a large one may be answered by its size.
                    int status = Exports.Call(export, hostile);
                    if (status != 0 || one < 0 || one > 1L << 46 || !query || field.Name is not ("n" or "k")) Exports.AssertRefused(status, what);
                }
            }
        }
    }

    [TestCase("strata_weight_pack")]
    [TestCase("strata_bitstack_pack")]
    public void Packing_DestinationTooSmallOrMisaligned_IsRefused(string export)
    {
        nint[] words = [.. _valid[export]];
        nuint needed = 0;
        Assert.That(Exports.Call(export.Replace("_pack", "_packed_bytes", StringComparison.Ordinal), words[0], (nint)(&needed)), Is.Zero);
        using NativePages forbidden = NativePages.Forbidden(1 << 20);
        foreach ((nint address, nint bytes) in new[] { (forbidden.Start, 0), (forbidden.Start, 64), (forbidden.Start, (nint)needed - 1), (forbidden.Start + 8, (nint)needed), (forbidden.Start + 1, nint.MaxValue) })
        {
            Exports.AssertRefused(Exports.Call(export, words[0], address, bytes, words[3]), $"{export}: {bytes} bytes at {address % 64}");
        }
    }

    [TestCase("strata_weight_open")]
    [TestCase("strata_bitstack_open")]
    public void Open_DamagedHeaderOrCutShort_IsRefusedOrWithinBounds(string export)
    {
        nint[] words = _valid[export];
        byte[] packed = new ReadOnlySpan<byte>((void*)words[0], (int)words[1]).ToArray();
        Assert.That(Exports.Call(export, words), Is.Zero, Exports.LastError);
        for (int cut = 0; cut < packed.Length; cut += cut < 130 ? 1 : 61)
        {
            // Cut to a multiple of 64 where it can be, so that the block is as aligned as it must be and its end is forbidden.
            if (cut % 64 != 0)
            {
                Exports.AssertRefused(Exports.Call(export, words[0], cut, words[2]), $"{export}: {cut} of {packed.Length} bytes");
                continue;
            }
            using NativePages pages = NativePages.EndingAtForbidden(packed.AsSpan(0, cut), out nint address);
            Exports.AssertRefused(Exports.Call(export, address, cut, words[2]), $"{export}: {cut} of {packed.Length} bytes");
        }
        Exports.AssertRefused(Exports.Call(export, words[0] + 8, words[1] - 8, words[2]), $"{export}: misaligned");
        for (int at = 0; at < 64; at++)
        {
            foreach (byte value in new byte[] { 0, 1, 0x7f, 0x80, 0xff, (byte)(packed[at] ^ 1) })
            {
                if (packed[at] == value) continue;
                byte[] damaged = [.. packed];
                damaged[at] = value;
                nint copy = Memory(damaged.Length);
                damaged.CopyTo(new Span<byte>((void*)copy, damaged.Length));
                Exports.Trying = $"{export}: byte {at} = {value}";
                Exports.AssertRefused(Exports.Call(export, copy, damaged.Length, words[2]), $"{export}: header byte {at} is {value}, was {packed[at]}");
            }
        }
    }

    private static nint NewEvent(Device device, bool record)
    {
        nint made = 0;
        Assert.That(Exports.Call("strata_event_create", (nint)device.Handle.Pointer, (nint)(&made)), Is.Zero, Exports.LastError);
        if (record) Assert.That(Exports.Call("strata_event_record", made, 0), Is.Zero, Exports.LastError);
        return made;
    }

    private nint Memory(int bytes)
    {
        nint address = (nint)NativeMemory.AlignedAlloc((nuint)((bytes + 63) / 64 * 64), 64);
        new Span<byte>((void*)address, bytes).Clear();
        _allocated.Add(address);
        return address;
    }

    private nint Block<T>(T value) where T : unmanaged
    {
        nint address = Memory(sizeof(T));
        *(T*)address = value;
        return address;
    }

    // Q8_0: 34 bytes for 32 columns.
    private nint WeightSource() => Block(new strata_weight_source
    {
        struct_size = (uint)sizeof(strata_weight_source), format = 6, n = Rows, k = Columns, data = (void*)Memory(Rows * Columns / 32 * 34), data_bytes = Rows * Columns / 32 * 34,
    });

    private nint LevelSource() => Block(new strata_bitstack_source
    {
        struct_size = (uint)sizeof(strata_bitstack_source), rank = Rank, n = Rows, k = Columns,
        signs = (void*)Memory(Rows * Columns / 8), signs_bytes = Rows * Columns / 8, u = (void*)Memory(Rows * Rank * 2), u_bytes = Rows * Rank * 2, vt = (void*)Memory(Rank * Columns * 2), vt_bytes = Rank * Columns * 2,
    });

    private nint PackedWeight(out int bytes) => Packed("strata_weight", WeightSource(), sizeof(strata_weight), out bytes);

    private nint PackedLevel(out int bytes) => Packed("strata_bitstack", LevelSource(), sizeof(strata_bitstack_level), out bytes);

    private nint Packed(string prefix, nint source, int view, out int bytes)
    {
        nuint needed = 0;
        Assert.That(Exports.Call($"{prefix}_packed_bytes", source, (nint)(&needed)), Is.Zero, Exports.LastError);
        bytes = (int)needed;
        nint packed = Memory(bytes);
        Assert.That(Exports.Call($"{prefix}_pack", source, packed, bytes, Memory(view)), Is.Zero, Exports.LastError);
        return packed;
    }
}
