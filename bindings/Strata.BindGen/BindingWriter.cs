// SPDX-License-Identifier: Apache-2.0
// Writes the C# side: constants, structs and functions, with the header's names and the header's texts.

using System.Globalization;
using System.Security;
using System.Text;
using System.Text.RegularExpressions;

namespace Strata.BindGen;

internal static partial class BindingWriter
{
    private const string Banner = "// SPDX-License-Identifier: Apache-2.0\n// Generated from native/include/strata/strata.h by ./build.sh gen. Do not edit.\n#nullable enable\n\n";

    /// <summary>The constants of the header as <c>const</c> members of <c>Native</c>.</summary>
    public static string Constants(Header header)
    {
        var text = new StringBuilder(Banner);
        text.Append("namespace Strata.Bindings;\n\n/// <summary>The C ABI of libstrata, name for name. Stable only together with its library; prefer the Strata assembly.</summary>\n");
        text.Append("public static unsafe partial class Native\n{\n");
        string? group = null;
        foreach (Constant constant in header.Constants)
        {
            if (constant.Group != group) text.Append(CultureInfo.InvariantCulture, $"\n    // {constant.Group}\n");
            group = constant.Group;
            Doc doc = constant.Doc.IsEmpty ? new Doc($"A value of `{constant.Group}`.", null) : constant.Doc;
            WriteDoc(text, "    ", doc);
            text.Append(CultureInfo.InvariantCulture, $"    public const {constant.CSharpType} {constant.Name} = {constant.Value};\n");
        }
        return text.Append("}\n").ToString();
    }

    /// <summary>The structs of the header: blittable, in the header's order, arrays as inline arrays.</summary>
    public static string Structs(Header header)
    {
        var text = new StringBuilder(Banner);
        text.Append("using System.Runtime.CompilerServices;\nusing System.Runtime.InteropServices;\n\nnamespace Strata.Bindings;\n");
        foreach (TypeRef array in header.Structs.SelectMany(s => s.Fields).Select(f => f.Type).Where(t => t.ArrayLength > 0).DistinctBy(t => t.CSharp).OrderBy(t => t.CSharp, StringComparer.Ordinal))
        {
            text.Append(CultureInfo.InvariantCulture, $"\n/// <summary>{array.ArrayLength} values of {array.ArrayElement} in a row.</summary>\n");
            text.Append(CultureInfo.InvariantCulture, $"[InlineArray({array.ArrayLength})]\npublic struct {array.CSharp}\n{{\n    private {array.ArrayElement} _first;\n}}\n");
        }
        foreach (Struct item in header.Structs)
        {
            text.Append('\n');
            WriteDoc(text, "", item.Doc);
            if (item.IsOpaque)
            {
                text.Append(CultureInfo.InvariantCulture, $"public readonly struct {item.Name};\n");
                continue;
            }
            text.Append(CultureInfo.InvariantCulture, $"[StructLayout(LayoutKind.Sequential)]\npublic unsafe struct {item.Name}\n{{\n");
            foreach (Field field in item.Fields)
            {
                WriteDoc(text, "    ", field.Doc);
                text.Append(CultureInfo.InvariantCulture, $"    public {field.Type.CSharp} {Escape(field.Name)};\n");
            }
            text.Append("}\n");
        }
        return text.ToString();
    }

    /// <summary>The functions of the header as P/Invokes.</summary>
    public static string Functions(Header header)
    {
        var text = new StringBuilder(Banner);
        text.Append("using System.Runtime.InteropServices;\n\nnamespace Strata.Bindings;\n\npublic static unsafe partial class Native\n{");
        foreach (Function function in header.Functions)
        {
            text.Append('\n');
            WriteDoc(text, "    ", function.Doc);
            string parameters = string.Join(", ", function.Parameters.Select(p => $"{p.Type.CSharp} {Escape(p.Name)}"));
            text.Append("    [LibraryImport(NativeResolver.LibraryName)]\n");
            text.Append("    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]\n");
            if (function.IsGetter) text.Append("    [SuppressGCTransition]\n");
            text.Append(CultureInfo.InvariantCulture, $"    public static partial {function.Returns.CSharp} {function.Name}({parameters});\n");
        }
        return text.Append("}\n").ToString();
    }

    /// <summary>NUnit tests that compare sizes and offsets in C# with those that the C compiler saw.</summary>
    public static string LayoutTests(Header header)
    {
        var text = new StringBuilder(Banner);
        text.Append("using NUnit.Framework;\nusing Strata.Bindings;\n\nnamespace Strata.Tests.Layout;\n\n");
        text.Append("/// <summary>Every struct has the size, and every field the offset, that the C compiler gave it.</summary>\n");
        text.Append("[TestFixture]\npublic unsafe class LayoutTests\n{\n");
        text.Append("    private static int Offset<T>(in T start, void* field) where T : unmanaged\n    {\n        fixed (T* p = &start) return (int)((byte*)field - (byte*)p);\n    }\n");
        foreach (Struct item in header.Structs.Where(s => !s.IsOpaque))
        {
            text.Append(CultureInfo.InvariantCulture, $"\n    [Test]\n    public void {item.Name}_HasLayoutOfHeader()\n    {{\n        {item.Name} value = default;\n");
            text.Append(CultureInfo.InvariantCulture, $"        Assert.That(sizeof({item.Name}), Is.EqualTo({item.Size}), \"size\");\n");
            foreach (Field field in item.Fields)
                text.Append(CultureInfo.InvariantCulture, $"        Assert.That(Offset(value, &value.{Escape(field.Name)}), Is.EqualTo({field.Offset}), \"{field.Name}\");\n");
            text.Append("    }\n");
        }
        return text.Append("}\n").ToString();
    }

    private static void WriteDoc(StringBuilder text, string indent, Doc doc)
    {
        text.Append(CultureInfo.InvariantCulture, $"{indent}/// <summary>{Xml(doc.Summary)}</summary>\n");
        if (doc.Errors is not null) text.Append(CultureInfo.InvariantCulture, $"{indent}/// <remarks>Errors: {Xml(doc.Errors)}</remarks>\n");
    }

    private static string Xml(string text) => Code().Replace(SecurityElement.Escape(text).Replace("&quot;", "\"", StringComparison.Ordinal).Replace("&apos;", "'", StringComparison.Ordinal), "<c>$1</c>");

    private static string Escape(string name) => name is "in" or "out" or "ref" or "params" or "base" or "event" or "lock" or "object" or "string" or "is" or "as" ? "@" + name : name;

    [GeneratedRegex("`([^`]*)`", RegexOptions.None, 1000)]
    private static partial Regex Code();
}
