// SPDX-License-Identifier: Apache-2.0
// kv_select by a stable sort.

namespace Strata.Reference;

/// <summary>The oracle of <see cref="KvSelect"/>.</summary>
public static class KvSelectReference
{
    /// <summary>The slots of one head that stay, ascending.</summary>
    /// <param name="scores">Score of each slot; null: every score is equal.</param>
    /// <param name="length">Slots.</param>
    /// <param name="budget">Slots to keep.</param>
    /// <param name="protectFirst">Slots at the front that stay.</param>
    /// <param name="protectLast">Slots at the end that stay.</param>
    public static int[] Run(Func<int, double>? scores, int length, int budget, int protectFirst, int protectLast)
    {
        if (budget >= length) return [.. Enumerable.Range(0, length)];
        int first = Math.Min(protectFirst, length);
        int last = Math.Min(protectLast, length - first);
        int[] middle = [.. Enumerable.Range(first, length - first - last)];
        if (scores is not null) middle = [.. middle.OrderBy(slot => slot, Comparer<int>.Create((a, b) => Order(scores(a), scores(b))))]; // OrderBy is stable
        first = Math.Min(first, budget);
        last = Math.Min(last, budget - first);
        return [.. Enumerable.Range(0, first), .. middle[..(budget - first - last)].Order(), .. Enumerable.Range(length - last, last)];
    }

    // Higher first, NaN last; -0 and +0 are equal.
    private static int Order(double a, double b)
    {
        if (double.IsNaN(a) || double.IsNaN(b)) return double.IsNaN(a).CompareTo(double.IsNaN(b));
        return a > b ? -1 : a < b ? 1 : 0;
    }
}

/// <summary>kv_select for tests, verify and bench. Keys: batch, kv_heads, capacity, length (one, or one per head), budget (one, or one per head: then as a
/// tensor), first, last, scores (gaussian; few: three values; equal; special: NaN, infinities, zeros of both signs, denormals; none: absent), padding.</summary>
public sealed class KvSelectHarness : OpHarness
{
    /// <inheritdoc/>
    public override string Op => "kv_select";

    /// <inheritdoc/>
    public override IReadOnlyList<DataFamily> Families => [DataFamily.Gaussian];

    /// <inheritdoc/>
    public override OpProblem Create(OpCase opCase, DataFamily family, int seed)
    {
        ArgumentNullException.ThrowIfNull(opCase);
        return new Problem(opCase, seed);
    }

    private sealed class Problem : OpProblem
    {
        private static readonly double[] s_special =
            [double.NaN, double.NegativeInfinity, double.PositiveInfinity, 0.0, -0.0, float.Epsilon, -float.Epsilon, float.MaxValue, float.MinValue, 1, -1];

        private readonly HostTensor? _scores, _budgets;
        private readonly HostTensor _lengths;
        private readonly int[] _budget;
        private readonly int _first, _last, _capacity, _longest;
        private readonly Lazy<int[][]> _want;

        public Problem(OpCase c, int seed)
        {
            var random = new InputRandom(seed);
            long[] heads = [c.Int("batch", 1), c.Int("kv_heads", 3)];
            int rows = (int)(heads[0] * heads[1]);
            int[] lengths = c.Ints("length", 64);
            _budget = c.Ints("budget", 16);
            (_first, _last) = (c.Int("first", 0), c.Int("last", 0));
            _longest = lengths.Max();
            _capacity = c.Int("capacity", _longest);
            string kind = c.Text("scores", "gaussian");
            _lengths = new HostTensor(DType.I32, heads, c.Int("padding", 0)).Fill(i => lengths[i % lengths.Length]);
            _budgets = _budget.Length == 1 ? null : new HostTensor(DType.I32, heads, c.Int("padding", 0)).Fill(i => _budget[i % _budget.Length]);
            _scores = kind == "none" ? null : new HostTensor(DType.F32, [.. heads, _capacity], c.Int("padding", 0)).Fill(_ => kind switch
            {
                "gaussian" => random.Gaussian(),
                "few" => random.Integer(-1, 1),
                "equal" => 0.25,
                _ => s_special[random.Integer(0, s_special.Length - 1)],
            });
            _want = new Lazy<int[][]>(() => [.. Enumerable.Range(0, rows).Select(Select)]);
        }

        public override long Bytes => (_scores?.DataBytes ?? 0) + (_want.Value.Sum(row => (long)row.Length) * sizeof(int));

        public override double Operations => _scores?.Count ?? 0;

        public override OpRun Bind(Device device, Poison poison) => new Bound(this, device, poison);

        private int Length(int row) => (int)_lengths[row];

        private int Budget(int row) => _budget[row % _budget.Length];

        private int[] Select(int row)
        {
            long b = row / _lengths.Shape[1], h = row % _lengths.Shape[1];
            return KvSelectReference.Run(_scores is null ? null : slot => _scores[b, h, slot], Length(row), Budget(row), _first, _last);
        }

        private sealed class Bound : OpRun
        {
            private readonly Problem _p;
            private readonly Device _device;
            private readonly Poison _poison;
            private readonly HostTensor _kept, _counts;
            private readonly DeviceArray _keptOutput, _countsOutput;
            private readonly DeviceBuffer? _workspace;
            private readonly KvSelect _op;

            public Bound(Problem p, Device device, Poison poison)
            {
                (_p, _device, _poison) = (p, device, poison);
                PoisonUnread(poison);
                _kept = new HostTensor(DType.I32, [.. p._lengths.Shape, p._budget.Max()], padding: 2);
                _counts = new HostTensor(DType.I32, p._lengths.Shape);
                _keptOutput = Own(_kept.Upload(device));
                _countsOutput = Own(_counts.Upload(device));
                _op = new KvSelect
                {
                    Scores = p._scores is null ? default : Own(p._scores.Upload(device)).View,
                    Lengths = Own(p._lengths.Upload(device)).View,
                    Budgets = p._budgets is null ? default : Own(p._budgets.Upload(device)).View,
                    Kept = _keptOutput.View,
                    KeptCounts = _countsOutput.View,
                    Budget = p._budgets is null ? p._budget[0] : 0,
                    ProtectFirst = p._first,
                    ProtectLast = p._last,
                    MaxLength = p._scores is null || p._capacity < p._longest ? Math.Max(p._capacity, p._longest) : 0,
                };
                _workspace = Workspace(device, _op.WorkspaceBytes(device));
                Reset();
            }

            public override void Run(StrataStream? stream = null) => _op.Run(_device, _workspace, stream);

            public override void Reset()
            {
                Poisons.Fill(_keptOutput.Buffer, _poison);
                Poisons.Fill(_countsOutput.Buffer, _poison);
                if (_workspace is not null) Poisons.Fill(_workspace, _poison);
            }

            public override Comparison Compare()
            {
                int untouched = _poison == Poison.Nan ? -1 : 0x45454545;
                int[][] got = Rows();
                for (int row = 0; row < got.Length; row++)
                {
                    int[] want = _p._want.Value[row];
                    if (!got[row].AsSpan(0, Math.Min(got[row].Length, want.Length)).SequenceEqual(want)) return new Comparison(1, 0, $"row {row}");
                    if (got[row][want.Length..].Any(slot => slot != untouched)) return new Comparison(1, 0, $"row {row} past its {want.Length} slots");
                    if ((int)_counts[row] != want.Length) return new Comparison(1, 0, $"count of row {row}");
                }
                return new Comparison(0, 0, "");
            }

            public override byte[] Outputs()
            {
                int[] all = [.. Rows().SelectMany((row, i) => row.Take((int)_counts[i]).Prepend((int)_counts[i]))];
                return System.Runtime.InteropServices.MemoryMarshal.AsBytes(all.AsSpan()).ToArray();
            }

            private int[][] Rows()
            {
                _kept.Download(_keptOutput);
                _counts.Download(_countsOutput);
                long heads = _kept.Shape[1];
                return [.. Enumerable.Range(0, (int)_counts.Count).Select(row =>
                    Enumerable.Range(0, (int)_kept.Shape[2]).Select(i => (int)_kept[row / heads, row % heads, i]).ToArray())];
            }

            // Protected slots and slots past the end have no score that counts.
            private void PoisonUnread(Poison poison)
            {
                _p._lengths.PoisonPadding(poison);
                _p._budgets?.PoisonPadding(poison);
                if (_p._scores is null) return;
                _p._scores.PoisonPadding(poison);
                for (int row = 0; row < (int)_p._lengths.Count; row++)
                {
                    for (int slot = 0; slot < _p._capacity; slot++)
                    {
                        if (slot >= _p._first && slot < _p.Length(row) - _p._last) continue;
                        _p._scores[row / _p._lengths.Shape[1], row % _p._lengths.Shape[1], slot] = poison == Poison.Nan ? double.NaN : 1e30;
                    }
                }
            }
        }
    }
}
