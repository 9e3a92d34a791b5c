// SPDX-License-Identifier: Apache-2.0
// Finds the control and user-defined tokens that are written out in a text.
using System.Buffers;

namespace Strata.Engine.Tokenization;

internal sealed class SpecialTokens
{
    private readonly Dictionary<string, int> _ids = new(StringComparer.Ordinal);
    private readonly SearchValues<string> _texts;
    private readonly int[] _lengths;

    public SpecialTokens(IEnumerable<(string Text, int Id)> tokens)
    {
        foreach ((string text, int id) in tokens)
        {
            if (text.Length > 0)
            {
                _ids.TryAdd(text, id);
            }
        }

        _texts = SearchValues.Create([.. _ids.Keys], StringComparison.Ordinal);
        _lengths = [.. _ids.Keys.Select(text => text.Length).Distinct().OrderDescending()];
    }

    // The leftmost token of the text, the longest of those that start there.
    public bool TryFind(ReadOnlySpan<char> text, out int index, out int length, out int id)
    {
        Dictionary<string, int>.AlternateLookup<ReadOnlySpan<char>> ids = _ids.GetAlternateLookup<ReadOnlySpan<char>>();
        index = _ids.Count == 0 ? -1 : text.IndexOfAny(_texts);
        length = 0;
        id = -1;
        if (index < 0)
        {
            return false;
        }

        foreach (int candidate in _lengths)
        {
            if (candidate <= text.Length - index && ids.TryGetValue(text.Slice(index, candidate), out id))
            {
                length = candidate;
                return true;
            }
        }

        return false;
    }
}
