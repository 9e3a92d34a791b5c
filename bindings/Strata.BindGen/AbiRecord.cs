// SPDX-License-Identifier: Apache-2.0
// The frozen layout of one ABI major, and the rule by which it may grow: append, never move, rename or remove.

using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Strata.BindGen;

internal static class AbiRecord
{
    /// <summary>The ABI as JSON: one object per constant, struct and function, in the header's order.</summary>
    public static string Write(Header header)
    {
        var root = new JsonObject
        {
            ["abi_major"] = header.AbiMajor,
            ["constants"] = new JsonObject(header.Constants.Where(c => c.Name != "STRATA_ABI_VERSION").Select(c => KeyValuePair.Create(c.Name, (JsonNode?)c.Value))),
            ["structs"] = new JsonObject(header.Structs.Select(s => KeyValuePair.Create(s.Name, (JsonNode?)new JsonObject
            {
                ["size"] = s.Size,
                ["align"] = s.Alignment,
                ["fields"] = new JsonObject(s.Fields.Select(f => KeyValuePair.Create(f.Name, (JsonNode?)$"{f.Offset} {f.Type.C}"))),
            }))),
            ["functions"] = new JsonObject(header.Functions.Select(f => KeyValuePair.Create(f.Name,
                (JsonNode?)$"{f.Returns.C} ({string.Join(", ", f.Parameters.Select(p => p.Type.C))})"))),
        };
        var options = new JsonSerializerOptions { WriteIndented = true, Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping };
        return root.ToJsonString(options) + "\n";
    }

    /// <summary>What the new record breaks for callers compiled against the old one; empty if it only grew.</summary>
    public static IReadOnlyList<string> Breaks(string oldJson, string newJson)
    {
        JsonNode before = JsonNode.Parse(oldJson)!, after = JsonNode.Parse(newJson)!;
        var breaks = new List<string>();
        if (before["abi_major"]!.GetValue<uint>() != after["abi_major"]!.GetValue<uint>()) return breaks;

        Compare(before["constants"]!, after["constants"]!, "", breaks);
        Compare(before["functions"]!, after["functions"]!, "", breaks);
        foreach ((string name, JsonNode? item) in before["structs"]!.AsObject())
        {
            JsonNode? now = after["structs"]![name];
            if (now is null) { breaks.Add($"struct {name} is gone"); continue; }
            Compare(item!["fields"]!, now["fields"]!, name + ".", breaks);
            bool canGrow = item["fields"]!.AsObject().FirstOrDefault().Key == "struct_size";
            if (!canGrow && item["size"]!.GetValue<int>() != now["size"]!.GetValue<int>())
                breaks.Add($"struct {name} has no struct_size and went from {item["size"]} to {now["size"]} bytes");
        }
        return breaks;
    }

    /// <summary>The linker's version script: exactly the header's functions leave the library.</summary>
    public static string VersionScript(Header header)
    {
        var text = new StringBuilder($"STRATA_{header.AbiMajor} {{\n  global:\n");
        foreach (string name in header.Functions.Select(f => f.Name).Order(StringComparer.Ordinal)) text.Append("    ").Append(name).Append(";\n");
        return text.Append("  local: *;\n};\n").ToString();
    }

    private static void Compare(JsonNode before, JsonNode after, string prefix, List<string> breaks)
    {
        foreach ((string name, JsonNode? value) in before.AsObject())
        {
            JsonNode? now = after[name];
            if (now is null) breaks.Add($"{prefix}{name} is gone");
            else if (now.ToString() != value!.ToString()) breaks.Add($"{prefix}{name} was \"{value}\" and is \"{now}\"");
        }
    }
}
