// SPDX-License-Identifier: Apache-2.0
// kv_attention's harness: a case on a device.

using System.Runtime.InteropServices;

namespace Strata.Reference;

/// <summary>A case of kv_attention on a device.</summary>
internal sealed class KvAttentionRun : OpRun
{
    private readonly KvAttentionProblem _p;
    private readonly Device _device;
    private readonly Poison _poison;
    private readonly DeviceArray _out;
    private readonly DeviceArray? _lse, _past, _probability;
    private readonly DeviceBuffer? _workspace;
    private readonly KvAttention _op;

    public KvAttentionRun(KvAttentionProblem p, Device device, Poison poison)
    {
        (_p, _device, _poison) = (p, device, poison);
        p.Cache.PoisonRest(poison);
        p.Given.PoisonPadding(poison);
        DeviceKvCache cache = Own(p.Cache.Upload(device));
        _out = Own(p.Output.Upload(device));
        _lse = p.LogSumExp ? Own(NewSums().Upload(device)) : null;
        _past = p.Past ? Own(NewSums().Upload(device)) : null;
        _probability = p.Probability != 0 ? Own(p.Given.Upload(device)) : null;
        _op = new KvAttention
        {
            Cache = cache.View,
            Q = Own(p.Q.Upload(device)).View,
            Output = _out.View,
            LogSumExp = _lse?.View ?? default,
            PastLogSumExp = _past?.View ?? default,
            KeyProbability = _probability?.View ?? default,
            StoreProbability = p.Probability == 2,
            AlibiSlopes = Optional(p.Settings.AlibiSlopes),
            SinkLogits = Optional(p.Settings.SinkLogits),
            RowOffsets = p.Cache.Shape.Batch == 1 ? default : Own(p.Offsets.Upload(device)).View,
            Causal = p.Settings.Causal,
            Scale = p.Settings.Scale,
            SoftCap = p.Settings.SoftCap,
            Window = p.Settings.Window,
            WindowSinks = p.Settings.WindowSinks,
            MaxLength = p.MaxLength,
            BatchInvariant = p.BatchInvariant,
        };
        if (p.Plan.Length > 0) _op = _op with { Plan = MakePlan() };
        _workspace = Workspace(device, _op.WorkspaceBytes(device));
        Reset();
    }

    public override void Run(StrataStream? stream = null) => _op.Run(_device, _workspace, stream);

    public override void Reset()
    {
        foreach (DeviceArray? output in new[] { _out, _lse, _past })
        {
            if (output is not null) Poisons.Fill(output.Buffer, _poison);
        }
        _probability?.Buffer.CopyFrom(StartOfProbability().Bytes);
        if (_workspace is not null) Poisons.Fill(_workspace, _poison);
    }

    public override Comparison Compare()
    {
        double[] want = _p.OfChecked(_p.Want.Output);
        bool exact = _p.Family is DataFamily.Exact or DataFamily.OneHot;
        if (exact) want = Rounded(want);
        Comparison worst = Comparison.Rows(_p.OfChecked(Download(_out, new HostTensor(_p.Output.DType, _p.Output.Shape, _p.Padding))), want, _p.Q.Shape[2], exact ? 0 : Gate(), "out", _p.Checked);
        if (_lse is not null) worst = Comparison.Worst(worst, CompareSums(_lse, _p.Want.LogSumExp, "lse"));
        if (_past is not null) worst = Comparison.Worst(worst, CompareSums(_past, _p.Want.PastLogSumExp, "past_lse"));
        return _probability is null || !_p.ChecksAll ? worst : Comparison.Worst(worst, CompareProbability());
    }

    public override byte[] Outputs()
    {
        List<double> values = [.. Download(_out, new HostTensor(_p.Output.DType, _p.Output.Shape, _p.Padding)).ToDoubles()];
        if (_lse is not null) values.AddRange(Download(_lse, NewSums()).ToDoubles());
        if (_past is not null) values.AddRange(Download(_past, NewSums()).ToDoubles());
        if (_probability is not null)
        {
            HostTensor got = DownloadProbability();
            _p.Cache.ForEachSlot((b, h, slot) => values.Add(got[b, h, slot]));
        }
        return MemoryMarshal.AsBytes(CollectionsMarshal.AsSpan(values)).ToArray();
    }

    private TensorView Optional(HostTensor? tensor) => tensor is null ? default : Own(tensor.Upload(_device)).View;

    private TensorView MakePlan()
    {
        DeviceTensor<int> plan = Own(_device.Allocate<int>(_op.PlanWords(_device)));
        Poisons.Fill(plan.Buffer, _poison);
        if (_p.Plan == "device")
        {
            _op.PlanOnDevice(_device, plan);
            _device.Synchronize();
            return plan;
        }
        int[] words = plan.ToArray(), lengths = [.. _p.Cache.Lengths.ToDoubles().Select(l => (int)l)];
        _op.PlanOnHost(_device, lengths, _p.Cache.Shape.Batch == 1 ? [] : _p.Rows, words);
        plan.CopyFrom(words);
        return plan;
    }

    /// <summary>Kernels that multiply 16-bit numbers: GPUs' tensor cores, and the bf16 dot products of some CPUs.</summary>
    private bool SixteenBit => _device.Id != "cpu" || _device.Isa is "avx512vnni" or "amx";

    /// <summary>fp32 sums everywhere; where 16-bit products are, the weights are rounded to the cache's type. Codes of a quantised cache meet q and the weights, their
    /// scales in them, as fp16 on tensor cores and as whole numbers of 16 bits on CPUs.</summary>
    private double Gate()
    {
        double gate = Gate(_p.Output.DType);
        if (!_p.Cache.Shape.IsPlain) gate = Math.Max(gate, _device.Id == "cpu" ? 5e-4 : 2e-3);
        return _p.Cache.Shape.IsPlain && SixteenBit ? Math.Max(gate, Gate(_p.Cache.Shape.Type)) : gate;
    }

    private static double Gate(DType type) => type switch { DType.F32 => 1e-5, DType.F16 => 6e-4, _ => 4.5e-3 };

    /// <summary>One rounding to fp32, one to the output type, as the op does.</summary>
    private double[] Rounded(double[] want) => new HostTensor(_p.Output.DType, [want.Length]).Fill(i => (float)want[i]).ToDoubles();

    private Comparison CompareSums(DeviceArray sums, double[] want, string name)
    {
        const double unit = 1.0 / (1 << 24);
        double[] got = Download(sums, NewSums()).ToDoubles();
        KvCacheShape shape = _p.Cache.Shape;
        // With 16-bit products a query that is finer than the cache is the sum of two of the cache's type.
        double query = !shape.IsPlain ? (_device.Id == "cpu" ? 1.0 / (1 << 14) : 1.0 / (1 << 12))
            : !SixteenBit || _p.Q.DType == shape.Type ? 0
            : shape.Type == DType.BF16 ? 1.0 / (1 << 17) : 1.0 / (1 << 21);
        var worst = new Comparison(0, 1e-6, "");
        foreach (long i in _p.Checked)
        {
            double score = ((((4 * Math.Sqrt(_p.Q.Shape[2])) + 3) * unit) + query) * _p.Want.LargestScore[i];
            double gate = score + (1e-6 * (1 + Math.Abs(want[i])));
            double error = got[i].Equals(want[i]) ? 0 : Math.Abs(got[i] - want[i]);
            worst = Comparison.Worst(worst, new Comparison(error, double.IsFinite(gate) ? gate : 0, $"{name} row {i}"));
        }
        return worst;
    }

    /// <summary>Each slot's sum; and what no length reaches must be as it was.</summary>
    private Comparison CompareProbability()
    {
        HostTensor got = DownloadProbability(), before = StartOfProbability();
        double relative = !_p.Cache.Shape.IsPlain || (SixteenBit && (_p.Cache.Shape.Type == DType.BF16 || _p.Output.DType == DType.BF16)) ? 1e-2 : 5e-4;
        var worst = new Comparison(0, 1, "");
        for (int b = 0; b < _p.Cache.Shape.Batch; b++)
        {
            for (int h = 0; h < _p.Cache.Shape.KvHeads; h++)
            {
                double[] want = _p.Want.KeyProbability[(b * _p.Cache.Shape.KvHeads) + h];
                for (int slot = 0; slot < got.Shape[2]; slot++)
                {
                    string where = $"key_probability [{b}, {h}, {slot}]";
                    if (slot >= want.Length)
                    {
                        bool same = got[b, h, slot].Equals(before[b, h, slot]);
                        worst = Comparison.Worst(worst, new Comparison(same ? 0 : 1, 0, where));
                        continue;
                    }
                    double given = _p.Probability == 1 ? before[b, h, slot] : 0;
                    double error = Math.Abs(got[b, h, slot] - given - want[slot]);
                    worst = Comparison.Worst(worst, new Comparison(error / ((relative * want[slot]) + (1e-6 * (1 + given))), 1, where));
                }
            }
        }
        return worst;
    }

    /// <summary>Key probabilities before a run: what they are added to, or poison.</summary>
    private HostTensor StartOfProbability()
    {
        HostTensor start = NewProbability();
        _p.Given.Bytes.CopyTo(start.Bytes);
        if (_p.Probability == 2) Poisons.Fill(start.Bytes, _poison);
        return start;
    }

    private HostTensor NewProbability() => new(DType.F32, _p.Given.Shape, padding: 1);

    private HostTensor DownloadProbability() => Download(_probability!, NewProbability());

    private HostTensor NewSums() => new(DType.F32, [_p.Q.Shape[0], _p.Q.Shape[1]]);

    private static HostTensor Download(DeviceArray array, HostTensor to)
    {
        to.Download(array);
        return to;
    }
}
