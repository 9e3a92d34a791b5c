// SPDX-License-Identifier: Apache-2.0
// Decodes GGUF blocks, one element at a time, to the fp32 values that the format defines.
using System.Buffers.Binary;

namespace Strata.Reference;

/// <summary>The decoder of GGUF blocks that every other one is compared with. Each value is exact in fp64 and rounded once to fp32.</summary>
public static class GgufBlocksReference
{
    /// <summary>Elements and bytes of one block.</summary>
    /// <param name="type">Element type.</param>
    /// <returns>Elements per block, 1 for plain numbers, and bytes per block.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The type is not one of the enumeration.</exception>
    public static (int Elements, int Bytes) Block(GgufBlockType type) => type switch
    {
        GgufBlockType.F32 => (1, 4),
        GgufBlockType.F16 or GgufBlockType.BF16 => (1, 2),
        GgufBlockType.Q4_0 => (32, 18),
        GgufBlockType.Q4_1 => (32, 20),
        GgufBlockType.Q5_0 => (32, 22),
        GgufBlockType.Q5_1 => (32, 24),
        GgufBlockType.Q8_0 => (32, 34),
        GgufBlockType.Q2_K => (256, 84),
        GgufBlockType.Q4_K => (256, 144),
        GgufBlockType.Q5_K => (256, 176),
        GgufBlockType.Q6_K => (256, 210),
        GgufBlockType.TQ2_0 => (256, 66),
        _ => throw new ArgumentOutOfRangeException(
            nameof(type), $"decode: type is {(int)type}, must be one of GgufBlockType; convert the tensor to a type that is decoded here"),
    };

    /// <summary>values[i] = the value of element i.</summary>
    /// <param name="type">Element type.</param>
    /// <param name="blocks">Whole blocks, one after the other.</param>
    /// <param name="values">Written: all elements of the blocks, in order.</param>
    /// <exception cref="ArgumentException">The lengths are not those of whole blocks and their elements.</exception>
    public static void Decode(GgufBlockType type, ReadOnlySpan<byte> blocks, Span<float> values)
    {
        (int elements, int bytes) = Block(type);
        if (blocks.Length % bytes != 0 || values.Length != (long)(blocks.Length / bytes) * elements)
        {
            throw new ArgumentException(
                $"decode: blocks has {blocks.Length} bytes for {values.Length} values, must be {bytes} bytes per {elements} values of {type}; pass whole blocks and room for them",
                nameof(blocks));
        }

        for (int b = 0; b < blocks.Length / bytes; b++)
        {
            ReadOnlySpan<byte> block = blocks.Slice(b * bytes, bytes);
            for (int i = 0; i < elements; i++)
            {
                values[(b * elements) + i] = (float)Element(type, block, i);
            }
        }
    }

    /// <summary>The value of one element of a block.</summary>
    /// <param name="type">Element type.</param>
    /// <param name="block">One block.</param>
    /// <param name="index">Element of the block, from 0.</param>
    /// <returns>The value, exact.</returns>
    public static double Element(GgufBlockType type, ReadOnlySpan<byte> block, int index) => type switch
    {
        GgufBlockType.F32 => BinaryPrimitives.ReadSingleLittleEndian(block),
        GgufBlockType.F16 => HalfAt(block, 0),
        GgufBlockType.BF16 => BitConverter.Int32BitsToSingle(BinaryPrimitives.ReadUInt16LittleEndian(block) << 16),
        GgufBlockType.Q4_0 => HalfAt(block, 0) * (Nibble(block[2..], index) - 8),
        GgufBlockType.Q4_1 => (HalfAt(block, 0) * Nibble(block[4..], index)) + HalfAt(block, 2),
        GgufBlockType.Q5_0 => HalfAt(block, 0) * ((Nibble(block[6..], index) | (FifthBit(block[2..], index) << 4)) - 16),
        GgufBlockType.Q5_1 => (HalfAt(block, 0) * (Nibble(block[8..], index) | (FifthBit(block[4..], index) << 4))) + HalfAt(block, 2),
        GgufBlockType.Q8_0 => HalfAt(block, 0) * (sbyte)block[2 + index],
        GgufBlockType.Q2_K => Q2K(block, index),
        GgufBlockType.Q4_K => Scaled(block, index, Chunked(block[16..], index)),
        GgufBlockType.Q5_K => Scaled(block, index, Chunked(block[48..], index) | (((block[16 + (index % 32)] >> (index / 32)) & 1) << 4)),
        GgufBlockType.Q6_K => Q6K(block, index),
        GgufBlockType.TQ2_0 => HalfAt(block, 64) * (((block[(32 * (index / 128)) + (index % 32)] >> (2 * (index / 32 % 4))) & 3) - 1),
        _ => throw new ArgumentOutOfRangeException(
            nameof(type), $"decode: type is {(int)type}, must be one of GgufBlockType; convert the tensor to a type that is decoded here"),
    };

    private static double HalfAt(ReadOnlySpan<byte> block, int offset) => (double)BinaryPrimitives.ReadHalfLittleEndian(block[offset..]);

    // Blocks of 32: byte j holds element j low and element j + 16 high.
    private static int Nibble(ReadOnlySpan<byte> codes, int index) => (codes[index % 16] >> (4 * (index / 16))) & 15;

    private static int FifthBit(ReadOnlySpan<byte> bits, int index) => (int)(BinaryPrimitives.ReadUInt32LittleEndian(bits) >> index) & 1;

    // Blocks of 256: chunks of 32 bytes hold 64 elements, the first 32 low.
    private static int Chunked(ReadOnlySpan<byte> codes, int index) => (codes[(32 * (index / 64)) + (index % 32)] >> (4 * (index / 32 % 2))) & 15;

    // Q4_K and Q5_K: six-bit scale and minimum of sub-block j from twelve bytes.
    private static double Scaled(ReadOnlySpan<byte> block, int index, int code)
    {
        ReadOnlySpan<byte> packed = block.Slice(4, 12);
        int j = index / 32;
        int scale = j < 4 ? packed[j] & 63 : (packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4);
        int minimum = j < 4 ? packed[j + 4] & 63 : (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4);
        return (HalfAt(block, 0) * scale * code) - (HalfAt(block, 2) * minimum);
    }

    private static double Q2K(ReadOnlySpan<byte> block, int index)
    {
        int code = (block[16 + (32 * (index / 128)) + (index % 32)] >> (2 * (index / 32 % 4))) & 3;
        int packed = block[index / 16];
        return (HalfAt(block, 80) * (packed & 15) * code) - (HalfAt(block, 82) * (packed >> 4));
    }

    private static double Q6K(ReadOnlySpan<byte> block, int index)
    {
        int half = index / 128;
        int quarter = index / 32 % 4;
        int low = (block[(64 * half) + (32 * (quarter % 2)) + (index % 32)] >> (4 * (quarter / 2))) & 15;
        int high = (block[128 + (32 * half) + (index % 32)] >> (2 * quarter)) & 3;
        var scale = (sbyte)block[192 + (index / 16)];
        return HalfAt(block, 208) * scale * ((low | (high << 4)) - 32);
    }
}
