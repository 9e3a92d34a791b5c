// SPDX-License-Identifier: Apache-2.0
// gen: strata.h in; bindings, layout tests, ABI record and version script out.

using Strata.BindGen;

string root = Directory.GetCurrentDirectory();
bool check = args.Contains("--check"), acceptBreak = args.Contains("--accept-break");
if (args.FirstOrDefault(a => a is not ("--check" or "--accept-break")) is { } unknown)
{
    Console.Error.WriteLine($"gen: unknown option {unknown}; the options are --check and --accept-break");
    return 2;
}

try
{
    Header header = HeaderReader.Read(Path.Combine(root, "native/include/strata/strata.h"));
    string recordPath = $"native/abi/v{header.AbiMajor}.json";
    (string Path, string Text)[] outputs =
    [
        ("bindings/Strata.Bindings/Generated/Constants.g.cs", BindingWriter.Constants(header)),
        ("bindings/Strata.Bindings/Generated/Structs.g.cs", BindingWriter.Structs(header)),
        ("bindings/Strata.Bindings/Generated/Functions.g.cs", BindingWriter.Functions(header)),
        ("tests/Strata.Tests/Layout/Generated/LayoutTests.g.cs", BindingWriter.LayoutTests(header)),
        ("native/abi/strata.symbols", AbiRecord.VersionScript(header)),
        (recordPath, AbiRecord.Write(header)),
    ];

    string oldRecord = Path.Combine(root, recordPath);
    if (!acceptBreak && File.Exists(oldRecord) && AbiRecord.Breaks(File.ReadAllText(oldRecord), outputs[^1].Text) is { Count: > 0 } breaks)
    {
        throw new GenerationException($"gen: the header breaks ABI {header.AbiMajor}:\n  {string.Join("\n  ", breaks)}\n"
            + "append instead; before the first release, ./build.sh gen --accept-break records the new layout");
    }

    var stale = new List<string>();
    foreach ((string path, string text) in outputs)
    {
        string full = Path.Combine(root, path);
        if (File.Exists(full) && File.ReadAllText(full) == text) continue;
        stale.Add(path);
        if (check) continue;
        Directory.CreateDirectory(Path.GetDirectoryName(full)!);
        File.WriteAllText(full, text);
    }

    if (check && stale.Count > 0) throw new GenerationException($"gen --check: {string.Join(", ", stale)} differ from what strata.h says; run ./build.sh gen and commit");
    Console.WriteLine(check
        ? $"gen --check: {outputs.Length} files agree with strata.h ({header.Functions.Count} functions, {header.Structs.Count} structs, {header.Constants.Count} constants)"
        : $"gen: {stale.Count} of {outputs.Length} files written ({header.Functions.Count} functions, {header.Structs.Count} structs, {header.Constants.Count} constants)");
    return 0;
}
catch (GenerationException problem)
{
    Console.Error.WriteLine(problem.Message);
    return 1;
}
