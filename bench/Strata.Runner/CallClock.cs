// SPDX-License-Identifier: Apache-2.0
// Times calls one by one. On a device of its own the calls are queued without waiting, with an event between two of them.

using System.Diagnostics;
using Strata.Reference;

namespace Strata.Runner;

/// <summary>Times calls on one device.</summary>
internal abstract class CallClock : IDisposable
{
    public static CallClock For(Device device) => device.IsHostMemory ? new HostClock() : new DeviceClock(device);

    /// <summary>Runs each once, in order, and adds the microseconds of a call.</summary>
    /// <param name="runs">The runs.</param>
    /// <param name="calls">Calls that each makes.</param>
    /// <param name="microseconds">Gets one sample a run.</param>
    public abstract void Time(IReadOnlyList<OpRun> runs, int calls, List<double> microseconds);

    public abstract void Dispose();

    private sealed class HostClock : CallClock
    {
        private static readonly double s_microsecondsPerTick = 1e6 / Stopwatch.Frequency;

        public override void Time(IReadOnlyList<OpRun> runs, int calls, List<double> microseconds)
        {
            microseconds.EnsureCapacity(microseconds.Count + runs.Count);
            foreach (OpRun run in runs)
            {
                long start = Stopwatch.GetTimestamp();
                run.Run();
                microseconds.Add((Stopwatch.GetTimestamp() - start) * s_microsecondsPerTick / calls);
            }
        }

        public override void Dispose() { }
    }

    private sealed class DeviceClock(Device device) : CallClock
    {
        private readonly StrataStream _stream = device.CreateStream();
        private readonly List<StrataEvent> _events = [];

        public override void Time(IReadOnlyList<OpRun> runs, int calls, List<double> microseconds)
        {
            while (_events.Count <= runs.Count) _events.Add(device.CreateEvent());
            device.Synchronize(); // what was queued on the default stream (resets) must not run beside the calls
            _events[0].Record(_stream);
            for (int i = 0; i < runs.Count; i++)
            {
                runs[i].Run(_stream);
                _events[i + 1].Record(_stream);
            }
            _stream.Synchronize();
            for (int i = 0; i < runs.Count; i++) microseconds.Add(_events[i].MicrosecondsTo(_events[i + 1]) / calls);
        }

        public override void Dispose()
        {
            foreach (StrataEvent e in _events) e.Dispose();
            _stream.Dispose();
        }
    }
}
