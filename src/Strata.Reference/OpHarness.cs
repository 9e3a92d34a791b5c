// SPDX-License-Identifier: Apache-2.0
// What an op brings so that tests, verify and bench can run it without knowing it.

using System.Reflection;

namespace Strata.Reference;

/// <summary>Families of input data. Tolerances catch rounding; exact families catch everything else.</summary>
public enum DataFamily
{
    /// <summary>Gaussian values, spread 1.</summary>
    Gaussian,
    /// <summary>Gaussian values, spread 4: sharper softmax, larger sums.</summary>
    Wide,
    /// <summary>One element dominates: the one most at risk (first, last, page and split edges).</summary>
    Needle,
    /// <summary>Small integers and powers of two: sums are exact in any order.</summary>
    Exact,
    /// <summary>One-hot: the result is a copy of one row or column.</summary>
    OneHot,
}

/// <summary>Which peak bounds an op's arithmetic.</summary>
public enum Roof
{
    /// <summary>fp32 multiply-add.</summary>
    Fp32,
    /// <summary>bf16 dot product.</summary>
    Bf16,
    /// <summary>int8 dot product.</summary>
    Int8,
}

/// <summary>The worst row of a comparison with the oracle.</summary>
/// <param name="Error">Its error, normwise over the row (‖got − want‖ / ‖want‖) unless the op says otherwise.</param>
/// <param name="Gate">The largest error that passes; 0 where the result must be exact.</param>
/// <param name="Where">Which row, and in what; "" when nothing was compared.</param>
public readonly record struct Comparison(double Error, double Gate, string Where)
{
    /// <summary>Whether the op passes. NaN does not.</summary>
    public bool Passes => Error <= Gate;

    /// <summary>The worse of two.</summary>
    /// <param name="a">One.</param>
    /// <param name="b">The other.</param>
    public static Comparison Worst(Comparison a, Comparison b) => Share(b) > Share(a) || double.IsNaN(b.Error) ? b : a;

    private static double Share(Comparison c) => c.Gate > 0 ? c.Error / c.Gate : c.Error > 0 ? double.PositiveInfinity : 0;

    /// <summary>Compares rows of <paramref name="width"/> values normwise; the gate applies to each row.</summary>
    /// <param name="got">What the op wrote.</param>
    /// <param name="want">What the oracle says.</param>
    /// <param name="width">Values in a row.</param>
    /// <param name="gate">The largest error that passes.</param>
    /// <param name="name">Of the output, for <see cref="Where"/>.</param>
    /// <param name="numbers">Of the rows; null = 0, 1, ...</param>
    public static Comparison Rows(ReadOnlySpan<double> got, ReadOnlySpan<double> want, long width, double gate, string name, IReadOnlyList<long>? numbers = null)
    {
        var worst = new Comparison(0, gate, "");
        for (int row = 0; width > 0 && row < got.Length / width; row++)
        {
            double difference = 0, norm = 0;
            for (int i = 0; i < width; i++)
            {
                double g = got[(int)((row * width) + i)], w = want[(int)((row * width) + i)];
                if (g.Equals(w)) // infinities and NaN that belong there
                {
                    norm += double.IsFinite(w) ? w * w : 0;
                    continue;
                }
                difference += (g - w) * (g - w);
                norm += w * w;
            }
            double error = difference == 0 ? 0 : Math.Sqrt(difference / Math.Max(norm, 1e-60));
            worst = Worst(worst, new Comparison(error, gate, $"{name} row {numbers?[row] ?? row}"));
        }
        return worst;
    }
}

/// <summary>An op's entry for tests, verify and bench. One instance per op, found by <see cref="All"/>.</summary>
public abstract class OpHarness
{
    private static readonly Lazy<IReadOnlyList<OpHarness>> s_all = new(Find);

    /// <summary>Every op's harness, in the order of their names.</summary>
    public static IReadOnlyList<OpHarness> All => s_all.Value;

    /// <summary>The op's folder name.</summary>
    public abstract string Op { get; }

    /// <summary>The data families that the op is tested with.</summary>
    public abstract IReadOnlyList<DataFamily> Families { get; }

    /// <summary>The families that fit a case, the first of <see cref="Families"/> among them; the others have no exact result there.</summary>
    /// <param name="opCase">The case.</param>
    public virtual IReadOnlyList<DataFamily> FamiliesOf(OpCase opCase) => Families;

    /// <summary>The op's cases.</summary>
    public IReadOnlyList<OpCase> Cases => OpCase.Of(Op);

    /// <summary>Makes the inputs of a case, the same for the same seed, and knows the oracle's result.</summary>
    /// <param name="opCase">The case.</param>
    /// <param name="family">The family of data.</param>
    /// <param name="seed">The seed.</param>
    public abstract OpProblem Create(OpCase opCase, DataFamily family, int seed);

    [System.Diagnostics.CodeAnalysis.UnconditionalSuppressMessage("Trimming", "IL2026", Justification = "Only tests and tools enumerate the harnesses, and they are not trimmed.")]
    [System.Diagnostics.CodeAnalysis.UnconditionalSuppressMessage("Trimming", "IL2067", Justification = "As above.")]
    private static List<OpHarness> Find() =>
        [.. typeof(OpHarness).Assembly.GetTypes().Where(t => t.IsSubclassOf(typeof(OpHarness)) && !t.IsAbstract)
            .Select(t => (OpHarness)Activator.CreateInstance(t)!).OrderBy(h => h.Op, StringComparer.Ordinal)];
}

/// <summary>A case with its inputs.</summary>
public abstract class OpProblem
{
    /// <summary>Bytes that one call must move: each input and output once.</summary>
    public abstract long Bytes { get; }

    /// <summary>Arithmetic operations of one call (two per multiply-add).</summary>
    public abstract double Operations { get; }

    /// <summary>Which peak bounds the arithmetic.</summary>
    public virtual Roof Roof => Roof.Fp32;

    /// <summary>Uploads the inputs, allocates outputs and workspace, and fills everything that the op must not depend on with poison.</summary>
    /// <param name="device">The device.</param>
    /// <param name="poison">The poison.</param>
    public abstract OpRun Bind(Device device, Poison poison);
}

/// <summary>A case on a device, ready to run again and again.</summary>
public abstract class OpRun : IDisposable
{
    private readonly List<IDisposable> _owned = [];

    /// <summary>Runs the op once. On a GPU it is queued. An op that changes its inputs (in place) leaves them as the next run needs them
    /// or restores them in <see cref="Reset"/>.</summary>
    /// <param name="stream">The stream; null = the default one.</param>
    public abstract void Run(StrataStream? stream = null);

    /// <summary>Restores inputs that a run changes and poisons outputs and workspace. Not timed.</summary>
    public abstract void Reset();

    /// <summary>Compares the outputs of the last run with the oracle.</summary>
    public abstract Comparison Compare();

    /// <summary>The bytes of all outputs of the last run, valid regions only, for bitwise comparisons.</summary>
    public abstract byte[] Outputs();

    /// <summary>Bytes of device memory that the run owns.</summary>
    public long OwnedBytes => _owned.Sum(o => o switch { DeviceBuffer buffer => buffer.Bytes, DeviceArray array => array.Buffer.Bytes, _ => 0 });

    /// <summary>Remembers something to dispose of.</summary>
    /// <typeparam name="T">Its type.</typeparam>
    /// <param name="owned">What.</param>
    protected T Own<T>(T owned) where T : IDisposable
    {
        _owned.Add(owned);
        return owned;
    }

    /// <summary>Allocates a workspace; null for 0 bytes.</summary>
    /// <param name="device">The device.</param>
    /// <param name="bytes">How much.</param>
    protected DeviceBuffer? Workspace(Device device, long bytes)
    {
        ArgumentNullException.ThrowIfNull(device);
        return bytes == 0 ? null : Own(device.Allocate(bytes));
    }

    /// <summary>Frees what the run owns.</summary>
    public void Dispose()
    {
        for (int i = _owned.Count - 1; i >= 0; i--) _owned[i].Dispose();
        _owned.Clear();
        GC.SuppressFinalize(this);
    }
}

/// <summary>Seeded random values for inputs.</summary>
/// <param name="seed">The seed.</param>
public sealed class InputRandom(int seed)
{
    private readonly Random _random = new(seed);

    /// <summary>A standard normal value (Box and Muller).</summary>
    public double Gaussian() => Math.Sqrt(-2 * Math.Log(1 - _random.NextDouble())) * Math.Cos(2 * Math.PI * _random.NextDouble());

    /// <summary>A whole number of low ... high.</summary>
    /// <param name="low">Smallest.</param>
    /// <param name="high">Largest.</param>
    public int Integer(int low, int high) => _random.Next(low, high + 1);

    /// <summary>A value of the family: Gaussian of its spread, or a small whole number for the exact ones.</summary>
    /// <param name="family">The family.</param>
    public double Value(DataFamily family) => family switch
    {
        DataFamily.Wide => 4 * Gaussian(),
        DataFamily.Exact or DataFamily.OneHot => Integer(-8, 8),
        _ => Gaussian(),
    };

    /// <summary>0 ... count - 1 in random order.</summary>
    /// <param name="count">How many.</param>
    public int[] Permutation(int count)
    {
        int[] order = [.. Enumerable.Range(0, count)];
        _random.Shuffle(order);
        return order;
    }
}
