// SPDX-License-Identifier: Apache-2.0
// The checked arithmetic on sizes at and around its limits.
using Strata.Engine.Gguf;

namespace Strata.Tests.Engine;

/// <summary>Sizes never wrap.</summary>
[TestFixture]
internal sealed class SizeMathTests
{
    private static readonly long[] Edges =
        [long.MinValue, -1, 0, 1, 2, 31, 32, (1L << 31) - 1, 1L << 31, (1L << 32) - 1, 1L << 32, 1L << 62, long.MaxValue - 1, long.MaxValue];

    [Test]
    public void EveryPairOfEdgesGivesTheTrueResultOrNone()
    {
        foreach (long a in Edges)
        {
            foreach (long b in Edges)
            {
                bool sizes = a >= 0 && b >= 0;
                Check(SizeMath.TryAdd(a, b, out long sum), sum, sizes, (Int128)a + b, $"{a} + {b}");
                Check(SizeMath.TryMultiply(a, b, out long product), product, sizes, (Int128)a * b, $"{a} x {b}");
            }
        }
    }

    [Test]
    public void AlignmentRoundsUpOrFails()
    {
        foreach (long value in Edges)
        {
            foreach (long alignment in new long[] { 1, 2, 32, 65536, 1L << 62 })
            {
                Int128 expected = ((Int128)value + alignment - 1) / alignment * alignment;
                Check(SizeMath.TryAlignUp(value, alignment, out long aligned), aligned, value >= 0, expected, $"{value} to {alignment}");
            }

            foreach (long bad in new long[] { 0, -1, 3, long.MinValue, long.MaxValue })
            {
                Assert.That(SizeMath.TryAlignUp(value, bad, out _), Is.False);
            }
        }
    }

    [Test]
    public void TensorBytesAreExactOrRefused()
    {
        GgufTypeLayout q4 = new(32, 18);
        Assert.That(SizeMath.TryTensorBytes([64, 3], q4, out long bytes), Is.True);
        Assert.That(bytes, Is.EqualTo(108));
        Assert.That(SizeMath.TryTensorBytes([], q4, out _), Is.False);
        Assert.That(SizeMath.TryTensorBytes([33, 3], q4, out _), Is.False);
        Assert.That(SizeMath.TryTensorBytes([32, 0], q4, out _), Is.False);
        Assert.That(SizeMath.TryTensorBytes([1L << 32, 1L << 32, 1L << 32], q4, out _), Is.False);
        Assert.That(SizeMath.TryTensorBytes([long.MaxValue], new(1, 4), out _), Is.False);
        Assert.That(SizeMath.TryToSize(ulong.MaxValue, out _), Is.False);
        Assert.That(SizeMath.TryToSize(long.MaxValue, out long largest), Is.True);
        Assert.That(largest, Is.EqualTo(long.MaxValue));
    }

    [Test]
    public void RangesMustLieInside()
    {
        Assert.That(SizeMath.IsInside(10, 0, 10), Is.True);
        Assert.That(SizeMath.IsInside(0, 10, 10), Is.True);
        Assert.That(SizeMath.IsInside(1, 10, 10), Is.False);
        Assert.That(SizeMath.IsInside(-1, 1, 10), Is.False);
        Assert.That(SizeMath.IsInside(long.MaxValue, long.MaxValue, 10), Is.False);
    }

    private static void Check(bool fits, long result, bool defined, Int128 expected, string what)
    {
        Assert.That(fits, Is.EqualTo(defined && expected <= long.MaxValue), what);
        Assert.That(result, Is.EqualTo(fits ? (long)expected : 0), what);
    }
}
