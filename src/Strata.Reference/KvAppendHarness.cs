// SPDX-License-Identifier: Apache-2.0
// kv_append for tests, verify and bench.

namespace Strata.Reference;

/// <summary>kv_append for tests, verify and bench. Keys: kv_heads, head_dim, tokens (new rows of each sequence; "/" between sequences), before (slots held
/// before, of the first KV head), uneven (slots that each KV head holds more than the one before), page_size, shared (1: pages hold all heads), dtype
/// (plain pools and tail), key, value, layout, rotation (see <see cref="KvCacheShape.With"/>), norms (type), bias (1: the cache has one), tail_table (0: by
/// sequence and head), input (type), padding (elements between rows), rope (none, interleaved, half) with the keys of
/// <see cref="RopeReference.Parameters"/>, position (of the first new token), positions (0: the cache keeps none).</summary>
public sealed class KvAppendHarness : OpHarness
{
    /// <inheritdoc/>
    public override string Op => "kv_append";

    /// <inheritdoc/>
    public override IReadOnlyList<DataFamily> Families => [DataFamily.Gaussian, DataFamily.Wide];

    /// <inheritdoc/>
    public override OpProblem Create(OpCase opCase, DataFamily family, int seed)
    {
        ArgumentNullException.ThrowIfNull(opCase);
        return new Problem(opCase, family, seed);
    }

    private sealed class Problem : OpProblem
    {
        private readonly KvCacheShape _shape;
        private readonly int[] _lengths, _rows, _held;
        private readonly int _seed;
        private readonly float[][] _heldRows;
        private readonly HostTensor _keys, _values, _positions, _offsets;
        private readonly HostTensor? _factors;
        private readonly HostKvCache _start;
        private readonly bool _storesPositions;
        private readonly RopeParameters _rope;

        public Problem(OpCase c, DataFamily family, int seed)
        {
            var random = new InputRandom(seed);
            int[] tokens = c.Ints("tokens", 1);
            int batch = tokens.Length, heads = c.Int("kv_heads", 1), width = c.Int("head_dim", 64), before = c.Int("before", 0), uneven = c.Int("uneven", 0);
            _rows = new int[batch + 1];
            for (int b = 0; b < batch; b++) _rows[b + 1] = _rows[b] + tokens[b];
            _shape = new KvCacheShape(c.DType("dtype", DType.F32), batch, heads, width, c.Int("page_size", 64), c.Int("shared", 0) != 0, c.Int("padding", 0))
            {
                Norms = c.DType("norms", DType.None),
                LogitBias = c.Int("bias", 0) != 0,
                TailTable = c.Int("tail_table", 1) != 0,
            }.With(c);
            _held = [.. Enumerable.Range(0, batch * heads).Select(i => before + (i % heads * uneven))];
            _lengths = [.. _held.Select((held, i) => held + tokens[i / heads])];
            _seed = seed;
            _heldRows = [.. _held.Select(held => Enumerable.Range(0, held * width).Select(_ => (float)random.Gaussian()).ToArray())];
            long[] rows = [_rows[batch], heads, width];
            int padding = c.Int("padding", 0);
            _keys = new HostTensor(c.DType("input", DType.F32), rows, padding).Fill(_ => random.Value(family));
            _values = new HostTensor(_keys.DType, rows, padding).Fill(_ => random.Value(family));
            _positions = new HostTensor(DType.I32, [_rows[batch]]).Fill(t => c.Int("position", before) + t);
            _offsets = new HostTensor(DType.I32, [batch + 1]).Fill(i => _rows[i]);
            _storesPositions = c.Int("positions", 1) != 0;
            _rope = RopeReference.Parameters(c, "rope", "none");
            _factors = RopeReference.Factors(c, _rope, width, random);
            _start = Cache(wanted: false);
        }

        public override long Bytes => (2 * _keys.DataBytes) + (long)(_keys.Shape[0] * _keys.Shape[1] * (_shape.KeyBytes + _shape.ValueBytes)) + _positions.DataBytes;

        public override double Operations => _rope.Mode == RopeMode.None ? 0 : 3.0 * _keys.Count;

        public override OpRun Bind(Device device, Poison poison) => new Bound(this, device, poison);

        /// <summary>The cache before the call, or as it should be afterwards; from one seed, so that both lie in the same pages.</summary>
        private HostKvCache Cache(bool wanted)
        {
            var cache = new HostKvCache(_shape, _lengths, new InputRandom(_seed));
            for (int i = 0; i < _held.Length; i++)
            {
                int b = i / _shape.KvHeads, h = i % _shape.KvHeads;
                cache.StoreKeys(b, h, wanted ? [.. _heldRows[i], .. NewRows(b, h, keys: true)] : _heldRows[i]);
                cache.StoreValues(b, h, wanted ? [.. _heldRows[i], .. NewRows(b, h, keys: false)] : _heldRows[i]);
            }
            foreach (KvAppendReference.Row row in wanted && _storesPositions ? KvAppendReference.Rows(cache, _rows) : [])
            {
                (long page, long head, long at) = cache.Locate(cache.PageTable, row.Sequence, row.Head, row.Slot);
                cache.Positions[page, head, at] = _positions[row.Token];
            }
            return cache;
        }

        private IEnumerable<float> NewRows(int b, int h, bool keys)
        {
            for (int token = _rows[b]; token < _rows[b + 1]; token++)
            {
                RopeParameters rope = keys ? _rope : default;
                foreach (double x in KvAppendReference.Key(keys ? _keys : _values, new KvAppendReference.Row(b, token, h, 0), (long)_positions[token], rope, _factors)) yield return (float)x;
            }
        }

        private sealed class Bound : OpRun
        {
            private readonly Problem _p;
            private readonly Device _device;
            private readonly DeviceKvCache _cache;
            private readonly DeviceBuffer? _workspace;
            private readonly KvAppend _op;

            public Bound(Problem p, Device device, Poison poison)
            {
                (_p, _device) = (p, device);
                p._start.PoisonRest(poison, (b, h) => p._held[(b * p._shape.KvHeads) + h]);
                p._keys.PoisonPadding(poison);
                p._values.PoisonPadding(poison);
                _cache = Own(p._start.Upload(device));
                KvCache view = _cache.View;
                _op = new KvAppend
                {
                    Cache = p._storesPositions ? view : view with { Positions = default },
                    Keys = Own(p._keys.Upload(device)).View,
                    Values = Own(p._values.Upload(device)).View,
                    Positions = p._storesPositions || p._rope.Mode != RopeMode.None ? Own(p._positions.Upload(device)).View : default,
                    RowOffsets = p._shape.Batch == 1 ? default : Own(p._offsets.Upload(device)).View,
                    Rope = p._rope,
                    FrequencyFactors = p._factors is null ? default : Own(p._factors.Upload(device)).View,
                };
                _workspace = Workspace(device, _op.WorkspaceBytes(device));
            }

            public override void Run(StrataStream? stream = null) => _op.Run(_device, _workspace, stream);

            public override void Reset()
            {
                foreach ((HostTensor host, DeviceArray array) in KvAppendReference.Written(_p._start, _cache)) array.Buffer.CopyFrom(host.Bytes);
            }

            public override Comparison Compare() =>
                KvAppendReference.Compare(Download(), _p.Cache(wanted: true), _p._start, _p._rows, exact: _p._rope.Mode == RopeMode.None, _p._storesPositions);

            public override byte[] Outputs()
            {
                HostKvCache got = Download();
                var outputs = new List<double>();
                got.ForEachSlot((b, h, slot) =>
                {
                    (long page, long head, long at) = got.Locate(got.PageTable, b, h, slot);
                    for (int c = 0; c < _p._shape.HeadDim; c++) outputs.AddRange([got.Key(b, h, slot, c), got.Value(b, h, slot, c)]);
                    foreach (HostTensor? side in new[] { _p._storesPositions ? got.Positions : null, got.LogitBias, got.KeyNorms, got.ValueNorms }) outputs.Add(side is null ? 0 : side[page, head, at]);
                });
                return System.Runtime.InteropServices.MemoryMarshal.AsBytes(outputs.ToArray().AsSpan()).ToArray();
            }

            private HostKvCache Download()
            {
                var got = new HostKvCache(_p._shape, _p._lengths, new InputRandom(_p._seed));
                foreach ((HostTensor host, DeviceArray array) in KvAppendReference.Written(got, _cache)) host.Download(array);
                return got;
            }
        }
    }
}
