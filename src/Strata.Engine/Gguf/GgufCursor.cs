// SPDX-License-Identifier: Apache-2.0
// Walks the header of a GGUF file; nothing is read, counted or allocated before the bytes for it are known to be there.
using System.Buffers.Binary;
using System.Globalization;
using System.Text;
using System.Text.Unicode;

namespace Strata.Engine.Gguf;

// `what` and `name` stay apart until an error needs them, so that a header of many entries costs no text.
internal ref struct GgufCursor(ReadOnlySpan<byte> bytes, long fileLength)
{
    public const string Damaged = "the file is damaged or was cut, copy it again";
    private readonly ReadOnlySpan<byte> _bytes = bytes;

    public int Position { get; private set; }

    public readonly int Remaining => _bytes.Length - Position;

    public static StrataFormatException Error(long offset, string what, string? name, string got, string wanted, string cure = Damaged)
    {
        string subject = name is null ? what : $"{what} {Quote(name)}";
        return new(string.Create(CultureInfo.InvariantCulture, $"gguf: {subject} at byte {offset} is {got}, must be {wanted}; {cure}"), offset);
    }

    public static StrataFormatException Error(long offset, string what, string? name, ulong got, string wanted, string cure = Damaged) =>
        Error(offset, what, name, got.ToString(CultureInfo.InvariantCulture), wanted, cure);

    // Names come from the file: control characters must not reach a terminal, and a long name must not flood it.
    public static string Quote(string name)
    {
        const int longest = 60;
        var text = new StringBuilder("'");
        foreach (char c in name.AsSpan(0, Math.Min(name.Length, longest)))
        {
            text.Append(char.IsControl(c) || char.IsSurrogate(c) || c is '\u2028' or '\u2029' ? '?' : c);
        }

        return text.Append(name.Length > longest ? "…'" : "'").ToString();
    }

    public readonly ReadOnlySpan<byte> Again(long offset, int count) => _bytes.Slice((int)offset, count);

    public ReadOnlySpan<byte> Take(int count, string what, string? name = null)
    {
        if (count > Remaining)
        {
            // Either the file ends here, or the header is longer than any real one.
            string wanted = _bytes.Length < fileLength
                ? $"inside the first {_bytes.Length} bytes of the file"
                : $"complete in the {fileLength} bytes of the file";
            throw Error(Position, what, name, $"{count} bytes long with {Remaining} bytes left", wanted);
        }

        ReadOnlySpan<byte> taken = _bytes.Slice(Position, count);
        Position += count;
        return taken;
    }

    public uint TakeUInt32(string what, string? name = null) => BinaryPrimitives.ReadUInt32LittleEndian(Take(4, what, name));

    public ulong TakeUInt64(string what, string? name = null) => BinaryPrimitives.ReadUInt64LittleEndian(Take(8, what, name));

    // A count is believed only as far as the bytes that follow could hold that many entries.
    public int TakeCount(string what, string? name, int maximum, int bytesPerEntry)
    {
        int at = Position;
        ulong count = TakeUInt64(what, name);
        int possible = Remaining / bytesPerEntry;
        return count <= (ulong)Math.Min(maximum, possible)
            ? (int)count
            : throw Error(at, what, name, count, $"at most {maximum} and at most {possible}, what the {Remaining} bytes that follow can hold");
    }

    public ReadOnlySpan<byte> TakeString(string what, string? name, int longest)
    {
        int at = Position;
        int length = TakeCount(what, name, longest, bytesPerEntry: 1);
        ReadOnlySpan<byte> text = Take(length, what, name);
        return Utf8.IsValid(text) ? text : throw Error(at, what, name, "not valid UTF-8", "UTF-8 text", "convert the model again");
    }
}
