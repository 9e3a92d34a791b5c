// SPDX-License-Identifier: Apache-2.0
// One case on one device: compared with the oracle first, then timed cold and warm.

using System.Diagnostics;
using Strata.Reference;

namespace Strata.Runner;

/// <summary>The op disagrees with the oracle or failed: its time would mean nothing.</summary>
internal sealed class RefusedException : Exception
{
    public RefusedException() { }

    public RefusedException(string message) : base(message) { }

    public RefusedException(string message, Exception innerException) : base(message, innerException) { }
}

/// <summary>Times cases on one device.</summary>
internal sealed class CaseTimer(Device device, double seconds) : IDisposable
{
    private const int MinSamples = 5;
    private const int WarmBatch = 16;
    private const double WarmupSeconds = 0.05;

    // Resets and flushes between calls are not timed, but the row must end all the same.
    private const double MaxOverhead = 4;

    private readonly CallClock _clock = CallClock.For(device);
    private DeviceBuffer? _flush;

    /// <summary>The quantiles of both states, in microseconds.</summary>
    /// <exception cref="RefusedException">The op disagrees with the oracle or failed.</exception>
    public (Quantiles Cold, Quantiles Warm) Time(OpHarness harness, OpCase opCase, OpProblem problem)
    {
        bool reset = Check(opCase, problem);
        using CopySet copies = CopySet.Bind(harness, opCase, problem, device);
        OpRun[] warm = [.. Enumerable.Repeat(copies.Runs[0], reset ? 1 : WarmBatch)];
        Sample(warm, reset, flush: false, Math.Min(WarmupSeconds, seconds));
        Quantiles cold = Sample(copies.Runs, reset, flush: !copies.ExceedsCaches, seconds);
        return (cold, Sample(warm, reset, flush: false, seconds));
    }

    public void Dispose()
    {
        _flush?.Dispose();
        _clock.Dispose();
    }

    // Returns whether the op must be reset before it may run again: a second run on what the first one left fails or gives something else.
    private bool Check(OpCase opCase, OpProblem problem)
    {
        using OpRun run = problem.Bind(device, Poison.Nan);
        Comparison comparison;
        try
        {
            comparison = RunAndCompare(run);
        }
        catch (StrataException e)
        {
            throw new RefusedException($"{opCase} on {device.Id}/{device.Isa}: {e.Message}", e);
        }
        if (!comparison.Passes)
        {
            throw new RefusedException($"{opCase} on {device.Id}/{device.Isa}: error {comparison.Error:g3} above {comparison.Gate:g3} at {comparison.Where} ({Device.LastImplementation})");
        }
        try
        {
            return !RunAndCompare(run).Passes;
        }
        catch (StrataException)
        {
            return true;
        }
    }

    private Comparison RunAndCompare(OpRun run)
    {
        run.Run();
        device.Synchronize();
        return run.Compare();
    }

    private Quantiles Sample(IReadOnlyList<OpRun> runs, bool reset, bool flush, double budget)
    {
        var samples = new List<double>();
        var watch = Stopwatch.StartNew();
        double timed = 0;
        do
        {
            if (reset)
            {
                foreach (OpRun run in runs) run.Reset();
            }
            if (flush) Flush();
            int before = samples.Count;
            _clock.Time(runs, samples);
            for (int i = before; i < samples.Count; i++) timed += samples[i] * 1e-6;
        }
        while (timed < budget && (samples.Count < MinSamples || watch.Elapsed.TotalSeconds < MaxOverhead * budget));
        return Statistics.Of(samples);
    }

    // Writing more than the last-level cache holds leaves nothing of the copies there.
    private void Flush()
    {
        _flush ??= device.Allocate(CopySet.TargetBytes);
        _flush.Fill(1);
        device.Synchronize();
    }
}
