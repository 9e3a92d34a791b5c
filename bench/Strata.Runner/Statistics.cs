// SPDX-License-Identifier: Apache-2.0
// Quantiles of samples, and figures rounded to what a measurement can say.

namespace Strata.Runner;

/// <summary>Median and the middle three fifths.</summary>
/// <param name="P20">A fifth of the samples is smaller.</param>
/// <param name="Median">Half of the samples is smaller.</param>
/// <param name="P80">A fifth of the samples is larger.</param>
internal readonly record struct Quantiles(double P20, double Median, double P80);

internal static class Statistics
{
    private const int Digits = 5;

    /// <summary>Quantiles with linear interpolation between samples; the samples are sorted in place.</summary>
    public static Quantiles Of(List<double> samples)
    {
        samples.Sort();
        return new Quantiles(At(samples, 0.2), At(samples, 0.5), At(samples, 0.8));
    }

    /// <summary>Five significant digits: more would be noise, and would make every document differ in every figure.</summary>
    public static double Rounded(double value)
    {
        if (value == 0 || !double.IsFinite(value)) return value;
        double scale = Math.Pow(10, Digits - 1 - Math.Floor(Math.Log10(Math.Abs(value))));
        return double.IsFinite(scale) ? Math.Round(value * scale) / scale : value;
    }

    private static double At(List<double> sorted, double share)
    {
        if (sorted.Count == 0) throw new ArgumentException("statistics: there are no samples, must be at least one; time something first", nameof(sorted));
        double position = share * (sorted.Count - 1);
        int below = (int)position;
        int above = Math.Min(below + 1, sorted.Count - 1);
        return sorted[below] + ((position - below) * (sorted[above] - sorted[below]));
    }
}
