// SPDX-License-Identifier: Apache-2.0
// What the generator knows about the header: constants, structs and functions with their texts.

namespace Strata.BindGen;

/// <summary>How a C type is spelled in C#, and the inline array it needs, if any.</summary>
internal sealed record TypeRef(string CSharp, string C, int ArrayLength = 0, string? ArrayElement = null);

/// <summary>A macro or an enum value.</summary>
internal sealed record Constant(string Name, string CSharpType, string Value, string? Group, Doc Doc);

/// <summary>A struct member; offsets and sizes in bytes.</summary>
internal sealed record Field(string Name, TypeRef Type, int Offset, Doc Doc);

/// <summary>A struct; without fields it is an opaque handle.</summary>
internal sealed record Struct(string Name, int Size, int Alignment, IReadOnlyList<Field> Fields, Doc Doc)
{
    public bool IsOpaque => Fields.Count == 0;
}

/// <summary>A parameter of a function.</summary>
internal sealed record Parameter(string Name, TypeRef Type);

/// <summary>An exported function.</summary>
internal sealed record Function(string Name, TypeRef Returns, IReadOnlyList<Parameter> Parameters, Doc Doc)
{
    /// <summary>Whether the call only reads a value: then the runtime need not leave cooperative mode around it.</summary>
    public bool IsGetter => Returns.C != "void" && Returns.C != "strata_status";
}

/// <summary>A comment of the header: what it says, and its @errors part.</summary>
internal sealed record Doc(string Summary, string? Errors)
{
    public static readonly Doc None = new("", null);
    public bool IsEmpty => Summary.Length == 0;
}

/// <summary>The whole header, in its own order.</summary>
internal sealed record Header(IReadOnlyList<Constant> Constants, IReadOnlyList<Struct> Structs, IReadOnlyList<Function> Functions, uint AbiVersion)
{
    public uint AbiMajor => AbiVersion >> 16;
}

/// <summary>A problem whose message is all that a user needs.</summary>
internal sealed class GenerationException(string message) : Exception(message);
