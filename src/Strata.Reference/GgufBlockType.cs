// SPDX-License-Identifier: Apache-2.0
// The GGUF element types that the oracle decodes.
namespace Strata.Reference;

/// <summary>Element types of GGUF tensors that <see cref="GgufBlocksReference"/> decodes; the values are those of the file format.</summary>
public enum GgufBlockType
{
    /// <summary>32-bit float.</summary>
    F32 = 0,

    /// <summary>16-bit IEEE float.</summary>
    F16 = 1,

    /// <summary>32 codes of 4 bits in 18 bytes: d (q - 8).</summary>
    Q4_0 = 2,

    /// <summary>32 codes of 4 bits in 20 bytes: d q + m.</summary>
    Q4_1 = 3,

    /// <summary>32 codes of 5 bits in 22 bytes: d (q - 16).</summary>
    Q5_0 = 6,

    /// <summary>32 codes of 5 bits in 24 bytes: d q + m.</summary>
    Q5_1 = 7,

    /// <summary>32 codes of 8 bits in 34 bytes: d q.</summary>
    Q8_0 = 8,

    /// <summary>256 codes of 2 bits in 84 bytes: per 16, d sc q - dmin m.</summary>
    Q2_K = 10,

    /// <summary>256 codes of 4 bits in 144 bytes: per 32, d sc q - dmin m.</summary>
    Q4_K = 12,

    /// <summary>256 codes of 5 bits in 176 bytes: per 32, d sc q - dmin m.</summary>
    Q5_K = 13,

    /// <summary>256 codes of 6 bits in 210 bytes: per 16, d sc (q - 32).</summary>
    Q6_K = 14,

    /// <summary>16-bit float with the exponent of a 32-bit one.</summary>
    BF16 = 30,

    /// <summary>256 codes of 2 bits in 66 bytes: d (q - 1).</summary>
    TQ2_0 = 35,
}
