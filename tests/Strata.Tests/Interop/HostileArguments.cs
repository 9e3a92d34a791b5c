// SPDX-License-Identifier: Apache-2.0
// What can be written wrong into an argument block.

using Strata.Bindings;

namespace Strata.Tests.Interop;

/// <summary>How much is known about a spoiled call.</summary>
internal enum Verdict
{
    /// <summary>Every export of the op must refuse it.</summary>
    Refused,
    /// <summary>Shapes are right, so the queries accept it; the run must refuse it.</summary>
    RunRefused,
    /// <summary>May be a valid call too: it must not crash, and what is said must be said well.</summary>
    Open,
}

/// <summary>One spoiled argument block.</summary>
/// <param name="What">What was written wrong.</param>
/// <param name="Block">The block.</param>
/// <param name="Verdict">What must come of it.</param>
/// <param name="Runnable">Whether a run on real memory stays within it, should the call be accepted.</param>
internal sealed record HostileBlock(string What, byte[] Block, Verdict Verdict, bool Runnable = false);

internal static class HostileArguments
{
    private static readonly long[] s_negative = [-1, long.MinValue];
    private static readonly long[] s_absurd = [1L << 62, long.MaxValue];
    private static readonly long[] s_large = [1L << 31, 1L << 40];
    private static readonly long[] s_notDtypes = [-1, 0, 7, 99, int.MinValue, int.MaxValue];
    private static readonly long[] s_notRanks = [-1, 5, int.MinValue, int.MaxValue];

    /// <summary>Every spoiled form of one word of the block.</summary>
    public static IEnumerable<HostileBlock> Spoil(byte[] block, Type type)
    {
        foreach (ArgumentField field in ArgumentFields.Of(type))
        {
            IEnumerable<(long Value, Verdict Verdict, bool Runnable)> values =
                field.Path == "struct_size" ? []
                : field.InTensor ? OfTensor(field, block)
                : field.Owner == typeof(strata_weight) ? OfWeight(field, field.Get(block))
                : OfScalar(field);
            foreach ((long value, Verdict verdict, bool runnable) in values)
            {
                if (value == field.Get(block)) continue;
                byte[] spoiled = [.. block];
                field.Set(spoiled, value);
                yield return new HostileBlock($"{field.Path} = {Show(field, value)}", spoiled, verdict, runnable);
            }
        }
    }

    /// <summary>The block with every extent that equals a value replaced by another, so that the shapes still agree with one another.</summary>
    public static IEnumerable<(long From, byte[] Block)> Rescale(byte[] block, Type type, long to)
    {
        IReadOnlyList<ArgumentField> shapes = [.. ArgumentFields.Of(type).Where(f => f.InTensor && f.Name == "shape" && f.Index < Tensor(f).Rank(block))];
        foreach (long from in shapes.Select(f => f.Get(block)).Where(v => v > 0).Distinct())
        {
            byte[] spoiled = [.. block];
            foreach (ArgumentField field in ArgumentFields.Of(type).Where(f => f.InTensor && f.Name == "stride")) field.Set(spoiled, 0);
            foreach (ArgumentField field in shapes.Where(f => f.Get(block) == from)) field.Set(spoiled, to);
            yield return (from, spoiled);
        }
    }

    private static IEnumerable<(long, Verdict, bool)> OfTensor(ArgumentField field, byte[] block)
    {
        TensorField tensor = Tensor(field);
        int rank = tensor.Rank(block);
        long value = field.Get(block);
        switch (field.Name)
        {
            case "data" when rank == 0:
                return [(64, Verdict.Refused, false)];
            case "data" when tensor.Elements(block) > 0:
                return tensor.DType(block).Size() > 1 ? [(0, Verdict.RunRefused, false), (value + 1, Verdict.RunRefused, false)] : [(0, Verdict.RunRefused, false)];
            case "dtype" when rank > 0:
                return s_notDtypes.Select(v => (v, Verdict.Refused, false));
            case "ndim":
                return s_notRanks.Append(rank == 0 ? 1 : 0).Select(v => (v, Verdict.Refused, false));
            case "shape" when field.Index < rank:
                return [.. s_negative.Concat(s_absurd).Select(v => (v, Verdict.Refused, false)), .. s_large.Concat([0, value + 1, value - 1]).Where(v => v >= 0).Select(v => (v, Verdict.Open, false))];
            case "stride" when field.Index < rank && tensor.Elements(block) > 0 && tensor.Shape(block, field.Index) > 1:
                return [.. s_negative.Concat(s_absurd).Select(v => (v, Verdict.Refused, false)), (0, Verdict.Open, false), (value + 1, Verdict.Open, false)];
            case "shape" or "stride" when field.Index >= rank && rank > 0:
                return [(long.MaxValue, Verdict.Open, true), (-1, Verdict.Open, true)];
            default:
                return [];
        }
    }

    private static IEnumerable<(long, Verdict, bool)> OfWeight(ArgumentField field, long value) => field.Name switch
    {
        "data" => [(0, Verdict.RunRefused, false), (value + 4, Verdict.RunRefused, false)],
        "reserved" => [(-1, Verdict.Open, true)],
        "bytes" => [(-1, Verdict.Refused, false), (0, Verdict.Refused, false), (64, Verdict.Refused, false), (value - 1, Verdict.Refused, false), (long.MinValue, Verdict.Refused, false)],
        _ => [(-1, Verdict.Refused, false), (value + 1, Verdict.Refused, false), .. field.Size == 4 ? [(int.MinValue, Verdict.Refused, false), ((long)int.MaxValue, Verdict.Refused, false)] : s_absurd.Select(v => (v, Verdict.Refused, false))],
    };

    private static IEnumerable<(long, Verdict, bool)> OfScalar(ArgumentField field)
    {
        if (field.Name == "reserved") return [(-1, Verdict.Open, true)];
        if (field.Name == "flags") return [(int.MinValue, Verdict.Refused, false), (0x7ffffff0, Verdict.Refused, false)];
        if (field.Type.IsPointer) return [(0, Verdict.Refused, false)];
        if (field.Type == typeof(float)) return new[] { float.NaN, float.PositiveInfinity, float.NegativeInfinity, -1, float.MaxValue }.Select(v => ((long)BitConverter.SingleToInt32Bits(v), Verdict.Open, true));
        return [(-1, Verdict.Refused, false), (int.MinValue, Verdict.Refused, false), (int.MaxValue, Verdict.Open, true), (99, Verdict.Open, true)];
    }

    private static TensorField Tensor(ArgumentField field) => new(field.Path[..field.Path.LastIndexOf('.')], field.Parent);

    private static string Show(ArgumentField field, long value) => field.Type == typeof(float) ? $"{BitConverter.Int32BitsToSingle((int)value)}" : field.Name == "data" ? $"0x{value:x}" : $"{value}";
}
