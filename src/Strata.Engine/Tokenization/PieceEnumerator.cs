// SPDX-License-Identifier: Apache-2.0
// Cuts text into the pieces inside which byte-pair merges may happen: the rules of the GPT-2 and SmolLM tokenizers.
using System.Text;

namespace Strata.Engine.Tokenization;

// The rule, as a regular expression: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// SmolLM first cuts out every \p{N} and applies the rule to the stretches between.
// Written by hand because Regex sees UTF-16 units, and letters outside the BMP would count as punctuation.
internal ref struct PieceEnumerator(ReadOnlySpan<char> text, bool isolateNumbers)
{
    private readonly ReadOnlySpan<char> _text = text;
    private readonly bool _isolateNumbers = isolateNumbers;
    private int _start;
    private int _end;

    private enum Kind
    {
        End,
        Space,
        Letter,
        Number,
        Other,
    }

    public readonly ReadOnlySpan<char> Current => _text[_start.._end];

    public readonly PieceEnumerator GetEnumerator() => this;

    public bool MoveNext()
    {
        _start = _end;
        if (_start == _text.Length)
        {
            return false;
        }

        _end = FindEnd(_start);
        return true;
    }

    private readonly int FindEnd(int start)
    {
        int contraction = _text[start] == '\'' ? Contraction(_text[(start + 1)..]) : 0;
        if (contraction > 0)
        {
            return start + 1 + contraction;
        }

        int wordStart = _text[start] == ' ' ? start + 1 : start;
        Kind kind = KindAt(wordStart, out int length);
        bool cut = kind == Kind.Number && _isolateNumbers;
        if (cut && wordStart == start)
        {
            return start + length;
        }

        return kind is Kind.End or Kind.Space || cut ? EndOfSpaces(start) : EndOfRun(wordStart, kind);
    }

    private readonly int EndOfRun(int position, Kind kind)
    {
        while (KindAt(position, out int length) == kind)
        {
            position += length;
        }

        return position;
    }

    // The last of several spaces goes with what follows it.
    private readonly int EndOfSpaces(int start)
    {
        int end = EndOfRun(start, Kind.Space);
        Kind next = KindAt(end, out _);
        bool atEnd = next == Kind.End || (next == Kind.Number && _isolateNumbers);
        return atEnd || end == start + 1 ? end : end - 1;
    }

    private readonly Kind KindAt(int position, out int length)
    {
        length = 0;
        if (position == _text.Length)
        {
            return Kind.End;
        }

        Rune.DecodeFromUtf16(_text[position..], out Rune rune, out length);
        return Rune.IsLetter(rune) ? Kind.Letter : Rune.IsNumber(rune) ? Kind.Number : Rune.IsWhiteSpace(rune) ? Kind.Space : Kind.Other;
    }

    private static int Contraction(ReadOnlySpan<char> rest)
    {
        if (rest.StartsWith("re") || rest.StartsWith("ve") || rest.StartsWith("ll"))
        {
            return 2;
        }

        return !rest.IsEmpty && rest[0] is 's' or 't' or 'm' or 'd' ? 1 : 0;
    }
}
