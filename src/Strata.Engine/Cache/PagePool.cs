// SPDX-License-Identifier: Apache-2.0
// Hands out the pages of a KV cache and counts the ones in use.
using System.Diagnostics;

namespace Strata.Engine.Cache;

/// <summary>Page numbers 0 … capacity - 1, each free or owned by one KV head.</summary>
internal sealed class PagePool
{
    private readonly int[] _free;
    private int _freeCount;

    public PagePool(int capacity)
    {
        _free = new int[capacity];
        Reset();
    }

    public int Capacity => _free.Length;

    public int Live => _free.Length - _freeCount;

    /// <summary>Most pages that were in use at one time.</summary>
    public int Peak { get; private set; }

    public int Free => _freeCount;

    public int Take()
    {
        Debug.Assert(_freeCount > 0, "callers reserve before they take");
        int page = _free[--_freeCount];
        Peak = Math.Max(Peak, Live);
        return page;
    }

    public void Return(int page) => _free[_freeCount++] = page;

    public void Reset()
    {
        // Lowest page on top, so that a short sequence touches little memory.
        _freeCount = _free.Length;
        for (int i = 0; i < _free.Length; i++)
        {
            _free[i] = _free.Length - 1 - i;
        }

        Peak = 0;
    }
}
