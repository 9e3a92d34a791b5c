// SPDX-License-Identifier: Apache-2.0
// Cuts a KV cache to its budget: score, select, compact, and the pages go back.
using Strata.Engine.Models;

namespace Strata.Engine.Cache;

/// <summary>Cuts the cache of a session layer by layer.</summary>
internal sealed class KvEvictor : IDisposable
{
    /// <summary>Queries that vote under SnapKV, and the tokens that are never dropped for being recent.</summary>
    public const int Window = 32;
    private const int StreamingSinks = 4;
    private readonly Device _device;
    private readonly LlamaConfig _config;
    private readonly PagedKvCache _cache;
    private readonly KvBudget _budget;
    private readonly DeviceTensor<float>? _scores;
    private readonly DeviceTensor<int> _kept;
    private readonly DeviceTensor<int> _keptCounts;
    private readonly DeviceBuffer? _workspace;

    public KvEvictor(Device device, LlamaConfig config, PagedKvCache cache, KvBudget budget)
    {
        _device = device;
        _config = config;
        _cache = cache;
        _budget = budget;
        int capacity = cache.MaxPages * cache.PageSize;
        _kept = device.Allocate<int>(1, config.KvHeads, Math.Min(budget.Tokens, capacity));
        _keptCounts = device.Allocate<int>(1, config.KvHeads);
        if (budget.Policy == KvPolicy.SnapKv)
        {
            Queries = new QueryWindow(device, config, Window);
            _scores = device.Allocate<float>(1, config.KvHeads, capacity);
        }

        _workspace = Workspace.Allocate(device, WorkspaceBytes(capacity));
    }

    /// <summary>Where the forward pass leaves its queries; null where the policy looks at positions only.</summary>
    public QueryWindow? Queries { get; }

    /// <summary>Cuts every layer to the budget; does nothing to layers within it.</summary>
    public void Cut()
    {
        for (int layer = 0; layer < _config.Layers; layer++)
        {
            int length = _cache.Length(layer, 0);
            if (length > _budget.Tokens)
            {
                CutLayer(layer, length);
            }
        }
    }

    public void Clear() => Queries?.Clear();

    public void Dispose()
    {
        Queries?.Dispose();
        _scores?.Dispose();
        _kept.Dispose();
        _keptCounts.Dispose();
        _workspace?.Dispose();
    }

    private void CutLayer(int layer, int length)
    {
        // Where the budget is not above the window, the window's last tokens are all that stays, whatever the scores.
        int window = Math.Min(Window, Queries?.Count ?? 0);
        bool scored = Queries is not null && _budget.Tokens > window;
        if (scored)
        {
            Score(layer, Queries!.Last(layer, window), length).Run(_device, _workspace);
        }

        Select(layer, length, scored, window).Run(_device, _workspace);
        Compact(layer).Run(_device, _workspace);
        _cache.ShortenLayer(layer, _budget.Tokens);
    }

    private KvScore Score(int layer, TensorView queries, int length) => new()
    {
        Cache = _cache.Layer(layer),
        Q = queries,
        Scores = _scores,
        Settings = KvScoreSettings.SnapKv((int)queries.Shape(1)),
        MaxLength = length,
    };

    private KvSelect Select(int layer, int length, bool scored, int window) => new()
    {
        Scores = scored ? _scores : default(TensorView),
        Lengths = _cache.Layer(layer).Lengths,
        Kept = _kept,
        KeptCounts = _keptCounts,
        Budget = _budget.Tokens,
        ProtectFirst = _budget.Policy == KvPolicy.Streaming ? Math.Min(StreamingSinks, _budget.Tokens) : 0,
        ProtectLast = scored ? window : _budget.Policy == KvPolicy.Streaming ? Math.Max(0, _budget.Tokens - StreamingSinks) : _budget.Tokens,
        MaxLength = length,
    };

    private KvCompact Compact(int layer) => new() { Cache = _cache.Layer(layer), Kept = _kept, KeptCounts = _keptCounts };

    private long WorkspaceBytes(int capacity)
    {
        TensorView queries = Queries is null ? default : TensorView.Borrow<float>(0, [1, Window, _config.QueryHeads, _config.HeadDim], owner: null);
        long bytes = Queries is null ? 0 : Score(0, queries, capacity).WorkspaceBytes(_device);
        bytes = Math.Max(bytes, Select(0, capacity, scored: Queries is not null, Window).WorkspaceBytes(_device));
        return Math.Max(bytes, Compact(0).WorkspaceBytes(_device));
    }
}
