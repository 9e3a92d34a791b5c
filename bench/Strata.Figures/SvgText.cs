// SPDX-License-Identifier: Apache-2.0
// Text in a picture names the one font that it was drawn with and the place of every letter. Who looks at it may have another font.

using System.Text.RegularExpressions;

namespace Strata.Figures;

internal static partial class SvgText
{
    /// <summary>The picture with text that starts where it did and runs on by itself, in the best sans-serif font there is.</summary>
    public static string Portable(string svg) =>
        LetterPlaces().Replace(FontFamily().Replace(svg, "font-family=\"DejaVu Sans, Verdana, Arial, sans-serif\""), m => $"{m.Groups["axis"].Value}=\"{m.Groups["first"].Value}\"");

    [GeneratedRegex("font-family=\"[^\"]*\"", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex FontFamily();

    [GeneratedRegex("(?<=<text[^>]* )(?<axis>[xy])=\"(?<first>[-0-9.e]+),[^\"]*\"", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex LetterPlaces();
}
