// SPDX-License-Identifier: Apache-2.0
// Records native op calls with all the memory they touch, so that another program can replay them: the sanitizer builds do, and so can whoever
// gets a bug report.

using System.Text;

namespace Strata;

/// <summary>
/// Writes every op call of one device to a file: the op, its argument block, the buffers that the block points into before and after the call,
/// and where the pointers are. native/tests/replay.cpp reads it. Not thread-safe: one recording at a time, calls from one thread.
/// </summary>
internal sealed unsafe class CallRecorder : IDisposable
{
    /// <summary>The recording under way, if any.</summary>
    public static CallRecorder? Active { get; private set; }

    private const uint FormatVersion = 1;
    private const uint InArguments = uint.MaxValue;

    private readonly BinaryWriter _file;
    private readonly Device _device;
    private readonly List<(nint Start, long Bytes)> _live = [];
    private string _case = "";
    private bool _tiny;

    /// <summary>Starts recording calls on <paramref name="device"/>, which must have host memory. Buffers made from now on are known.</summary>
    public CallRecorder(string path, Device device)
    {
        _device = device;
        _file = new BinaryWriter(File.Create(path));
        _file.Write("STRC"u8);
        _file.Write(FormatVersion);
        Active = this;
    }

    /// <summary>Names the calls that follow.</summary>
    public void Begin(string name, bool tiny) => (_case, _tiny) = (name, tiny);

    public void Allocated(nint start, long bytes) => _live.Add((start, bytes));

    public void Freed(nint start) => _live.RemoveAll(b => b.Start == start);

    /// <summary>Runs a call and records it if it succeeds on the recorded device.</summary>
    public int Record<TArgs>(Device device, TArgs* args, void* scratch, ReadOnlySpan<(nint Start, long Bytes)> auxiliary, Func<int> run) where TArgs : unmanaged
    {
        if (device != _device) return run();
        var buffers = new List<(nint Start, long Bytes, bool Auxiliary)>();
        var pointers = new List<(uint Where, uint Offset, int Target, long TargetOffset)>();
        Scan(new ReadOnlySpan<byte>(args, sizeof(TArgs)), InArguments, auxiliary, buffers, pointers);
        int scratchBuffer = scratch is null ? -1 : Known((nint)scratch, auxiliary, buffers, out _);
        byte[][] before = [.. buffers.Select(b => new ReadOnlySpan<byte>((void*)b.Start, checked((int)b.Bytes)).ToArray())];
        int status = run();
        if (status != 0) return status;

        string name = typeof(TArgs).Name;
        Text(name["strata_".Length..^"_args".Length]);
        Text(_case);
        _file.Write(_tiny ? 1u : 0u);
        _file.Write(sizeof(TArgs));
        _file.Write(new ReadOnlySpan<byte>(args, sizeof(TArgs)));
        _file.Write(buffers.Count);
        for (int i = 0; i < buffers.Count; i++)
        {
            _file.Write(buffers[i].Bytes);
            _file.Write(i == scratchBuffer ? 2 : buffers[i].Auxiliary ? 1 : 0);
            _file.Write(before[i]);
            if (i != scratchBuffer && !buffers[i].Auxiliary) _file.Write(new ReadOnlySpan<byte>((void*)buffers[i].Start, (int)buffers[i].Bytes));
        }
        _file.Write(pointers.Count);
        foreach ((uint where, uint offset, int target, long targetOffset) in pointers)
        {
            _file.Write(where);
            _file.Write(offset);
            _file.Write(target);
            _file.Write(targetOffset);
        }
        return 0;
    }

    /// <summary>Finds the words of a block that are addresses in known memory; follows auxiliary blocks.</summary>
    private void Scan(ReadOnlySpan<byte> block, uint where, ReadOnlySpan<(nint Start, long Bytes)> auxiliary,
        List<(nint Start, long Bytes, bool Auxiliary)> buffers, List<(uint Where, uint Offset, int Target, long TargetOffset)> pointers)
    {
        for (int offset = 0; offset + sizeof(nint) <= block.Length; offset += sizeof(nint))
        {
            var address = (nint)BitConverter.ToInt64(block[offset..]);
            int seen = buffers.Count;
            int target = Known(address, auxiliary, buffers, out long targetOffset);
            if (target < 0) continue;
            pointers.Add((where, (uint)offset, target, targetOffset));
            if (buffers.Count > seen && buffers[target].Auxiliary)
            {
                Scan(new ReadOnlySpan<byte>((void*)buffers[target].Start, (int)buffers[target].Bytes), (uint)target, auxiliary, buffers, pointers);
            }
        }
    }

    private int Known(nint address, ReadOnlySpan<(nint Start, long Bytes)> auxiliary, List<(nint Start, long Bytes, bool Auxiliary)> buffers, out long offset)
    {
        offset = 0;
        for (int i = 0; i < auxiliary.Length + _live.Count; i++)
        {
            (nint start, long bytes) = i < auxiliary.Length ? auxiliary[i] : _live[i - auxiliary.Length];
            if (address < start || address >= start + bytes) continue;
            offset = address - start;
            int index = buffers.FindIndex(b => b.Start == start);
            if (index >= 0) return index;
            buffers.Add((start, bytes, i < auxiliary.Length));
            return buffers.Count - 1;
        }
        return -1;
    }

    private void Text(string text)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(text);
        _file.Write(bytes.Length);
        _file.Write(bytes);
    }

    public void Dispose()
    {
        if (Active == this) Active = null;
        _file.Dispose();
    }
}
