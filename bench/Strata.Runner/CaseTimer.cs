// SPDX-License-Identifier: Apache-2.0
// One case on one device: compared with the oracle first, then timed cold and warm. Peers take turns with us, so that whatever else the machine
// does meets all of them.

using System.Diagnostics;
using System.Diagnostics.CodeAnalysis;
using Strata.Reference;
using Strata.Runner.Peers;

namespace Strata.Runner;

/// <summary>The op disagrees with the oracle or failed: its time would mean nothing.</summary>
internal sealed class RefusedException : Exception
{
    public RefusedException() { }

    public RefusedException(string message) : base(message) { }

    public RefusedException(string message, Exception innerException) : base(message, innerException) { }
}

/// <summary>What was timed of a case.</summary>
/// <param name="Peer">Whose time it is; null = ours.</param>
/// <param name="Bytes">Bytes that a call must move.</param>
/// <param name="Cold">Quantiles in microseconds, inputs from memory.</param>
/// <param name="Warm">The same call again and again.</param>
internal sealed record CaseTime(IPeer? Peer, long Bytes, Quantiles Cold, Quantiles Warm);

/// <summary>Times cases on one device.</summary>
internal sealed class CaseTimer(Device device, double seconds) : IDisposable
{
    private const int MinSamples = 5;
    private const int WarmBatch = 16;
    private const double WarmupSeconds = 0.05;

    // Resets and flushes between calls are not timed, but the row must end all the same.
    private const double MaxOverhead = 4;

    // With peers: turns of each. Threads of ONNX Runtime spin for some 50 ms after their last call, and would take a core from whoever comes next.
    private const int Turns = 8, Rests = 2, MaxWaits = 60;
    private static readonly TimeSpan s_wait = TimeSpan.FromMilliseconds(5), s_rest = s_wait / 10;

    private readonly CallClock _clock = CallClock.For(device);
    private DeviceBuffer? _flush;

    /// <summary>Our time first, then that of each peer that computes the same.</summary>
    /// <param name="harness">The op.</param>
    /// <param name="opCase">The case.</param>
    /// <param name="problem">The case with its inputs.</param>
    /// <param name="peers">Whom to time beside us.</param>
    /// <param name="refused">Called with each peer that cannot be timed, and why.</param>
    /// <exception cref="RefusedException">Our op disagrees with the oracle or failed.</exception>
    [SuppressMessage("Reliability", "CA2000", Justification = "Contenders own their copies and are disposed together.")]
    public IReadOnlyList<CaseTime> Time(OpHarness harness, OpCase opCase, OpProblem problem, IReadOnlyList<IPeer> peers, Action<IPeer, string> refused)
    {
        (bool reset, double oneCall) = Check(opCase, problem);
        var contenders = new List<Contender>();
        try
        {
            CopySet copies = CopySet.Bind(harness, opCase, problem, device);
            int batch = reset ? 1 : (int)Math.Clamp(seconds / MinSamples / oneCall, 1, WarmBatch);
            contenders.Add(new Contender(null, problem.Bytes, reset, copies, null, [.. Enumerable.Repeat(copies.Runs[0], batch)]));
            foreach (IPeer peer in peers)
            {
                if (Bind(peer, opCase, copies.Problems, refused) is { } contender) contenders.Add(contender);
            }
            Sample([.. contenders.Select(c => c.Warming())], Math.Min(WarmupSeconds, seconds));
            Quantiles[] cold = Sample([.. contenders.Select(c => c.Cold())], seconds), warm = Sample([.. contenders.Select(c => c.Warming())], seconds);
            return [.. contenders.Select((c, i) => new CaseTime(c.Peer, c.Bytes, cold[i], warm[i]))];
        }
        finally
        {
            foreach (Contender contender in contenders) contender.Dispose();
        }
    }

    public void Dispose()
    {
        _flush?.Dispose();
        _clock.Dispose();
    }

    [SuppressMessage("Reliability", "CA2000", Justification = "The contender owns its copies.")]
    private Contender? Bind(IPeer peer, OpCase opCase, IReadOnlyList<OpProblem> problems, Action<IPeer, string> refused)
    {
        string? reason = peer.Refusal(opCase);
        if (reason is not null)
        {
            refused(peer, reason);
            return null;
        }
        CopySet? same = null;
        try
        {
            same = CopySet.BindWarm(peer, problems[0], device);
            same.Runs[0].Run();
            Comparison comparison = same.Runs[0].Compare();
            if (comparison.Passes) return new Contender(peer, peer.Bytes(problems[0]), false, CopySet.Bind(peer, problems, device), same, same.Runs);
            reason = $"computes something else: error {comparison.Error:g3} above {comparison.Gate:g3} at {comparison.Where}";
        }
        catch (StrataException e)
        {
            reason = e.Message;
        }
        same?.Dispose();
        refused(peer, reason);
        return null;
    }

    // Returns whether the op must be reset before it may run again, because a second run on what the first one left fails or gives something else,
    // and the seconds of that second run.
    private (bool Reset, double Seconds) Check(OpCase opCase, OpProblem problem)
    {
        using OpRun run = problem.Bind(device, Poison.Nan);
        Comparison comparison;
        try
        {
            RunToTheEnd(run);
            comparison = run.Compare();
        }
        catch (StrataException e)
        {
            throw new RefusedException($"{opCase} on {device.Id}/{device.Isa}: {e.Message}", e);
        }
        if (!comparison.Passes)
        {
            throw new RefusedException($"{opCase} on {device.Id}/{device.Isa}: error {comparison.Error:g3} above {comparison.Gate:g3} at {comparison.Where} ({Device.LastImplementation})");
        }
        var watch = Stopwatch.StartNew();
        try
        {
            RunToTheEnd(run);
            double taken = watch.Elapsed.TotalSeconds;
            return (!run.Compare().Passes, taken);
        }
        catch (StrataException)
        {
            return (true, watch.Elapsed.TotalSeconds);
        }
    }

    private void RunToTheEnd(OpRun run)
    {
        run.Run();
        device.Synchronize();
    }

    /// <summary>Lets the sequences take turns until each has been timed for its budget.</summary>
    private Quantiles[] Sample(IReadOnlyList<Sequence> sequences, double budget)
    {
        var watch = Stopwatch.StartNew();
        double turn = sequences.Count == 1 ? budget : budget / Turns, most = MaxOverhead * budget * sequences.Count;
        do
        {
            foreach (Sequence sequence in sequences)
            {
                if (sequences.Count > 1)
                {
                    watch.Stop();
                    Enter(sequence);
                    watch.Start();
                }
                double end = sequence.Timed + turn;
                do Time(sequence); while (sequence.Timed < end && watch.Elapsed.TotalSeconds < most);
            }
        }
        while (!sequences.All(s => s.Timed >= budget || (s.Samples.Count >= MinSamples && watch.Elapsed.TotalSeconds >= most)));
        return [.. sequences.Select(s => Statistics.Of(s.Samples))];
    }

    // Waits until the process uses no processor time any more, then wakes the threads of this one.
    private static void Enter(Sequence sequence)
    {
        TimeSpan before = Environment.CpuUsage.TotalTime;
        for (int waits = 0, rests = 0; waits < MaxWaits && rests < Rests; waits++)
        {
            Thread.Sleep(s_wait);
            TimeSpan now = Environment.CpuUsage.TotalTime;
            rests = now - before < s_rest ? rests + 1 : 0;
            before = now;
        }
        if (!sequence.Reset) sequence.Runs[^1].Run();
    }

    private void Time(Sequence sequence)
    {
        if (sequence.Reset)
        {
            foreach (OpRun run in sequence.Runs) run.Reset();
        }
        if (sequence.Flush) Flush();
        int before = sequence.Samples.Count;
        _clock.Time(sequence.Runs, sequence.Calls, sequence.Samples);
        for (int i = before; i < sequence.Samples.Count; i++) sequence.Timed += sequence.Samples[i] * sequence.Calls * 1e-6;
    }

    // Writing more than the last-level cache holds leaves nothing of the copies there.
    private void Flush()
    {
        _flush ??= device.Allocate(CopySet.TargetBytes);
        _flush.Fill(1);
        device.Synchronize();
    }

    /// <summary>Runs that are timed one after the other, and what they took.</summary>
    private sealed class Sequence(IReadOnlyList<OpRun> runs, int calls, bool reset, bool flush)
    {
        public IReadOnlyList<OpRun> Runs => runs;

        public int Calls => calls;

        public bool Reset => reset;

        public bool Flush => flush;

        public List<double> Samples { get; } = [];

        /// <summary>Seconds.</summary>
        public double Timed { get; set; }
    }

    /// <summary>We or a peer, with the copies that calls rotate over and the run that is repeated.</summary>
    private sealed record Contender(IPeer? Peer, long Bytes, bool Reset, CopySet Copies, CopySet? Same, IReadOnlyList<OpRun> Repeated) : IDisposable
    {
        public Sequence Cold() => new(Copies.Runs, Copies.CallsPerRun, Reset, !Copies.ExceedsCaches);

        public Sequence Warming() => new(Repeated, Same?.CallsPerRun ?? 1, Reset, flush: false);

        public void Dispose()
        {
            Copies.Dispose();
            Same?.Dispose();
        }
    }
}
