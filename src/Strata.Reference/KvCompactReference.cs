// SPDX-License-Identifier: Apache-2.0
// kv_compact by copies from an untouched original.

namespace Strata.Reference;

/// <summary>The oracle of <see cref="KvCompact"/>.</summary>
public static class KvCompactReference
{
    /// <summary>Calls an action with every (source, destination) of a compaction: places of slot <c>kept[i]</c> and slot i.</summary>
    /// <param name="cache">The cache.</param>
    /// <param name="kept">Slots of each (sequence, KV head), ascending.</param>
    /// <param name="toTable">Destination's pages; the cache's own in place.</param>
    /// <param name="move">Takes source and destination: page, head in the page, slot in the page.</param>
    public static void ForEachMove(HostKvCache cache, int[][] kept, HostTensor toTable, Action<(long Page, long Head, long Slot), (long Page, long Head, long Slot)> move)
    {
        ArgumentNullException.ThrowIfNull(cache);
        ArgumentNullException.ThrowIfNull(kept);
        ArgumentNullException.ThrowIfNull(move);
        for (int row = 0; row < kept.Length; row++)
        {
            int b = row / cache.Shape.KvHeads, h = row % cache.Shape.KvHeads;
            for (int i = 0; i < kept[row].Length; i++) move(cache.Locate(cache.PageTable, b, h, kept[row][i]), cache.Locate(toTable, b, h, i));
        }
    }

    /// <summary>The bytes of a pool after the compaction.</summary>
    /// <param name="pool">Keys, values or a side array as they were.</param>
    /// <param name="width">Elements of a slot.</param>
    /// <param name="cache">The cache.</param>
    /// <param name="kept">Slots of each (sequence, KV head), ascending.</param>
    /// <param name="toTable">Destination's pages; the cache's own in place.</param>
    public static byte[] Run(HostTensor pool, int width, HostKvCache cache, int[][] kept, HostTensor toTable)
    {
        ArgumentNullException.ThrowIfNull(pool);
        byte[] before = pool.Bytes.ToArray();
        byte[] after = pool.Bytes.ToArray();
        int bytes = width * pool.DType.Size();
        ForEachMove(cache, kept, toTable, (from, to) => before.AsSpan(Offset(pool, from), bytes).CopyTo(after.AsSpan(Offset(pool, to))));
        return after;
    }

    /// <summary>Byte offset of a slot in a pool.</summary>
    /// <param name="pool">The pool.</param>
    /// <param name="place">Page, head in the page, slot in the page.</param>
    public static int Offset(HostTensor pool, (long Page, long Head, long Slot) place)
    {
        ArgumentNullException.ThrowIfNull(pool);
        return checked((int)(((place.Page * pool.Stride[0]) + (place.Head * pool.Stride[1]) + (place.Slot * pool.Stride[2])) * pool.DType.Size()));
    }
}

/// <summary>kv_compact for tests, verify and bench. Keys: batch, kv_heads, head_dim, page_size, shared (pages of all heads), padding (elements between
/// rows), length (one, or one per KV head), keep (percent of the slots, at random), tail (slots at the end that are kept besides), dtype, norms (type of both), bias (1: the
/// cache has one), fresh (1: into fresh pages).</summary>
public sealed class KvCompactHarness : OpHarness
{
    /// <inheritdoc/>
    public override string Op => "kv_compact";

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
        private readonly HostKvCache _cache;
        private readonly int[][] _keptSlots;
        private readonly HostTensor _kept, _counts;
        private readonly bool _fresh;

        public Problem(OpCase c, int seed)
        {
            var random = new InputRandom(seed);
            int batch = c.Int("batch", 1), kvHeads = c.Int("kv_heads", 3), pageSize = c.Int("page_size", 64);
            int[] lengths = c.Ints("length", 64);
            int[] all = [.. Enumerable.Range(0, batch * kvHeads).Select(i => lengths[i % lengths.Length])];
            _fresh = c.Int("fresh", 0) != 0;
            var shape = new KvCacheShape(c.DType("dtype", DType.F16), batch, kvHeads, c.Int("head_dim", 64), pageSize, c.Int("shared", 0) != 0, c.Int("padding", 0))
            {
                Norms = c.DType("norms", DType.None),
                LogitBias = c.Int("bias", 0) != 0,
            };
            _cache = new HostKvCache(shape, all, random, _fresh ? (all.Max() + pageSize - 1) / pageSize : 0);
            _cache.FillKeys((_, _, _, _) => random.Integer(-999, 999)).FillValues((_, _, _, _) => random.Integer(-999, 999));
            if (shape.LogitBias) _cache.FillBias((_, _, _) => random.Gaussian());
            int keep = c.Int("keep", 25), tail = c.Int("tail", 0);
            _keptSlots = [.. all.Select(length => Enumerable.Range(0, length).Where(slot => slot >= length - tail || random.Integer(1, 100) <= keep).ToArray())];
            _kept = new HostTensor(DType.I32, [batch, kvHeads, Math.Max(1, all.Max())], padding: 1).Fill(i =>
            {
                int[] row = _keptSlots[i / Math.Max(1, all.Max())];
                long at = i % Math.Max(1, all.Max());
                return at < row.Length ? row[at] : -1;
            });
            _counts = new HostTensor(DType.I32, [batch, kvHeads]).Fill(i => _keptSlots[i].Length);
        }

        private HostTensor Destination => _fresh ? _cache.FreshTable : _cache.PageTable;

        public override long Bytes => 2 * 2 * Moved() * _cache.Shape.HeadDim * _cache.Shape.Type.Size();

        public override double Operations => 0;

        public override OpRun Bind(Device device, Poison poison) => new Bound(this, device, poison);

        private long Moved() => _keptSlots.Sum(row => row.Where((slot, i) => _fresh || slot != i).LongCount());

        private sealed class Bound : OpRun
        {
            private readonly Problem _p;
            private readonly Device _device;
            private readonly Poison _poison;
            private readonly DeviceKvCache _onDevice;
            private readonly HostTensor _newLengths;
            private readonly DeviceArray _lengthsOutput;
            private readonly DeviceBuffer? _workspace;
            private readonly KvCompact _op;

            public Bound(Problem p, Device device, Poison poison)
            {
                (_p, _device, _poison) = (p, device, poison);
                p._cache.PoisonRest(poison);
                _onDevice = Own(p._cache.Upload(device));
                _newLengths = new HostTensor(DType.I32, p._counts.Shape);
                _lengthsOutput = Own(_newLengths.Upload(device));
                _op = new KvCompact
                {
                    Cache = _onDevice.View,
                    Kept = Own(p._kept.Upload(device)).View,
                    KeptCounts = Own(p._counts.Upload(device)).View,
                    ToPageTable = p._fresh ? Own(p._cache.FreshTable.Upload(device)).View : default,
                    NewLengths = _lengthsOutput.View,
                };
                _workspace = Workspace(device, _op.WorkspaceBytes(device));
                Reset();
            }

            public override void Run(StrataStream? stream = null) => _op.Run(_device, _workspace, stream);

            public override void Reset()
            {
                foreach ((_, HostTensor pool, DeviceArray array, _) in Pools()) array.Buffer.CopyFrom(pool.Bytes);
                Poisons.Fill(_lengthsOutput.Buffer, _poison);
                if (_workspace is not null) Poisons.Fill(_workspace, _poison);
            }

            public override Comparison Compare()
            {
                foreach ((string name, HostTensor pool, DeviceArray array, int width) in Pools())
                {
                    var got = new byte[pool.Bytes.Length];
                    array.Buffer.CopyTo(got);
                    int difference = got.AsSpan().CommonPrefixLength(KvCompactReference.Run(pool, width, _p._cache, _p._keptSlots, _p.Destination));
                    if (difference < got.Length) return new Comparison(1, 0, $"{name} byte {difference}");
                }
                _newLengths.Download(_lengthsOutput);
                bool same = Enumerable.Range(0, _p._keptSlots.Length).All(row => (int)_newLengths[row] == _p._keptSlots[row].Length);
                return same ? new Comparison(0, 0, "") : new Comparison(1, 0, "new_lengths");
            }

            public override byte[] Outputs()
            {
                var bytes = new List<byte>();
                foreach ((_, HostTensor pool, DeviceArray array, int width) in Pools())
                {
                    var got = new byte[pool.Bytes.Length];
                    array.Buffer.CopyTo(got);
                    KvCompactReference.ForEachMove(_p._cache, _p._keptSlots, _p.Destination, (_, to) =>
                        bytes.AddRange(got.AsSpan(KvCompactReference.Offset(pool, to), width * pool.DType.Size())));
                }
                return [.. bytes];
            }

            private IEnumerable<(string Name, HostTensor Pool, DeviceArray Array, int Width)> Pools()
            {
                yield return ("keys", _p._cache.Keys, _onDevice.Keys, _p._cache.Shape.HeadDim);
                yield return ("values", _p._cache.Values, _onDevice.Values, _p._cache.Shape.HeadDim);
                yield return ("positions", _p._cache.Positions, _onDevice.Positions, 1);
                if (_p._cache.LogitBias is { } bias) yield return ("logit_bias", bias, _onDevice.LogitBias!, 1);
                if (_p._cache.KeyNorms is { } keyNorms) yield return ("key_norms", keyNorms, _onDevice.KeyNorms!, 1);
                if (_p._cache.ValueNorms is { } valueNorms) yield return ("value_norms", valueNorms, _onDevice.ValueNorms!, 1);
            }
        }
    }
}
