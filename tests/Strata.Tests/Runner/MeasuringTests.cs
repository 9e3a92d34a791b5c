// SPDX-License-Identifier: Apache-2.0
// What the figures of strata bench are made of: quantiles, rounding, copies, limits.

using Strata.Reference;
using Strata.Runner;

namespace Strata.Tests.Runner;

[TestFixture]
public sealed class MeasuringTests
{
    [Test]
    public void Quantiles_KnownSamples_InterpolateLinearly()
    {
        Assert.That(Statistics.Of([5]), Is.EqualTo(new Quantiles(5, 5, 5)));
        Assert.That(Statistics.Of([6, 1, 5, 2, 4, 3]), Is.EqualTo(new Quantiles(2, 3.5, 5)));
        Assert.That(Statistics.Of([10, 0]), Is.EqualTo(new Quantiles(2, 5, 8)));
        Assert.That(() => Statistics.Of([]), Throws.ArgumentException);
    }

    [TestCase(0, 0)]
    [TestCase(123456.7, 123460)]
    [TestCase(-0.000123456789, -0.00012346)]
    [TestCase(99999.6, 100000)]
    [TestCase(double.PositiveInfinity, double.PositiveInfinity)]
    [TestCase(double.Epsilon, double.Epsilon)]
    public void Rounded_KeepsFiveDigits(double value, double want) => Assert.That(Statistics.Rounded(value), Is.EqualTo(want).Within(1e-12).Percent);

    [TestCase(1L << 20, 1L << 20, 256, Description = "256 MiB in all")]
    [TestCase(3L << 20, 4L << 20, 86, Description = "rounded up")]
    [TestCase(300L << 20, 300L << 20, 1, Description = "one call exceeds the caches by itself")]
    [TestCase(4608L, 5000L, 2048, Description = "never more copies than this")]
    [TestCase(1024L, 100L << 20, 20, Description = "little of much: bounded by memory")]
    [TestCase(1024L, 4L << 30, 1, Description = "at least one")]
    [TestCase(0L, 0L, 2048, Description = "an empty problem")]
    public void Copies_Count(long callBytes, long ownedBytes, int want) => Assert.That(CopySet.Count(callBytes, ownedBytes, 256L << 20), Is.EqualTo(want));

    [Test]
    public void Copies_Target_IsAtLeast256MiB() => Assert.That(CopySet.TargetBytes, Is.InRange(256L << 20, 1L << 30));

    [Test]
    public void Copies_SmallCase_AreManyAndDoNotExceedTheCachesByThemselves()
    {
        var harness = new RmsNormHarness();
        OpCase opCase = harness.Cases.First(c => c.Name == "rows-7-n576-mixed");
        using CopySet copies = CopySet.Bind(harness, opCase, harness.Create(opCase, DataFamily.Gaussian, 1), TestDevices.Open(new TestDevice("cpu", null)));
        Assert.That(copies.Runs, Has.Count.GreaterThan(1).And.Count.LessThanOrEqualTo(CopySet.MaxCopies));
        Assert.That(copies.Runs, Is.Unique);
        Assert.That(copies.ExceedsCaches, Is.False);
        Assert.That(copies.Runs[0].OwnedBytes, Is.EqualTo(7 * 576 * (2 + 4) + (576 * 4)));
    }

    [Test]
    public void Limits_Share_IsTheBindingOne()
    {
        Limits limits = Limits.Of((MachineLimit.Read, 10e9), (MachineLimit.Fp32, 100e9), (MachineLimit.Int8, 400e9));
        Assert.That(limits.Share(bytes: 1e6, operations: 1e6, Roof.Fp32, seconds: 200e-6), Is.EqualTo(0.5).Within(1e-9), "100 µs of reading");
        Assert.That(limits.Share(1e3, 1e7, Roof.Fp32, 200e-6), Is.EqualTo(0.5).Within(1e-9), "100 µs of multiplying");
        Assert.That(limits.Share(1e3, 1e7, Roof.Int8, 200e-6), Is.EqualTo(0.125).Within(1e-9), "25 µs in int8");
        Assert.That(limits.Share(1e3, 1e7, Roof.Bf16, 200e-6), Is.EqualTo(0.5).Within(1e-9), "no bf16 unit: fp32 does it");
        Assert.That(Limits.Of().Share(1, 1, Roof.Fp32, 1), Is.Null);
    }

    [TestCase("prefill-q32-kv8-d128-t512-bf16", ExpectedResult = Roof.Bf16)]
    [TestCase("prefill-q32-kv8-d128-t512-f16", ExpectedResult = Roof.Fp32)]
    [TestCase("decode-q32-kv8-d128-t4096-i8", ExpectedResult = Roof.Fp32)]
    public Roof Roof_OfAttention_IsThatOfTheCachesNumbers(string name)
    {
        var harness = new KvAttentionHarness();
        return harness.Create(harness.Cases.First(c => c.Name == name), DataFamily.Gaussian, 1).Roof;
    }

    [Test]
    public void Limits_MeasuredTwice_AreTheHigherOfEach()
    {
        Limits before = Limits.Of((MachineLimit.Read, 10e9), (MachineLimit.Fp32, 200e9)), after = Limits.Of((MachineLimit.Read, 30e9), (MachineLimit.Fp32, 100e9), (MachineLimit.Int8, 5e9));
        Limits both = before.OrHigher(after);
        Assert.That((both[MachineLimit.Read], both[MachineLimit.Fp32], both[MachineLimit.Int8], both[MachineLimit.Bf16]), Is.EqualTo(((double?)30e9, (double?)200e9, (double?)5e9, (double?)null)));
    }

    [Test]
    public void Limits_OfTheCpu_ArePlausible()
    {
        Device device = TestDevices.Open(new TestDevice("cpu", "avx2"), threads: 1);
        double read = device.MeasureLimit(MachineLimit.Read)!.Value, fp32 = device.MeasureLimit(MachineLimit.Fp32)!.Value, int8 = device.MeasureLimit(MachineLimit.Int8)!.Value;
        Assert.That(read, Is.InRange(0.2e9, 500e9));
        Assert.That(fp32, Is.InRange(5e9, 500e9), "a merged or hoisted probe shows absurd figures");
        Assert.That(int8 / fp32, Is.InRange(1.2, 4.5), "maddubs does four times the work of a multiply-add in three instructions");
        Assert.That(device.MeasureLimit(MachineLimit.AmxInt8), Is.Null);
    }
}
