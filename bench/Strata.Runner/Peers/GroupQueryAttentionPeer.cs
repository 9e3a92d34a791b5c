// SPDX-License-Identifier: Apache-2.0
// kv_attention by ONNX Runtime: com.microsoft::GroupQueryAttention. Keys and values lie [kv_heads, length, head_dim], dense; past and present are one
// buffer, which holds the new tokens already: the call writes the same values once more. Nothing is rotated.

using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using Strata.Reference;

namespace Strata.Runner.Peers;

/// <summary>GroupQueryAttention with cache, queries and output of one type. There is no kernel for bf16 on the CPU.</summary>
internal sealed class GroupQueryAttentionPeer(OnnxRuntime runtime, DType type) : IPeer
{
    private const int HeadDimStep = 8;

    public string Op => "kv_attention";

    public string Name(OpCase opCase) => type == DType.F32 ? "onnxruntime-gqa-f32" : "onnxruntime-gqa-f16";

    public string? Refusal(OpCase opCase)
    {
        int[] lengths = opCase.Ints("length", 128), tokens = opCase.Ints("tokens", [.. lengths.Select(_ => 1)]);
        string cache = opCase.Text("dtype", "f32");
        int width = opCase.Int("head_dim", 64);
        if (cache is not ("f32" or "f16" or "bf16")) return $"dtype is {cache}, must be f32, f16 or bf16";
        foreach (string side in new[] { "key", "value" })
        {
            if (opCase.Text(side, "plain") is var format && format != "plain") return $"{side} is {format}, must be plain";
        }
        if (type == DType.F16 && cache == "f32") return "dtype is f32, which an f16 cache does not hold";
        if (width % HeadDimStep != 0) return $"head_dim is {width}, must be a multiple of {HeadDimStep}";
        if (lengths.Distinct().Count() != 1 || opCase.Int("uneven", 0) != 0) return "the lengths differ, must be the same";
        if (lengths[0] == 0) return "length is 0, must be at least 1";
        if (tokens.Any(t => t != 1) && !tokens.SequenceEqual(lengths)) return "tokens must be 1 each, or the whole length";
        if (opCase.Int("causal", 1) == 0) return "causal is 0, must be 1";
        if (opCase.Int("lse", 0) != 0) return "lse is asked for, which it does not give";
        return runtime.Start();
    }

    public long Bytes(OpProblem problem)
    {
        var inputs = (IKvAttentionInputs)problem;
        return type.Size() * 2 * ((inputs.Cache.LiveKeyBytes / inputs.Cache.Shape.Type.Size()) + inputs.Q.Count);
    }

    public OpRun Bind(IReadOnlyList<OpProblem> problems, Device device)
    {
        Shape shape = Shape.Of((IKvAttentionInputs)problems[0]);
        return new Bound(runtime, Model(shape, problems.Count), device, type, shape, problems);
    }

    private OnnxModel Model(Shape s, int calls)
    {
        TensorElementType t = OnnxRuntime.ElementType(type);
        OnnxModel model = new OnnxModel().Input("seqlens_k", TensorElementType.Int32, s.Batch).Input("total", TensorElementType.Int32, 1);
        for (int i = 0; i < calls; i++)
        {
            model.Input($"q{i}", t, s.Batch, s.Tokens, s.QueryHeads * s.Width);
            foreach (string side in new[] { "k", "v" })
            {
                model.Input($"{side}{i}", t, s.Batch, s.Tokens, s.KvHeads * s.Width)
                    .Input($"past_{side}{i}", t, s.Batch, s.KvHeads, s.Length, s.Width)
                    .Output($"present_{side}{i}", t, s.Batch, s.KvHeads, s.Length, s.Width);
            }
            model.Output($"out{i}", t, s.Batch, s.Tokens, s.QueryHeads * s.Width);
            model.Node(
                "GroupQueryAttention",
                [$"q{i}", $"k{i}", $"v{i}", $"past_k{i}", $"past_v{i}", "seqlens_k", "total"],
                [$"out{i}", $"present_k{i}", $"present_v{i}"],
                ("num_heads", s.QueryHeads), ("kv_num_heads", s.KvHeads), ("do_rotary", 0L), ("scale", s.Scale));
        }
        return model;
    }

    private delegate void RowReader(int b, int h, int slot, Span<double> to);

    private sealed record Shape(long Batch, long Tokens, long QueryHeads, long KvHeads, long Length, long Width, float Scale)
    {
        public static Shape Of(IKvAttentionInputs p)
        {
            KvCacheShape cache = p.Cache.Shape;
            return new Shape(cache.Batch, p.Q.Shape[0] / cache.Batch, p.Q.Shape[1], cache.KvHeads, p.Cache.MaxLength, cache.HeadDim, p.Scale);
        }
    }

    private sealed class Bound : OnnxRun
    {
        private readonly IKvAttentionInputs _first;
        private readonly DType _type;
        private readonly Shape _shape;
        private readonly DeviceArray _out;

        public Bound(OnnxRuntime runtime, OnnxModel model, Device device, DType type, Shape shape, IReadOnlyList<OpProblem> problems)
            : base(runtime, model, device)
        {
            (_type, _shape, _first) = (type, shape, (IKvAttentionInputs)problems[0]);
            BindInput("seqlens_k", Tensor(new HostTensor(DType.I32, [shape.Batch]).Fill(_ => shape.Length - 1)).Value);
            BindInput("total", Tensor(new HostTensor(DType.I32, [1]).Fill(_ => shape.Length)).Value);
            long[] flat = [shape.Batch, shape.Tokens, shape.QueryHeads * shape.Width];
            var values = new Dictionary<OpProblem, (OrtValue Q, OrtValue K, OrtValue V, OrtValue PastK, OrtValue PastV, (DeviceArray Array, OrtValue Value) Out)>();
            for (int i = 0; i < problems.Count; i++)
            {
                if (!values.TryGetValue(problems[i], out var v))
                {
                    var p = (IKvAttentionInputs)problems[i];
                    (OrtValue k, OrtValue pastK) = Cached(p.Cache, p.Cache.ReadKey);
                    (OrtValue value, OrtValue pastV) = Cached(p.Cache, p.Cache.ReadValue);
                    values[problems[i]] = v = (Tensor(Queries(p.Q), flat).Value, k, value, pastK, pastV, Tensor(NewOutput(), flat));
                }
                BindInput($"q{i}", v.Q);
                BindInput($"k{i}", v.K);
                BindInput($"v{i}", v.V);
                BindInput($"past_k{i}", v.PastK);
                BindInput($"past_v{i}", v.PastV);
                BindOutput($"present_k{i}", v.PastK);
                BindOutput($"present_v{i}", v.PastV);
                BindOutput($"out{i}", v.Out.Value);
            }
            _out = values[problems[0]].Out.Array;
        }

        public override Comparison Compare()
        {
            HostTensor output = NewOutput();
            output.Download(_out);
            return _first.Compare(output, _type == DType.F32 ? 1e-4 : 1e-2);
        }

        private HostTensor NewOutput() => new(_type, [_shape.Batch * _shape.Tokens, _shape.QueryHeads, _shape.Width]);

        private HostTensor Queries(HostTensor q)
        {
            HostTensor dense = NewOutput();
            var row = new float[_shape.Width];
            for (long token = 0; token < q.Shape[0]; token++)
            {
                for (long head = 0; head < q.Shape[1]; head++)
                {
                    q.CopyRow(row, token, head);
                    dense.SetRow(row, token, head);
                }
            }
            return dense;
        }

        // The last tokens, [batch, tokens, kv_heads, width], and all of them, [batch, kv_heads, length, width].
        private (OrtValue New, OrtValue Past) Cached(HostKvCache cache, RowReader read)
        {
            var fresh = new HostTensor(_type, [_shape.Batch, _shape.Tokens, _shape.KvHeads, _shape.Width]);
            var past = new HostTensor(_type, [_shape.Batch, _shape.KvHeads, _shape.Length, _shape.Width]);
            var numbers = new double[_shape.Width];
            var row = new float[_shape.Width];
            cache.ForEachSlot((b, h, slot) =>
            {
                read(b, h, slot, numbers);
                for (int d = 0; d < row.Length; d++) row[d] = (float)numbers[d];
                past.SetRow(row, b, h, slot);
                long token = slot - (_shape.Length - _shape.Tokens);
                if (token >= 0) fresh.SetRow(row, b, token, h);
            });
            return (Tensor(fresh, _shape.Batch, _shape.Tokens, _shape.KvHeads * _shape.Width).Value, Tensor(past).Value);
        }
    }
}
