// SPDX-License-Identifier: Apache-2.0
// The block sizes of the GGUF element types.
namespace Strata.Engine.Gguf;

/// <summary>How a tensor type is stored: rows are whole blocks of <paramref name="BlockElements"/> elements in <paramref name="BlockBytes"/> bytes.</summary>
/// <param name="BlockElements">Elements per block, 1 for plain numbers.</param>
/// <param name="BlockBytes">Bytes per block.</param>
public readonly record struct GgufTypeLayout(int BlockElements, int BlockBytes)
{
    /// <summary>Finds the layout of a type.</summary>
    /// <param name="type">The type, possibly a number that the format does not define.</param>
    /// <param name="layout">Its block.</param>
    /// <returns>False where the format does not define the number, or has withdrawn it.</returns>
    public static bool TryGet(GgufType type, out GgufTypeLayout layout)
    {
        layout = type switch
        {
            GgufType.F32 or GgufType.I32 => new(1, 4),
            GgufType.F16 or GgufType.BF16 or GgufType.I16 => new(1, 2),
            GgufType.F64 or GgufType.I64 => new(1, 8),
            GgufType.I8 => new(1, 1),
            GgufType.Q4_0 or GgufType.IQ4_NL => new(32, 18),
            GgufType.Q4_1 => new(32, 20),
            GgufType.Q5_0 => new(32, 22),
            GgufType.Q5_1 => new(32, 24),
            GgufType.Q8_0 => new(32, 34),
            GgufType.Q8_1 => new(32, 36),
            GgufType.MXFP4 => new(32, 17),
            GgufType.NVFP4 => new(64, 36),
            GgufType.Q1_0 => new(128, 18),
            GgufType.Q2_K => new(256, 84),
            GgufType.Q3_K or GgufType.IQ3_S => new(256, 110),
            GgufType.Q4_K => new(256, 144),
            GgufType.Q5_K => new(256, 176),
            GgufType.Q6_K => new(256, 210),
            GgufType.Q8_K => new(256, 292),
            GgufType.IQ2_XXS or GgufType.TQ2_0 => new(256, 66),
            GgufType.IQ2_XS => new(256, 74),
            GgufType.IQ2_S => new(256, 82),
            GgufType.IQ3_XXS => new(256, 98),
            GgufType.IQ1_S => new(256, 50),
            GgufType.IQ1_M => new(256, 56),
            GgufType.IQ4_XS => new(256, 136),
            GgufType.TQ1_0 => new(256, 54),
            _ => default,
        };
        return layout.BlockElements != 0;
    }
}
