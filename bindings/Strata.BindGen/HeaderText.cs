// SPDX-License-Identifier: Apache-2.0
// The header as text: castxml says where comments are, not what they say, and does not see macros.

using System.Text.RegularExpressions;

namespace Strata.BindGen;

internal sealed partial class HeaderText(string path)
{
    private readonly byte[] _bytes = File.ReadAllBytes(path);
    private readonly string _text = File.ReadAllText(path);

    /// <summary>The comment that castxml found at these byte offsets (both inclusive).</summary>
    public Doc CommentAt(int begin, int end) => Parse(System.Text.Encoding.UTF8.GetString(_bytes, begin, end - begin + 1));

    /// <summary>The <c>/**&lt; … */</c> comment behind an enum value, which castxml does not report.</summary>
    public Doc CommentOfEnumValue(string name)
    {
        Match match = Regex.Match(_text, $@"\b{Regex.Escape(name)}\b\s*=[^,}}/]*,?[ \t]*(/\*\*<.*?\*/)", RegexOptions.Singleline, TimeSpan.FromSeconds(1));
        return match.Success ? Parse(match.Groups[1].Value) : Doc.None;
    }

    /// <summary>Macros that are plain numbers, each with the comment in front of it.</summary>
    public IEnumerable<Constant> NumericMacros()
    {
        foreach (Match match in NumericMacro().Matches(_text))
        {
            string digits = match.Groups["value"].Value;
            bool isUnsigned = digits.EndsWith('u');
            yield return new Constant(match.Groups["name"].Value, isUnsigned ? "uint" : "int", digits, null, Parse(match.Groups["comment"].Value));
        }
    }

    private static Doc Parse(string comment)
    {
        string body = CommentFrame().Replace(comment, " ");
        body = Spaces().Replace(body, " ").Trim();
        int errors = body.IndexOf("@errors", StringComparison.Ordinal);
        return errors < 0
            ? new Doc(body, null)
            : new Doc(body[..errors].Trim(), body[(errors + "@errors".Length)..].Trim());
    }

    [GeneratedRegex(@"(?<comment>/\*\*[^\n]*\*/)?\n#define (?<name>STRATA_\w+) (?<value>(0x)?[0-9a-fA-F]+u?)[ \t]*(?=\n)", RegexOptions.None, 1000)]
    private static partial Regex NumericMacro();

    [GeneratedRegex(@"^/\*\*<?|\*/$|\n[ \t]*\*(?!/)", RegexOptions.None, 1000)]
    private static partial Regex CommentFrame();

    [GeneratedRegex(@"\s+", RegexOptions.None, 1000)]
    private static partial Regex Spaces();
}
