// SPDX-License-Identifier: Apache-2.0
// Runs castxml over the header and turns its XML into the model.

using System.Diagnostics;
using System.Globalization;
using System.Xml.Linq;

namespace Strata.BindGen;

internal sealed class HeaderReader
{
    private readonly Dictionary<string, XElement> _byId;
    private readonly Dictionary<string, XElement> _typedefs;
    private readonly HeaderText _text;
    private readonly string _file;

    private HeaderReader(XElement root, string headerPath)
    {
        _byId = root.Elements().Where(e => e.Attribute("id") is not null).ToDictionary(e => e.Attribute("id")!.Value, StringComparer.Ordinal);
        _typedefs = root.Elements("Typedef").DistinctBy(Name).ToDictionary(Name, StringComparer.Ordinal);
        _text = new HeaderText(headerPath);
        _file = root.Elements("File").Single(f => Path.GetFullPath(f.Attribute("name")!.Value) == Path.GetFullPath(headerPath)).Attribute("id")!.Value;
    }

    /// <summary>Reads a C11 header.</summary>
    /// <exception cref="GenerationException">castxml is missing, the header does not compile, or it uses a type that bindings cannot carry.</exception>
    public static Header Read(string headerPath)
    {
        XElement root = RunCastXml(headerPath);
        return new HeaderReader(root, headerPath).ReadAll(root);
    }

    private static XElement RunCastXml(string headerPath)
    {
        string output = Path.GetTempFileName();
        try
        {
            var start = new ProcessStartInfo("castxml", ["--castxml-output=1", "-x", "c", "-std=c11", "-fparse-all-comments", headerPath, "-o", output])
            {
                RedirectStandardError = true,
                UseShellExecute = false,
            };
            using Process process = Process.Start(start)!;
            string errors = process.StandardError.ReadToEnd();
            process.WaitForExit();
            if (process.ExitCode != 0) throw new GenerationException($"gen: castxml could not read {headerPath}; mend the header:\n{errors}");
            return XElement.Load(output);
        }
        catch (System.ComponentModel.Win32Exception)
        {
            throw new GenerationException("gen: castxml is not installed, it reads the header; run ./build.sh deps");
        }
        finally
        {
            File.Delete(output);
        }
    }

    private Header ReadAll(XElement root)
    {
        XElement[] ours = [.. root.Elements().Where(e => e.Attribute("file")?.Value == _file)];

        List<Constant> constants = [.. _text.NumericMacros()];
        foreach (XElement enumeration in ours.Where(e => e.Name == "Enumeration"))
        {
            string group = Name(enumeration);
            foreach (XElement value in enumeration.Elements("EnumValue"))
                constants.Add(new Constant(Name(value), "int", value.Attribute("init")!.Value, group, _text.CommentOfEnumValue(Name(value))));
        }

        Struct[] structs = [.. ours.Where(e => e.Name == "Struct").Select(ReadStruct)];
        Function[] functions = [.. ours.Where(e => e.Name == "Function").Select(ReadFunction)];

        Constant version = constants.SingleOrDefault(c => c.Name == "STRATA_ABI_VERSION")
            ?? throw new GenerationException("gen: the header does not define STRATA_ABI_VERSION as a number; it must, the handshake compares it");
        uint abi = uint.Parse(version.Value.AsSpan()[2..^1], NumberStyles.HexNumber, CultureInfo.InvariantCulture);
        return new Header(constants, structs, functions, abi);
    }

    private Struct ReadStruct(XElement element)
    {
        string name = Name(element);
        // The comment of `typedef struct x x;` belongs to the typedef.
        Doc doc = DocOf(element);
        if (doc.IsEmpty && _typedefs.TryGetValue(name, out XElement? typedef)) doc = DocOf(typedef);
        if (doc.IsEmpty) throw new GenerationException($"gen: {name} has no comment in the header; document it");
        if (element.Attribute("members") is null) return new Struct(name, 0, 0, [], doc);

        Field[] fields =
        [
            .. element.Attribute("members")!.Value.Split(' ', StringSplitOptions.RemoveEmptyEntries)
                .Select(id => _byId[id])
                .Where(e => e.Name == "Field")
                .Select(e => new Field(Name(e), TypeOf(e.Attribute("type")!.Value, $"{name}.{Name(e)}"), Number(e, "offset") / 8, FieldDoc(name, e))),
        ];
        return new Struct(name, Number(element, "size") / 8, Number(element, "align") / 8, fields, doc);
    }

    private Function ReadFunction(XElement element)
    {
        string name = Name(element);
        Parameter[] parameters = [.. element.Elements("Argument").Select(a => new Parameter(Name(a), TypeOf(a.Attribute("type")!.Value, name)))];
        Doc doc = DocOf(element);
        if (doc.IsEmpty && name.EndsWith("_supported", StringComparison.Ordinal))
            doc = doc with { Summary = $"Whether {name["strata_".Length..^"_supported".Length]} can run with these shapes and types: STRATA_OK, or what stands in the way." };
        if (doc.IsEmpty) throw new GenerationException($"gen: {name} has no comment in the header; document it");
        return new Function(name, TypeOf(element.Attribute("returns")!.Value, name), parameters, doc);
    }

    private Doc FieldDoc(string owner, XElement field)
    {
        Doc doc = DocOf(field);
        if (!doc.IsEmpty) return doc;
        // Members that mean the same in every struct need no comment of their own.
        string name = Name(field);
        string? common = name switch
        {
            "struct_size" => $"sizeof({owner}), set by the caller.",
            "reserved" => "Must be 0.",
            _ when name.EndsWith("_bytes", StringComparison.Ordinal) => $"Bytes of `{name[..^"_bytes".Length]}`.",
            _ => null,
        };
        return common is null ? throw new GenerationException($"gen: {owner}.{name} has no comment in the header; document it") : new Doc(common, null);
    }

    private Doc DocOf(XElement element)
    {
        string? id = element.Attribute("comment")?.Value;
        if (id is null) return Doc.None;
        XElement comment = _byId[id];
        return _text.CommentAt(Number(comment, "begin_offset"), Number(comment, "end_offset"));
    }

    private TypeRef TypeOf(string id, string user)
    {
        XElement element = _byId[id];
        switch (element.Name.LocalName)
        {
            case "CvQualifiedType":
                TypeRef plain = TypeOf(element.Attribute("type")!.Value, user);
                return plain with { C = "const " + plain.C };
            case "ElaboratedType":
                return TypeOf(element.Attribute("type")!.Value, user);
            case "PointerType":
                TypeRef target = TypeOf(element.Attribute("type")!.Value, user);
                return target.CSharp.StartsWith("delegate*", StringComparison.Ordinal)
                    ? target
                    : new TypeRef(target.CSharp + "*", target.C + "*");
            case "FunctionType":
                IEnumerable<string> types = element.Elements("Argument").Select(a => a.Attribute("type")!.Value)
                    .Append(element.Attribute("returns")!.Value).Select(t => TypeOf(t, user).CSharp);
                return new TypeRef($"delegate* unmanaged[Cdecl]<{string.Join(", ", types)}>", "function");
            case "ArrayType":
                TypeRef item = TypeOf(element.Attribute("type")!.Value, user);
                int length = Number(element, "max") + 1;
                return new TypeRef($"array_{item.CSharp}_{length}", $"{item.C}[{length}]", length, item.CSharp);
            case "Struct":
                return new TypeRef(Name(element), Name(element));
            case "Typedef":
                return TypedefOf(element, user);
            case "FundamentalType":
                return new TypeRef(Fundamental(Name(element), user), Name(element));
            default:
                throw new GenerationException($"gen: {user} uses a {element.Name.LocalName}, which bindings cannot carry; use fixed-width integers, floats, structs and pointers");
        }
    }

    private TypeRef TypedefOf(XElement element, string user)
    {
        string name = Name(element);
        string? known = name switch
        {
            "int8_t" => "sbyte",
            "uint8_t" => "byte",
            "int16_t" => "short",
            "uint16_t" => "ushort",
            "int32_t" => "int",
            "uint32_t" => "uint",
            "int64_t" => "long",
            "uint64_t" => "ulong",
            "size_t" => "nuint",
            _ => null,
        };
        return known is not null ? new TypeRef(known, name) : TypeOf(element.Attribute("type")!.Value, user) with { C = name };
    }

    private static string Fundamental(string name, string user) => name switch
    {
        "void" => "void",
        "char" => "byte",
        "float" => "float",
        "double" => "double",
        _ => throw new GenerationException($"gen: {user} uses the C type {name}, whose width depends on the platform; use a fixed-width type"),
    };

    private static string Name(XElement element) => element.Attribute("name")!.Value;

    private static int Number(XElement element, string attribute) => int.Parse(element.Attribute(attribute)!.Value, CultureInfo.InvariantCulture);
}
