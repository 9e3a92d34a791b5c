// SPDX-License-Identifier: Apache-2.0
// bitstack in double, from the levels as BitStack's authors store them.

namespace Strata.Reference;

/// <summary>One level in host memory, as its authors store it.</summary>
/// <param name="N">Rows.</param>
/// <param name="K">Columns.</param>
/// <param name="Rank">Rank of the factors.</param>
/// <param name="Signs">n k / 8 bytes: row-major bits, first element in bit 7, 1 = +1.</param>
/// <param name="U">[n, rank].</param>
/// <param name="Vt">[rank, k].</param>
public sealed record BitStackHostLevel(long N, long K, int Rank, byte[] Signs, Half[] U, Half[] Vt)
{
    /// <summary>A level of the given values.</summary>
    /// <param name="n">Rows.</param>
    /// <param name="k">Columns; n k must be a multiple of 8.</param>
    /// <param name="rank">Rank.</param>
    /// <param name="random">Where signs come from.</param>
    /// <param name="value">The factors' values.</param>
    public static BitStackHostLevel Create(long n, long k, int rank, InputRandom random, Func<double> value)
    {
        ArgumentNullException.ThrowIfNull(random);
        ArgumentNullException.ThrowIfNull(value);
        var signs = new byte[n * k / 8];
        foreach (ref byte b in signs.AsSpan()) b = (byte)random.Integer(0, 255);
        var u = new Half[n * rank];
        foreach (ref Half h in u.AsSpan()) h = (Half)value();
        var vt = new Half[rank * k];
        foreach (ref Half h in vt.AsSpan()) h = (Half)value();
        return new BitStackHostLevel(n, k, rank, signs, u, vt);
    }

    /// <summary>Element [i, j] of the level.</summary>
    /// <param name="i">Row.</param>
    /// <param name="j">Column.</param>
    public double Element(long i, long j)
    {
        double sum = 0;
        for (long r = 0; r < Rank; r++) sum += (double)U[(i * Rank) + r] * (double)Vt[(r * K) + j];
        long bit = (i * K) + j;
        return ((Signs[bit / 8] >> (int)(7 - (bit % 8))) & 1) != 0 ? sum : -sum;
    }

    /// <summary>Packs and loads the level.</summary>
    /// <param name="device">The device.</param>
    public BitStackLevel Upload(Device device) => BitStackLevel.Pack(device, N, K, Rank, Signs, U, Vt);
}

/// <summary>The oracle of <see cref="BitStack"/>.</summary>
public static class BitStackReference
{
    /// <summary><c>W = Σ_levels sign ∘ (U Vᵀ)</c>.</summary>
    /// <param name="levels">Levels of one shape.</param>
    /// <returns>[n, k], row-major.</returns>
    public static double[] Decode(ReadOnlySpan<BitStackHostLevel> levels)
    {
        long n = levels[0].N, k = levels[0].K;
        var w = new double[n * k];
        foreach (BitStackHostLevel level in levels)
        {
            for (long i = 0; i < n; i++)
            {
                for (long j = 0; j < k; j++) w[(i * k) + j] += level.Element(i, j);
            }
        }
        return w;
    }

    /// <summary>One row of <c>y = x Wᵀ</c>.</summary>
    /// <param name="w">[n, k].</param>
    /// <param name="x">[m, k].</param>
    /// <param name="row">Which row of x.</param>
    /// <param name="y">Written: [n].</param>
    /// <param name="magnitude">Written: <c>Σ_j |W[i,j] x[j]|</c>, which bounds what rounding can do.</param>
    public static void MultiplyRow(double[] w, HostTensor x, long row, Span<double> y, Span<double> magnitude)
    {
        ArgumentNullException.ThrowIfNull(w);
        ArgumentNullException.ThrowIfNull(x);
        long k = x.Shape[1];
        var values = new double[k];
        for (long j = 0; j < k; j++) values[j] = x[row, j];
        for (int i = 0; i < y.Length; i++)
        {
            double sum = 0, size = 0;
            for (long j = 0; j < k; j++)
            {
                double term = w[(i * k) + j] * values[j];
                sum += term;
                size += Math.Abs(term);
            }
            (y[i], magnitude[i]) = (sum, size);
        }
    }
}
