// SPDX-License-Identifier: Apache-2.0
// Distinct bound copies of one case. A model's weights and cache are read once a token, so a call that finds its inputs in a cache is
// faster than it ever is in use: calls rotate over copies that together exceed every cache.

using System.Diagnostics;
using Strata.Reference;

namespace Strata.Runner;

/// <summary>The copies that the calls of a cold row rotate over.</summary>
internal sealed class CopySet : IDisposable
{
    /// <summary>What the copies should exceed together.</summary>
    public const long TargetBytes = 256L << 20;

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
    public static int Count(long callBytes, long ownedBytes)
    {
        long wanted = (TargetBytes + Math.Max(1, callBytes) - 1) / Math.Max(1, callBytes);
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
            int count = Count(problem.Bytes, set._runs[0].OwnedBytes);
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

    private static List<OpProblem> WithOtherSeeds(OpHarness harness, OpCase opCase, OpProblem problem, int count)
    {
        var problems = new List<OpProblem> { problem };
        var watch = Stopwatch.StartNew();
        while (problems.Count < count && watch.Elapsed < s_patience) problems.Add(harness.Create(opCase, harness.Families[0], seed: 1 + problems.Count));
        return problems;
    }
}
