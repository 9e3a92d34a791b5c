// SPDX-License-Identifier: Apache-2.0
// strata verify: its document, its table and its exit code.

using System.Text.Json;
using Strata.Reference;
using Strata.Runner;

namespace Strata.Tests.Runner;

[TestFixture]
public sealed class VerifyRunnerTests
{
    private static readonly VerifyOptions s_cpu = new() { Device = "cpu", Json = true };

    [Test]
    public void Run_RightOp_PassesWithItsFields()
    {
        (int code, string text) = Verify(s_cpu with { AllIsas = true }, new RmsNormHarness());
        Assert.That(code, Is.Zero);
        using JsonDocument document = JsonDocument.Parse(text);
        JsonElement root = document.RootElement;
        Assert.That(root.EnumerateObject().Select(p => p.Name), Is.EqualTo(new[] { "machine", "passed", "rows", "skipped" }));
        Assert.That(root.GetProperty("passed").GetBoolean(), Is.True);
        JsonElement[] rows = [.. root.GetProperty("rows").EnumerateArray()];
        Assert.That(rows.Select(r => r.GetProperty("isa").GetString()), Is.EqualTo(TestDevices.Cpu.Select(d => d.Isa)));
        int cases = OpCase.Of("rms_norm").Count(c => c.Tags.Contains("test"));
        foreach (JsonElement row in rows)
        {
            Assert.That(row.EnumerateObject().Select(p => p.Name), Is.EqualTo(new[] { "op", "device", "isa", "cases", "checks", "share", "error", "gate", "where", "passed", "failures" }));
            Assert.That((row.GetProperty("cases").GetInt32(), row.GetProperty("checks").GetInt32()), Is.EqualTo((cases, 3 * cases)));
            Assert.That(row.GetProperty("share").GetDouble(), Is.Positive.And.LessThanOrEqualTo(1));
        }
    }

    [TestCase(nameof(Fault.Disagrees), 500000d)]
    [TestCase(nameof(Fault.NotANumber), null)]
    [TestCase(nameof(Fault.Throws), 0d)]
    public void Run_WrongOp_FailsAndSaysWhere(string fault, double? share)
    {
        (int code, string text) = Verify(s_cpu, new FakeHarness(Enum.Parse<Fault>(fault)));
        Assert.That(code, Is.EqualTo(1));
        using JsonDocument document = JsonDocument.Parse(text);
        Assert.That(document.RootElement.GetProperty("passed").GetBoolean(), Is.False);
        JsonElement row = document.RootElement.GetProperty("rows")[0];
        Assert.That(row.GetProperty("passed").GetBoolean(), Is.False);
        JsonElement worst = row.GetProperty("share");
        double? shown = worst.ValueKind == JsonValueKind.Null ? null : Math.Round(worst.GetDouble());
        Assert.That(shown, Is.EqualTo(share));
        Assert.That(row.GetProperty("failures")[0].GetString(), Does.StartWith("rms_norm on cpu/").And.Contains("row-1, Gaussian: "));
    }

    [Test]
    public void Run_Table_HasARowAnOpAndDevice()
    {
        (int code, string text) = Verify(s_cpu with { Json = false, Isa = "scalar" }, new FakeHarness(Fault.Disagrees));
        Assert.That(code, Is.EqualTo(1));
        Assert.That(text, Does.Match(@"rms_norm +cpu/scalar +\d+ +\d+ +500000\.000 +row-1, Gaussian: y row 0 +FAILED"));
        Assert.That(text, Does.Contain("FAILED rms_norm on cpu/scalar: row-1, Gaussian: error 0.5 above 1e-06 at y row 0"));
        Assert.That(text, Does.Contain("0 of 1 ops and devices agree with the reference"));
    }

    [Test]
    public void Run_EveryDevice_NamesThoseThatAreMissing()
    {
        (_, string text) = Verify(new VerifyOptions { Json = true }, new FakeHarness(Fault.None));
        using JsonDocument document = JsonDocument.Parse(text);
        string?[] here = [.. document.RootElement.GetProperty("rows").EnumerateArray().Select(r => r.GetProperty("device").GetString())];
        string?[] missing = [.. document.RootElement.GetProperty("skipped").EnumerateArray().Select(s => s.GetProperty("device").GetString())];
        Assert.That(here.Concat(missing), Is.EquivalentTo(Device.List().Select(d => d.Id)));
        Assert.That(document.RootElement.GetProperty("skipped").EnumerateArray().Select(s => s.GetProperty("reason").GetString()), Is.All.Not.Empty);
    }

    [Test]
    public void Run_UnknownOp_SentenceWithCure() =>
        Assert.That(() => Verify(s_cpu with { Ops = ["softmax"] }, new RmsNormHarness()), Throws.TypeOf<StrataException>().With.Message.EqualTo("verify: op softmax is not known, must be one of rms_norm; correct the name"));

    [Test]
    public void Run_Cancelled_Ends()
    {
        using var cancel = new CancellationTokenSource();
        cancel.Cancel();
        using StringWriter output = new(), log = new();
        Assert.That(() => VerifyRunner.Run(s_cpu, [new RmsNormHarness()], output, log, cancel.Token), Throws.InstanceOf<OperationCanceledException>());
    }

    private static (int Code, string Output) Verify(VerifyOptions options, OpHarness harness)
    {
        using StringWriter output = new(), log = new();
        int code = VerifyRunner.Run(options, [harness], output, log);
        return (code, output.ToString());
    }
}
