// SPDX-License-Identifier: Apache-2.0
// The printable character that byte-level vocabularies write for each byte.
using System.Text;

namespace Strata.Engine.Tokenization;

internal static class ByteAlphabet
{
    private const int Extra = 256;
    private static readonly char[] Characters = MakeCharacters();
    private static readonly short[] Bytes = MakeBytes();

    public static char Character(byte value) => Characters[value];

    // Text outside the alphabet stands for itself, as in tokens that a user added by hand.
    public static byte[] Decode(string token)
    {
        var bytes = new List<byte>(token.Length);
        Span<byte> utf8 = stackalloc byte[4];
        foreach (Rune rune in token.EnumerateRunes())
        {
            if (rune.Value < Bytes.Length && Bytes[rune.Value] >= 0)
            {
                bytes.Add((byte)Bytes[rune.Value]);
            }
            else
            {
                bytes.AddRange(utf8[..rune.EncodeToUtf8(utf8)]);
            }
        }

        return [.. bytes];
    }

    private static bool IsPrintable(int value) => value is (>= '!' and <= '~') or (>= 0xA1 and <= 0xFF and not 0xAD);

    // Bytes without a printable character of their own take the characters from 256 on, in order.
    private static char[] MakeCharacters()
    {
        char[] characters = new char[256];
        int next = Extra;
        for (int value = 0; value < 256; value++)
        {
            characters[value] = (char)(IsPrintable(value) ? value : next++);
        }

        return characters;
    }

    private static short[] MakeBytes()
    {
        short[] bytes = new short[Characters.Max() + 1];
        Array.Fill(bytes, (short)-1);
        for (int value = 0; value < 256; value++)
        {
            bytes[Characters[value]] = (short)value;
        }

        return bytes;
    }
}
