// SPDX-License-Identifier: Apache-2.0
// kv_attention's harness: the inputs of a case.

namespace Strata.Reference;

/// <summary>What a problem of <see cref="KvAttentionHarness"/> is made of, for other libraries that compute the same.</summary>
public interface IKvAttentionInputs
{
    /// <summary>Queries [tokens, q_heads, head_dim].</summary>
    HostTensor Q { get; }

    /// <summary>The cache.</summary>
    HostKvCache Cache { get; }

    /// <summary>Factor of q k; 0 = 1 / √head_dim.</summary>
    float Scale { get; }

    /// <summary>Compares another library's output with the oracle.</summary>
    /// <param name="output">[tokens, q_heads, head_dim].</param>
    /// <param name="gate">The largest error that passes, of each row that is compared.</param>
    Comparison Compare(HostTensor output, double gate);
}

/// <summary>kv_attention for tests, verify and bench. Keys: q_heads, kv_heads, head_dim, length (of each sequence; "/" between sequences), uneven (slots
/// that each KV head has fewer than the one before), tokens (query rows, likewise; absent: 1 each), page_size, shared (1: pages hold all heads), dtype (plain pools and
/// the tail of block formats), key, value (plain, i8, f8, i8b, i4b), layout (rows, tiled, swizzled), rotation, q, out (types), causal, lse, scale, padding (elements between
/// rows of cache and output), max_length (1: tell the op), window, sinks (of the window), softcap, alibi, sink_logits, bias, past (1: with it), probability (1: added to what is
/// there, 2: stored), plan (host, device), invariant (1).</summary>
public sealed class KvAttentionHarness : OpHarness
{
    // Softer caps leave weights beside the needle's that fp32 can see.
    private const float HardCap = 100;

    /// <inheritdoc/>
    public override string Op => "kv_attention";

    /// <inheritdoc/>
    public override IReadOnlyList<DataFamily> Families => [DataFamily.Gaussian, DataFamily.Wide, DataFamily.Needle, DataFamily.Exact, DataFamily.OneHot];

    /// <inheritdoc/>
    public override IReadOnlyList<DataFamily> FamiliesOf(OpCase opCase)
    {
        ArgumentNullException.ThrowIfNull(opCase);
        return [.. Families.Where(family => family switch
        {
            // A mean is not exact in fp32, so turning it back is not either.
            DataFamily.Exact => opCase.Int("rotation", 0) == 0,
            DataFamily.OneHot => opCase.Float("softcap", HardCap) >= HardCap && (opCase.Int("rotation", 0) == 0 || CopiesExactly(opCase)),
            _ => true,
        })];
    }

    /// <inheritdoc/>
    public override OpProblem Create(OpCase opCase, DataFamily family, int seed)
    {
        ArgumentNullException.ThrowIfNull(opCase);
        return new KvAttentionProblem(opCase, family, seed);
    }

    /// <summary>Whether every row sees the needle, and its value survives being turned and turned back: plain, and √points a power of two.</summary>
    private static bool CopiesExactly(OpCase c) =>
        c.Int("rotation", 0) is 16 or 64 or 256 && c.Text("value", "plain") == "plain" && c.Int("window", 0) == 0 && (c.Int("causal", 1) == 0 || c.Ints("tokens", 1).Max() <= 1);
}

/// <summary>A case of kv_attention with its inputs.</summary>
internal sealed class KvAttentionProblem : OpProblem, IKvAttentionInputs
{
    // What the oracle does in a fraction of a second; every case for tests is far below.
    private const double MostOperations = 2e8;
    private const long LeastRows = 8;
    private const long FewElements = 1 << 20;
    private const int StripPlaces = 1 << 14;

    private readonly Lazy<KvAttentionResult> _want;
    private readonly float _scale;

    public KvAttentionProblem(OpCase c, DataFamily family, int seed)
    {
        var random = new InputRandom(seed);
        int[] lengths = c.Ints("length", 128);
        int batch = lengths.Length, heads = c.Int("kv_heads", 1), width = c.Int("head_dim", 64), uneven = c.Int("uneven", 0);
        int[] tokens = c.Ints("tokens", [.. lengths.Select(_ => 1)]);
        Family = family;
        Padding = c.Int("padding", 0);
        _scale = c.Float("scale", 0);
        Rows = new int[batch + 1];
        for (int b = 0; b < batch; b++) Rows[b + 1] = Rows[b] + tokens[b];
        KvCacheShape shape = new KvCacheShape(c.DType("dtype", DType.F32), batch, heads, width, c.Int("page_size", 64), c.Int("shared", 0) != 0, Padding).With(c);
        Cache = new HostKvCache(shape with { LogitBias = c.Int("bias", 0) != 0 }, [.. lengths.SelectMany(l => Enumerable.Range(0, heads).Select(h => Math.Max(0, l - (h * uneven))))], random);
        MaxLength = c.Int("max_length", 0) != 0 ? Cache.MaxLength : 0;
        long[] rows = [Rows[batch], c.Int("q_heads", heads), width];
        Q = new HostTensor(c.DType("q", DType.F32), rows);
        Output = new HostTensor(c.DType("out", DType.F32), rows, Padding);
        Offsets = new HostTensor(DType.I32, [batch + 1]).Fill(i => Rows[i]);
        (LogSumExp, Past, Probability) = (c.Int("lse", 0) != 0, c.Int("past", 0) != 0, c.Int("probability", 0));
        (Plan, BatchInvariant) = (c.Text("plan", ""), c.Int("invariant", 0) != 0);
        Settings = new KvAttentionSettings
        {
            Causal = c.Int("causal", 1) != 0,
            Scale = _scale,
            SoftCap = c.Float("softcap", 0),
            Window = c.Int("window", 0),
            WindowSinks = c.Int("sinks", 0),
            AlibiSlopes = c.Int("alibi", 0) != 0 ? new HostTensor(DType.F32, [rows[1]]) : null,
            SinkLogits = c.Int("sink_logits", 0) != 0 ? new HostTensor(DType.F32, [rows[1]]) : null,
        };
        Fill(random);
        // Room for more slots than there are: what no length reaches must stay.
        Given = new HostTensor(DType.F32, [batch, heads, (Cache.MaxPages * shape.PageSize) + 3], padding: 1).Fill(_ => random.Integer(0, 64) / 8.0);
        // The oracle is slow: of a large problem it computes rows from the first to the last, spread over all heads and tokens.
        long count = Q.Shape[0] * Q.Shape[1], most = Math.Clamp((long)(MostOperations * count / Math.Max(1, Operations)), Math.Min(count, LeastRows), count);
        Checked = [.. Enumerable.Range(0, (int)most).Select(i => most == 1 ? 0 : (count - 1) * i / (most - 1))];
        ChecksAll = most == count;
        _want = new Lazy<KvAttentionResult>(() => KvAttentionReference.Run(Q, Cache, Rows, Settings, ChecksAll ? null : Checked.ToHashSet()));
    }

    public DataFamily Family { get; }

    public HostKvCache Cache { get; }

    public HostTensor Q { get; }

    public HostTensor Output { get; }

    public HostTensor Offsets { get; }

    /// <summary>What key_probability holds before the call [batch, kv_heads, more than any length].</summary>
    public HostTensor Given { get; }

    /// <summary>First query row of each sequence, and the total.</summary>
    public int[] Rows { get; }

    /// <summary>Rows that are compared.</summary>
    public long[] Checked { get; }

    /// <summary>Whether that is all of them.</summary>
    public bool ChecksAll { get; }

    public KvAttentionSettings Settings { get; }

    public int Padding { get; }

    public int MaxLength { get; }

    public bool LogSumExp { get; }

    public bool Past { get; }

    /// <summary>0: not wanted; 1: added; 2: stored.</summary>
    public int Probability { get; }

    /// <summary>Where the plan is made: "", "host" or "device".</summary>
    public string Plan { get; }

    public bool BatchInvariant { get; }

    public KvAttentionResult Want => _want.Value;

    public override long Bytes => Cache.LiveKeyBytes + Cache.LiveValueBytes + Q.DataBytes + Output.DataBytes;

    public override Roof Roof => Cache.Shape is { IsPlain: true, Type: DType.BF16 } ? Roof.Bf16 : Roof.Fp32;

    public override double Operations
    {
        get
        {
            double seen = 0;
            for (int b = 0; b < Cache.Shape.Batch; b++)
            {
                int rows = Rows[b + 1] - Rows[b];
                for (int h = 0; h < Cache.Shape.KvHeads; h++)
                {
                    int length = Cache.Length(b, h);
                    for (int r = 0; r < rows; r++) seen += Seen(Settings.Visible(length, rows, r));
                }
            }
            return 4 * seen * (Q.Shape[1] / Cache.Shape.KvHeads) * Cache.Shape.HeadDim;
        }
    }

    float IKvAttentionInputs.Scale => _scale;

    Comparison IKvAttentionInputs.Compare(HostTensor output, double gate) => Comparison.Rows(OfChecked(output), OfChecked(Want.Output), Q.Shape[2], gate, "out", Checked);

    public override OpRun Bind(Device device, Poison poison) => new KvAttentionRun(this, device, poison);

    /// <summary>The rows that are compared, one after the other.</summary>
    public double[] OfChecked(double[] all)
    {
        int width = (int)Q.Shape[2];
        return [.. Checked.SelectMany(row => new ArraySegment<double>(all, (int)(row * width), width))];
    }

    /// <summary>The rows that are compared, one after the other.</summary>
    public double[] OfChecked(HostTensor all)
    {
        long heads = Q.Shape[1], width = Q.Shape[2];
        var values = new double[Checked.Length * width];
        for (int i = 0; i < Checked.Length; i++)
        {
            for (long d = 0; d < width; d++) values[(i * width) + d] = all[Checked[i] / heads, Checked[i] % heads, d];
        }
        return values;
    }

    private int Seen(int visible)
    {
        if (Settings.Window == 0 || Settings.Window >= visible) return visible;
        return Settings.Window + Math.Min(Settings.WindowSinks, visible - Settings.Window);
    }

    private void Fill(InputRandom random)
    {
        int width = Cache.Shape.HeadDim;
        double sign(int d) => (d * 7 % 11) % 2 == 0 ? 1 : -1;
        // Beside the needle every weight is below fp32's reach, so that the needle's value comes out bit for bit. ±127.5 are 255 and 15 whole steps apart.
        double factor = _scale == 0 ? 1 / Math.Sqrt(width) : _scale;
        double sharp = Math.Ceiling(Math.Max(16, 100 / (width * factor))), soft = 12 / (width * factor);
        if (!Cache.Shape.IsPlain) sharp = 127.5 * Math.Ceiling(sharp / 127.5);
        var needles = new Dictionary<(int, int), int>();
        int Needle(int b, int h)
        {
            if (!needles.TryGetValue((b, h), out int slot)) needles[(b, h)] = slot = AtRisk(Cache.Length(b, h), random);
            return slot;
        }
        switch (Family)
        {
            case DataFamily.Exact: // equal scores: the exact mean of whole numbers
                Cache.FillKeys((_, _, _, _) => random.Gaussian()).FillValues((_, _, slot, d) => Whole(slot, d, random));
                break;
            case DataFamily.OneHot:
                Q.Fill(i => sign((int)(i % width)));
                Cache.FillKeys((b, h, slot, d) => (slot == Needle(b, h) ? sharp : -sharp) * sign(d)).FillValues((_, _, slot, d) => Whole(slot, d, random));
                break;
            case DataFamily.Needle:
                Q.Fill(i => sign((int)(i % width)) + (0.25 * random.Gaussian()));
                Cache.FillKeys((b, h, slot, d) => slot == Needle(b, h) ? soft * sign(d) : random.Gaussian()).FillValues((_, _, _, _) => random.Gaussian());
                break;
            case DataFamily.Gaussian when Cache.Keys.Count > FewElements && Cache.Shape.IsPlain && Cache.Shape.Rotation == 0:
                Q.FillWithPieces(random);
                Cache.Keys.FillWithPieces(random);
                Cache.Values.FillWithPieces(random);
                break;
            case DataFamily.Gaussian when Cache.Keys.Count > FewElements:
                Q.FillWithPieces(random);
                Cache.FillKeys(Pieces(random)).FillValues(Pieces(random));
                break;
            default:
                Q.Fill(_ => random.Gaussian());
                Cache.FillKeys((_, _, _, _) => random.Value(Family)).FillValues((_, _, _, _) => random.Gaussian());
                break;
        }
        // Biases that differ would spoil equal scores, and a sink beside the needle its copy.
        bool exact = Family is DataFamily.Exact or DataFamily.OneHot;
        if (Cache.LogitBias is not null) Cache.FillBias((_, _, _) => exact ? 0 : random.Gaussian());
        Settings.AlibiSlopes?.Fill(head => exact ? 0 : Math.Pow(2, -(1 + (head % 8))));
        Settings.SinkLogits?.Fill(_ => Family switch { DataFamily.Exact => 0, DataFamily.OneHot => -10000, _ => random.Gaussian() });
    }

    /// <summary>A whole number of a value that its format stores exactly: a row or group that spans all codes has steps of 1.</summary>
    private double Whole(int slot, int channel, InputRandom random)
    {
        int of = Cache.Shape.ValueFormat.IsBlockScaled() ? Math.Min(KvCache.BlockSlots, Cache.Shape.HeadDim - (channel / KvCache.BlockSlots * KvCache.BlockSlots)) : Cache.Shape.HeadDim;
        int high = slot % of, low = (slot + 1) % of, at = channel % (Cache.Shape.ValueFormat.IsBlockScaled() ? KvCache.BlockSlots : Cache.Shape.HeadDim);
        return Cache.Shape.ValueFormat switch
        {
            KvFormat.I8 when at == high => 127,
            KvFormat.F8 when at == high => 448,
            KvFormat.I8Block when at == high => 247,
            KvFormat.I4Block when at == high => 7,
            KvFormat.I8Block or KvFormat.I4Block when at == low => -8,
            KvFormat.I4Block => random.Integer(-8, 7),
            _ => random.Integer(-8, 8),
        };
    }

    /// <summary>Rows that are pieces of one strip of Gaussian values: as good as fresh values to time with, and much sooner there.</summary>
    private static Func<int, int, int, int, double> Pieces(InputRandom random)
    {
        double[] strip = [.. Enumerable.Range(0, StripPlaces + 512).Select(_ => random.Gaussian())];
        int start = 0;
        return (_, _, _, channel) =>
        {
            if (channel == 0) start = random.Integer(0, StripPlaces);
            return strip[start + channel];
        };
    }

    /// <summary>First, last, and the edges of pages, tiles and ranges.</summary>
    private int AtRisk(int length, InputRandom random)
    {
        int page = Cache.Shape.PageSize;
        int[] slots = [.. new[] { 0, length - 1, page - 1, page, 31, 32, 63, 64, 127, 128, 255, 256 }.Where(s => s >= 0 && s < length)];
        return slots.Length == 0 ? 0 : slots[random.Integer(0, slots.Length - 1)];
    }
}
