// SPDX-License-Identifier: Apache-2.0
// kv_append as HostKvCache stores rows, and how a cache is compared with what it should hold.

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
            for (int h = 0; h < cache.Shape.KvHeads; h++)
            {
                for (int token = rowOffsets[b]; token < rowOffsets[b + 1]; token++) yield return new Row(b, token, h, cache.Length(b, h) - (rowOffsets[b + 1] - token));
            }
        }
    }

    /// <summary>The key of a row, turned by its position.</summary>
    /// <param name="keys">[tokens, kv_heads, head_dim].</param>
    /// <param name="row">Which one.</param>
    /// <param name="position">The token's position.</param>
    /// <param name="rope">The rotation.</param>
    /// <param name="factors">Divisors of the frequencies, or null.</param>
    public static double[] Key(HostTensor keys, Row row, long position, RopeParameters rope, HostTensor? factors = null)
    {
        ArgumentNullException.ThrowIfNull(keys);
        var key = new double[keys.Shape[2]];
        for (int c = 0; c < key.Length; c++) key[c] = keys[row.Token, row.Head, c];
        RopeReference.Turn(key, position, rope, factors);
        return key;
    }

    /// <summary>Everything of a cache that a call may write, on the host and on a device.</summary>
    /// <param name="host">One.</param>
    /// <param name="device">The other.</param>
    public static IEnumerable<(HostTensor Host, DeviceArray Device)> Written(HostKvCache host, DeviceKvCache device)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(device);
        return new (HostTensor? Host, DeviceArray? Device)[]
        {
            (host.Keys, device.Keys), (host.Values, device.Values), (host.Positions, device.Positions), (host.LogitBias, device.LogitBias), (host.KeyNorms, device.KeyNorms),
            (host.ValueNorms, device.ValueNorms), (host.KeyScales, device.KeyScales), (host.ValueScales, device.ValueScales), (host.KeyTail, device.KeyTail),
        }.Where(pair => pair.Host is not null).Select(pair => (pair.Host!, pair.Device!));
    }

    /// <summary>Compares every number that a call writes with what it should be, and every bit that it does not write with what was there before.</summary>
    /// <param name="got">The cache after the call; changed by the comparison.</param>
    /// <param name="want">The cache as it should be.</param>
    /// <param name="start">The cache before the call.</param>
    /// <param name="rowOffsets">First row of each sequence, and the total.</param>
    /// <param name="exact">Whether stored numbers must be equal (nothing was rounded before they were quantised); norms never are.</param>
    /// <param name="positions">Whether the call writes positions.</param>
    public static Comparison Compare(HostKvCache got, HostKvCache want, HostKvCache start, IReadOnlyList<int> rowOffsets, bool exact, bool positions = true)
    {
        ArgumentNullException.ThrowIfNull(got);
        ArgumentNullException.ThrowIfNull(want);
        ArgumentNullException.ThrowIfNull(start);
        var check = new Check(got, want, start, exact);
        foreach (Row row in Rows(got, rowOffsets))
        {
            check.Keys(row, rowOffsets[row.Sequence + 1] - rowOffsets[row.Sequence]);
            check.Values(row);
            check.Sides(row, positions);
        }
        return check.Untouched();
    }

    private sealed class Check(HostKvCache got, HostKvCache want, HostKvCache start, bool exact)
    {
        private readonly KvCacheShape _shape = got.Shape;
        private Comparison _worst = new(0, 1, "");

        /// <summary>A row of a page or a token's codes; of the block formats the tail's row, and the whole block with its last slot.</summary>
        public void Keys(Row row, int rows)
        {
            (long Page, long Head, long Slot) place = got.Locate(got.PageTable, row.Sequence, row.Head, row.Slot);
            if (!_shape.KeyFormat.IsBlockScaled())
            {
                Numbers(got.KeyPool, want.KeyPool, start.KeyPool, place, c => (got.Key(row.Sequence, row.Head, row.Slot, c), want.Key(row.Sequence, row.Head, row.Slot, c)), _shape.KeyFormat, KeyStep(place), $"keys of {row}");
                if (_shape.KeyFormat != KvFormat.Plain) Scale(got.KeyScales!, want.KeyScales!, start.KeyScales!, place.Page, place.Head, place.Slot, 0, $"key scale of {row}");
                return;
            }
            int length = got.Length(row.Sequence, row.Head), block = KvCache.BlockSlots;
            if (row.Slot >= length - block)
            {
                long tail = got.Tail(row.Sequence, row.Head);
                PlainRow([.. Channels(c => got.KeyTail![tail, row.Slot % block, c])], [.. Channels(c => want.KeyTail![tail, row.Slot % block, c])], $"tail of {row}");
                start.KeyTail!.Row(tail, row.Slot % block).CopyTo(got.KeyTail!.Row(tail, row.Slot % block));
            }
            if (row.Slot % block != block - 1) return;
            for (int slot = row.Slot - block + 1; slot <= row.Slot; slot++)
            {
                (long Page, long Head, long Slot) of = got.Locate(got.PageTable, row.Sequence, row.Head, slot);
                int s = slot;
                Numbers(got.KeyPool, want.KeyPool, start.KeyPool, of, c => (got.Key(row.Sequence, row.Head, s, c), want.Key(row.Sequence, row.Head, s, c)), _shape.KeyFormat, KeyStep(of), $"keys of slot {slot} in the block of {row}");
            }
            for (int c = 0; c < 2 * _shape.HeadDim; c++) Scale(got.KeyScales!, want.KeyScales!, start.KeyScales!, place.Page, place.Head, place.Slot / block, c, $"key scale {c} of the block of {row}");
        }

        public void Values(Row row)
        {
            (long Page, long Head, long Slot) place = got.Locate(got.PageTable, row.Sequence, row.Head, row.Slot);
            // Values are not turned: nothing rounds in front of their codes, but for the Hadamard transform, which has one order.
            Numbers(got.ValuePool, want.ValuePool, start.ValuePool, place, null, _shape.ValueFormat, null, $"values of {row}");
            if (_shape.ValueFormat.IsTokenScaled()) Scale(got.ValueScales!, want.ValueScales!, start.ValueScales!, place.Page, place.Head, place.Slot, 0, $"value scale of {row}", always: true);
            for (int g = 0; g < 2 * _shape.ValueGroups && _shape.ValueFormat.IsBlockScaled(); g++) Scale(got.ValueScales!, want.ValueScales!, start.ValueScales!, place.Page, place.Head, g, place.Slot, $"value scale {g} of {row}", always: true);
        }

        public void Sides(Row row, bool positions)
        {
            (long page, long head, long at) = got.Locate(got.PageTable, row.Sequence, row.Head, row.Slot);
            if (positions) Side(got.Positions, want.Positions, start.Positions, 0, "position");
            Side(got.LogitBias, want.LogitBias, start.LogitBias, 0, "logit bias");
            double gate = _shape.Norms == DType.F32 ? 1e-6 : 1e-3;
            Side(got.KeyNorms, want.KeyNorms, start.KeyNorms, gate, "key norm");
            Side(got.ValueNorms, want.ValueNorms, start.ValueNorms, gate, "value norm");

            void Side(HostTensor? g, HostTensor? w, HostTensor? s, double relative, string name)
            {
                if (g is null) return;
                double difference = Difference(g[page, head, at], w![page, head, at]);
                Add(difference == 0 ? 0 : difference / (relative * Math.Abs(w[page, head, at])), $"{name} of {row}");
                s!.Row(page, head).Slice((int)at * s.DType.Size(), s.DType.Size()).CopyTo(g.Row(page, head)[((int)at * s.DType.Size())..]);
            }
        }

        public Comparison Untouched()
        {
            foreach ((string name, HostTensor? g, HostTensor? s) in new[]
            {
                ("keys", got.Keys, start.Keys), ("values", got.Values, start.Values), ("positions", got.Positions, start.Positions), ("logit_bias", got.LogitBias, start.LogitBias),
                ("key_norms", got.KeyNorms, start.KeyNorms), ("value_norms", got.ValueNorms, start.ValueNorms), ("key_scales", got.KeyScales, start.KeyScales),
                ("value_scales", got.ValueScales, start.ValueScales), ("key_tail", got.KeyTail, start.KeyTail),
            })
            {
                if (g is null) continue;
                int same = g.Bytes.CommonPrefixLength(s!.Bytes);
                Add(same == g.Bytes.Length ? 0 : double.PositiveInfinity, $"{name}, byte {same}, which no row goes to");
            }
            return _worst;
        }

        private IEnumerable<double> Channels(Func<int, double> value) => Enumerable.Range(0, _shape.HeadDim).Select(value);

        /// <summary>Width of a code's step at a key of a place, from the scales that it should have.</summary>
        private Func<int, double, double>? KeyStep((long Page, long Head, long Slot) place) => _shape.KeyFormat switch
        {
            KvFormat.Plain => null,
            KvFormat.I8 => (_, _) => want.KeyScales![place.Page, place.Head, place.Slot],
            KvFormat.F8 => (_, value) => Math.Max(Math.Abs(value) / 8, want.KeyScales![place.Page, place.Head, place.Slot] / 512),
            _ => (c, _) => want.KeyScales![place.Page, place.Head, place.Slot / KvCache.BlockSlots, c],
        };

        /// <summary>The numbers of one row: equal, or keys that were turned within a step of their code and a rounding of the tail.</summary>
        private void Numbers(KvPagePool g, KvPagePool w, KvPagePool s, (long Page, long Head, long Slot) place, Func<int, (double Got, double Want)>? meaning, KvFormat format, Func<int, double, double>? step, string where)
        {
            if (exact || meaning is null)
            {
                for (int c = 0; c < _shape.HeadDim; c++) Add(Difference(g[place, c], w[place, c]) == 0 ? 0 : double.PositiveInfinity, $"channel {c}, {where}");
            }
            else if (format == KvFormat.Plain)
            {
                PlainRow([.. Channels(c => g[place, c])], [.. Channels(c => w[place, c])], where);
            }
            else
            {
                for (int c = 0; c < _shape.HeadDim; c++)
                {
                    (double a, double b) = meaning(c);
                    double rounding = Math.Abs(b) * (format.IsBlockScaled() ? 2 * Gate(_shape.Type) : 1e-3);
                    Add(Difference(a, b) / ((1.001 * step!(c, b)) + rounding), $"channel {c}, {where}");
                }
            }
            for (int c = 0; c < _shape.HeadDim; c++) g.Copy(s.Tensor.Bytes, g.Tensor.Bytes, place, c);
        }

        private void PlainRow(double[] g, double[] w, string where)
        {
            double gate = exact ? 0 : Gate(_shape.Type), error = Comparison.Rows(g, w, g.Length, gate, where).Error;
            Add(error == 0 ? 0 : error / gate, where);
        }

        /// <summary>A scale or zero point: equal, or with turned keys within some units of its last place.</summary>
        private void Scale(HostTensor g, HostTensor w, HostTensor s, long i, long j, long k, long l, string where, bool always = false)
        {
            double a = g.Shape.Length == 4 ? g[i, j, k, l] : g[i, j, k], b = g.Shape.Length == 4 ? w[i, j, k, l] : w[i, j, k];
            double difference = Difference(a, b);
            Add(difference == 0 ? 0 : exact || always ? double.PositiveInfinity : difference / ((2 * Math.Max(Gate(_shape.Type), 1e-3) * Math.Abs(b)) + 1e-6), where);
            int size = s.DType.Size(), at = (int)(g.Shape.Length == 4 ? l : k) * size;
            ReadOnlySpan<long> index = g.Shape.Length == 4 ? [i, j, k] : [i, j];
            s.Row(index).Slice(at, size).CopyTo(g.Row(index)[at..]);
        }

        // fp32: angles right to 1e-7 and three roundings; the 16-bit types round once more.
        private static double Gate(DType type) => type switch { DType.F32 => 1e-6, DType.F16 => 4e-4, _ => 3.2e-3 };

        private static double Difference(double a, double b) => a.Equals(b) ? 0 : Math.Abs(a - b);

        private void Add(double error, string where) => _worst = Comparison.Worst(_worst, new Comparison(error, 1, where));
    }
}
