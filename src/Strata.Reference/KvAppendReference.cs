// SPDX-License-Identifier: Apache-2.0
// kv_append in double, and its harness.

namespace Strata.Reference;

/// <summary>The oracle of <see cref="KvAppend"/>.</summary>
public static class KvAppendReference
{
    /// <summary>A row of a call: which token, which head, and the slot it goes to.</summary>
    /// <param name="Sequence">Sequence of the token.</param>
    /// <param name="Token">Row of the inputs.</param>
    /// <param name="Head">KV head.</param>
    /// <param name="Slot">Slot of the sequence and head.</param>
    public readonly record struct Row(int Sequence, int Token, int Head, int Slot);

    /// <summary>Row r of sequence b goes to slot <c>length[b,h] - (offsets[b+1] - r)</c>.</summary>
    /// <param name="cache">The cache, whose lengths count the new tokens.</param>
    /// <param name="rowOffsets">First row of each sequence, and the total.</param>
    public static IEnumerable<Row> Rows(HostKvCache cache, IReadOnlyList<int> rowOffsets)
    {
        ArgumentNullException.ThrowIfNull(cache);
        ArgumentNullException.ThrowIfNull(rowOffsets);
        for (int b = 0; b < cache.Shape.Batch; b++)
        {
            for (int token = rowOffsets[b]; token < rowOffsets[b + 1]; token++)
            {
                for (int h = 0; h < cache.Shape.KvHeads; h++) yield return new Row(b, token, h, cache.Length(b, h) - (rowOffsets[b + 1] - token));
            }
        }
    }

    /// <summary>The key of a row, turned by its position.</summary>
    /// <param name="keys">[tokens, kv_heads, head_dim].</param>
    /// <param name="row">Which one.</param>
    /// <param name="position">The token's position.</param>
    /// <param name="rope">The rotation.</param>
    public static double[] Key(HostTensor keys, Row row, long position, RopeParameters rope)
    {
        ArgumentNullException.ThrowIfNull(keys);
        var key = new double[keys.Shape[2]];
        for (int c = 0; c < key.Length; c++) key[c] = keys[row.Token, row.Head, c];
        RopeReference.Turn(key, position, rope);
        return key;
    }
}

/// <summary>kv_append for tests, verify and bench. Keys: kv_heads, head_dim, tokens (new rows of each sequence; "/" between sequences), before (slots held
/// before, of the first KV head), uneven (slots that each KV head holds more than the one before), page_size, shared (1: pages hold all heads), dtype
/// (cache), input (type), padding (elements between rows), rope (none, interleaved, half), dims, base, position (of the first new token), positions (0: the
/// cache keeps none).</summary>
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
        private readonly HostKvCache _cache;
        private readonly HostTensor _keys, _values, _positions, _offsets;
        private readonly int[] _rows;
        private readonly bool _storesPositions;
        private readonly RopeParameters _rope;

        public Problem(OpCase c, DataFamily family, int seed)
        {
            var random = new InputRandom(seed);
            int[] tokens = c.Ints("tokens", 1);
            int batch = tokens.Length, heads = c.Int("kv_heads", 1), width = c.Int("head_dim", 64), before = c.Int("before", 0), uneven = c.Int("uneven", 0);
            _rows = new int[batch + 1];
            for (int b = 0; b < batch; b++) _rows[b + 1] = _rows[b] + tokens[b];
            var shape = new KvCacheShape(c.DType("dtype", DType.F32), batch, heads, width, c.Int("page_size", 64), c.Int("shared", 0) != 0, c.Int("padding", 0));
            _cache = new HostKvCache(shape, [.. tokens.SelectMany(t => Enumerable.Range(0, heads).Select(h => before + (h * uneven) + t))], random);
            _cache.FillKeys((_, _, _, _) => random.Gaussian()).FillValues((_, _, _, _) => random.Gaussian());
            long[] rows = [_rows[batch], heads, width];
            _keys = new HostTensor(c.DType("input", DType.F32), rows, shape.Padding).Fill(_ => random.Value(family));
            _values = new HostTensor(_keys.DType, rows, shape.Padding).Fill(_ => random.Value(family));
            _positions = new HostTensor(DType.I32, [_rows[batch]]).Fill(t => c.Int("position", before) + t);
            _offsets = new HostTensor(DType.I32, [batch + 1]).Fill(i => _rows[i]);
            _storesPositions = c.Int("positions", 1) != 0;
            _rope = new RopeParameters { Mode = Enum.Parse<RopeMode>(c.Text("rope", "none"), ignoreCase: true), Dims = c.Int("dims", 0), Base = c.Float("base", 0) };
        }

        public override long Bytes => (2 * _keys.DataBytes) + (2 * _keys.Count * _cache.Shape.Type.Size()) + _positions.DataBytes;

        public override double Operations => _rope.Mode == RopeMode.None ? 0 : 3.0 * _keys.Count;

        public override OpRun Bind(Device device, Poison poison) => new Bound(this, device, poison);

        private sealed class Bound : OpRun
        {
            private readonly Problem _p;
            private readonly Device _device;
            private readonly DeviceKvCache _cache;
            private readonly DeviceBuffer? _workspace;
            private readonly KvAppend _op;
            private readonly byte[] _keysBefore, _valuesBefore, _positionsBefore;

            public Bound(Problem p, Device device, Poison poison)
            {
                (_p, _device) = (p, device);
                p._cache.PoisonRest(poison);
                p._keys.PoisonPadding(poison);
                p._values.PoisonPadding(poison);
                _cache = Own(p._cache.Upload(device));
                _keysBefore = p._cache.Keys.Bytes.ToArray();
                _valuesBefore = p._cache.Values.Bytes.ToArray();
                _positionsBefore = p._cache.Positions.Bytes.ToArray();
                KvCache view = _cache.View;
                _op = new KvAppend
                {
                    Cache = p._storesPositions ? view : view with { Positions = default },
                    Keys = Own(p._keys.Upload(device)).View,
                    Values = Own(p._values.Upload(device)).View,
                    Positions = p._storesPositions || p._rope.Mode != RopeMode.None ? Own(p._positions.Upload(device)).View : default,
                    RowOffsets = p._cache.Shape.Batch == 1 ? default : Own(p._offsets.Upload(device)).View,
                    Rope = p._rope,
                };
                _workspace = Workspace(device, _op.WorkspaceBytes(device));
                Reset();
            }

            public override void Run(StrataStream? stream = null) => _op.Run(_device, _workspace, stream);

            public override void Reset()
            {
                _cache.Keys.Buffer.CopyFrom(_keysBefore);
                _cache.Values.Buffer.CopyFrom(_valuesBefore);
                _cache.Positions.Buffer.CopyFrom(_positionsBefore);
            }

            /// <summary>Keys normwise; values, positions, and every byte that is not a new slot, exactly.</summary>
            public override Comparison Compare()
            {
                DType type = _p._cache.Shape.Type;
                int width = _p._cache.Shape.HeadDim;
                HostTensor keys = Download(_p._cache.Keys, _cache.Keys), values = Download(_p._cache.Values, _cache.Values), positions = Download(_p._cache.Positions, _cache.Positions);
                byte[] keyRest = keys.Bytes.ToArray(), valueRest = values.Bytes.ToArray(), positionRest = positions.Bytes.ToArray();
                // fp32: angles right to 1e-7 and three roundings; the 16-bit types round once more.
                var worst = new Comparison(0, type switch { DType.F32 => 1e-6, DType.F16 => 4e-4, _ => 3.2e-3 }, "");
                foreach (KvAppendReference.Row row in KvAppendReference.Rows(_p._cache, _p._rows))
                {
                    (long page, long head, long at) = _p._cache.Locate(_p._cache.PageTable, row.Sequence, row.Head, row.Slot);
                    double[] got = Row(keys, page, head, at, width), want = KvAppendReference.Key(_p._keys, row, (long)_p._positions[row.Token], _p._rope);
                    string where = $"token {row.Token}, head {row.Head}";
                    worst = Comparison.Worst(worst, Comparison.Rows(got, want, width, worst.Gate, "keys") with { Where = $"keys of {where}" });
                    HostTensor value = new HostTensor(type, [width]).Fill(c => _p._values[row.Token, row.Head, c]);
                    worst = Comparison.Worst(worst, Exactly(Row(values, page, head, at, width).SequenceEqual(value.ToDoubles()), $"values of {where}"));
                    if (_p._storesPositions) worst = Comparison.Worst(worst, Exactly(positions[page, head, at] == _p._positions[row.Token], $"position of {where}"));
                    Restore(keyRest, _keysBefore, keys, page, head, at, width);
                    Restore(valueRest, _valuesBefore, values, page, head, at, width);
                    if (_p._storesPositions) Restore(positionRest, _positionsBefore, positions, page, head, at, 1);
                }
                bool untouched = keyRest.AsSpan().SequenceEqual(_keysBefore) && valueRest.AsSpan().SequenceEqual(_valuesBefore) && positionRest.AsSpan().SequenceEqual(_positionsBefore);
                return Comparison.Worst(worst, Exactly(untouched, "what no row goes to"));
            }

            public override byte[] Outputs()
            {
                int width = _p._cache.Shape.HeadDim;
                HostTensor keys = Download(_p._cache.Keys, _cache.Keys), values = Download(_p._cache.Values, _cache.Values), positions = Download(_p._cache.Positions, _cache.Positions);
                var outputs = new List<double>();
                _p._cache.ForEachSlot((b, h, slot) =>
                {
                    (long page, long head, long at) = _p._cache.Locate(_p._cache.PageTable, b, h, slot);
                    outputs.AddRange(Row(keys, page, head, at, width));
                    outputs.AddRange(Row(values, page, head, at, width));
                    outputs.Add(positions[page, head, at]);
                });
                return System.Runtime.InteropServices.MemoryMarshal.AsBytes(outputs.ToArray().AsSpan()).ToArray();
            }

            private static Comparison Exactly(bool equal, string where) => new(equal ? 0 : 1, 0, where);

            private static double[] Row(HostTensor pool, long page, long head, long at, int width) => [.. Enumerable.Range(0, width).Select(c => pool[page, head, at, c])];

            /// <summary>Undoes one row, so that what is left can be compared with what was there before.</summary>
            private static void Restore(byte[] bytes, byte[] before, HostTensor pool, long page, long head, long at, int width)
            {
                int size = pool.DType.Size();
                int from = checked((int)(((page * pool.Stride[0]) + (head * pool.Stride[1]) + (at * pool.Stride[2])) * size));
                before.AsSpan(from, width * size).CopyTo(bytes.AsSpan(from));
            }

            private HostTensor Download(HostTensor like, DeviceArray array)
            {
                var got = new HostTensor(like.DType, like.Shape, like.Shape.Length == 4 ? _p._cache.Shape.Padding : 0);
                got.Download(array);
                return got;
            }
        }
    }
}
