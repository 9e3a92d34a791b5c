// SPDX-License-Identifier: Apache-2.0
// Finds room for labels beside points, in pixels.

namespace Strata.Figures;

/// <param name="width">Of the area.</param>
/// <param name="height">Of the area.</param>
internal sealed class LabelPlaces(double width, double height)
{
    private const int Directions = 16;
    private const double FirstRing = 12, RingStep = 6, LastRing = 90, Far = 20;

    private readonly List<(double Left, double Top, double Right, double Bottom)> _taken = [];

    /// <summary>Keeps labels away from a box around a point.</summary>
    public void Occupy(double x, double y, double across, double down) => _taken.Add((x - (across / 2), y - (down / 2), x + (across / 2), y + (down / 2)));

    /// <summary>The middle of the nearest free place beside a point, to the right if possible, and whether it is so far that a line should lead there.</summary>
    public (double X, double Y, bool Far) Place(double x, double y, double labelWidth, double labelHeight)
    {
        for (double ring = FirstRing; ring <= LastRing; ring += RingStep)
        {
            for (int i = 0; i < Directions; i++)
            {
                // 0, 1, -1, 2, -2, ... sixteenths of a turn from the right.
                double angle = (i % 2 == 0 ? -1 : 1) * ((i + 1) / 2) * 2 * Math.PI / Directions;
                double atX = x + (ring * Math.Cos(angle)), atY = y + (ring * Math.Sin(angle));
                (double Left, double Top, double Right, double Bottom) box = (atX - (labelWidth / 2), atY - (labelHeight / 2), atX + (labelWidth / 2), atY + (labelHeight / 2));
                if (box.Left < 0 || box.Top < 0 || box.Right > width || box.Bottom > height) continue;
                if (_taken.Any(t => t.Left < box.Right && box.Left < t.Right && t.Top < box.Bottom && box.Top < t.Bottom)) continue;
                _taken.Add(box);
                return (atX, atY, ring > Far);
            }
        }
        return (x, y, false);
    }
}
