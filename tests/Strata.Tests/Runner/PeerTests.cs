// SPDX-License-Identifier: Apache-2.0
// A peer that computes something else is no peer: each is compared with the oracle, over every format and shape that it says it takes.

using Strata.Reference;
using Strata.Runner.Peers;

namespace Strata.Tests.Runner;

[TestFixture]
public sealed class PeerTests
{
    // The pool of threads is the process's, so all tests share one.
    private static readonly OnnxRuntime s_runtime = new(threads: 2);
    private static readonly GroupQueryAttentionPeer s_f32 = new(s_runtime, DType.F32), s_f16 = new(s_runtime, DType.F16);
    private static readonly MatMulNBitsPeer s_matmul = new(s_runtime);

    [OneTimeSetUp]
    public void Load()
    {
        if (s_runtime.Start() is { } reason) Assert.Ignore(reason);
    }

    [TestCase("q_heads=4 kv_heads=2 head_dim=64 length=65 dtype=bf16", Description = "decode")]
    [TestCase("q_heads=3 kv_heads=3 head_dim=8 length=1 dtype=f16", Description = "the first token")]
    [TestCase("q_heads=6 kv_heads=2 head_dim=32 length=130/130/130 dtype=f16 page_size=16", Description = "a batch")]
    [TestCase("q_heads=9 kv_heads=3 head_dim=64 length=33 tokens=33 dtype=bf16 padding=3", Description = "prefill")]
    [TestCase("q_heads=2 kv_heads=1 head_dim=16 length=9/9 tokens=9/9 dtype=bf16 scale=0.5", Description = "prefill of a batch")]
    public void GroupQueryAttention_AgreesWithTheOracle(string values)
    {
        OpCase opCase = Case("kv_attention", values);
        foreach (IPeer peer in new[] { s_f32, s_f16 }) Agrees(new KvAttentionHarness(), peer, opCase);
    }

    [Test]
    public void GroupQueryAttention_Fp32Cache_IsForFp32Alone()
    {
        OpCase opCase = Case("kv_attention", "q_heads=4 kv_heads=2 head_dim=64 length=40 dtype=f32");
        Agrees(new KvAttentionHarness(), s_f32, opCase);
        Assert.That(s_f16.Refusal(opCase), Does.Contain("f16 cache"));
    }

    [TestCase("length=5/6", "lengths differ")]
    [TestCase("kv_heads=2 length=9 uneven=1", "lengths differ")]
    [TestCase("length=9 tokens=4", "tokens")]
    [TestCase("length=9 causal=0", "causal")]
    [TestCase("length=9 lse=1", "lse")]
    [TestCase("length=9 head_dim=20", "head_dim is 20, must be a multiple of 8")]
    [TestCase("length=9 dtype=q8_0", "dtype is q8_0")]
    public void GroupQueryAttention_WhatItDoesNotTake_HasAReason(string values, string reason) =>
        Assert.That(s_f32.Refusal(Case("kv_attention", values)), Does.Contain(reason));

    [TestCase("format=q4_0", "onnxruntime-matmulnbits-g32-acc1")]
    [TestCase("format=q4_0 int8=1", "onnxruntime-matmulnbits-g32-acc4")]
    [TestCase("format=i4 group=64", "onnxruntime-matmulnbits-g64-acc1")]
    [TestCase("format=i4 group=128 int8=1", "onnxruntime-matmulnbits-g128-acc4")]
    [TestCase("format=q8_0 int8=1", "onnxruntime-matmulnbits-int8-g32-acc4")]
    [TestCase("format=q8_0", "onnxruntime-matmulnbits-int8-g32-acc1")]
    [TestCase("format=q4_1 int8=1", "onnxruntime-matmulnbits-g32-zp-acc4")]
    [TestCase("format=q4_1 k=96", "onnxruntime-matmulnbits-g32-zp-acc1", Description = "an odd number of zero points in a row")]
    public void MatMulNBits_AgreesWithTheOracle(string values, string name)
    {
        foreach (string shape in new[] { "m=1 n=48", "m=5 n=33" })
        {
            OpCase opCase = Case("qgemm", $"k=256 {values} {shape}");
            Assert.That(s_matmul.Name(opCase), Is.EqualTo(name));
            Agrees(new QgemmHarness(), s_matmul, opCase);
        }
    }

    [TestCase("format=q4_k", "format is q4_k")]
    [TestCase("format=f32", "format is f32")]
    [TestCase("format=q4_0 x=f16", "f32")]
    [TestCase("format=q4_0 padding=1", "padding")]
    public void MatMulNBits_WhatItDoesNotTake_HasAReason(string values, string reason) =>
        Assert.That(s_matmul.Refusal(Case("qgemm", values)), Does.Contain(reason));

    [Test]
    public void Bytes_AreThoseOfThePeersFormats()
    {
        var attention = new KvAttentionHarness();
        OpProblem decode = attention.Create(Case("kv_attention", "q_heads=4 kv_heads=2 head_dim=64 length=100 dtype=bf16"), DataFamily.Gaussian, 1);
        Assert.That(s_f32.Bytes(decode), Is.EqualTo(4 * 2 * ((100 * 2 * 64) + (4 * 64))));
        Assert.That(s_f16.Bytes(decode), Is.EqualTo(2 * 2 * ((100 * 2 * 64) + (4 * 64))));
        OpProblem multiply = new QgemmHarness().Create(Case("qgemm", "m=3 n=16 k=256 format=q4_1"), DataFamily.Gaussian, 1);
        Assert.That(s_matmul.Bytes(multiply), Is.EqualTo((16 * 128) + (16 * 8 * 4) + (16 * 4) + (3 * 256 * 4) + (3 * 16 * 4)), "codes, scales, zero points, x, y");
    }

    [Test]
    public void Start_OtherNumberOfThreads_SaysWhatToDo() => Assert.That(new OnnxRuntime(threads: 3).Start(), Does.Contain("2 threads, must be 3"));

    [Test]
    public void ProtoMessage_KnownBytes()
    {
        byte[] got = new ProtoMessage().Add(1, 300).Add(2, "ab").Add(16, new ProtoMessage().Add(1, 1)).Add(3, 1f).Add(1, -1).ToArray();
        Assert.That(Convert.ToHexString(got), Is.EqualTo("08AC02" + "12026162" + "8201020801" + "1D0000803F" + "08FFFFFFFFFFFFFFFFFF01"));
    }

    // Alone, beside other problems, and twice in one run; a run of other inputs must not pass, or the comparison would say nothing.
    private static void Agrees(OpHarness harness, IPeer peer, OpCase opCase)
    {
        Assert.That(peer.Refusal(opCase), Is.Null);
        Device device = TestDevices.Open(new TestDevice("cpu", null));
        OpProblem[] problems = [.. Enumerable.Range(1, 2).Select(seed => harness.Create(opCase, DataFamily.Gaussian, seed))];
        foreach (OpProblem[] calls in new[] { [problems[0]], [problems[1], problems[0]], new[] { problems[0], problems[0] } })
        {
            using OpRun run = peer.Bind(calls, device);
            for (int i = 0; i < 2; i++)
            {
                run.Run();
                Comparison comparison = run.Compare();
                Assert.That(comparison.Passes, Is.True, $"{peer.Name(opCase)}: error {comparison.Error:g3} above {comparison.Gate:g3} at {comparison.Where}");
            }
        }
        using OpRun unlike = peer.Bind([new OtherInputs(problems[0], problems[1])], device);
        unlike.Run();
        Assert.That(unlike.Compare().Passes, Is.False, "the oracle of other inputs agrees too");
    }

    private static OpCase Case(string op, string values)
    {
        // A later value of a key takes the place of an earlier one.
        var pairs = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (string[] pair in values.Split(' ').Select(v => v.Split('='))) pairs[pair[0]] = pair[1];
        return new OpCase(op, "case", new HashSet<string>(), pairs);
    }

    /// <summary>The inputs of one problem with the oracle of another.</summary>
    private sealed class OtherInputs(OpProblem inputs, OpProblem oracle) : OpProblem, IKvAttentionInputs, IQgemmInputs
    {
        public override long Bytes => inputs.Bytes;

        public override double Operations => inputs.Operations;

        public HostTensor Q => ((IKvAttentionInputs)inputs).Q;

        public HostKvCache Cache => ((IKvAttentionInputs)inputs).Cache;

        public float Scale => ((IKvAttentionInputs)inputs).Scale;

        public HostTensor X => ((IQgemmInputs)inputs).X;

        public HostWeight W => ((IQgemmInputs)inputs).W;

        public bool Int8 => ((IQgemmInputs)inputs).Int8;

        public override OpRun Bind(Device device, Poison poison) => inputs.Bind(device, poison);

        public Comparison Compare(HostTensor output, double gate) => ((IKvAttentionInputs)oracle).Compare(output, gate);

        public Comparison Compare(HostTensor y, double gate, HostWeight? weight = null) => ((IQgemmInputs)oracle).Compare(y, gate, weight);
    }
}
