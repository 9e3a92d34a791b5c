// SPDX-License-Identifier: Apache-2.0
// Distinct bound copies of one case. A model's weights and cache are read once a token, so a call that finds its inputs in a cache is
// faster than it ever is in use: calls rotate over copies that together exceed every cache.

using System.Diagnostics;
using System.Globalization;
using Strata.Reference;

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

    private readonly List<OpRun> _runs = [];

    public IReadOnlyList<OpRun> Runs => _runs;

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

    /// <summary>Binds the copies.</summary>
    public static CopySet Bind(OpHarness harness, OpCase opCase, OpProblem problem, Device device)
    {
        var set = new CopySet();
        try
        {
            set._runs.Add(problem.Bind(device, Poison.Nan));
            int count = Count(problem.Bytes, set._runs[0].OwnedBytes, TargetBytes);
            List<OpProblem> problems = WithOtherSeeds(harness, opCase, problem, Math.Min(count, MaxSeeds));
            var watch = Stopwatch.StartNew();
            for (int i = 1; i < count && watch.Elapsed < s_patience; i++) set._runs.Add(problems[i % problems.Count].Bind(device, Poison.Nan));
            set.ExceedsCaches = problem.Bytes * set._runs.Count >= TargetBytes;
            return set;
        }
        catch
        {
            set.Dispose();
            throw;
        }
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

    private static List<OpProblem> WithOtherSeeds(OpHarness harness, OpCase opCase, OpProblem problem, int count)
    {
        var problems = new List<OpProblem> { problem };
        var watch = Stopwatch.StartNew();
        while (problems.Count < count && watch.Elapsed < s_patience) problems.Add(harness.Create(opCase, harness.Families[0], seed: 1 + problems.Count));
        return problems;
    }
}
