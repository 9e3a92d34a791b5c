// SPDX-License-Identifier: Apache-2.0
// One sequence on a model: runs tokens forward, keeps the KV cache, hands out logits.
using Strata.Engine.Cache;

namespace Strata.Engine.Models;

/// <summary>Takes the logits of one token; the span is valid during the call.</summary>
/// <param name="index">Number of the token in the call, from 0.</param>
/// <param name="logits">One logit per token id, for the token that follows.</param>
public delegate void LogitsHandler(int index, ReadOnlySpan<float> logits);

/// <summary>One sequence. Not safe for concurrent use.</summary>
public sealed class LlamaSession : IDisposable
{
    private readonly LlamaModel _model;
    private readonly SessionOptions _options;
    private readonly PagedKvCache _cache;
    private readonly KvEvictor? _evictor;
    private readonly LlamaForward _forward;
    private bool _faulted;

    /// <summary>Opens a session and allocates everything it will use.</summary>
    /// <param name="model">The model; must outlive the session.</param>
    /// <param name="options">How to run it.</param>
    /// <exception cref="ArgumentException">An option is out of range.</exception>
    /// <exception cref="StrataException">The device has no kernel for the model's shapes, or too little memory.</exception>
    public LlamaSession(LlamaModel model, SessionOptions options)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(options);
        options.Check();
        _model = model;
        _options = options;
        _cache = new PagedKvCache(model.Device, model.Config, KvPageFormat.Of(options, model.Config.HeadDim, model.Device), options.Capacity);
        _evictor = options.Budget is { } budget ? new KvEvictor(model.Device, model.Config, _cache, budget) : null;
        _forward = new LlamaForward(model, options, _cache, _evictor?.Queries);
    }

    /// <summary>Tokens run so far: the position of the next one.</summary>
    public int Position { get; private set; }

    /// <summary>Most tokens that any KV head holds.</summary>
    public int LiveTokens => _cache.Longest;

    /// <summary>Bytes of the cache pages in use: keys, values, their scales, and under a budget positions.</summary>
    public long KvBytesLive => _cache.BytesLive;

    /// <summary>Most bytes of cache pages that were in use at one time.</summary>
    public long KvBytesPeak => _cache.BytesPeak;

    /// <summary>Bytes beside the pages: the keys of blocks that are not full, which wait there for their scales. The same for any number of tokens, 0 without blocks.</summary>
    public long KvBytesTail => _cache.TailBytes;

    /// <summary>Bytes of the pages over those that plain fp16 keys and values would take.</summary>
    public double KvRatioToF16 => _cache.RatioToF16;

    /// <summary>Logits after the last token of the last call to <see cref="Prefill"/> or <see cref="Step"/>; overwritten by the next call.</summary>
    public ReadOnlySpan<float> Logits => _forward.HostLogits(0);

    /// <summary>Positions of the tokens that a KV head still holds, ascending: what a cut has left.</summary>
    /// <param name="layer">The layer, from 0.</param>
    /// <param name="head">The KV head, from 0.</param>
    /// <returns>The positions.</returns>
    /// <exception cref="ArgumentOutOfRangeException">There is no such layer or head.</exception>
    public int[] CachedPositions(int layer, int head)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)layer, (uint)_model.Config.Layers, nameof(layer));
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)head, (uint)_model.Config.KvHeads, nameof(head));
        return _cache.Positions(layer, head);
    }

    /// <summary>Runs a text with nothing dropped and computes the logits of its last token only.</summary>
    /// <param name="ids">At least one token.</param>
    /// <param name="cancellation">Ends the work between two parts.</param>
    /// <exception cref="InvalidOperationException">An earlier pass failed, and the session has not been reset.</exception>
    /// <exception cref="ArgumentException">There is no token, an id is not in the vocabulary, or the cache has no room.</exception>
    public void Prefill(ReadOnlySpan<int> ids, CancellationToken cancellation = default)
    {
        Check(ids);
        for (int start = 0; start < ids.Length; start += _options.ChunkTokens)
        {
            cancellation.ThrowIfCancellationRequested();
            ReadOnlySpan<int> part = ids.Slice(start, Math.Min(_options.ChunkTokens, ids.Length - start));
            Run(part);
            if (start + part.Length == ids.Length)
            {
                _forward.ComputeLogits(part.Length - 1, 1);
            }
        }
    }

    /// <summary>Runs one token and computes its logits. With a budget, a cache that has grown a page beyond it is cut first.</summary>
    /// <param name="id">The token.</param>
    /// <exception cref="InvalidOperationException">An earlier pass failed, and the session has not been reset.</exception>
    /// <exception cref="ArgumentException">The id is not in the vocabulary, or the cache has no room.</exception>
    public void Step(int id)
    {
        if (_options.Budget is { } budget && LiveTokens >= (long)budget.Tokens + _options.PageSize)
        {
            _evictor!.Cut();
        }

        Check([id]);
        Run([id]);
        _forward.ComputeLogits(0, 1);
    }

    /// <summary>Runs given tokens with nothing dropped and hands out the logits of each.</summary>
    /// <param name="ids">At least one token.</param>
    /// <param name="handler">Called once per token, in order.</param>
    /// <param name="cancellation">Ends the work between two parts.</param>
    /// <exception cref="InvalidOperationException">An earlier pass failed, and the session has not been reset.</exception>
    /// <exception cref="ArgumentException">There is no token, an id is not in the vocabulary, or the cache has no room.</exception>
    public void Evaluate(ReadOnlySpan<int> ids, LogitsHandler handler, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(handler);
        Check(ids);
        for (int start = 0; start < ids.Length; start += _options.ChunkTokens)
        {
            ReadOnlySpan<int> part = ids.Slice(start, Math.Min(_options.ChunkTokens, ids.Length - start));
            Run(part);
            for (int row = 0; row < part.Length; row += _options.LogitRows)
            {
                cancellation.ThrowIfCancellationRequested();
                int rows = Math.Min(_options.LogitRows, part.Length - row);
                _forward.ComputeLogits(row, rows);
                for (int i = 0; i < rows; i++)
                {
                    handler(start + row + i, _forward.HostLogits(i));
                }
            }
        }
    }

    /// <summary>Cuts the cache to the budget now; without a budget, or within it, nothing changes.</summary>
    public void CutToBudget() => _evictor?.Cut();

    /// <summary>Forgets the sequence; the memory stays.</summary>
    public void Reset()
    {
        _cache.Clear();
        _evictor?.Clear();
        Position = 0;
        _faulted = false;
    }

    /// <summary>Frees the cache and the scratch memory.</summary>
    public void Dispose()
    {
        _forward.Dispose();
        _evictor?.Dispose();
        _cache.Dispose();
    }

    private void Check(ReadOnlySpan<int> ids)
    {
        if (_faulted)
        {
            throw new InvalidOperationException("session: an earlier pass failed half-way, must be whole before the next; call Reset and run the text again");
        }

        if (ids.IsEmpty)
        {
            throw new ArgumentException("session: 0 tokens are given, must be at least 1; pass a text that is not empty", nameof(ids));
        }

        int bad = ids.IndexOfAnyExceptInRange(0, _model.VocabularySize - 1);
        if (bad >= 0)
        {
            throw new ArgumentException(
                $"session: token {bad} is {ids[bad]}, must be 0 to {_model.VocabularySize - 1}; pass ids of this model's tokenizer", nameof(ids));
        }

        if ((long)LiveTokens + ids.Length > _options.Capacity)
        {
            throw new ArgumentException(
                $"session: {ids.Length} tokens follow {LiveTokens}, must be at most {_options.Capacity} together; open the session with more capacity or a budget", nameof(ids));
        }
    }

    // A pass that failed half-way leaves places in the cache that hold nothing; only Reset gets rid of them.
    private void Run(ReadOnlySpan<int> ids)
    {
        _faulted = true;
        _cache.Reserve(ids.Length);
        _evictor?.Queries?.Advance(ids.Length);
        _forward.Run(ids, Position);
        Position += ids.Length;
        _faulted = false;
    }
}
