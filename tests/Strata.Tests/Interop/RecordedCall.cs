// SPDX-License-Identifier: Apache-2.0
// Valid calls to spoil: the harness of an op makes one, the recorder of the C# API catches its argument block.

using System.Runtime.InteropServices;
using System.Text;
using Strata.Reference;

namespace Strata.Tests.Interop;

/// <summary>A valid call of an op whose operands stay alive.</summary>
internal sealed unsafe class RecordedCall : IDisposable
{
    private readonly OpRun _run;
    private readonly List<nint> _auxiliary = [];
    private readonly List<(nint Start, byte[] Bytes)> _memory = [];

    private RecordedCall(OpRun run, string op, string name) => (_run, Op, Name) = (run, op, name);

    public string Op { get; }

    public string Name { get; }

    /// <summary>The argument block, its pointers valid while this lives.</summary>
    public byte[] Block { get; private set; } = [];

    /// <summary>Calls of one case on a device, as the harness makes them.</summary>
    public static List<RecordedCall> Of(OpHarness harness, OpCase opCase, Device device)
    {
        string path = Path.GetTempFileName();
        try
        {
            OpRun run;
            using (var recorder = new CallRecorder(path, device))
            {
                recorder.Begin(opCase.Name, tiny: true);
                run = harness.Create(opCase, harness.Families[0], seed: 1).Bind(device, Poison.Nan);
                run.Run();
                device.Synchronize();
                run.Reset();
            }
            using var reader = new BinaryReader(File.OpenRead(path));
            reader.ReadBytes(8);
            var calls = new List<RecordedCall>();
            while (reader.BaseStream.Position < reader.BaseStream.Length) calls.Add(Read(reader, run, $"{opCase.Name} on {device.Id}"));
            return calls;
        }
        finally
        {
            File.Delete(path);
        }
    }

    /// <summary>Whether all memory that the call may see is as it was.</summary>
    public bool IsUntouched() => _memory.All(m => new ReadOnlySpan<byte>((void*)m.Start, m.Bytes.Length).SequenceEqual(m.Bytes));

    /// <summary>Puts all memory back as it was.</summary>
    public void Restore()
    {
        foreach ((nint start, byte[] bytes) in _memory) bytes.CopyTo(new Span<byte>((void*)start, bytes.Length));
    }

    public void Dispose()
    {
        foreach (nint block in _auxiliary) NativeMemory.AlignedFree((void*)block);
        _auxiliary.Clear();
        _run.Dispose();
    }

    // The format of CallRecorder. Device buffers live at their own addresses; host memory beside the block (auxiliary) is gone and is made anew.
    private static RecordedCall Read(BinaryReader reader, OpRun run, string name)
    {
        var call = new RecordedCall(run, Text(reader), name);
        Text(reader);
        reader.ReadUInt32();
        call.Block = reader.ReadBytes(reader.ReadInt32());
        int buffers = reader.ReadInt32();
        var kinds = new int[buffers];
        var copies = new nint[buffers];
        var contents = new byte[buffers][];
        for (int i = 0; i < buffers; i++)
        {
            int bytes = checked((int)reader.ReadInt64());
            kinds[i] = reader.ReadInt32();
            contents[i] = reader.ReadBytes(bytes);
            if (kinds[i] == 0) reader.ReadBytes(bytes);
            if (kinds[i] != 1) continue;
            copies[i] = (nint)NativeMemory.AlignedAlloc((nuint)Math.Max(8, bytes), 64);
            call._auxiliary.Add(copies[i]);
            contents[i].CopyTo(new Span<byte>((void*)copies[i], bytes));
        }
        int pointers = reader.ReadInt32();
        for (int i = 0; i < pointers; i++)
        {
            uint where = reader.ReadUInt32();
            uint offset = reader.ReadUInt32();
            int target = reader.ReadInt32();
            long targetOffset = reader.ReadInt64();
            if (where != uint.MaxValue) continue;
            if (kinds[target] == 1)
            {
                BitConverter.TryWriteBytes(call.Block.AsSpan((int)offset), copies[target] + targetOffset);
            }
            else
            {
                nint start = (nint)(BitConverter.ToInt64(call.Block, (int)offset) - targetOffset);
                if (call._memory.All(m => m.Start != start)) call._memory.Add((start, new ReadOnlySpan<byte>((void*)start, contents[target].Length).ToArray()));
            }
        }
        return call;
    }

    private static string Text(BinaryReader reader) => Encoding.UTF8.GetString(reader.ReadBytes(reader.ReadInt32()));
}
