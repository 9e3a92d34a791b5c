// SPDX-License-Identifier: Apache-2.0
// kv_attention: what the API refuses of caches and options, in which words, and that nothing was written.

using Strata.Reference;
using Strata.Tests.Support;

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class KvAttentionArgumentTests
{
    private DeviceTensor<float> _q = null!, _output = null!, _lse = null!;

    [SetUp]
    public void Prepare()
    {
        _q = Open.Upload<float>([.. Enumerable.Repeat(1f, 64)], 1, 2, 32);
        _output = Open.Upload<float>([.. Enumerable.Repeat(9f, 64)], 1, 2, 32);
        _lse = Open.Upload<float>([9, 9], 1, 2);
    }

    [TearDown]
    public void NothingWasWritten()
    {
        Assert.That(_output.ToArray(), Is.All.EqualTo(9f));
        Assert.That(_lse.ToArray(), Is.All.EqualTo(9f));
        _q.Dispose();
        _output.Dispose();
        _lse.Dispose();
    }

    [Test]
    public void Options_OutOfRange_Sentence()
    {
        using DeviceKvCache cache = Upload(new KvCacheShape(DType.F32, 1, 1, 32));
        using DeviceTensor<float> three = Open.Allocate<float>(3), sums = Open.Allocate<float>(2, 2), received = Open.Allocate<float>(2, 1, 128), narrow = Open.Allocate<float>(1, 1, 127);
        using DeviceTensor<int> integers = Open.Allocate<int>(2);
        KvAttention good = Op(cache.View);
        Refuses(good with { Window = -1 }, StrataStatus.Argument, "kv_attention: window is -1, must be 0 to 2147483647; pass 0 for no window");
        Refuses(good with { WindowSinks = int.MinValue }, StrataStatus.Argument, "kv_attention: window_sinks is -2147483648, must be 0 to 2147483647; pass 0 for none");
        Refuses(good with { SoftCap = -1 }, StrataStatus.Argument, "kv_attention: softcap is -1, must be finite and not negative; pass 0 for none");
        Refuses(good with { SoftCap = float.NaN }, StrataStatus.Argument, "kv_attention: softcap is NaN, must be finite and not negative; pass 0 for none");
        Refuses(good with { AlibiSlopes = three }, StrataStatus.Shape, "kv_attention: alibi_slopes.shape[0] is 3, must be 2; give it one number per query head");
        Refuses(good with { AlibiSlopes = sums }, StrataStatus.Shape, "kv_attention: alibi_slopes.ndim is 2, must be 1; describe the tensor with all its dimensions");
        Refuses(good with { SinkLogits = three }, StrataStatus.Shape, "kv_attention: sink_logits.shape[0] is 3, must be 2; give it one number per query head");
        Refuses(good with { SinkLogits = integers }, StrataStatus.DType, "kv_attention: sink_logits.dtype is i32 (4), must be f32; convert it first");
        Refuses(good with { PastLogSumExp = sums }, StrataStatus.Shape, "kv_attention: past_lse.shape[0] is 2, must be 1; give it one number per query head of each token");
        Refuses(good with { KeyProbability = received }, StrataStatus.Shape, "kv_attention: key_probability.shape[0] is 2, must equal batch = 1; give it one row per sequence");
        Refuses(good with { KeyProbability = narrow }, StrataStatus.Shape, "kv_attention: key_probability.shape[2] is 127, must be at least max_length = 128; give it one column per slot");
        Refuses(good with { Plan = three }, StrataStatus.DType, "kv_attention: plan.dtype is f32 (1), must be i32; convert it first");
        Refuses(good with { PastLogSumExp = _lse }, StrataStatus.Argument, "kv_attention: past_lse overlaps lse, must be separate memory; give the output memory of its own", shapesOnly: false);
        Refuses(good with { AlibiSlopes = _lse.View.Reshape(2) }, StrataStatus.Argument, "kv_attention: lse overlaps alibi_slopes, must be separate memory; give the output memory of its own", shapesOnly: false);
    }

    [Test]
    public void Formats_ThatDoNotFitTheirPools_Sentence()
    {
        KvCacheShape shape = new(DType.F32, 1, 1, 32);
        using DeviceKvCache plain = Upload(shape), i8 = Upload(shape with { KeyFormat = KvFormat.I8, ValueFormat = KvFormat.I8 }), tiled = Upload(shape with { KeyFormat = KvFormat.I4Block, ValueFormat = KvFormat.I8Block, Layout = KvLayout.Tiled });
        KvCache p = plain.View, t = i8.View, b = tiled.View;
        using DeviceTensor<Half> scales = Open.Allocate<Half>(5, 1, 63);
        using DeviceTensor<float> bias = Open.Allocate<float>(5, 1, 65);
        RefusesCache(p with { Layout = (KvLayout)3 }, StrataStatus.Argument, "kv_attention: cache.layout is 3, must be 0 to 2; choose a strata_kv_layout");
        RefusesCache(p with { KeyFormat = (KvFormat)9 }, StrataStatus.Argument, "kv_attention: cache.key_format is 9, must be 0 to 4; choose a strata_kv_format");
        RefusesCache(p with { KeyFormat = KvFormat.I8 }, StrataStatus.DType, "kv_attention: cache.keys.dtype is f32 (1), must be i8; convert it first");
        RefusesCache(p with { ValueFormat = KvFormat.F8 }, StrataStatus.DType, "kv_attention: cache.values.dtype is f32 (1), must be f8e4m3; convert it first");
        RefusesCache(t with { KeyScales = default }, StrataStatus.Shape, "kv_attention: cache.key_scales.ndim is 0, must be 3; describe the tensor with all its dimensions");
        RefusesCache(t with { ValueScales = bias }, StrataStatus.DType, "kv_attention: cache.value_scales.dtype is f32 (1), must be f16; convert it first");
        RefusesCache(t with { ValueScales = scales }, StrataStatus.Shape, "kv_attention: cache.value_scales.shape[2] is 63, must be 64; strata_kv_format says the shape of each format's scales");
        RefusesCache(p with { KeyScales = t.KeyScales }, StrataStatus.Argument, "kv_attention: cache.key_scales is there, must be absent with a plain format; leave it zero or set the format");
        RefusesCache(b with { Layout = KvLayout.Rows }, StrataStatus.Argument, "kv_attention: cache.key_format is a block format and cache.layout is 0, must be STRATA_KV_TILED (1); keep block formats in tiled pages");
        RefusesCache(p with { Layout = KvLayout.Swizzled }, StrataStatus.DType, "kv_attention: cache.keys.dtype is f32, must be f16 or bf16 in STRATA_KV_SWIZZLED; use STRATA_KV_TILED for other types");
        RefusesCache(p with { Rotation = 3 }, StrataStatus.Argument, "kv_attention: cache.rotation is 3, must be 0, or 16, 32, 64, 128 or 256 and divide head_dim = 32; choose the largest that divides it");
        RefusesCache(p with { Rotation = 64 }, StrataStatus.Argument, "kv_attention: cache.rotation is 64, must be 0, or 16, 32, 64, 128 or 256 and divide head_dim = 32; choose the largest that divides it");
        RefusesCache(p with { LogitBias = bias }, StrataStatus.Shape, "kv_attention: cache.logit_bias.shape[2] is 65, must equal cache.keys.shape[2] = 64; keep one number per slot");
        RefusesCache(b with { KeyTail = default }, StrataStatus.Argument, "kv_attention: cache.key_tail is absent, must be there with a block key_format and only then; it holds the keys of the block that is not full");
        RefusesCache(p with { KeyTail = b.KeyTail }, StrataStatus.Argument, "kv_attention: cache.key_tail is there, must be there with a block key_format and only then; it holds the keys of the block that is not full");
        RefusesCache(b with { KeyTail = b.KeyTail.Reshape(2 * b.KeyTail.Shape(0), 16, 32) }, StrataStatus.Shape, "kv_attention: cache.key_tail.shape[1] is 16, must equal STRATA_KV_BLOCK = 32; a tail holds one block");
        RefusesCache(b with { KeyTail = b.KeyTail.Slice(0, 0), TailTable = default }, StrataStatus.Shape, "kv_attention: cache.key_tail.shape[0] is 0, must be at least batch * kv_heads = 1; pass one tail per sequence and KV head, or a tail_table");
        RefusesCache(b with { TailTable = b.Lengths.Reshape(1, 1, 1) }, StrataStatus.Shape, "kv_attention: cache.tail_table.ndim is 3, must be 2; describe the tensor with all its dimensions");
    }

    [Test]
    public void Pages_OfOddSizes_Sentence()
    {
        KvCacheShape shape = new(DType.F16, 1, 1, 32, PageSize: 24);
        using DeviceKvCache plain = Upload(shape), wide = Upload(shape with { HeadDim = 40, PageSize = 32 }), padded = Upload(shape with { PageSize = 32, Padding = 8 });
        RefusesCache(plain.View with { Layout = KvLayout.Tiled }, StrataStatus.Shape, "kv_attention: cache.keys.shape[2] (page_size) is 24, must be a multiple of 16 in this cache.layout; such pages hold whole tiles of 16 slots");
        RefusesCache(wide.View with { Layout = KvLayout.Tiled }, StrataStatus.Shape, "kv_attention: head_dim is 40, must be a multiple of 16 in this cache.layout; tiled pages hold whole words; keep other widths in rows");
        RefusesCache(plain.View with { Layout = KvLayout.Swizzled }, StrataStatus.Shape, "kv_attention: cache.keys.shape[2] (page_size) is 24, must be a multiple of 16 in this cache.layout; such pages hold whole tiles of 16 slots");
        RefusesCache(wide.View with { Layout = KvLayout.Swizzled }, StrataStatus.Shape, "kv_attention: head_dim is 40, must be a multiple of 64 in this cache.layout; swizzled pages hold half blocks of 64 channels");
        RefusesCache(padded.View with { Layout = KvLayout.Tiled }, StrataStatus.Shape, "kv_attention: cache.keys.stride[2] is 40, must be shape[3] = 32 in this layout; the block of a page is dense");
    }

    [Test]
    public void TailTable_OutOfRange_SentenceAndNoFault()
    {
        using DeviceKvCache cache = Upload(new KvCacheShape(DType.F32, 1, 1, 32) { KeyFormat = KvFormat.I4Block, ValueFormat = KvFormat.I4Block, Layout = KvLayout.Tiled });
        foreach (int tail in new[] { -1, 4, int.MinValue, int.MaxValue })
        {
            cache.TailTable!.Buffer.CopyFrom(BitConverter.GetBytes(tail));
            Refuses(Op(cache.View), StrataStatus.Index, $"kv_attention: cache.tail_table[0,0] is {tail}, must be 0 to 3; give every sequence and head a row of key_tail", shapesOnly: false);
        }
    }

    // A cache of three kinds of memory that an output may not share.
    [Test]
    public void Outputs_InMemoryOfTheCache_Sentence()
    {
        using DeviceKvCache cache = Upload(new KvCacheShape(DType.F32, 1, 1, 32) { LogitBias = true, Norms = DType.F32 });
        KvAttention good = Op(cache.View);
        Refuses(good with { Output = cache.View.Keys.Slice(0, 1).Reshape(64, 32).Slice(0, 2).Reshape(1, 2, 32) }, StrataStatus.Argument, "kv_attention: out overlaps cache.keys, must be separate memory; give the output memory of its own", shapesOnly: false);
        Refuses(good with { PastLogSumExp = cache.View.LogitBias.Slice(0, 1).Reshape(64).Slice(0, 2).Reshape(1, 2) }, StrataStatus.Argument, "kv_attention: past_lse overlaps cache.logit_bias, must be separate memory; give the output memory of its own", shapesOnly: false);
        Refuses(good with { KeyProbability = cache.View.ValueNorms.Slice(0, 2).Reshape(1, 1, 128) }, StrataStatus.Argument, "kv_attention: key_probability overlaps cache.value_norms, must be separate memory; give the output memory of its own", shapesOnly: false);
    }

    private static Device Open => TestDevices.Open(new TestDevice("cpu", null));

    private static DeviceKvCache Upload(KvCacheShape shape) => Attending.Cache(shape, [new Sequence(1, 40)]).Upload(Open);

    private KvAttention Op(KvCache cache) => new() { Cache = cache, Q = _q, Output = _output, LogSumExp = _lse };

    private void RefusesCache(KvCache cache, StrataStatus status, string sentence) => Refuses(Op(cache), status, sentence);

    private void Refuses(KvAttention op, StrataStatus status, string sentence, bool shapesOnly = true)
    {
        using DeviceBuffer workspace = Open.Allocate(1 << 20);
        StrataException e = Assert.Throws<StrataException>(() => op.Run(Open, workspace), sentence)!;
        Assert.That((e.Status, e.Message), Is.EqualTo((status, sentence)));
        Assert.That(op.IsSupported(Open, out string reason), Is.EqualTo(!shapesOnly), sentence);
        Assert.That(reason, Is.EqualTo(shapesOnly ? sentence : ""));
    }
}
