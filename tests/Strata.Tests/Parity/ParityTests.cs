// SPDX-License-Identifier: Apache-2.0
// One suite for all ops: every case on every device and instruction set against the fp64 oracle, twice with different poison, and with
// different numbers of threads.

using Strata.Reference;

namespace Strata.Tests.Parity;

[TestFixture]
public sealed class ParityTests
{
    public static IEnumerable<TestCaseData> Runs()
    {
        foreach (OpHarness harness in OpHarness.All)
        {
            foreach (OpCase opCase in harness.Cases.Where(c => c.Tags.Contains("test")))
            {
                foreach (TestDevice device in TestDevices.All)
                {
                    yield return new TestCaseData(harness, opCase, device).SetArgDisplayNames(opCase.ToString(), device.ToString());
                }
            }
        }
    }

    public static IEnumerable<TestCaseData> CpuRuns() => Runs().Where(r => ((TestDevice)r.Arguments[2]!).Id == "cpu");

    public static IEnumerable<TestCaseData> SkippedDevices() =>
        TestDevices.Skipped.Select(s => new TestCaseData(s.Reason).SetArgDisplayNames(s.Device.ToString()));

    [TestCaseSource(nameof(Runs))]
    public void Run_EveryFamily_AgreesWithOracle(OpHarness harness, OpCase opCase, TestDevice device)
    {
        Device open = TestDevices.Open(device);
        foreach (DataFamily family in harness.FamiliesOf(opCase))
        {
            using OpRun run = harness.Create(opCase, family, seed: 1).Bind(open, Poison.Nan);
            run.Run();
            open.Synchronize();
            Comparison comparison = run.Compare();
            Assert.That(comparison.Passes, Is.True, $"{opCase} on {device}, {family}: error {comparison.Error:g3} above {comparison.Gate:g3} at {comparison.Where} ({Device.LastImplementation})");
        }
    }

    [TestCaseSource(nameof(Runs))]
    public void Run_OtherPoisonAndAgain_BitwiseEqual(OpHarness harness, OpCase opCase, TestDevice device)
    {
        Device open = TestDevices.Open(device);
        byte[] first = Outputs(harness, opCase, open, Poison.Nan, runs: 1);
        Assert.That(Outputs(harness, opCase, open, Poison.Random, runs: 2), Is.EqualTo(first), $"{opCase} on {device}: the result depends on bytes outside the valid region, or differs between runs");
    }

    [TestCaseSource(nameof(CpuRuns))]
    public void Run_OtherThreadCounts_BitwiseEqual(OpHarness harness, OpCase opCase, TestDevice device)
    {
        byte[] first = Outputs(harness, opCase, TestDevices.Open(device, threads: 1), Poison.Nan, runs: 1);
        foreach (int threads in new[] { 2, 3 })
        {
            Assert.That(Outputs(harness, opCase, TestDevices.Open(device, threads), Poison.Nan, runs: 1), Is.EqualTo(first), $"{opCase} on {device}: {threads} threads change the result");
        }
    }

    [TestCaseSource(nameof(SkippedDevices))]
    public void Device_NotHere_IsSkippedWithReason(string reason) => Assert.Ignore(reason);

    [Test]
    public void Harnesses_EveryOp_HasOneAndTestCases()
    {
        string[] ops = [.. OpHarness.All.Select(h => h.Op)];
        Assert.That(ops, Is.Unique);
        foreach (OpHarness harness in OpHarness.All)
        {
            Assert.That(harness.Cases.Count(c => c.Tags.Contains("test")), Is.GreaterThan(2), harness.Op);
            Assert.That(harness.Cases.Select(c => c.Name), Is.Unique, harness.Op);
        }
    }

    private static byte[] Outputs(OpHarness harness, OpCase opCase, Device device, Poison poison, int runs)
    {
        using OpRun run = harness.Create(opCase, harness.Families[0], seed: 2).Bind(device, poison);
        for (int i = 0; i < runs; i++)
        {
            if (i > 0) run.Reset();
            run.Run();
            device.Synchronize();
        }
        return run.Outputs();
    }
}
