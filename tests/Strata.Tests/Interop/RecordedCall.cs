// SPDX-License-Identifier: Apache-2.0
// A valid argument block of every op, taken from a recorded call: the start of every hostile variation.

using Strata.Reference;

namespace Strata.Tests.Interop;

/// <summary>The argument block of one successful call.</summary>
/// <param name="Op">The op's name.</param>
/// <param name="Arguments">The block's bytes; addresses in it are stale.</param>
/// <param name="Pointers">Byte offsets of the addresses.</param>
/// <param name="Auxiliary">Host memory that the block points to (an array of level descriptions, say), with the offset of its address.</param>
internal sealed record RecordedCall(string Op, byte[] Arguments, IReadOnlyList<int> Pointers, IReadOnlyList<(int Where, byte[] Bytes, IReadOnlyList<int> Pointers)> Auxiliary)
{
    private const uint InArguments = uint.MaxValue;

    private const int Blocks = 12;

    /// <summary>Runs a few of the op's small cases, from the first to the last, on the CPU and keeps their blocks.</summary>
    public static IReadOnlyList<RecordedCall> Of(OpHarness harness)
    {
        string path = Path.GetTempFileName();
        try
        {
            using (Device device = Device.Open("cpu", threads: 1))
            using (var recorder = new CallRecorder(path, device))
            {
                OpCase[] cases = [.. harness.Cases.Where(c => c.Tags.Contains("test"))];
                foreach (OpCase opCase in cases.Where((_, i) => i % ((cases.Length / Blocks) + 1) == 0))
                {
                    recorder.Begin(opCase.Name, tiny: false);
                    using OpRun run = harness.Create(opCase, harness.Families[0], seed: 1).Bind(device, Poison.Nan);
                    run.Run();
                }
            }
            return Read(path);
        }
        finally
        {
            File.Delete(path);
        }
    }

    private static List<RecordedCall> Read(string path)
    {
        using var file = new BinaryReader(File.OpenRead(path));
        file.ReadBytes(8);
        var calls = new List<RecordedCall>();
        while (file.BaseStream.Position < file.BaseStream.Length)
        {
            string op = Text(file);
            Text(file);
            file.ReadUInt32();
            byte[] arguments = file.ReadBytes(file.ReadInt32());
            int count = file.ReadInt32();
            var auxiliary = new Dictionary<int, byte[]>();
            for (int i = 0; i < count; i++)
            {
                int bytes = checked((int)file.ReadInt64()), kind = file.ReadInt32();
                byte[] before = file.ReadBytes(bytes);
                if (kind == 0) file.ReadBytes(bytes);
                if (kind == 1) auxiliary[i] = before;
            }
            var pointers = new List<(uint Where, int Offset, int Target)>();
            for (int i = file.ReadInt32(); i > 0; i--)
            {
                pointers.Add((file.ReadUInt32(), (int)file.ReadUInt32(), file.ReadInt32()));
                file.ReadInt64();
            }
            calls.Add(new RecordedCall(op, arguments,
                [.. pointers.Where(p => p.Where == InArguments).Select(p => p.Offset)],
                [.. pointers.Where(p => p.Where == InArguments && auxiliary.ContainsKey(p.Target))
                    .Select(p => (p.Offset, auxiliary[p.Target], (IReadOnlyList<int>)[.. pointers.Where(q => q.Where == (uint)p.Target).Select(q => q.Offset)]))]));
        }
        return calls;
    }

    private static string Text(BinaryReader file) => System.Text.Encoding.UTF8.GetString(file.ReadBytes(file.ReadInt32()));
}
