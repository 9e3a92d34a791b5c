// SPDX-License-Identifier: Apache-2.0
// The `strata` tool as a program: one JSON document on stdout, one sentence on stderr, exit codes.
using System.Diagnostics;
using System.Reflection;
using System.Text.Json;
using Strata.Tests.Engine;

namespace Strata.Tests.Cli;

/// <summary>Runs the tool that was built with these tests.</summary>
[TestFixture]
internal sealed class ToolTests
{
    private static readonly string Tool = typeof(ToolTests).Assembly.GetCustomAttributes<AssemblyMetadataAttribute>().Single(data => data.Key is "StrataTool").Value!;

    private static readonly string[] Prompt = ["-m", TinyModel.Path, "-p", "ROMEO:\n"];

    [Test]
    public void InfoListsTheDevices()
    {
        using JsonDocument document = RunJson("info", "--json");
        JsonElement[] devices = [.. document.RootElement.GetProperty("devices").EnumerateArray()];
        Assert.That(devices.Select(device => device.GetProperty("id").GetString()), Does.Contain("cpu"));
        foreach (JsonElement device in devices)
        {
            Assert.That(device.GetProperty("available").GetBoolean() || device.GetProperty("reason").GetString()!.Length > 0, "a missing device says why");
        }
    }

    [TestCase("ROMEO:\n")]
    [TestCase("")]
    [TestCase("@file")]
    [TestCase("-5 is a number <|endoftext|>")]
    public void TokenizeGivesTheIdsOfTheTokenizer(string text)
    {
        using JsonDocument document = RunJson("tokenize", "-m", TinyModel.Path, "-p", text, "--json");
        int[] ids = [.. document.RootElement.GetProperty("ids").EnumerateArray().Select(id => id.GetInt32())];
        Assert.That(ids, Is.EqualTo(TinyModel.Tokenizer().Encode(text)));
    }

    [Test]
    public void GenerateWritesEverythingItPromises()
    {
        using JsonDocument document = RunJson(["generate", .. Prompt, "-n", "20", "--json"]);
        JsonElement root = document.RootElement;
        Assert.That(root.GetProperty("prompt_ids").GetArrayLength(), Is.EqualTo(TinyModel.Tokenizer().Encode("ROMEO:\n").Length));
        Assert.That(root.GetProperty("ids").GetArrayLength(), Is.EqualTo(20));
        Assert.That(root.GetProperty("margins").GetArrayLength(), Is.EqualTo(20));
        Assert.That(root.GetProperty("text").GetString(), Does.StartWith("I am a man, my lord."));
        Assert.That(root.GetProperty("seconds_prefill").GetDouble(), Is.GreaterThan(0));
        Assert.That(root.GetProperty("seconds_decode").GetDouble(), Is.GreaterThan(0));
        Assert.That(root.GetProperty("kv_bytes_live").GetInt64(), Is.GreaterThan(0));
        Assert.That(root.GetProperty("kv_bytes_peak").GetInt64(), Is.GreaterThanOrEqualTo(root.GetProperty("kv_bytes_live").GetInt64()));
        Assert.That(root.GetProperty("device").GetString(), Is.EqualTo("cpu"));
        Assert.That(root.GetProperty("isa").GetString(), Is.Not.Empty);
    }

    [Test]
    public void ABudgetLowersTheLiveBytes()
    {
        string passage = TinyModel.Text[..1000];
        using JsonDocument full = RunJson("generate", "-m", TinyModel.Path, "-p", passage, "-n", "40", "--json");
        foreach (string policy in new[] { "snapkv", "streaming" })
        {
            using JsonDocument cut = RunJson("generate", "-m", TinyModel.Path, "-p", passage, "-n", "40", "--kv-budget", "64", "--policy", policy, "--json");
            Assert.That(cut.RootElement.GetProperty("kv_bytes_live").GetInt64(), Is.LessThan(full.RootElement.GetProperty("kv_bytes_live").GetInt64() / 2));
        }
    }

    [TestCase("f16", 1.0)]
    [TestCase("i8", 0.515625)]
    [TestCase("i8b", 0.5625)]
    [TestCase("i4", 0.3125)]
    public void TheFormatOfTheCacheIsReportedWithItsBytes(string kv, double ratio)
    {
        string passage = TinyModel.Text[..1000];
        using JsonDocument document = RunJson("generate", "-m", TinyModel.Path, "-p", passage, "-n", "4", "--kv", kv, "--kv-rotation", "32", "--json");
        JsonElement root = document.RootElement;
        Assert.That(root.GetProperty("kv_format").GetString(), Is.EqualTo(kv));
        Assert.That(root.GetProperty("kv_rotation").GetInt32(), Is.EqualTo(32));
        Assert.That(root.GetProperty("kv_ratio_to_f16").GetDouble(), Is.EqualTo(ratio));
        Assert.That(root.GetProperty("kv_bytes_tail").GetInt64(), Is.EqualTo(kv is "i8b" or "i4" ? 4 * 2 * 32 * 64 * 2 : 0));

        // 4 layers, 2 heads, 64 channels of keys and values, whole pages of 64 tokens.
        int pages = (root.GetProperty("prompt_ids").GetArrayLength() + 3 + 63) / 64;
        Assert.That(root.GetProperty("kv_bytes_live").GetInt64(), Is.EqualTo((long)(pages * 4 * 2 * 64 * 64 * 2 * 2 * ratio)));
    }

    [Test]
    public void ATextOnATerminalIsTheTextAlone()
    {
        (int code, string output, string log) = Run(["generate", .. Prompt, "-n", "12"]);
        Assert.That(code, Is.Zero);
        Assert.That(output, Does.StartWith("I am a man, my lord."));
        Assert.That(output, Does.Not.Contain("tokens/s"));
        Assert.That(log, Does.Contain("tokens/s"));
    }

    [Test]
    public void PerplexityWritesItsWindows()
    {
        string text = Path.Combine(TestContext.CurrentContext.WorkDirectory, Path.GetRandomFileName());
        File.WriteAllText(text, TinyModel.Text[..4000]);
        try
        {
            using JsonDocument windows = RunJson("perplexity", "-m", TinyModel.Path, "-f", text, "--context", "256", "--windows", "2", "--json");
            Assert.That(windows.RootElement.GetProperty("tokens").GetInt32(), Is.EqualTo(510));
            Assert.That(windows.RootElement.GetProperty("nll_per_window").GetArrayLength(), Is.EqualTo(2));
            Assert.That(windows.RootElement.GetProperty("kv_format").GetString(), Is.EqualTo("f32"));
            Assert.That(windows.RootElement.GetProperty("kv_bytes_peak").GetInt64(), Is.GreaterThan(0));
            double mean = windows.RootElement.GetProperty("mean_nll").GetDouble();
            Assert.That(windows.RootElement.GetProperty("perplexity").GetDouble(), Is.EqualTo(Math.Exp(mean)).Within(1e-9));

            using JsonDocument cut = RunJson(
                "perplexity", "-m", TinyModel.Path, "-f", text, "--prompt", "256", "--continue", "64", "--windows", "2", "--kv-budget", "64", "--policy", "snapkv", "--json");
            Assert.That(cut.RootElement.GetProperty("tokens").GetInt32(), Is.EqualTo(128));
        }
        finally
        {
            File.Delete(text);
        }
    }

    [TestCase("generate", "-p", "x")]
    [TestCase("generate", "-m", "/nowhere.gguf", "-p", "x")]
    [TestCase("tokenize", "-m", "/nowhere.gguf")]
    [TestCase("generate", "-m", "MODEL", "-p", "")]
    [TestCase("generate", "-m", "MODEL", "-p", "x", "--device", "cuda:99")]
    [TestCase("generate", "-m", "MODEL", "-p", "x", "--device", "toaster")]
    [TestCase("generate", "-m", "MODEL", "-p", "x", "--isa", "mmx")]
    [TestCase("generate", "-m", "MODEL", "-p", "x", "--temperature", "-1")]
    [TestCase("generate", "-m", "MODEL", "-p", "x", "--top-p", "2")]
    [TestCase("generate", "-m", "MODEL", "-p", "x", "-n", "-1")]
    [TestCase("generate", "-m", "MODEL", "-p", "x", "-n", "many")]
    [TestCase("generate", "-m", "MODEL", "-p", "x", "--kv", "i2")]
    [TestCase("generate", "-m", "MODEL", "-p", "x", "--kv", "i4", "--kv-budget", "4")]
    [TestCase("generate", "-m", "MODEL", "-p", "x", "--kv-rotation", "32", "--kv-budget", "4")]
    [TestCase("generate", "-m", "MODEL", "-p", "x", "--kv-rotation", "48")]
    [TestCase("generate", "-m", "MODEL", "-p", "x", "--policy", "none", "--kv-budget", "4")]
    [TestCase("perplexity", "-m", "MODEL")]
    [TestCase("perplexity", "-m", "MODEL", "-f", "/nowhere.txt")]
    [TestCase("perplexity", "-m", "MODEL", "-f", "MODEL", "--prompt", "5")]
    [TestCase("bake")]
    [TestCase("tokenize", "--loudly")]
    [TestCase]
    public void MisuseIsOneSentenceOnStderr(params string[] arguments)
    {
        (int code, string output, string log) = Run([.. arguments.Select(argument => argument is "MODEL" ? TinyModel.Path : argument)]);
        Assert.That(code, Is.Not.Zero);
        Assert.That(output, Is.Empty);
        Assert.That(log, Does.StartWith("strata: "));
        Assert.That(log.TrimEnd().Split('\n'), Has.Length.EqualTo(1), log);
        Assert.That(log, Does.Not.Contain("   at "));
    }

    [Test]
    public void ADamagedModelIsOneSentenceOnStderr()
    {
        string path = Path.Combine(TestContext.CurrentContext.WorkDirectory, Path.GetRandomFileName());
        try
        {
            foreach ((_, byte[] file) in MalformedGguf.All().Where((_, index) => index % 40 == 0))
            {
                File.WriteAllBytes(path, file);
                (int code, string output, string log) = Run("generate", "-m", path, "-p", "x", "--json");
                Assert.That((code, output), Is.EqualTo((1, string.Empty)));
                Assert.That(log, Does.Match("^strata: gguf: .+, must be .+; .+\n$"));
            }
        }
        finally
        {
            File.Delete(path);
        }
    }

    private static JsonDocument RunJson(params string[] arguments)
    {
        (int code, string output, string log) = Run(arguments);
        Assert.That(code, Is.Zero, log);

        // Parse refuses anything beside the one document.
        return JsonDocument.Parse(output);
    }

    private static (int Code, string Output, string Log) Run(params string[] arguments)
    {
        var start = new ProcessStartInfo("dotnet") { UseShellExecute = false, RedirectStandardOutput = true, RedirectStandardError = true };
        start.ArgumentList.Add(Tool);
        foreach (string argument in arguments)
        {
            start.ArgumentList.Add(argument);
        }

        start.Environment.Remove("STRATA_MODEL");
        using Process process = Process.Start(start)!;
        Task<string> log = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return (process.ExitCode, output, log.Result);
    }
}
