// SPDX-License-Identifier: Apache-2.0
// Achieved operations a second over operations a byte, both logarithmic, under the limits that the same run measured. Cases are numbered in the order
// of the results; a case's peers carry no number of their own.

using System.Globalization;
using ScottPlot;
using ScottPlot.TickGenerators;

namespace Strata.Figures;

internal sealed class Roofline : IDisposable
{
    private const int LeastHeight = 540, LineHeight = 14, TopAndBottom = 110;
    private const float DataWidth = 650, Left = 70, Bottom = 60, Top = 45;
    private const float LegendMargin = 75, LetterWidth = 6.7f;
    private const float MarkerSize = 9, NumberSize = 11, TextSize = 13;

    private static readonly Color s_ours = Color.FromHex("#1f5fa8"), s_roof = Color.FromHex("#555555");
    private static readonly (MarkerShape Shape, Color Color)[] s_peers =
    [
        (MarkerShape.OpenDiamond, Color.FromHex("#d2691e")), (MarkerShape.OpenTriangleUp, Color.FromHex("#2e8b57")), (MarkerShape.OpenSquare, Color.FromHex("#8b3a8b")),
        (MarkerShape.OpenTriangleDown, Color.FromHex("#b22222")), (MarkerShape.OpenCircle, Color.FromHex("#708090")), (MarkerShape.Cross, Color.FromHex("#a0820d")),
    ];

    private readonly Measurements _measurements;
    private readonly Plot _plot = new();
    private readonly int _height;
    private readonly float _legend;
    private readonly double _left, _right, _bottom, _top;

    public Roofline(Measurements measurements)
    {
        _measurements = measurements;
        List<string> cases = Cases(), peers = Peers();
        _height = Math.Max(LeastHeight, TopAndBottom + ((cases.Count + peers.Count + 1) * LineHeight));
        _legend = LegendMargin + (LetterWidth * cases.Concat(peers).Max(name => name.Length));
        IEnumerable<double> intensities = measurements.Rows.Select(r => r.Intensity), speeds = measurements.Rows.Select(r => r.GflopS);
        double highest = Peaks().Select(p => p.Value).Concat(speeds).Max();
        if (measurements.Machine.Limits.ReadGbS is { } read) intensities = intensities.Concat(Peaks().Select(p => p.Value / read));
        (_left, _right) = (Math.Log10(intensities.Min()) - 0.25, Math.Log10(intensities.Max()) + 0.6);
        (_bottom, _top) = (Math.Log10(speeds.Min()) - 0.3, Math.Log10(highest) + 0.2);
    }

    private double PixelsPerX => DataWidth / (_right - _left);

    private double PixelsPerY => (_height - Top - Bottom) / (_top - _bottom);

    public string Draw()
    {
        Machine machine = _measurements.Machine;
        _plot.Title($"{_measurements.Op}, cold data: {machine.Name}, {machine.Isa}, {machine.Threads} {(machine.Threads == 1 ? "thread" : "threads")}, {machine.Date}", size: 15);
        Axes();
        Roofs();
        Points();
        _plot.Layout.Fixed(new PixelPadding(Left, _legend, Bottom, Top));
        return _plot.GetSvgXml((int)(Left + DataWidth + _legend), _height);
    }

    public void Dispose() => _plot.Dispose();

    private List<string> Cases() => [.. _measurements.Rows.Select(r => r.Case).Distinct()];

    private List<string> Peers() => [.. _measurements.Rows.Select(r => r.Peer).OfType<string>().Distinct().Order(StringComparer.Ordinal)];

    // The units that compute, each by its fastest form.
    private List<(string Name, double Value, string Unit)> Peaks()
    {
        Limits limits = _measurements.Machine.Limits;
        (string Name, double? Value, string Unit)[] all =
        [
            ("fp32", limits.Fp32Gflops, "GFLOP/s"), ("bf16", limits.AmxBf16Gflops ?? limits.Bf16Gflops, "GFLOP/s"), ("int8", limits.AmxInt8Gops ?? limits.Int8Gops, "GOP/s"),
        ];
        return [.. all.Where(p => p.Value is not null).Select(p => (p.Name, p.Value!.Value, p.Unit))];
    }

    private void Axes()
    {
        _plot.Axes.SetLimits(_left, _right, _bottom, _top);
        _plot.XLabel("operations a byte of memory traffic", TextSize);
        _plot.YLabel("achieved GFLOP/s (integer ops: GOP/s)", TextSize);
        foreach (IAxis axis in new IAxis[] { _plot.Axes.Bottom, _plot.Axes.Left })
        {
            axis.TickGenerator = new NumericAutomatic { MinorTickGenerator = new LogMinorTickGenerator(), IntegerTicksOnly = true, LabelFormatter = Power };
        }
        _plot.Grid.MajorLineColor = Colors.Black.WithOpacity(0.15);
        _plot.Grid.MinorLineColor = Colors.Black.WithOpacity(0.05);
        _plot.Grid.MinorLineWidth = 1;
        _plot.Axes.Right.IsVisible = false;
        _plot.Axes.Top.IsVisible = false;

        static string Power(double exponent) => Math.Pow(10, exponent).ToString("0.######", CultureInfo.InvariantCulture);
    }

    private void Roofs()
    {
        List<(string Name, double Value, string Unit)> peaks = Peaks();
        double? read = _measurements.Machine.Limits.ReadGbS;
        foreach ((string name, double value, string unit) in peaks)
        {
            double y = Math.Log10(value), from = read is { } r ? Math.Log10(value / r) : _left;
            Line(Math.Max(from, _left), y, _right, y);
            Text($"{name} {Figure(value)} {unit}", _right, y, Alignment.LowerRight, -6, -2, 0);
        }
        if (read is not { } bandwidth || peaks.Count == 0) return;
        double slope = Math.Log10(bandwidth), end = peaks.Max(p => Math.Log10(p.Value)) - slope;
        Line(_left, _left + slope, end, end + slope);
        // Beside the line, along it, in its visible part.
        double start = Math.Max(_left, _bottom - slope), angle = Math.Atan2(PixelsPerY, PixelsPerX) * 180 / Math.PI;
        double at = start + (0.08 * (end - start));
        Text($"read {Figure(bandwidth)} GB/s", at, at + slope, Alignment.LowerLeft, 0, -4, (float)-angle);
    }

    private void Points()
    {
        List<string> cases = Cases(), peers = Peers();
        var labels = new LabelPlaces(DataWidth, _height - Top - Bottom);
        foreach (Point row in _measurements.Rows) labels.Occupy(PixelX(row), PixelY(row), MarkerSize, MarkerSize);
        foreach ((_, double value, _) in Peaks()) labels.Occupy(DataWidth / 2, (_top - Math.Log10(value)) * PixelsPerY, DataWidth, 1);
        for (int i = 0; i < peers.Count; i++) Scatter([.. _measurements.Rows.Where(r => r.Peer == peers[i])], s_peers[i % s_peers.Length]);
        Point[] ours = [.. _measurements.Rows.Where(r => r.Peer is null)];
        Scatter(ours, (MarkerShape.FilledCircle, s_ours));
        foreach (Point row in ours)
        {
            string number = (cases.IndexOf(row.Case) + 1).ToString(CultureInfo.InvariantCulture);
            (double x, double y, bool far) = labels.Place(PixelX(row), PixelY(row), number.Length * NumberSize * 0.65, NumberSize);
            double atX = _left + (x / PixelsPerX), atY = _top - (y / PixelsPerY);
            if (far) Leader(row, atX, atY);
            ScottPlot.Plottables.Text text = _plot.Add.Text(number, atX, atY);
            (text.LabelFontSize, text.LabelFontColor, text.LabelAlignment) = (NumberSize, s_ours, Alignment.MiddleCenter);
        }
        Legend(cases, peers);
    }

    private double PixelX(Point row) => (Math.Log10(row.Intensity) - _left) * PixelsPerX;

    private double PixelY(Point row) => (_top - Math.Log10(row.GflopS)) * PixelsPerY;

    private void Scatter(Point[] rows, (MarkerShape Shape, Color Color) style)
    {
        double[] x = [.. rows.Select(r => Math.Log10(r.Intensity))], y = [.. rows.Select(r => Math.Log10(r.GflopS))];
        ScottPlot.Plottables.Markers markers = _plot.Add.Markers(x, y, style.Shape, MarkerSize, style.Color);
        markers.MarkerStyle.LineWidth = 1.5f;
    }

    private void Legend(List<string> cases, List<string> peers)
    {
        var items = new List<LegendItem> { Item("Strata", MarkerShape.FilledCircle, s_ours) };
        for (int i = 0; i < peers.Count; i++) items.Add(Item(peers[i], s_peers[i % s_peers.Length].Shape, s_peers[i % s_peers.Length].Color));
        for (int i = 0; i < cases.Count; i++) items.Add(new LegendItem { LabelText = $"{i + 1}  {cases[i]}", LabelFontSize = NumberSize, LabelFontColor = s_ours });
        _plot.Legend.ManualItems.AddRange(items);
        _plot.Legend.OutlineWidth = 0;
        _plot.Legend.ShadowColor = Colors.Transparent;
        _plot.Legend.FontSize = NumberSize;
        _plot.Legend.InterItemPadding = new PixelPadding(0, 0, 1, 1);
        _plot.ShowLegend(Edge.Right).Alignment = Alignment.UpperLeft;

        static LegendItem Item(string name, MarkerShape shape, Color color) => new()
        {
            LabelText = name,
            LabelFontSize = NumberSize,
            MarkerShape = shape,
            MarkerSize = MarkerSize,
            MarkerColor = color,
            MarkerLineColor = color,
            MarkerLineWidth = 1.5f,
        };
    }

    private void Line(double x1, double y1, double x2, double y2)
    {
        ScottPlot.Plottables.LinePlot line = _plot.Add.Line(x1, y1, x2, y2);
        (line.LineColor, line.LineWidth, line.MarkerSize) = (s_roof, 1.5f, 0);
    }

    private void Leader(Point row, double x, double y)
    {
        ScottPlot.Plottables.LinePlot line = _plot.Add.Line(Math.Log10(row.Intensity), Math.Log10(row.GflopS), x, y);
        (line.LineColor, line.LineWidth, line.MarkerSize) = (s_ours.WithOpacity(0.4), 0.7f, 0);
    }

    private void Text(string what, double x, double y, Alignment alignment, float right, float down, float angle)
    {
        ScottPlot.Plottables.Text text = _plot.Add.Text(what, x, y);
        (text.LabelFontSize, text.LabelFontColor, text.LabelAlignment, text.OffsetX, text.OffsetY, text.LabelRotation) = (12, s_roof, alignment, right, down, angle);
    }

    private static string Figure(double value) => value.ToString(value < 10 ? "0.0" : "0", CultureInfo.InvariantCulture);
}
