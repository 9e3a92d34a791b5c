// SPDX-License-Identifier: Apache-2.0
// Keeps the queries of the last tokens of every layer, which scoring the cache needs.
using Strata.Engine.Models;

namespace Strata.Engine.Cache;

/// <summary>The rotated queries of the last tokens, per layer in order. Room beyond the window makes a step one copied row instead of a shift.</summary>
internal sealed class QueryWindow : IDisposable
{
    private readonly Device _device;
    private readonly DeviceTensor<float> _rows;
    private readonly int _capacity;
    private readonly long _rowBytes;
    private readonly LlamaConfig _config;
    private int _count;

    public QueryWindow(Device device, LlamaConfig config, int window)
    {
        Window = window;
        _device = device;
        _config = config;
        _capacity = 4 * window;
        _rowBytes = (long)config.QueryHeads * config.HeadDim * sizeof(float);
        _rows = device.Allocate<float>(config.Layers, _capacity, config.QueryHeads, config.HeadDim);
    }

    /// <summary>Most tokens that can be asked for.</summary>
    public int Window { get; }

    /// <summary>Tokens whose queries are here.</summary>
    public int Count => Math.Min(_count, Window);

    /// <summary>Makes room for the rows of the next forward pass.</summary>
    /// <param name="tokens">Tokens of the pass.</param>
    public void Advance(int tokens)
    {
        int added = Math.Min(tokens, Window);
        if (_count + added > _capacity)
        {
            int kept = Window - added;
            for (int layer = 0; layer < _config.Layers && kept > 0; layer++)
            {
                _device.Copy(Row(layer, 0), Row(layer, _count - kept), kept * _rowBytes);
            }

            _count = kept;
        }

        _count += added;
    }

    /// <summary>Stores the last rows of a pass that <see cref="Advance"/> announced.</summary>
    /// <param name="layer">The layer.</param>
    /// <param name="queries">[tokens, query heads, head size], rotated.</param>
    public void Store(int layer, TensorView queries)
    {
        int added = (int)Math.Min(queries.Shape(0), Window);
        TensorView last = queries.Slice(queries.Shape(0) - added, added);
        _device.Copy(Row(layer, _count - added), last.Pointer, added * _rowBytes);
    }

    /// <summary>The last rows as kv_score takes them.</summary>
    /// <param name="layer">The layer.</param>
    /// <param name="rows">How many, at most <see cref="Count"/>.</param>
    /// <returns>[1, rows, query heads, head size].</returns>
    public TensorView Last(int layer, int rows) =>
        TensorView.Borrow<float>(Row(layer, _count - rows), [1, rows, _config.QueryHeads, _config.HeadDim], _rows.Buffer);

    public void Clear() => _count = 0;

    public void Dispose() => _rows.Dispose();

    private nint Row(int layer, int row) => _rows.Buffer.Pointer + (nint)((((long)layer * _capacity) + row) * _rowBytes);
}
