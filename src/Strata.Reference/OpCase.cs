// SPDX-License-Identifier: Apache-2.0
// The one case list of an op: native/ops/<op>/cases.inc, read by tests, verify, bench and the native sanitizer driver.

using System.Collections.Concurrent;
using System.Globalization;

namespace Strata.Reference;

/// <summary>One line of a cases.inc: <c>CASE(name, tags, key=value ...)</c>.</summary>
/// <param name="Op">The op.</param>
/// <param name="Name">Stable name.</param>
/// <param name="Tags">test (small, every device), tiny, bench, quick.</param>
/// <param name="Values">The key=value pairs.</param>
public sealed record OpCase(string Op, string Name, IReadOnlySet<string> Tags, IReadOnlyDictionary<string, string> Values)
{
    private static readonly ConcurrentDictionary<string, IReadOnlyList<OpCase>> s_lists = new(StringComparer.Ordinal);

    /// <summary>All cases of an op, in the order of its file.</summary>
    /// <param name="op">The op's folder name.</param>
    /// <exception cref="InvalidOperationException">The op has no list, or a line cannot be read.</exception>
    public static IReadOnlyList<OpCase> Of(string op) => s_lists.GetOrAdd(op, static o => Read(o));

    /// <summary>The text of a key.</summary>
    /// <param name="key">The key.</param>
    /// <param name="missing">The value of a case that does not name it.</param>
    public string Text(string key, string missing) => Values.TryGetValue(key, out string? value) ? value : missing;

    /// <summary>The whole number of a key.</summary>
    /// <param name="key">The key.</param>
    /// <param name="missing">The value of a case that does not name it.</param>
    public int Int(string key, int missing) => Values.TryGetValue(key, out string? value) ? int.Parse(value, CultureInfo.InvariantCulture) : missing;

    /// <summary>The number of a key.</summary>
    /// <param name="key">The key.</param>
    /// <param name="missing">The value of a case that does not name it.</param>
    public float Float(string key, float missing) => Values.TryGetValue(key, out string? value) ? float.Parse(value, CultureInfo.InvariantCulture) : missing;

    /// <summary>The whole numbers of a key, separated by '/'.</summary>
    /// <param name="key">The key.</param>
    /// <param name="missing">The value of a case that does not name it.</param>
    public int[] Ints(string key, params int[] missing) =>
        Values.TryGetValue(key, out string? value) ? [.. value.Split('/').Select(v => int.Parse(v, CultureInfo.InvariantCulture))] : missing;

    /// <summary>The element type of a key.</summary>
    /// <param name="key">The key.</param>
    /// <param name="missing">The value of a case that does not name it.</param>
    public DType DType(string key, DType missing) => Values.TryGetValue(key, out string? value) ? DTypes.Parse(value) : missing;

    /// <summary>"op/name".</summary>
    public override string ToString() => $"{Op}/{Name}";

    private static List<OpCase> Read(string op)
    {
        using Stream stream = typeof(OpCase).Assembly.GetManifestResourceStream($"cases/{op}")
            ?? throw new InvalidOperationException($"cases: {op} has no cases.inc; add native/ops/{op}/cases.inc");
        using var reader = new StreamReader(stream);
        var cases = new List<OpCase>();
        while (reader.ReadLine() is { } line)
        {
            line = line.Trim();
            if (!line.StartsWith("CASE(", StringComparison.Ordinal)) continue;
            string[] parts = line["CASE(".Length..line.LastIndexOf(')')].Split(',', 3, StringSplitOptions.TrimEntries);
            if (parts.Length < 2) throw new InvalidOperationException($"cases: {op}: '{line}' has {parts.Length} parts, must be CASE(name, tags, key=value ...); correct the line");
            var values = new Dictionary<string, string>(StringComparer.Ordinal);
            foreach (string pair in parts.Length < 3 ? [] : parts[2].Split(' ', StringSplitOptions.RemoveEmptyEntries))
            {
                int at = pair.IndexOf('=', StringComparison.Ordinal);
                values.Add(pair[..at], pair[(at + 1)..]);
            }
            cases.Add(new OpCase(op, parts[0], parts[1].Split(' ', StringSplitOptions.RemoveEmptyEntries).ToHashSet(StringComparer.Ordinal), values));
        }
        return cases;
    }
}
