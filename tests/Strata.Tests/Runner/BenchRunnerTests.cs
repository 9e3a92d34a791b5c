// SPDX-License-Identifier: Apache-2.0
// strata bench: its document, its table, and what it refuses to time.

using System.Text.Json;
using Strata.Reference;
using Strata.Runner;
using Strata.Runner.Peers;

namespace Strata.Tests.Runner;

[TestFixture]
public sealed class BenchRunnerTests
{
    private const string TinyCase = "rows-3-n17";
    private static readonly BenchOptions s_tiny = new() { Case = TinyCase, Seconds = 0.002, Json = true, Threads = 1 };

    [Test]
    public void Run_TinyCase_DocumentHasTheAgreedFields()
    {
        (int code, string text, _) = Bench(s_tiny, new FakeHarness(Fault.None));
        Assert.That(code, Is.Zero);
        using JsonDocument document = JsonDocument.Parse(text);
        JsonElement root = document.RootElement;
        Assert.That(Names(root), Is.EqualTo(new[] { "machine", "rows" }));
        JsonElement machine = root.GetProperty("machine");
        Assert.That(Names(machine), Is.EqualTo(new[] { "name", "isa", "threads", "date", "limits" }));
        Assert.That(Names(machine.GetProperty("limits")), Is.EqualTo(new[] { "read_gb_s", "fp32_gflops", "bf16_gflops", "int8_gops", "amx_bf16_gflops", "amx_int8_gops" }));
        Assert.That(machine.GetProperty("limits").GetProperty("read_gb_s").GetDouble(), Is.EqualTo(10));
        Assert.That(machine.GetProperty("limits").GetProperty("amx_int8_gops").ValueKind, Is.EqualTo(JsonValueKind.Null));
        JsonElement[] rows = [.. root.GetProperty("rows").EnumerateArray()];
        Assert.That(rows.Select(r => r.GetProperty("state").GetString()), Is.EqualTo(new[] { "cold", "warm" }));
        foreach (JsonElement row in rows)
        {
            Assert.That(Names(row), Is.EqualTo(new[] { "op", "case", "device", "isa", "threads", "state", "median_us", "p20_us", "p80_us", "gb_s", "gflop_s", "limit_share", "peer", "ratio" }));
            Assert.That((row.GetProperty("op").GetString(), row.GetProperty("case").GetString(), row.GetProperty("device").GetString()), Is.EqualTo(("rms_norm", "rows-3-n17", "cpu")));
            double median = row.GetProperty("median_us").GetDouble();
            Assert.That(median, Is.Positive.And.InRange(row.GetProperty("p20_us").GetDouble(), row.GetProperty("p80_us").GetDouble()));
            // 3 rows of 17 in and out and the gain; 4 operations an element; limits 10 GB/s and 1 GFLOP/s.
            Assert.That(row.GetProperty("gb_s").GetDouble(), Is.EqualTo(((51 * 4 * 2) + (17 * 4)) / median / 1e3).Within(0.1).Percent);
            Assert.That(row.GetProperty("gflop_s").GetDouble(), Is.EqualTo(204 / median / 1e3).Within(0.1).Percent);
            Assert.That(row.GetProperty("limit_share").GetDouble(), Is.EqualTo(204 / 1e9 / (median * 1e-6)).Within(0.1).Percent);
            Assert.That(row.GetProperty("peer").ValueKind, Is.EqualTo(JsonValueKind.Null));
            Assert.That(row.GetProperty("ratio").ValueKind, Is.EqualTo(JsonValueKind.Null));
        }
    }

    [TestCase(nameof(Fault.Disagrees), "error 0.5 above 1e-06 at y row 0")]
    [TestCase(nameof(Fault.NotANumber), "error NaN above 1e-06 at y row 0")]
    [TestCase(nameof(Fault.Throws), FakeHarness.Sentence)]
    public void Run_WrongOp_IsNotTimed(string fault, string reason)
    {
        var harness = new FakeHarness(Enum.Parse<Fault>(fault));
        (int code, string text, string log) = Bench(s_tiny, harness);
        Assert.That(code, Is.EqualTo(1));
        using JsonDocument document = JsonDocument.Parse(text);
        Assert.That(document.RootElement.GetProperty("rows").GetArrayLength(), Is.Zero);
        Assert.That(document.RootElement.GetProperty("refused")[0].GetString(), Does.StartWith("rms_norm/rows-3-n17 on cpu/").And.Contains(reason));
        Assert.That(log, Does.Contain("refused: rms_norm/rows-3-n17").And.Contains(reason));
        Assert.That(harness.Calls, Is.LessThanOrEqualTo(1), "calls beside the one that was compared");
    }

    [Test]
    public void Run_OpThatChangesItsInputs_IsResetBeforeEachCall()
    {
        var harness = new FakeHarness(Fault.NeedsReset);
        (int code, _, _) = Bench(s_tiny, harness);
        Assert.That(code, Is.Zero);
        Assert.That(harness.Calls, Is.GreaterThan(10));
        Assert.That(harness.StaleCalls, Is.EqualTo(1), "only the call that finds out");
    }

    [Test]
    public void Run_Table_NamesMachineAndColumns()
    {
        (_, string text, _) = Bench(s_tiny with { Json = false, Isa = "scalar" }, new FakeHarness(Fault.None));
        Assert.That(text, Does.Contain("scalar, 1 threads").And.Contains("read 10.0 GB/s").And.Contains("fp32 1.00 GFLOP/s"));
        Assert.That(text, Does.Match(@"op +case +isa +state +median µs +p20–p80 +GB/s +GFLOP/s +% of limit"));
        Assert.That(text, Does.Match(@"rms_norm +rows-3-n17 +scalar +cold").And.Match(@"rms_norm +rows-3-n17 +scalar +warm"));
    }

    [Test]
    public void Run_Out_WritesTheDocumentUnderMachineAndDate()
    {
        string folder = Path.Combine(Path.GetTempPath(), Path.GetRandomFileName());
        try
        {
            (_, string text, _) = Bench(s_tiny with { Out = folder + "/" }, new FakeHarness(Fault.None));
            string file = Directory.GetFiles(folder, "*.json", SearchOption.AllDirectories).Single();
            Assert.That(Path.GetFileName(file), Does.Match(@"^\d{4}-\d\d-\d\d\.json$"));
            Assert.That(File.ReadAllText(file), Is.EqualTo(text));
        }
        finally
        {
            if (Directory.Exists(folder)) Directory.Delete(folder, recursive: true);
        }
    }

    [Test]
    public void Run_AllIsas_HasARowForEach()
    {
        (_, string text, _) = Bench(s_tiny with { Isa = "all" }, new FakeHarness(Fault.None));
        using JsonDocument document = JsonDocument.Parse(text);
        string?[] isas = [.. document.RootElement.GetProperty("rows").EnumerateArray().Select(r => r.GetProperty("isa").GetString())];
        Assert.That(isas.Distinct(), Is.EqualTo(TestDevices.Cpu.Select(d => d.Isa)));
    }

    [Test]
    public void Run_UnknownNames_SentenceWithCure()
    {
        var harness = new FakeHarness(Fault.None);
        Assert.That(() => Bench(s_tiny with { Ops = ["softmax"] }, harness), Throws.TypeOf<StrataException>().With.Message.EqualTo("bench: op softmax is not known, must be one of rms_norm; correct the name"));
        Assert.That(() => Bench(s_tiny with { Case = "no-such" }, harness), Throws.TypeOf<StrataException>().With.Message.Contains("no case of these ops has no-such in its name"));
        Assert.That(() => Bench(s_tiny with { Device = "tpu:0" }, harness), Throws.InstanceOf<StrataException>());
    }

    [Test]
    public void Run_Peers_HaveRowsBesideOurs()
    {
        (int code, string text, _) = Bench(s_tiny with { Peers = true }, new FakeHarness(Fault.None), new FakePeer("good"), new FakePeer("other-op") { Op = "rope" });
        Assert.That(code, Is.Zero);
        using JsonDocument document = JsonDocument.Parse(text);
        Assert.That(document.RootElement.TryGetProperty("peers_missing", out _), Is.False);
        JsonElement[] rows = [.. document.RootElement.GetProperty("rows").EnumerateArray()];
        Assert.That(rows.Select(r => (r.GetProperty("state").GetString(), r.GetProperty("peer").GetString())), Is.EqualTo(new[] { ("cold", null), ("cold", "good"), ("warm", null), ("warm", "good") }));
        for (int i = 0; i < rows.Length; i += 2)
        {
            double ours = rows[i].GetProperty("median_us").GetDouble(), theirs = rows[i + 1].GetProperty("median_us").GetDouble();
            Assert.That(rows[i].GetProperty("ratio").ValueKind, Is.EqualTo(JsonValueKind.Null));
            Assert.That(rows[i + 1].GetProperty("ratio").GetDouble(), Is.EqualTo(theirs / ours).Within(0.1).Percent);
            Assert.That(rows[i + 1].GetProperty("gb_s").GetDouble(), Is.EqualTo(FakePeer.CallBytes / theirs / 1e3).Within(0.1).Percent, "its own bytes");
            Assert.That(rows[i + 1].GetProperty("limit_share").GetDouble(), Is.EqualTo(Math.Max(FakePeer.CallBytes / 10e9, 204 / 1e9) / (theirs * 1e-6)).Within(0.1).Percent);
        }
    }

    [Test]
    public void Run_Peers_TakeTurnsWithUs()
    {
        var harness = new FakeHarness(Fault.None);
        var peer = new FakePeer("good") { Ours = () => harness.Calls };
        Bench(s_tiny with { Peers = true, Seconds = 0.02 }, harness, peer);
        // With all of ours before all of theirs there would be one count for the comparison, one for the warm-up and one a state.
        Assert.That(peer.OursBefore.Distinct().Count(), Is.GreaterThan(5));
    }

    [TestCase("refuses", "the shape is not taken")]
    [TestCase("wrong", "computes something else: error 0.5 above 0.1 at row 0")]
    [TestCase("throws", "fake: no")]
    public void Run_PeerThatCannot_IsNamedWithTheReason(string peer, string reason)
    {
        (int code, string text, _) = Bench(s_tiny with { Peers = true }, new FakeHarness(Fault.None), new FakePeer(peer));
        Assert.That(code, Is.Zero);
        using JsonDocument document = JsonDocument.Parse(text);
        Assert.That(document.RootElement.GetProperty("rows").GetArrayLength(), Is.EqualTo(2));
        Assert.That(document.RootElement.GetProperty("peers_missing").EnumerateArray().Single().GetString(), Does.Match($@"^rms_norm/rows-3-n17 on cpu/\w+: {peer}: {reason}$"));
        (_, string table, _) = Bench(s_tiny with { Peers = true, Json = false }, new FakeHarness(Fault.None), new FakePeer(peer));
        Assert.That(table, Does.Contain("no peer: rms_norm/rows-3-n17").And.Contains(reason));
    }

    [Test]
    public void Run_PeersInTheTable_HaveTheirColumns()
    {
        (_, string text, _) = Bench(s_tiny with { Peers = true, Json = false }, new FakeHarness(Fault.None), new FakePeer("good"));
        Assert.That(text, Does.Match(@"% of limit +peer +ours is × as fast").And.Match(@"rms_norm +rows-3-n17 +\w+ +cold .* good +[\d.]+"));
    }

    private static IEnumerable<string> Names(JsonElement element) => element.EnumerateObject().Select(p => p.Name);

    private static (int Code, string Output, string Log) Bench(BenchOptions options, OpHarness harness, params IPeer[] peers)
    {
        using StringWriter output = new(), log = new();
        int code = BenchRunner.Run(options, [harness], _ => peers, _ => Limits.Of((MachineLimit.Read, 10e9), (MachineLimit.Fp32, 1e9)), output, log);
        return (code, output.ToString(), log.ToString());
    }
}
