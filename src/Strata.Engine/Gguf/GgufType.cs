// SPDX-License-Identifier: Apache-2.0
// The element types of GGUF tensors.
namespace Strata.Engine.Gguf;

/// <summary>Element type of a tensor; the values are those of the file format.</summary>
public enum GgufType
{
    /// <summary>32-bit float.</summary>
    F32 = 0,

    /// <summary>16-bit IEEE float.</summary>
    F16 = 1,

    /// <summary>32 codes of 4 bits, d (q - 8).</summary>
    Q4_0 = 2,

    /// <summary>32 codes of 4 bits, d q + m.</summary>
    Q4_1 = 3,

    /// <summary>32 codes of 5 bits, d (q - 16).</summary>
    Q5_0 = 6,

    /// <summary>32 codes of 5 bits, d q + m.</summary>
    Q5_1 = 7,

    /// <summary>32 codes of 8 bits, d q.</summary>
    Q8_0 = 8,

    /// <summary>32 codes of 8 bits with their sum; for activations.</summary>
    Q8_1 = 9,

    /// <summary>256 codes of 2 bits, scale and minimum per 16.</summary>
    Q2_K = 10,

    /// <summary>256 codes of 3 bits, scale per 16.</summary>
    Q3_K = 11,

    /// <summary>256 codes of 4 bits, scale and minimum per 32.</summary>
    Q4_K = 12,

    /// <summary>256 codes of 5 bits, scale and minimum per 32.</summary>
    Q5_K = 13,

    /// <summary>256 codes of 6 bits, scale per 16.</summary>
    Q6_K = 14,

    /// <summary>256 codes of 8 bits with sums; for activations.</summary>
    Q8_K = 15,

    /// <summary>256 codes from a codebook, 2.06 bits each.</summary>
    IQ2_XXS = 16,

    /// <summary>256 codes from a codebook, 2.31 bits each.</summary>
    IQ2_XS = 17,

    /// <summary>256 codes from a codebook, 3.06 bits each.</summary>
    IQ3_XXS = 18,

    /// <summary>256 codes from a codebook, 1.56 bits each.</summary>
    IQ1_S = 19,

    /// <summary>32 codes of 4 bits into a table of 16 values.</summary>
    IQ4_NL = 20,

    /// <summary>256 codes from a codebook, 3.44 bits each.</summary>
    IQ3_S = 21,

    /// <summary>256 codes from a codebook, 2.56 bits each.</summary>
    IQ2_S = 22,

    /// <summary>256 codes of 4 bits into a table of 16 values, scale per 32.</summary>
    IQ4_XS = 23,

    /// <summary>8-bit integer.</summary>
    I8 = 24,

    /// <summary>16-bit integer.</summary>
    I16 = 25,

    /// <summary>32-bit integer.</summary>
    I32 = 26,

    /// <summary>64-bit integer.</summary>
    I64 = 27,

    /// <summary>64-bit float.</summary>
    F64 = 28,

    /// <summary>256 codes from a codebook, 1.75 bits each.</summary>
    IQ1_M = 29,

    /// <summary>16-bit float with the exponent of a 32-bit one.</summary>
    BF16 = 30,

    /// <summary>256 ternary codes, five a byte.</summary>
    TQ1_0 = 34,

    /// <summary>256 ternary codes of 2 bits, d (q - 1).</summary>
    TQ2_0 = 35,

    /// <summary>32 codes of 4-bit float with a power-of-two scale.</summary>
    MXFP4 = 39,

    /// <summary>64 codes of 4-bit float with an 8-bit float scale per 16.</summary>
    NVFP4 = 40,

    /// <summary>128 signs, plus or minus d.</summary>
    Q1_0 = 41,
}
