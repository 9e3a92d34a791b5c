// SPDX-License-Identifier: Apache-2.0
// The forward pass of a Llama-architecture model as a sequence of Strata ops.
using System.Runtime.InteropServices;
using Strata.Engine.Cache;

namespace Strata.Engine.Models;

/// <summary>Buffers and op calls of the forward pass. Everything is allocated once; a pass allocates nothing.</summary>
internal sealed class LlamaForward : IDisposable
{
    private readonly LlamaModel _model;
    private readonly LlamaConfig _config;
    private readonly Device _device;
    private readonly SessionOptions _options;
    private readonly PagedKvCache _cache;
    private readonly QueryWindow? _queryWindow;
    private readonly List<IDisposable> _owned = [];
    private readonly DeviceTensor<int> _ids;
    private readonly DeviceTensor<int> _positions;
    private readonly int[] _hostPositions;
    private readonly DeviceTensor<float> _residual;
    private readonly DeviceTensor<float> _normed;
    private readonly DeviceTensor<float> _queries;
    private readonly DeviceTensor<float> _keys;
    private readonly DeviceTensor<float> _values;
    private readonly DeviceTensor<float> _attended;
    private readonly DeviceTensor<float> _gate;
    private readonly DeviceTensor<float> _up;
    private readonly DeviceTensor<float> _logits;
    private readonly float[] _hostLogits;
    private readonly DeviceTensor<int>? _plan;
    private readonly DeviceBuffer? _workspace;

    public LlamaForward(LlamaModel model, SessionOptions options, PagedKvCache cache, QueryWindow? queryWindow)
    {
        _model = model;
        _config = model.Config;
        _device = model.Device;
        _options = options;
        _cache = cache;
        _queryWindow = queryWindow;
        int tokens = Math.Min(options.ChunkTokens, options.Capacity);
        int queryChannels = _config.QueryHeads * _config.HeadDim;
        int keyChannels = _config.KvHeads * _config.HeadDim;
        _hostPositions = new int[tokens];
        _ids = Own(_device.Allocate<int>(tokens));
        _positions = Own(_device.Allocate<int>(tokens));
        _residual = Own(_device.Allocate<float>(tokens, _config.Width));
        _normed = Own(_device.Allocate<float>(tokens, _config.Width));
        _queries = Own(_device.Allocate<float>(tokens, queryChannels));
        _keys = Own(_device.Allocate<float>(tokens, keyChannels));
        _values = Own(_device.Allocate<float>(tokens, keyChannels));
        _attended = Own(_device.Allocate<float>(tokens, queryChannels));
        _gate = Own(_device.Allocate<float>(tokens, _config.FeedForward));
        _up = Own(_device.Allocate<float>(tokens, _config.FeedForward));
        int logitRows = Math.Min(options.LogitRows, tokens);
        _logits = Own(_device.Allocate<float>(logitRows, model.VocabularySize));
        _hostLogits = _device.IsHostMemory ? [] : new float[model.VocabularySize];
        // On a GPU a run without a plan begins with a kernel that makes one. On the CPU making one costs no more than checking a given one.
        _plan = _device.Id is "cpu" ? null : Own(_device.Allocate<int>(Attention(0, tokens, Capacity).PlanWords(_device)));
        _workspace = Workspace.Allocate(_device, WorkspaceBytes(tokens, logitRows));
    }

    private int Capacity => _cache.MaxPages * _cache.PageSize;

    /// <summary>Runs tokens whose places in the cache have been reserved; their residual stream stays for <see cref="ComputeLogits"/>.</summary>
    public void Run(ReadOnlySpan<int> ids, int position)
    {
        int tokens = ids.Length;
        Span<int> positions = _hostPositions.AsSpan(0, tokens);
        for (int i = 0; i < tokens; i++)
        {
            positions[i] = position + i;
        }

        _ids.Buffer.CopyFrom(MemoryMarshal.AsBytes(ids));
        _positions.Buffer.CopyFrom(MemoryMarshal.AsBytes<int>(positions));
        new Embed { Ids = _ids.View.Slice(0, tokens), Y = Rows(_residual, tokens), W = _model.Embedding }.Run(_device, _workspace);
        int longest = _cache.Longest;
        bool planned = _plan is not null && _cache.LayersAreAlike;
        if (planned)
        {
            Attention(0, tokens, longest).PlanOnDevice(_device, _plan!);
        }

        for (int layer = 0; layer < _config.Layers; layer++)
        {
            Attend(layer, tokens, longest, planned ? _plan : null);
            FeedForward(_model.Layers[layer], tokens);
        }
    }

    /// <summary>Logits of rows of the last pass.</summary>
    public void ComputeLogits(int firstRow, int rows)
    {
        Norm(_residual.View.Slice(firstRow, rows), _model.OutputNorm, Rows(_normed, rows)).Run(_device, _workspace);
        Multiply(Rows(_normed, rows), _model.Output, Rows(_logits, rows)).Run(_device, _workspace);
    }

    /// <summary>One row of the last logits in host memory.</summary>
    public ReadOnlySpan<float> HostLogits(int row)
    {
        int width = _model.VocabularySize;
        if (_device.IsHostMemory)
        {
            return _logits.Span.Slice(row * width, width);
        }

        _logits.Buffer.CopyTo(MemoryMarshal.AsBytes(_hostLogits.AsSpan()), (long)row * width * sizeof(float));
        return _hostLogits;
    }

    public void Dispose()
    {
        foreach (IDisposable buffer in _owned)
        {
            buffer.Dispose();
        }

        _workspace?.Dispose();
    }

    private static TensorView Rows(DeviceTensor<float> tensor, int rows) => tensor.View.Slice(0, rows);

    private DeviceTensor<T> Own<T>(DeviceTensor<T> tensor)
        where T : unmanaged
    {
        _owned.Add(tensor);
        return tensor;
    }

    private void Attend(int layer, int tokens, int longest, DeviceTensor<int>? plan)
    {
        LlamaLayer weights = _model.Layers[layer];
        TensorView residual = Rows(_residual, tokens);
        TensorView normed = Rows(_normed, tokens);
        TensorView positions = _positions.View.Slice(0, tokens);
        TensorView queries = Heads(_queries, tokens, _config.QueryHeads);
        Norm(residual, weights.AttentionNorm, normed).Run(_device, _workspace);
        Multiply(normed, weights.Query, Rows(_queries, tokens)).Run(_device, _workspace);
        Multiply(normed, weights.Key, Rows(_keys, tokens)).Run(_device, _workspace);
        Multiply(normed, weights.Value, Rows(_values, tokens)).Run(_device, _workspace);
        Turn(queries, positions).Run(_device, _workspace);
        Append(layer, tokens, positions).Run(_device, _workspace);
        _queryWindow?.Store(layer, queries);
        Attention(layer, tokens, longest, plan).Run(_device, _workspace);
        Multiply(Rows(_attended, tokens), weights.AttentionOutput, normed).Run(_device, _workspace);
        new Elementwise { A = residual, B = normed, Y = residual, Function = ElementwiseFunction.Add }.Run(_device, _workspace);
    }

    private void FeedForward(LlamaLayer weights, int tokens)
    {
        TensorView residual = Rows(_residual, tokens);
        TensorView normed = Rows(_normed, tokens);
        TensorView gate = Rows(_gate, tokens);
        TensorView up = Rows(_up, tokens);
        Norm(residual, weights.FeedForwardNorm, normed).Run(_device, _workspace);
        Multiply(normed, weights.Gate, gate).Run(_device, _workspace);
        Multiply(normed, weights.Up, up).Run(_device, _workspace);
        new Elementwise { A = gate, B = up, Y = gate, Function = ElementwiseFunction.SiluMul }.Run(_device, _workspace);
        Multiply(gate, weights.Down, normed).Run(_device, _workspace);
        new Elementwise { A = residual, B = normed, Y = residual, Function = ElementwiseFunction.Add }.Run(_device, _workspace);
    }

    private TensorView Heads(DeviceTensor<float> tensor, int tokens, int heads) => Rows(tensor, tokens).Reshape(tokens, heads, _config.HeadDim);

    private RmsNorm Norm(TensorView x, DeviceTensor<float> gain, TensorView y) => new() { X = x, Weight = gain, Y = y, Epsilon = _config.NormEpsilon };

    private Qgemm Multiply(TensorView x, PackedWeight w, TensorView y) =>
        new() { X = x, W = w, Y = y, Int8Activations = _options.Int8Activations && w.Format is not (WeightFormat.F32 or WeightFormat.F16 or WeightFormat.BF16) };

    private Rope Turn(TensorView queries, TensorView positions) =>
        new() { X = queries, Positions = positions, Y = queries, Parameters = _config.Rope, FrequencyFactors = _model.FrequencyFactors };

    private KvAppend Append(int layer, int tokens, TensorView positions) => new()
    {
        Cache = _cache.Layer(layer),
        Keys = Heads(_keys, tokens, _config.KvHeads),
        Values = Heads(_values, tokens, _config.KvHeads),
        Positions = positions,
        Rope = _config.Rope,
        FrequencyFactors = _model.FrequencyFactors,
    };

    private KvAttention Attention(int layer, int tokens, int longest, DeviceTensor<int>? plan = null) => new()
    {
        Cache = _cache.Layer(layer),
        Q = Heads(_queries, tokens, _config.QueryHeads),
        Output = Heads(_attended, tokens, _config.QueryHeads),
        Causal = true,
        MaxLength = longest,
        Plan = plan,
    };

    // Workspaces grow with every extent, so the largest pass gives the bound for all.
    private long WorkspaceBytes(int tokens, int logitRows)
    {
        LlamaLayer weights = _model.Layers[0];
        TensorView normed = Rows(_normed, tokens);
        TensorView queries = Heads(_queries, tokens, _config.QueryHeads);
        TensorView positions = _positions;
        long bytes = new Embed { Ids = _ids, Y = Rows(_residual, tokens), W = _model.Embedding }.WorkspaceBytes(_device);
        void Include(long more) => bytes = Math.Max(bytes, more);
        Include(Norm(Rows(_residual, tokens), weights.AttentionNorm, normed).WorkspaceBytes(_device));
        foreach (LlamaLayer layer in _model.Layers)
        {
            Include(Multiply(normed, layer.Query, Rows(_queries, tokens)).WorkspaceBytes(_device));
            Include(Multiply(normed, layer.Key, Rows(_keys, tokens)).WorkspaceBytes(_device));
            Include(Multiply(normed, layer.Value, Rows(_values, tokens)).WorkspaceBytes(_device));
            Include(Multiply(Rows(_attended, tokens), layer.AttentionOutput, normed).WorkspaceBytes(_device));
            Include(Multiply(normed, layer.Gate, Rows(_gate, tokens)).WorkspaceBytes(_device));
            Include(Multiply(normed, layer.Up, Rows(_up, tokens)).WorkspaceBytes(_device));
            Include(Multiply(Rows(_gate, tokens), layer.Down, normed).WorkspaceBytes(_device));
        }

        Include(Turn(queries, positions).WorkspaceBytes(_device));
        Include(Append(0, tokens, positions).WorkspaceBytes(_device));
        Include(Attention(0, tokens, Capacity).WorkspaceBytes(_device));
        Include(new Elementwise { A = Rows(_gate, tokens), B = Rows(_up, tokens), Y = Rows(_gate, tokens), Function = ElementwiseFunction.SiluMul }.WorkspaceBytes(_device));
        Include(Multiply(Rows(_normed, logitRows), _model.Output, _logits).WorkspaceBytes(_device));
        return bytes;
    }
}
