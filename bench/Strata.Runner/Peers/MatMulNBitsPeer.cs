// SPDX-License-Identifier: Apache-2.0
// qgemm by ONNX Runtime: com.microsoft::MatMulNBits. Accuracy level 4 multiplies int8 activations, level 1 fp32 ones. Scales are fp32.

using System.Runtime.InteropServices;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using Strata.Reference;

namespace Strata.Runner.Peers;

/// <summary>MatMulNBits over the weights of q4_0, i4 and q8_0, and of q4_1 with minima rounded to whole zero points.</summary>
internal sealed class MatMulNBitsPeer(OnnxRuntime runtime) : IPeer
{
    public string Op => "qgemm";

    public string Name(OpCase opCase)
    {
        var format = Format.Of(opCase);
        string bits = format.Bits == 8 ? "-int8" : "", zeros = format.ZeroPoints ? "-zp" : "";
        return $"onnxruntime-matmulnbits{bits}-g{format.Group}{zeros}-acc{Accuracy(opCase.Int("int8", 0) != 0)}";
    }

    public string? Refusal(OpCase opCase)
    {
        string format = opCase.Text("format", "q4_0");
        if (format is not ("q4_0" or "q4_1" or "q8_0" or "i4")) return $"format is {format}, must be 4 or 8 bits with one scale a group: q4_0, q4_1, q8_0 or i4";
        if (opCase.Text("x", "f32") != "f32" || opCase.Text("y", "f32") != "f32") return "x or y is not f32, the type of its kernels";
        if (opCase.Int("padding", 0) != 0) return "padding is not 0, and its tensors are dense";
        if (opCase.Int("m", 1) == 0) return "m is 0, must be at least 1";
        return runtime.Start();
    }

    public long Bytes(OpProblem problem)
    {
        var p = (IQgemmInputs)problem;
        Format format = Format.Of(p.W);
        long groups = p.W.N * (p.W.K / format.Group);
        return (p.W.N * p.W.K * format.Bits / 8) + (groups * sizeof(float)) + (format.ZeroPoints ? groups / 2 : 0) + p.X.DataBytes + (p.X.Shape[0] * p.W.N * sizeof(float));
    }

    public OpRun Bind(IReadOnlyList<OpProblem> problems, Device device)
    {
        var model = new OnnxModel();
        var names = new Dictionary<OpProblem, int>();
        for (int i = 0; i < problems.Count; i++)
        {
            var p = (IQgemmInputs)problems[i];
            HostWeight w = p.W;
            Format format = Format.Of(w);
            if (!names.TryGetValue(problems[i], out int name))
            {
                names[problems[i]] = name = i;
                Codes codes = Codes.Of(w, format);
                long groups = w.K / format.Group;
                model.Input($"x{name}", TensorElementType.Float, p.X.Shape)
                    .Constant($"b{name}", TensorElementType.UInt8, codes.Weights, w.N, groups, format.Group * format.Bits / 8)
                    .Constant($"scales{name}", TensorElementType.Float, MemoryMarshal.AsBytes<float>(codes.Scales), w.N, groups);
                if (format.ZeroPoints) model.Constant($"zeros{name}", TensorElementType.UInt8, codes.ZeroPoints, w.N, (groups + 1) / 2);
            }
            string[] inputs = [$"x{name}", $"b{name}", $"scales{name}", .. format.ZeroPoints ? [$"zeros{name}"] : Array.Empty<string>()];
            model.Output($"y{i}", TensorElementType.Float, p.X.Shape[0], w.N).Node(
                "MatMulNBits", inputs, [$"y{i}"],
                ("K", w.K), ("N", w.N), ("bits", (long)format.Bits), ("block_size", (long)format.Group), ("accuracy_level", Accuracy(p.Int8)));
        }
        return new Bound(runtime, model, device, problems, names);
    }

    private static long Accuracy(bool int8) => int8 ? 4 : 1;

    private readonly record struct Format(int Bits, int Group, bool ZeroPoints)
    {
        public static Format Of(HostWeight w) => Of(w.Format, w.Group);

        public static Format Of(OpCase c) => Of(HostWeight.ParseFormat(c.Text("format", "q4_0")), c.Int("group", 32));

        private static Format Of(WeightFormat format, int group) => format switch
        {
            WeightFormat.I4 => new Format(4, group, false),
            WeightFormat.Q8_0 => new Format(8, 32, false),
            WeightFormat.Q4_1 => new Format(4, 32, true),
            _ => new Format(4, 32, false),
        };
    }

    /// <summary>Weights as the op reads them: code pairs in one byte, the even column low; rows of blocks.</summary>
    private sealed record Codes(byte[] Weights, float[] Scales, byte[] ZeroPoints)
    {
        private const int BlockElements = 32, HalfBlock = 16;

        public static Codes Of(HostWeight w, Format format)
        {
            if (w.Format == WeightFormat.I4) return new Codes(w.Blocks.ToArray(), [.. w.Scales.ToArray().Select(s => (float)s)], []);
            int bytes = GgufBlocksReference.Block(w.Format == WeightFormat.Q8_0 ? GgufBlockType.Q8_0 : w.Format == WeightFormat.Q4_1 ? GgufBlockType.Q4_1 : GgufBlockType.Q4_0).Bytes;
            int blocks = w.Blocks.Length / bytes, coded = BlockElements * format.Bits / 8, perRow = (int)(w.K / BlockElements), zeroBytes = (perRow + 1) / 2;
            var codes = new Codes(new byte[blocks * coded], new float[blocks], new byte[format.ZeroPoints ? w.N * zeroBytes : 0]);
            for (int i = 0; i < blocks; i++)
            {
                ReadOnlySpan<byte> block = w.Blocks.Slice(i * bytes, bytes);
                codes.Scales[i] = (float)MemoryMarshal.Read<Half>(block);
                Span<byte> to = codes.Weights.AsSpan(i * coded, coded);
                ReadOnlySpan<byte> from = block[^coded..];
                if (format.Bits == 8)
                {
                    for (int j = 0; j < coded; j++) to[j] = (byte)(from[j] ^ 0x80);
                    continue;
                }
                for (int j = 0; j < HalfBlock / 2; j++)
                {
                    byte even = from[2 * j], odd = from[(2 * j) + 1];
                    to[j] = (byte)((even & 15) | (odd << 4));
                    to[j + (HalfBlock / 2)] = (byte)((even >> 4) | (odd & 0xf0));
                }
                if (format.ZeroPoints) codes.ZeroPoints[(i / perRow * zeroBytes) + (i % perRow / 2)] |= (byte)(ZeroPoint(block) << (4 * (i % perRow % 2)));
            }
            return codes;
        }

        /// <summary>Weights of q4_1 with each minimum where <see cref="ZeroPoint"/> puts it.</summary>
        public static HostWeight WholeZeroPoints(HostWeight w)
        {
            HostWeight whole = HostWeight.Create(w.Format, w.N, w.K, 0, exact: false, seed: 0);
            w.Blocks.CopyTo(whole.Blocks);
            int bytes = GgufBlocksReference.Block(GgufBlockType.Q4_1).Bytes;
            for (int at = 0; at < whole.Blocks.Length; at += bytes)
            {
                Span<byte> block = whole.Blocks.Slice(at, bytes);
                MemoryMarshal.Write(block[2..], (Half)(-ZeroPoint(block) * (float)MemoryMarshal.Read<Half>(block)));
            }
            return whole;
        }

        private static int ZeroPoint(ReadOnlySpan<byte> block)
        {
            float scale = (float)MemoryMarshal.Read<Half>(block), minimum = (float)MemoryMarshal.Read<Half>(block[2..]);
            return (int)Math.Clamp(MathF.Round(-minimum / scale), 0, 15);
        }
    }

    private sealed class Bound : OnnxRun
    {
        private readonly IQgemmInputs _first;
        private readonly DeviceArray _y;

        public Bound(OnnxRuntime runtime, OnnxModel model, Device device, IReadOnlyList<OpProblem> problems, IReadOnlyDictionary<OpProblem, int> names)
            : base(runtime, model, device)
        {
            _first = (IQgemmInputs)problems[0];
            foreach ((OpProblem problem, int name) in names) BindInput($"x{name}", Tensor(((IQgemmInputs)problem).X).Value);
            (DeviceArray Array, OrtValue Value)[] outputs = [.. problems.Select(_ => Tensor(NewOutput()))];
            for (int i = 0; i < outputs.Length; i++) BindOutput($"y{i}", outputs[i].Value);
            _y = outputs[0].Array;
        }

        public override Comparison Compare()
        {
            HostTensor y = NewOutput();
            y.Download(_y);
            HostWeight? rounded = _first.W.Format == WeightFormat.Q4_1 ? Codes.WholeZeroPoints(_first.W) : null;
            // int8 rounds by other groups than ours; the minima of q4_1 are rounded once more on the oracle's side.
            return _first.Compare(y, _first.Int8 ? 2e-2 : rounded is null ? 1e-4 : 1e-3, rounded);
        }

        private HostTensor NewOutput() => new(DType.F32, [_first.X.Shape[0], _first.W.N]);
    }
}
