// SPDX-License-Identifier: Apache-2.0
// Distinct bound copies of one case. A model's weights and cache are read once a token, so a call that finds its inputs in a cache is
// faster than it ever is in use: calls rotate over copies that together exceed every cache.

using System.Diagnostics;
using System.Globalization;
using Strata.Reference;
using Strata.Runner.Peers;

namespace Strata.Runner;

/// <summary>The copies that the calls of a cold row rotate over.</summary>
internal sealed class CopySet : IDisposable
{
    private const long MinTargetBytes = 256L << 20, MaxTargetBytes = 1L << 30;

    /// <summary>What the copies should exceed together: 256 MiB, or twice a last-level cache that is larger.</summary>
    public static long TargetBytes { get; } = Math.Clamp(2 * LastLevelCacheBytes(), MinTargetBytes, MaxTargetBytes);

    /// <summary>Most memory of all copies: an op that touches a little of much (some rows of a table) must not fill the machine.</summary>
    public const long MemoryBytes = 2L << 30;

    /// <summary>Most copies: more than the second-level caches hold of a call of 2 KiB.</summary>
    public const int MaxCopies = 2048;

    // Branches that depend on data must not be learned from one copy for the next; making inputs is slow, so all copies share a few seeds.
    private const int MaxSeeds = 8;
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(1);

    // A run of a library costs some microseconds beside its calls, which a model that makes hundreds of calls a run does not notice.
    private const int MaxCallsPerRun = 8;
    private const double RunSeconds = 400e-6, PeerBytesPerSecond = 20e9, PeerOperationsPerSecond = 100e9;

    private readonly List<OpRun> _runs = [];

    private CopySet(IReadOnlyList<OpProblem> problems, int callsPerRun)
    {
        Problems = problems;
        CallsPerRun = callsPerRun;
    }

    public IReadOnlyList<OpRun> Runs => _runs;

    /// <summary>Calls that each run makes.</summary>
    public int CallsPerRun { get; }

    /// <summary>The distinct problems behind the copies.</summary>
    public IReadOnlyList<OpProblem> Problems { get; }

    /// <summary>Whether calling all copies in turn leaves nothing of the first one in any cache.</summary>
    public bool ExceedsCaches { get; private set; }

    /// <summary>How many copies to bind.</summary>
    /// <param name="callBytes">Bytes that one call moves.</param>
    /// <param name="ownedBytes">Bytes of memory of one copy.</param>
    /// <param name="targetBytes">What the calls should move together.</param>
    public static int Count(long callBytes, long ownedBytes, long targetBytes)
    {
        long wanted = (targetBytes + Math.Max(1, callBytes) - 1) / Math.Max(1, callBytes);
        long fitting = Math.Max(1, MemoryBytes / Math.Max(1, ownedBytes));
        return (int)Math.Min(Math.Min(wanted, fitting), MaxCopies);
    }

    /// <summary>Binds copies of our own op.</summary>
    public static CopySet Bind(OpHarness harness, OpCase opCase, OpProblem problem, Device device)
    {
        OpRun first = problem.Bind(device, Poison.Nan);
        int count = Count(problem.Bytes, first.OwnedBytes, TargetBytes);
        var set = new CopySet(WithOtherSeeds(harness, opCase, problem, Math.Min(count, MaxSeeds)), callsPerRun: 1);
        set._runs.Add(first);
        set.Fill(count, problem.Bytes, i => set.Problems[i % set.Problems.Count].Bind(device, Poison.Nan));
        return set;
    }

    /// <summary>Binds copies of a peer's op, made from the problems of our own copies. Calls of one run have distinct problems: the library may
    /// keep equal constants once.</summary>
    public static CopySet Bind(IPeer peer, IReadOnlyList<OpProblem> problems, Device device)
    {
        long bytes = peer.Bytes(problems[0]);
        int calls = Math.Min(CallsIn(problems[0], bytes), problems.Count), count = (Count(bytes, bytes, TargetBytes) + calls - 1) / calls;
        var set = new CopySet(problems, calls);
        set.Fill(count, bytes * calls, i => peer.Bind([.. Enumerable.Range(i * calls, calls).Select(c => problems[c % problems.Count])], device));
        return set;
    }

    /// <summary>Binds one run of a peer's op that makes the same call again and again.</summary>
    public static CopySet BindWarm(IPeer peer, OpProblem problem, Device device)
    {
        var set = new CopySet([problem], CallsIn(problem, peer.Bytes(problem)));
        set.Fill(1, 0, _ => peer.Bind([.. Enumerable.Repeat(problem, set.CallsPerRun)], device));
        return set;
    }

    public void Dispose()
    {
        foreach (OpRun run in _runs) run.Dispose();
        _runs.Clear();
    }

    // Linux tells it as "32768K"; 0 where nothing is told.
    private static long LastLevelCacheBytes()
    {
        const string path = "/sys/devices/system/cpu/cpu0/cache/index3/size";
        if (!File.Exists(path)) return 0;
        string text = File.ReadAllText(path).Trim();
        return text.EndsWith('K') && long.TryParse(text.AsSpan(0, text.Length - 1), NumberStyles.None, CultureInfo.InvariantCulture, out long kilobytes) ? kilobytes << 10 : 0;
    }

    private static int CallsIn(OpProblem problem, long bytes)
    {
        double seconds = Math.Max(bytes / PeerBytesPerSecond, problem.Operations / PeerOperationsPerSecond);
        return (int)Math.Clamp(RunSeconds / seconds, 1, MaxCallsPerRun);
    }

    private void Fill(int count, long bytes, Func<int, OpRun> bind)
    {
        try
        {
            var watch = Stopwatch.StartNew();
            while (_runs.Count == 0 || (_runs.Count < count && watch.Elapsed < s_patience)) _runs.Add(bind(_runs.Count));
            ExceedsCaches = bytes * _runs.Count >= TargetBytes;
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    private static List<OpProblem> WithOtherSeeds(OpHarness harness, OpCase opCase, OpProblem problem, int count)
    {
        var problems = new List<OpProblem> { problem };
        var watch = Stopwatch.StartNew();
        while (problems.Count < count && watch.Elapsed < s_patience) problems.Add(harness.Create(opCase, harness.Families[0], seed: 1 + problems.Count));
        return problems;
    }
}
