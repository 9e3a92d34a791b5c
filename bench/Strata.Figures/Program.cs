// SPDX-License-Identifier: Apache-2.0
// Strata.Figures HASH FILE: draws a roofline picture of the measurements on standard input, as bench/figures.sh selects them. HASH names the
// measurements and is kept in the picture, so that whether it is up to date can be told without drawing: text looks different with other fonts.

using System.Text.Json;
using ScottPlot;
using SkiaSharp;
using Strata.Figures;

if (args.Length != 2)
{
    Console.Error.WriteLine($"figures: {args.Length} arguments, must be 2: HASH FILE; run bench/figures.sh");
    return 2;
}
if (SKFontManager.Default.FontFamilyCount == 0)
{
    Console.Error.WriteLine("figures: the system has 0 fonts, must have one to measure text with; install fonts-dejavu-core");
    return 1;
}
Measurements measurements = JsonSerializer.Deserialize(Console.In.ReadToEnd(), MeasurementsJson.Default.Measurements)!;
using var picture = new Roofline(measurements);
string svg = SvgText.Portable(picture.Draw());
int afterDeclaration = svg.IndexOf("<svg", StringComparison.Ordinal);
File.WriteAllText(args[1], $"{svg[..afterDeclaration]}<!-- measurements {args[0]} -->\n{svg[afterDeclaration..].TrimEnd()}\n");
return 0;
